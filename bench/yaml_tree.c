/* bench/yaml_tree.c - see the header.  libyaml's document keeps the line of every node, which is all that good
 * messages need. */
#include "bench/yaml_tree.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <yaml.h>

#include "base/mem.h"

enum { FILE_BYTES_MAX = 1 << 20 };

static yaml_node_t *at(const struct bench_yaml *y, int node)
{
    return y->tree != NULL && node > 0 ? yaml_document_get_node(y->tree, node) : NULL;
}

static bool is_scalar(const yaml_node_t *n, const char *text)
{
    return n != NULL && n->type == YAML_SCALAR_NODE && n->data.scalar.length == strlen(text) &&
           memcmp(n->data.scalar.value, text, n->data.scalar.length) == 0;
}

size_t bench_yaml_line(const struct bench_yaml *y, int node)
{
    const yaml_node_t *n = at(y, node);

    return n != NULL ? n->start_mark.line + 1 : 0;
}

int bench_yaml_root(const struct bench_yaml *y)
{
    return y->tree != NULL && yaml_document_get_root_node(y->tree) != NULL ? 1 : 0;
}

/* ---- opening ---- */

static enum err load(FILE *f, struct bench_yaml *y, struct err_msg *msg)
{
    yaml_parser_t parser;
    int ok;

    if (!yaml_parser_initialize(&parser))
        return err_set(msg, ERR_NOMEM, "%s: no memory to read it", y->path);
    yaml_parser_set_input_file(&parser, f);
    ok = yaml_parser_load(&parser, y->tree);
    if (!ok) {
        enum err err = parser.error == YAML_MEMORY_ERROR ? ERR_NOMEM : ERR_INVALID;

        (void)err_set(msg, err, "%s: line %zu: %s", y->path, parser.problem_mark.line + 1,
                      parser.problem != NULL ? parser.problem : "this is not YAML");
        yaml_parser_delete(&parser);
        return err;
    }
    yaml_parser_delete(&parser);
    if (yaml_document_get_root_node(y->tree) == NULL) {
        yaml_document_delete(y->tree);
        return err_set(msg, ERR_INVALID, "%s: the file is empty", y->path);
    }
    return ERR_OK;
}

static enum err check_size(FILE *f, const char *path, struct err_msg *msg)
{
    struct stat st;
    long size;

    if (fstat(fileno(f), &st) != 0 || !S_ISREG(st.st_mode))
        return err_set(msg, ERR_IO, "%.200s: cannot be read: give a regular file", path);
    if (fseek(f, 0, SEEK_END) != 0 || (size = ftell(f)) < 0 || fseek(f, 0, SEEK_SET) != 0)
        return err_set(msg, ERR_IO, "%.200s: cannot be read: %s; give a regular file", path,
                       strerror(errno));
    if (size > FILE_BYTES_MAX)
        return err_set(msg, ERR_INVALID, "%.200s: larger than 1 MiB; this is no such file", path);
    return ERR_OK;
}

enum err bench_yaml_open(const char *path, struct bench_yaml *out, struct err_msg *msg)
{
    struct bench_yaml y = {0};
    FILE *f = fopen(path, "rb");
    enum err err;

    if (f == NULL)
        return err_set(msg, errno == ENOENT ? ERR_NOT_FOUND : ERR_IO, "%.200s: %s", path,
                       strerror(errno));
    snprintf(y.path, sizeof(y.path), "%.255s", path);
    err = check_size(f, path, msg);
    if (err == ERR_OK) {
        y.tree = mem_try_calloc(1, sizeof(*y.tree));
        err = y.tree != NULL ? load(f, &y, msg)
                             : err_set(msg, ERR_NOMEM, "%s: no memory to read it", y.path);
    }
    fclose(f);
    if (err != ERR_OK) {
        mem_free(y.tree);
        return err;
    }
    *out = y;
    return ERR_OK;
}

void bench_yaml_close(struct bench_yaml *y)
{
    if (y->tree == NULL)
        return;
    yaml_document_delete(y->tree);
    mem_free(y->tree);
    y->tree = NULL;
}

/* ---- mappings and lists ---- */

static bool among(const yaml_node_t *key, const char *const *names)
{
    for (; names != NULL && *names != NULL; names++) {
        if (is_scalar(key, *names))
            return true;
    }
    return false;
}

static enum err check_pair(const struct bench_yaml *y, const yaml_node_t *map,
                           const yaml_node_pair_t *pair, const char *what, struct err_msg *msg)
{
    const yaml_node_t *key = at(y, pair->key);
    const yaml_node_pair_t *p;

    for (p = map->data.mapping.pairs.start; p < pair; p++) {
        if (is_scalar(at(y, p->key), (const char *)key->data.scalar.value))
            return err_set(msg, ERR_INVALID, "%s: line %zu: %s: '%.60s' is there twice", y->path,
                           key->start_mark.line + 1, what, (const char *)key->data.scalar.value);
    }
    return ERR_OK;
}

