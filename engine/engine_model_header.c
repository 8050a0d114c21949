/* engine/engine_model_header.c - the header of a safetensors file.
 *
 *   0        8 bytes: n, little-endian
 *   8        n bytes of JSON: {"name": {"dtype", "shape", "data_offsets": [begin, end]}, ...,
 *            "__metadata__": {string: string}}, starting with '{', padded with spaces
 *   8 + n    the data; begin and end count from here
 *
 * The tensors must tile the data part exactly: no hole, no overlap, no byte left over.  Every size is
 * checked against the size of the file before it is used for anything. */
#include "engine/engine_model_internal.h"

#include <inttypes.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"

enum { LENGTH_BYTES = 8, NAME_MAX_BYTES = 512 };

struct dtype_row {
    const char *name;
    uint32_t bytes;
};
static const struct dtype_row dtypes[] = {
    {"F32", 4},  {"F16", 2},     {"BF16", 2},    {"F64", 8},     {"I64", 8}, {"I32", 4},
    {"I16", 2},  {"I8", 1},      {"U64", 8},     {"U32", 4},     {"U16", 2}, {"U8", 1},
    {"BOOL", 1}, {"F8_E4M3", 1}, {"F8_E5M2", 1}, {"F8_E8M0", 1},
};

static const struct dtype_row *find_dtype(const char *name)
{
    for (size_t i = 0; i < sizeof(dtypes) / sizeof(dtypes[0]); i++) {
        if (strcmp(dtypes[i].name, name) == 0)
            return &dtypes[i];
    }
    return NULL;
}

struct header_source {
    const char *what;
    uint64_t data_bytes;
    struct err_msg *msg;
};

static enum err read_shape(const struct header_source *src, const json_t *shape,
                           struct model_entry *e, uint64_t *elements)
{
    size_t i;
    json_t *d;

    if (!json_is_array(shape) || json_array_size(shape) > MODEL_DIMS_MAX)
        return err_set(src->msg, ERR_INVALID,
                       "%s: tensor '%.120s': shape must be a list of at most %d numbers", src->what,
                       e->name, MODEL_DIMS_MAX);
    *elements = 1;
    e->n_dims = (uint32_t)json_array_size(shape);
    json_array_foreach(shape, i, d)
    {
        if (!json_is_integer(d) || json_integer_value(d) < 0)
            return err_set(src->msg, ERR_INVALID,
                           "%s: tensor '%.120s': a dimension is not a whole number", src->what,
                           e->name);
        e->dims[i] = (uint64_t)json_integer_value(d);
        if (__builtin_mul_overflow(*elements, e->dims[i], elements))
            return err_set(src->msg, ERR_INVALID, "%s: tensor '%.120s': the shape overflows",
                           src->what, e->name);
    }
    return ERR_OK;
}

static enum err read_offsets(const struct header_source *src, const json_t *offsets,
                             struct model_entry *e)
{
    const json_t *begin = json_array_get(offsets, 0);
    const json_t *end = json_array_get(offsets, 1);

    if (json_array_size(offsets) != 2 || !json_is_integer(begin) || !json_is_integer(end) ||
        json_integer_value(begin) < 0 || json_integer_value(end) < json_integer_value(begin))
        return err_set(src->msg, ERR_INVALID,
                       "%s: tensor '%.120s': data_offsets must be [begin, end] with begin <= end",
                       src->what, e->name);
    e->begin = (uint64_t)json_integer_value(begin);
    e->end = (uint64_t)json_integer_value(end);
    if (e->end > src->data_bytes)
        return err_set(src->msg, ERR_INVALID,
                       "%s: tensor '%.120s' ends at byte %" PRIu64 " of the data, but the file has "
                       "only %" PRIu64 "; is it truncated?",
                       src->what, e->name, e->end, src->data_bytes);
    return ERR_OK;
}

