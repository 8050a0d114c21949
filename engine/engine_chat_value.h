/* engine/engine_chat_value.h - the memory, values and strings of the template engine.  Not for use outside
 * engine_chat*.
 *
 * Strings know which of their bytes came from a message ("taint"), and every operation carries that
 * along, so that the spans of the output are exact however the template cuts and joins.
 *
 * Ownership  everything lives in an arena and is freed with it. */
#ifndef ENGINE_ENGINE_CHAT_VALUE_H
#define ENGINE_ENGINE_CHAT_VALUE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

struct chat_run; /* engine_chat_impl.h */

/* ---- memory -------------------------------------------------------------------------------------- */

struct chat_block;
struct chat_arena {
    struct chat_block *blocks;
    size_t total, limit;
    enum err err; /* why the last allocation gave NULL */
};
void *chat_alloc(struct chat_arena *a, size_t size); /* zeroed; NULL: see a->err */
void chat_arena_free(struct chat_arena *a);

/* ---- values --------------------------------------------------------------------------------------- */

enum chat_type {
    CHAT_UNDEFINED = 0,
    CHAT_NONE,
    CHAT_BOOL,
    CHAT_INT,
    CHAT_FLOAT,
    CHAT_STR,
    CHAT_LIST,
    CHAT_MAP,
    CHAT_NAMESPACE,
    CHAT_FUNCTION,
    CHAT_MACRO,
    CHAT_LOOP,
};

/* taint: NULL none, CHAT_TAINT_ALL every byte, else one byte per byte of p. */
struct chat_str {
    const char *p;
    size_t n;
    const unsigned char *taint;
};
extern const unsigned char chat_taint_all[1];
#define CHAT_TAINT_ALL (chat_taint_all)

struct chat_list;
struct chat_map;
struct chat_loop;
struct chat_node;

struct chat_val {
    enum chat_type type;
    union {
        bool b;
        long long i; /* CHAT_FUNCTION: enum chat_function */
        double f;
        struct chat_str s;
        struct chat_list *list;
        struct chat_map *map; /* CHAT_MAP, CHAT_NAMESPACE */
        const struct chat_node *macro;
        const struct chat_loop *loop;
    } u;
};

struct chat_list {
    struct chat_val *v;
    size_t n, cap;
    bool tuple;
};

struct chat_entry {
    struct chat_str key;
    struct chat_val val;
};
struct chat_map {
    struct chat_entry *e;
    size_t n, cap;
};

struct chat_loop {
    const struct chat_list *items;
    size_t at;
};

static inline struct chat_val chat_undefined(void)
{
    return (struct chat_val){.type = CHAT_UNDEFINED};
}
static inline struct chat_val chat_none(void)
{
    return (struct chat_val){.type = CHAT_NONE};
}
static inline struct chat_val chat_bool(bool b)
{
    return (struct chat_val){.type = CHAT_BOOL, .u = {.b = b}};
}
static inline struct chat_val chat_int(long long i)
{
    return (struct chat_val){.type = CHAT_INT, .u = {.i = i}};
}
static inline struct chat_val chat_float(double f)
{
    return (struct chat_val){.type = CHAT_FLOAT, .u = {.f = f}};
}
static inline struct chat_val chat_string(struct chat_str s)
{
    return (struct chat_val){.type = CHAT_STR, .u = {.s = s}};
}

/* ---- values, engine_chat_value.c ------------------------------------------------------------------------ */

const char *chat_type_name(const struct chat_val *v);
bool chat_truth(const struct chat_val *v);
bool chat_equal(const struct chat_val *a, const struct chat_val *b);
/* ERR_INVALID with a message: these two have no order. */
MUST_USE enum err chat_order(struct chat_run *r, const struct chat_node *at,
                             const struct chat_val *a, const struct chat_val *b, int *out);
MUST_USE enum err chat_contains(struct chat_run *r, const struct chat_node *at,
                                const struct chat_val *item, const struct chat_val *in, bool *out);
