/* daemon/api_read.h - what the readers of single request fields share.  Private to the api sources.
 *
 * A reader returns false after filling the error; nothing needs undoing, since all it allocated lies in
 * the request's arena. */
#ifndef DAEMON_API_READ_H
#define DAEMON_API_READ_H

#include "daemon/api_fields.h"
#include "daemon/api_json.h"
#include "daemon/api_request.h"

struct api_read {
    enum api_kind kind;
    const struct api_limits *limits;
    struct api_json doc;
    struct api_request *r;
    struct api_error *error;
    bool seen[API_FIELDS_MAX]; /* by row of the table; null does not count */
    /* read here, settled when all fields are known */
    bool has_max_completion_tokens;
    uint32_t max_completion_tokens;
    bool has_best_of;
    uint32_t best_of;
    bool has_generation_prompt;
    bool has_add_special;
    bool from_content; /* tokenize: the llama.cpp dialect */
    const char *input; /* the field that the text came from; a second one is refused */
};

/* Memory that lives as long as the request.  NULL: the error says so. */
void *api_read_alloc(struct api_read *c, size_t count, size_t size);
/* A NUL-terminated copy of a string node; refuses U+0000. */
char *api_read_text(struct api_read *c, const char *param, uint32_t node, size_t *len);
/* Fill the error and return false.  400 invalid_request_error; code may be NULL. */
bool api_read_bad(struct api_read *c, const char *param, const char *code, const char *format, ...)
    __attribute__((format(printf, 4, 5)));
/* "'<param>' must be <what>, not <what it is>." */
bool api_read_wrong_type(struct api_read *c, const char *param, const char *what, uint32_t node);
bool api_read_nomem(struct api_read *c);
bool api_read_is_null(const struct api_read *c, uint32_t node);
enum api_json_type api_read_type(const struct api_read *c, uint32_t node);
/* The value as an integer: INT, or a real that is whole and exact.  false: it is neither. */
bool api_read_whole(const struct api_read *c, uint32_t node, int64_t *out);
/* An array of token ids below the vocabulary, 0..max of them. */
bool api_read_ids(struct api_read *c, const char *param, uint32_t node, size_t max, int32_t **ids,
                  size_t *n);
/* A client's string as it may appear in a message: printable ASCII, cut. */
struct api_quote {
    char text[44];
};
struct api_quote api_read_quote(const struct api_read *c, uint32_t node);

/* Readers with a file of their own. */
bool api_read_messages(struct api_read *c, const struct api_field *f, uint32_t node);
bool api_read_prompt(struct api_read *c, const struct api_field *f, uint32_t node);
bool api_read_tokens(struct api_read *c, const struct api_field *f, uint32_t node);
bool api_read_stop(struct api_read *c, const struct api_field *f, uint32_t node);
bool api_read_stop_ids(struct api_read *c, const struct api_field *f, uint32_t node);
bool api_read_logit_bias(struct api_read *c, const struct api_field *f, uint32_t node);
bool api_read_stream_options(struct api_read *c, const struct api_field *f, uint32_t node);
bool api_read_best_of(struct api_read *c, const struct api_field *f, uint32_t node);
bool api_read_max_completion_tokens(struct api_read *c, const struct api_field *f, uint32_t node);
bool api_read_generation_prompt(struct api_read *c, const struct api_field *f, uint32_t node);
bool api_read_add_special(struct api_read *c, const struct api_field *f, uint32_t node);
bool api_read_response_format(struct api_read *c, const struct api_field *f, uint32_t node);
bool api_read_tool_choice(struct api_read *c, const struct api_field *f, uint32_t node);
bool api_read_modalities(struct api_read *c, const struct api_field *f, uint32_t node);
bool api_read_template_kwargs(struct api_read *c, const struct api_field *f, uint32_t node);

#endif