static enum err read_entry(const struct header_source *src, const char *name, const json_t *o,
                           struct model_entry *e)
{
    const char *dtype = json_string_value(json_object_get(o, "dtype"));
    const struct dtype_row *row;
    uint64_t elements = 0, bytes;
    enum err err;

    if (strlen(name) > NAME_MAX_BYTES)
        return err_set(src->msg, ERR_INVALID, "%s: a tensor name is longer than %d bytes",
                       src->what, NAME_MAX_BYTES);
    e->name = mem_try_strdup(name);
    if (e->name == NULL)
        return err_set(src->msg, ERR_NOMEM, "%s: no memory for the tensor table", src->what);
    if (json_object_size(o) != 3 || dtype == NULL)
        return err_set(src->msg, ERR_INVALID,
                       "%s: tensor '%.120s' must have exactly dtype, shape and data_offsets",
                       src->what, name);
    row = find_dtype(dtype);
    if (row == NULL)
        return err_set(src->msg, ERR_UNSUPPORTED, "%s: tensor '%.120s' has unknown dtype '%.20s'",
                       src->what, name, dtype);
    e->dtype = row->name;
    if ((err = read_shape(src, json_object_get(o, "shape"), e, &elements)) != ERR_OK ||
        (err = read_offsets(src, json_object_get(o, "data_offsets"), e)) != ERR_OK)
        return err;
    if (__builtin_mul_overflow(elements, (uint64_t)row->bytes, &bytes) ||
        bytes != e->end - e->begin)
        return err_set(src->msg, ERR_INVALID,
                       "%s: tensor '%.120s': its shape and dtype %s do not make the %" PRIu64
                       " bytes its data_offsets span",
                       src->what, name, row->name, e->end - e->begin);
    return ERR_OK;
}

static enum err check_metadata(const struct header_source *src, json_t *o)
{
    const char *key;
    json_t *value;

    if (!json_is_object(o))
        return err_set(src->msg, ERR_INVALID, "%s: __metadata__ is not an object", src->what);
    json_object_foreach(o, key, value)
    {
        if (!json_is_string(value))
            return err_set(src->msg, ERR_INVALID, "%s: __metadata__ '%.80s' is not a string",
                           src->what, key);
    }
    return ERR_OK;
}

static int by_begin(const void *a, const void *b)
{
    const struct model_entry *x = a, *y = b;

    if (x->begin != y->begin)
        return x->begin < y->begin ? -1 : 1;
    if (x->end != y->end)
        return x->end < y->end ? -1 : 1;
    return strcmp(x->name, y->name);
}

static enum err check_tiling(const struct header_source *src, struct model_header *h)
{
    uint64_t at = 0;

    qsort(h->entries, h->n, sizeof(h->entries[0]), by_begin);
    for (size_t i = 0; i < h->n; i++) {
        const struct model_entry *e = &h->entries[i];

        if (e->begin != at)
            return err_set(
                src->msg, ERR_INVALID,
                "%s: tensor '%.120s' begins at byte %" PRIu64 " of the data, but the one "
                "before it ends at %" PRIu64 " (%s)",
                src->what, e->name, e->begin, at, e->begin > at ? "a hole" : "an overlap");
        at = e->end;
    }
    if (at != src->data_bytes)
        return err_set(src->msg, ERR_INVALID,
                       "%s: the tensors end at byte %" PRIu64 " of the data, the file has %" PRIu64,
                       src->what, at, src->data_bytes);
    return ERR_OK;
}

static enum err read_entries(const struct header_source *src, json_t *root, struct model_header *h)
{
    const char *key;
    json_t *value;
    enum err err;

    if (json_object_size(root) > MODEL_TENSORS_MAX)
        return err_set(src->msg, ERR_INVALID, "%s: more than %d tensors", src->what,
                       MODEL_TENSORS_MAX);
    h->entries = mem_try_calloc(json_object_size(root) + 1, sizeof(h->entries[0]));
    if (h->entries == NULL)
        return err_set(src->msg, ERR_NOMEM, "%s: no memory for the tensor table", src->what);
    json_object_foreach(root, key, value)
    {
        if (strcmp(key, "__metadata__") == 0)
            err = check_metadata(src, value);
        else
            err = read_entry(src, key, value, &h->entries[h->n++]);
        if (err != ERR_OK)
            return err;
    }
    return check_tiling(src, h);
}