enum err bench_yaml_keys(const struct bench_yaml *y, int node, const char *what,
                         const char *const *keys, const char *const *more, struct err_msg *msg)
{
    const yaml_node_t *map = at(y, node);
    const yaml_node_pair_t *p;
    enum err err = ERR_OK;

    if (map == NULL || map->type != YAML_MAPPING_NODE)
        return err_set(msg, ERR_INVALID, "%s: line %zu: %s has to be a mapping (key: value)",
                       y->path, bench_yaml_line(y, node), what);
    for (p = map->data.mapping.pairs.start; p < map->data.mapping.pairs.top; p++) {
        const yaml_node_t *key = at(y, p->key);

        if (key == NULL || key->type != YAML_SCALAR_NODE)
            return err_set(msg, ERR_INVALID, "%s: line %zu: %s: a key has to be a word", y->path,
                           bench_yaml_line(y, p->key), what);
        if (!among(key, keys) && !among(key, more))
            return err_set(msg, ERR_INVALID, "%s: line %zu: %s has no key '%.60s'", y->path,
                           key->start_mark.line + 1, what, (const char *)key->data.scalar.value);
        err = check_pair(y, map, p, what, msg);
        if (err != ERR_OK)
            return err;
    }
    return ERR_OK;
}

int bench_yaml_get(const struct bench_yaml *y, int node, const char *key)
{
    const yaml_node_t *map = at(y, node);
    const yaml_node_pair_t *p;

    if (map == NULL || map->type != YAML_MAPPING_NODE)
        return 0;
    for (p = map->data.mapping.pairs.start; p < map->data.mapping.pairs.top; p++) {
        if (is_scalar(at(y, p->key), key))
            return p->value;
    }
    return 0;
}

enum err bench_yaml_list(const struct bench_yaml *y, int node, const char *what, size_t min,
                         size_t max, size_t *n, struct err_msg *msg)
{
    const yaml_node_t *list = at(y, node);
    size_t count;

    if (list == NULL || list->type != YAML_SEQUENCE_NODE)
        return err_set(msg, ERR_INVALID, "%s: line %zu: %s has to be a list", y->path,
                       bench_yaml_line(y, node), what);
    count = (size_t)(list->data.sequence.items.top - list->data.sequence.items.start);
    if (count < min || count > max)
        return err_set(msg, ERR_INVALID,
                       "%s: line %zu: %s has %zu entries; %zu to %zu can be given", y->path,
                       bench_yaml_line(y, node), what, count, min, max);
    *n = count;
    return ERR_OK;
}

int bench_yaml_item(const struct bench_yaml *y, int node, size_t i)
{
    const yaml_node_t *list = at(y, node);

    if (list == NULL || list->type != YAML_SEQUENCE_NODE ||
        i >= (size_t)(list->data.sequence.items.top - list->data.sequence.items.start))
        return 0;
    return list->data.sequence.items.start[i];
}

/* ---- values ---- */

/* *value: the scalar, or NULL if it is not there and need not be. */
static enum err scalar(const struct bench_yaml *y, int node, const char *key, bool must,
                       const yaml_node_t **value, struct err_msg *msg)
{
    int found = bench_yaml_get(y, node, key);

    *value = at(y, found);
    if (*value == NULL)
        return must ? err_set(msg, ERR_INVALID, "%s: line %zu: '%s' is missing here", y->path,
                              bench_yaml_line(y, node), key)
                    : ERR_OK;
    if ((*value)->type != YAML_SCALAR_NODE)
        return err_set(msg, ERR_INVALID, "%s: line %zu: '%s' takes one value", y->path,
                       bench_yaml_line(y, found), key);
    return ERR_OK;
}

enum err bench_yaml_number(const struct bench_yaml *y, int node, const char *key, bool must,
                           double low, double high, double *out, struct err_msg *msg)
{
    const yaml_node_t *value;
    const char *text;
    char *end;
    double v;
    enum err err = scalar(y, node, key, must, &value, msg);

    if (err != ERR_OK || value == NULL)
        return err;
    text = (const char *)value->data.scalar.value;
    v = strtod(text, &end);
    /* strtod also takes nan, inf and hexadecimal, which nobody means here. */
    if (text[0] == '\0' || strspn(text, "0123456789+-.eE") != value->data.scalar.length ||
        *end != '\0' || !(v >= low && v <= high))
        return err_set(msg, ERR_INVALID,
                       "%s: line %zu: '%s: %.40s' is not possible; a number from %g to %g is",
                       y->path, value->start_mark.line + 1, key, text, low, high);
    *out = v;
    return ERR_OK;
}

enum err bench_yaml_text(const struct bench_yaml *y, int node, const char *key, bool must,
                         char *out, size_t size, struct err_msg *msg)
{
    const yaml_node_t *value;
    size_t len;
    enum err err = scalar(y, node, key, must, &value, msg);

    if (err != ERR_OK || value == NULL)
        return err;
    len = value->data.scalar.length;
    if (len == 0 || len >= size || memchr(value->data.scalar.value, 0, len) != NULL)
        return err_set(msg, ERR_INVALID, "%s: line %zu: '%s' takes a text of 1 to %zu bytes",
                       y->path, value->start_mark.line + 1, key, size - 1);
    memcpy(out, value->data.scalar.value, len);
    out[len] = '\0';
    return ERR_OK;
}
