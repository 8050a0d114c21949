/* bench/yaml_tree.h - small YAML files as a tree whose every complaint names file, line, key and range.
 *
 *   bench_yaml_open -> bench_yaml_get, _number, _text ... on nodes -> bench_yaml_close
 *
 * A node is the number libyaml gives it, 0 for none.  Mappings may have each key once and only keys that
 * the caller names: a misspelt key is an error, not a default.
 *
 * Thread: one at a time.  Ownership: the struct owns the tree; texts are copied out.
 * Errors: ERR_NOT_FOUND: no such file.  ERR_IO: it cannot be read.  ERR_INVALID: it does not say what it has
 * to.  ERR_NOMEM.  msg says what and where. */
#ifndef BENCH_YAML_TREE_H
#define BENCH_YAML_TREE_H

#include <stdbool.h>
#include <stddef.h>

#include "base/err.h"

struct bench_yaml {
    char path[256];               /* as messages show it */
    struct yaml_document_s *tree; /* NULL: closed */
};

/* Files of up to 1 MiB. */
MUST_USE enum err bench_yaml_open(const char *path, struct bench_yaml *out, struct err_msg *msg);
void bench_yaml_close(struct bench_yaml *y); /* a zeroed or closed one is fine */

/* The top node; it exists in an open file. */
int bench_yaml_root(const struct bench_yaml *y);
size_t bench_yaml_line(const struct bench_yaml *y, int node); /* from 1; 0 for no node */

/* ERR_INVALID unless `node` is a mapping whose keys are all among `keys` or `more` (lists ended by NULL; more
 * may be NULL).  what: what the mapping is, for the message. */
MUST_USE enum err bench_yaml_keys(const struct bench_yaml *y, int node, const char *what,
                                  const char *const *keys, const char *const *more,
                                  struct err_msg *msg);
/* The value of `key` in a mapping; 0: not there, or not a mapping. */
int bench_yaml_get(const struct bench_yaml *y, int node, const char *key);

/* Items of a sequence. ERR_INVALID: it is none, or has less than min or more than max of them.  Item i of it is
 * bench_yaml_item(). */
MUST_USE enum err bench_yaml_list(const struct bench_yaml *y, int node, const char *what,
                                  size_t min, size_t max, size_t *n, struct err_msg *msg);
int bench_yaml_item(const struct bench_yaml *y, int node, size_t i);

/* The number at `key` of a mapping, low <= value <= high, such as 12, 0.5 or 46e9.  Not there: *out keeps what it
 * holds, or, if `must`, ERR_INVALID. */
MUST_USE enum err bench_yaml_number(const struct bench_yaml *y, int node, const char *key,
                                    bool must, double low, double high, double *out,
                                    struct err_msg *msg);
/* The text at `key`, 1 .. size - 1 bytes; as for numbers. */
MUST_USE enum err bench_yaml_text(const struct bench_yaml *y, int node, const char *key, bool must,
                                  char *out, size_t size, struct err_msg *msg);

#endif