/* Counting colons-worth of "data_offsets" first keeps a bloated header from being parsed at all: the
 * parser would need hundreds of bytes for each entry. */
static bool too_many_tensors(const char *json, size_t len)
{
    static const char key[] = "\"data_offsets\"";
    const char *at = json, *end = json + len;
    size_t count = 0;

    while ((at = memmem(at, (size_t)(end - at), key, sizeof(key) - 1)) != NULL) {
        if (++count > MODEL_TENSORS_MAX)
            return true;
        at += sizeof(key) - 1;
    }
    return false;
}

static enum err check_frame(const uint8_t *bytes, size_t len, uint64_t file_bytes, const char *what,
                            uint64_t *json_bytes, struct err_msg *msg)
{
    uint64_t n = 0;

    if (len < LENGTH_BYTES || file_bytes < LENGTH_BYTES)
        return err_set(msg, ERR_INVALID, "%s: too short for a safetensors file", what);
    for (int i = LENGTH_BYTES - 1; i >= 0; i--)
        n = n << 8 | bytes[i];
    if (n > MODEL_HEADER_MAX)
        return err_set(msg, ERR_INVALID,
                       "%s: the header claims %" PRIu64
                       " bytes, more than the limit of %d; is this "
                       "a safetensors file?",
                       what, n, MODEL_HEADER_MAX);
    if (n > file_bytes - LENGTH_BYTES || n > len - LENGTH_BYTES)
        return err_set(msg, ERR_INVALID,
                       "%s: the header claims %" PRIu64 " bytes, the file has %" PRIu64
                       "; is it truncated?",
                       what, n, file_bytes);
    if (n < 2 || bytes[LENGTH_BYTES] != '{')
        return err_set(msg, ERR_INVALID, "%s: the header does not start with '{'", what);
    if (too_many_tensors((const char *)bytes + LENGTH_BYTES, (size_t)n))
        return err_set(msg, ERR_INVALID, "%s: more than %d tensors", what, MODEL_TENSORS_MAX);
    *json_bytes = n;
    return ERR_OK;
}

enum err model_header_parse(const uint8_t *bytes, size_t len, uint64_t file_bytes, const char *what,
                            struct model_header *out, struct err_msg *msg)
{
    struct header_source src = {.what = what, .msg = msg};
    struct model_header h = {0};
    json_error_t error;
    json_t *root;
    uint64_t n = 0;
    enum err err = check_frame(bytes, len, file_bytes, what, &n, msg);

    if (err != ERR_OK)
        return err;
    src.data_bytes = file_bytes - LENGTH_BYTES - n;
    h.data_start = LENGTH_BYTES + n;
    root =
        json_loadb((const char *)bytes + LENGTH_BYTES, (size_t)n, JSON_REJECT_DUPLICATES, &error);
    if (root == NULL)
        return err_set(msg, ERR_INVALID, "%s: the header is not valid JSON, column %d: %.120s",
                       what, error.column, error.text);
    err = read_entries(&src, root, &h);
    json_decref(root);
    if (err != ERR_OK)
        model_header_free(&h);
    else
        *out = h;
    return err;
}

void model_header_free(struct model_header *h)
{
    for (size_t i = 0; i < h->n; i++)
        mem_free(h->entries[i].name);
    mem_free(h->entries);
    h->entries = NULL;
    h->n = 0;
}

enum err engine_model_check_header(const uint8_t *bytes, size_t len, uint64_t file_bytes,
                                   struct err_msg *msg)
{
    struct model_header h;
    enum err err = model_header_parse(bytes, len, file_bytes, "header", &h, msg);

    if (err == ERR_OK)
        model_header_free(&h);
    return err;
}