/* str(v), as a template prints it. */
MUST_USE enum err chat_to_str(struct chat_run *r, const struct chat_val *v, struct chat_str *out);
MUST_USE enum err chat_to_json(struct chat_run *r, const struct chat_node *at,
                               const struct chat_val *v, int indent, struct chat_str *out);
/* What a for loop walks over. */
MUST_USE enum err chat_to_list(struct chat_run *r, const struct chat_node *at,
                               const struct chat_val *v, struct chat_list **out);
MUST_USE enum err chat_get_attr(struct chat_run *r, const struct chat_node *at,
                                const struct chat_val *v, struct chat_str name,
                                struct chat_val *out);
MUST_USE enum err chat_get_item(struct chat_run *r, const struct chat_node *at,
                                const struct chat_val *v, const struct chat_val *key,
                                struct chat_val *out);
MUST_USE enum err chat_slice(struct chat_run *r, const struct chat_node *at,
                             const struct chat_val *v, const struct chat_val *begin,
                             const struct chat_val *end, const struct chat_val *step,
                             struct chat_val *out);
const struct chat_val *chat_map_get(const struct chat_map *m, const char *key, size_t n);
MUST_USE enum err chat_map_put(struct chat_run *r, struct chat_map *m, struct chat_str key,
                               struct chat_val val);
MUST_USE enum err chat_list_push(struct chat_run *r, struct chat_list *l, struct chat_val v);
MUST_USE enum err chat_list_new(struct chat_run *r, bool tuple, struct chat_list **out);

/* ---- strings, engine_chat_str.c -------------------------------------------------------------------------- */

struct chat_sb { /* a string being built in the arena of the run */
    char *p;
    unsigned char *taint; /* NULL until a tainted byte comes */
    size_t n, cap;
};
MUST_USE enum err chat_sb_add(struct chat_run *r, struct chat_sb *b, struct chat_str s);
MUST_USE enum err chat_sb_raw(struct chat_run *r, struct chat_sb *b, const char *s, size_t n);
struct chat_str chat_sb_str(const struct chat_sb *b);
struct chat_str chat_lit(const char *s); /* of a C string that outlives the run */
struct chat_str chat_sub(struct chat_str s, size_t begin, size_t end);
bool chat_str_equal(struct chat_str a, struct chat_str b);
bool chat_is_space(uint32_t cp); /* as Python's str.isspace */
MUST_USE enum err chat_concat(struct chat_run *r, struct chat_str a, struct chat_str b,
                              struct chat_str *out);
enum { CHAT_STRIP_LEFT = 1, CHAT_STRIP_RIGHT = 2 };
/* chars: NULL strips white space. */
struct chat_str chat_strip(struct chat_str s, const struct chat_str *chars, int sides);
MUST_USE enum err chat_replace(struct chat_run *r, struct chat_str s, struct chat_str from,
                               struct chat_str to, long long most, struct chat_str *out);
MUST_USE enum err chat_split(struct chat_run *r, struct chat_str s, const struct chat_str *sep,
                             long long most, struct chat_list *out);
enum chat_case { CHAT_CASE_UPPER, CHAT_CASE_LOWER, CHAT_CASE_TITLE, CHAT_CASE_CAPITALIZE };
MUST_USE enum err chat_recase(struct chat_run *r, struct chat_str s, enum chat_case how,
                              struct chat_str *out);
MUST_USE enum err chat_find(struct chat_run *r, struct chat_str s, struct chat_str what,
                            size_t *at); /* bytes; s.n + 1: not there */
size_t chat_code_points(struct chat_str s);
/* The byte offset of code point i, at most s.n. */
size_t chat_code_point_at(struct chat_str s, size_t i);
MUST_USE enum err chat_number_str(struct chat_run *r, const struct chat_val *v,
                                  struct chat_str *out);

#endif
