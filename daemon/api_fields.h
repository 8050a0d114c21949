/* daemon/api_fields.h - the one table of request fields: it drives the reading of requests, the error
 * messages, the printed reference and the boundary tests.  To add a field, add a row.
 *
 * Thread: any; the table is constant. */
#ifndef DAEMON_API_FIELDS_H
#define DAEMON_API_FIELDS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct api_read;

enum api_field_type {
    API_FIELD_BOOL,
    API_FIELD_UINT,    /* uint32_t */
    API_FIELD_INT,     /* int32_t */
    API_FIELD_INT64,   /* int64_t, kept as uint64_t */
    API_FIELD_FLOAT,   /* float */
    API_FIELD_STRING,  /* char[max + 1] */
    API_FIELD_SPECIAL, /* has its own reader and its own text */
    API_FIELD_IGNORED, /* accepted, any value, no effect */
    API_FIELD_REFUSED  /* 400 unless it says nothing: null, false, "", [], {} */
};

enum {
    API_FOR_CHAT = 1,
    API_FOR_COMPLETION = 2,
    API_FOR_TOKENIZE = 4,
    API_FOR_DETOKENIZE = 8,
    API_FOR_GENERATION = API_FOR_CHAT | API_FOR_COMPLETION,
    API_FOR_ALL = 15
};

struct api_field {
    const char *name;
    unsigned kinds; /* API_FOR_* */
    enum api_field_type type;
    double min, max;    /* numbers: range; string: bytes */
    bool above_min;     /* min itself is out */
    const char *normal; /* default, as text */
    const char *about;
    size_t offset;     /* into struct api_request */
    size_t offset_has; /* a bool set to true when the field is there; 0 = none */
    bool (*read)(struct api_read *c, const struct api_field *f, uint32_t node);
};

enum { API_FIELDS_MAX = 128 };

/* All rows, in the order of the reference. */
const struct api_field *api_fields(size_t *n);

#endif
