/* engine/engine_chat_value.c - the values of a template run, with Python's rules for truth, equality,
 * order, text and indexing. */
#include "engine/engine_chat_impl.h"

#include <stdio.h>
#include <string.h>
#include <utf8proc.h>

#include "engine/engine_tok_utf8.h"

enum { PRINT_DEPTH_MAX = 16 };

const char *chat_type_name(const struct chat_val *v)
{
    static const char *const names[] = {
        [CHAT_UNDEFINED] = "undefined", [CHAT_NONE] = "none",
        [CHAT_BOOL] = "bool",           [CHAT_INT] = "int",
        [CHAT_FLOAT] = "float",         [CHAT_STR] = "string",
        [CHAT_LIST] = "list",           [CHAT_MAP] = "dict",
        [CHAT_NAMESPACE] = "namespace", [CHAT_FUNCTION] = "function",
        [CHAT_MACRO] = "macro",         [CHAT_LOOP] = "loop",
    };

    return names[v->type];
}

bool chat_truth(const struct chat_val *v)
{
    switch (v->type) {
    case CHAT_UNDEFINED:
    case CHAT_NONE:
        return false;
    case CHAT_BOOL:
        return v->u.b;
    case CHAT_INT:
        return v->u.i != 0;
    case CHAT_FLOAT:
        return v->u.f != 0;
    case CHAT_STR:
        return v->u.s.n > 0;
    case CHAT_LIST:
        return v->u.list->n > 0;
    case CHAT_MAP:
        return v->u.map->n > 0;
    case CHAT_NAMESPACE:
    case CHAT_FUNCTION:
    case CHAT_MACRO:
    case CHAT_LOOP:
        break;
    }
    return true;
}

static bool is_number(const struct chat_val *v)
{
    return v->type == CHAT_BOOL || v->type == CHAT_INT || v->type == CHAT_FLOAT;
}

static double as_double(const struct chat_val *v)
{
    return v->type == CHAT_FLOAT ? v->u.f : v->type == CHAT_BOOL ? (double)v->u.b : (double)v->u.i;
}

static long long as_int(const struct chat_val *v)
{
    return v->type == CHAT_BOOL ? v->u.b : v->u.i;
}

static bool map_equal(const struct chat_map *a, const struct chat_map *b)
{
    if (a->n != b->n)
        return false;
    for (size_t i = 0; i < a->n; i++) {
        const struct chat_val *other = chat_map_get(b, a->e[i].key.p, a->e[i].key.n);

        if (other == NULL || !chat_equal(&a->e[i].val, other))
            return false;
    }
    return true;
}

/* Values are built bottom up, so they hold no cycles and are no deeper than the template nests. */
bool chat_equal(const struct chat_val *a, const struct chat_val *b)
{
    if (is_number(a) && is_number(b)) {
        if (a->type == CHAT_FLOAT || b->type == CHAT_FLOAT)
            return as_double(a) == as_double(b);
        return as_int(a) == as_int(b);
    }
    if (a->type != b->type)
        return false;
    if (a->type == CHAT_STR)
        return chat_str_equal(a->u.s, b->u.s);
    if (a->type == CHAT_MAP)
        return map_equal(a->u.map, b->u.map);
    if (a->type == CHAT_FUNCTION)
        return a->u.i == b->u.i;
    if (a->type != CHAT_LIST)
        return a->type == CHAT_NONE || a->type == CHAT_UNDEFINED;
    if (a->u.list->n != b->u.list->n || a->u.list->tuple != b->u.list->tuple)
        return false;
    for (size_t i = 0; i < a->u.list->n; i++)
        if (!chat_equal(&a->u.list->v[i], &b->u.list->v[i]))
            return false;
    return true;
}

enum err chat_order(struct chat_run *r, const struct chat_node *at, const struct chat_val *a,
                    const struct chat_val *b, int *out)
{
    if (is_number(a) && is_number(b)) {
        double x = as_double(a), y = as_double(b);

        if (a->type != CHAT_FLOAT && b->type != CHAT_FLOAT)
            *out = (as_int(a) > as_int(b)) - (as_int(a) < as_int(b));
        else
            *out = (x > y) - (x < y);
        return ERR_OK;
    }
    if (a->type == CHAT_STR && b->type == CHAT_STR) {
        size_t n = a->u.s.n < b->u.s.n ? a->u.s.n : b->u.s.n;
        int c = n > 0 ? memcmp(a->u.s.p, b->u.s.p, n) : 0;

        *out = c != 0 ? c : (a->u.s.n > b->u.s.n) - (a->u.s.n < b->u.s.n);
        return chat_charge(r, n);
    }
    return chat_fail(r, at, "%s and %s have no order", chat_type_name(a), chat_type_name(b));
}

enum err chat_contains(struct chat_run *r, const struct chat_node *at, const struct chat_val *item,
                       const struct chat_val *in, bool *out)
{
    size_t found;

    *out = false;
    if (in->type == CHAT_STR) {
        if (item->type != CHAT_STR)
            return chat_fail(r, at, "\"in\" a string needs a string, not %s", chat_type_name(item));
        CHAT_TRY(chat_find(r, in->u.s, item->u.s, &found));
        *out = found <= in->u.s.n;
        return ERR_OK;
    }
    if (in->type == CHAT_MAP) {
        *out = item->type == CHAT_STR && chat_map_get(in->u.map, item->u.s.p, item->u.s.n) != NULL;
        return ERR_OK;
    }
    if (in->type == CHAT_UNDEFINED)
        return ERR_OK;
    if (in->type != CHAT_LIST)
        return chat_fail(r, at, "\"in\" needs a list, a string or a dict, not %s",
                         chat_type_name(in));
    CHAT_TRY(chat_charge(r, in->u.list->n * CHAT_BYTES_PER_STEP));
    for (size_t i = 0; i < in->u.list->n && !*out; i++)
        *out = chat_equal(item, &in->u.list->v[i]);
    return ERR_OK;
}

/* ---- containers ------------------------------------------------------------------------------------ */

enum err chat_list_new(struct chat_run *r, bool tuple, struct chat_list **out)
{
    *out = chat_alloc(&r->arena, sizeof(**out));
    if (*out == NULL)
        return r->arena.err;
    (*out)->tuple = tuple;
    return ERR_OK;
}

enum err chat_list_push(struct chat_run *r, struct chat_list *l, struct chat_val v)
{
    CHAT_TRY(chat_charge(r, 0));
    if (l->n == l->cap) {
        size_t cap = l->cap == 0 ? 8 : l->cap * 2;
        struct chat_val *grown = chat_alloc(&r->arena, cap * sizeof(*grown));

        if (grown == NULL)
            return r->arena.err;
        if (l->n > 0)
            memcpy(grown, l->v, l->n * sizeof(*grown));
        l->v = grown;
        l->cap = cap;
    }
    l->v[l->n++] = v;
    return ERR_OK;
}

const struct chat_val *chat_map_get(const struct chat_map *m, const char *key, size_t n)
{
    for (size_t i = 0; i < m->n; i++)
        if (m->e[i].key.n == n && (n == 0 || memcmp(m->e[i].key.p, key, n) == 0))
            return &m->e[i].val;
    return NULL;
}

enum err chat_map_put(struct chat_run *r, struct chat_map *m, struct chat_str key,
                      struct chat_val val)
{
    CHAT_TRY(chat_charge(r, m->n * 8));
    for (size_t i = 0; i < m->n; i++) {
        if (chat_str_equal(m->e[i].key, key)) {
            m->e[i].val = val;
            return ERR_OK;
        }
    }
    if (m->n == m->cap) {
        size_t cap = m->cap == 0 ? 4 : m->cap * 2;
        struct chat_entry *grown = chat_alloc(&r->arena, cap * sizeof(*grown));

        if (grown == NULL)
            return r->arena.err;
        if (m->n > 0)
            memcpy(grown, m->e, m->n * sizeof(*grown));
        m->e = grown;
        m->cap = cap;
    }
    m->e[m->n++] = (struct chat_entry){key, val};
    return ERR_OK;
}

enum err chat_to_list(struct chat_run *r, const struct chat_node *at, const struct chat_val *v,
                      struct chat_list **out)
{
    struct chat_list *list;

    if (v->type == CHAT_LIST) {
        *out = v->u.list;
        return ERR_OK;
    }
    CHAT_TRY(chat_list_new(r, false, &list));
    if (v->type == CHAT_STR) {
        for (size_t i = 0; i < v->u.s.n;) {
            size_t n = chat_code_point_at(chat_sub(v->u.s, i, v->u.s.n), 1);

            CHAT_TRY(chat_list_push(r, list, chat_string(chat_sub(v->u.s, i, i + n))));
            i += n;
        }
    } else if (v->type == CHAT_MAP) {
        for (size_t i = 0; i < v->u.map->n; i++)
            CHAT_TRY(chat_list_push(r, list, chat_string(v->u.map->e[i].key)));
    } else if (v->type != CHAT_UNDEFINED) {
        return chat_fail(r, at, "%s cannot be walked over", chat_type_name(v));
    }
    *out = list;
    return ERR_OK;
}

static enum err loop_attr(struct chat_run *r, const struct chat_node *at,
                          const struct chat_loop *loop, struct chat_str name, struct chat_val *out)
{
    long long n = (long long)loop->items->n, i = (long long)loop->at;
    const struct {
        const char *name;
        struct chat_val val;
    } members[] = {
        {"index", chat_int(i + 1)},
        {"index0", chat_int(i)},
        {"revindex", chat_int(n - i)},
        {"revindex0", chat_int(n - i - 1)},
        {"first", chat_bool(i == 0)},
        {"last", chat_bool(i == n - 1)},
        {"length", chat_int(n)},
        {"depth", chat_int(1)}, /* recursive loops are not built */
        {"depth0", chat_int(0)},
        {"previtem", i > 0 ? loop->items->v[i - 1] : chat_undefined()},
        {"nextitem", i + 1 < n ? loop->items->v[i + 1] : chat_undefined()},
    };

    for (size_t k = 0; k < sizeof(members) / sizeof(members[0]); k++) {
        if (chat_str_equal(name, chat_lit(members[k].name))) {
            *out = members[k].val;
            return ERR_OK;
        }
    }
    return chat_fail(r, at, "loop has no member \"%.*s\"", (int)name.n, name.p);
}

enum err chat_get_attr(struct chat_run *r, const struct chat_node *at, const struct chat_val *v,
                       struct chat_str name, struct chat_val *out)
{
    const struct chat_val *found = NULL;

    if (v->type == CHAT_LOOP)
        return loop_attr(r, at, v->u.loop, name, out);
    if (v->type == CHAT_UNDEFINED)
        return chat_fail(r, at, "\"%.*s\" of something undefined", (int)name.n, name.p);
    if (v->type == CHAT_MAP || v->type == CHAT_NAMESPACE)
        found = chat_map_get(v->u.map, name.p, name.n);
    *out = found != NULL ? *found : chat_undefined();
    return ERR_OK;
}

enum err chat_get_item(struct chat_run *r, const struct chat_node *at, const struct chat_val *v,
                       const struct chat_val *key, struct chat_val *out)
{
    long long i, n;

    *out = chat_undefined();
    if (v->type == CHAT_UNDEFINED)
        return chat_fail(r, at, "an item of something undefined");
    if (key->type == CHAT_STR && v->type != CHAT_STR && v->type != CHAT_LIST)
        return chat_get_attr(r, at, v, key->u.s, out);
    if ((key->type != CHAT_INT && key->type != CHAT_BOOL) ||
        (v->type != CHAT_LIST && v->type != CHAT_STR))
        return ERR_OK;
    if (v->type == CHAT_STR)
        CHAT_TRY(chat_charge(r, v->u.s.n));
    i = as_int(key);
    n = (long long)(v->type == CHAT_LIST ? v->u.list->n : chat_code_points(v->u.s));
    i += i < 0 ? n : 0;
    if (i < 0 || i >= n)
        return ERR_OK;
    if (v->type == CHAT_LIST) {
        *out = v->u.list->v[i];
    } else {
        size_t begin = chat_code_point_at(v->u.s, (size_t)i);
        size_t len = chat_code_point_at(chat_sub(v->u.s, begin, v->u.s.n), 1);

        *out = chat_string(chat_sub(v->u.s, begin, begin + len));
    }
    return ERR_OK;
}

/* One bound of a slice, brought into low..high as Python does. */
static enum err slice_bound(struct chat_run *r, const struct chat_node *at,
                            const struct chat_val *v, long long missing, long long n, long long low,
                            long long high, long long *out)
{
    *out = missing;
    if (v == NULL || v->type == CHAT_NONE)
        return ERR_OK;
    if (v->type != CHAT_INT && v->type != CHAT_BOOL)
        return chat_fail(r, at, "a slice bound must be a number, not %s", chat_type_name(v));
    *out = as_int(v);
    if (*out < 0)
        *out = *out < -n ? low : *out + n;
    *out = *out < low ? low : *out > high ? high : *out;
    return ERR_OK;
}

enum err chat_slice(struct chat_run *r, const struct chat_node *at, const struct chat_val *v,
                    const struct chat_val *begin, const struct chat_val *end,
                    const struct chat_val *step, struct chat_val *out)
{
    long long by = 1, from, to, n;
    struct chat_list *items, *list;
    struct chat_sb sb = {0};

    if (v->type != CHAT_LIST && v->type != CHAT_STR)
        return chat_fail(r, at, "%s cannot be sliced", chat_type_name(v));
    if (step != NULL && step->type == CHAT_INT)
        by = step->u.i;
    if (by == 0 || by > 1 << 20 || by < -(1 << 20))
        return chat_fail(r, at, "a slice step out of range");
    n = (long long)(v->type == CHAT_LIST ? v->u.list->n : chat_code_points(v->u.s));
    CHAT_TRY(slice_bound(r, at, begin, by > 0 ? 0 : n - 1, n, by > 0 ? 0 : -1, by > 0 ? n : n - 1,
                         &from));
    CHAT_TRY(slice_bound(r, at, end, by > 0 ? n : -1, n, by > 0 ? 0 : -1, by > 0 ? n : n - 1, &to));
    if (v->type == CHAT_STR && by == 1) {
        size_t a = chat_code_point_at(v->u.s, (size_t)from);
        size_t b = from < to
                       ? a + chat_code_point_at(chat_sub(v->u.s, a, v->u.s.n), (size_t)(to - from))
                       : a;

        *out = chat_string(chat_sub(v->u.s, a, b));
        return chat_charge(r, v->u.s.n);
    }
    CHAT_TRY(chat_to_list(r, at, v, &items));
    CHAT_TRY(chat_list_new(r, v->type == CHAT_LIST && v->u.list->tuple, &list));
    for (long long i = from; by > 0 ? i < to : i > to; i += by) {
        if (v->type == CHAT_LIST)
            CHAT_TRY(chat_list_push(r, list, items->v[i]));
        else
            CHAT_TRY(chat_sb_add(r, &sb, items->v[i].u.s));
    }
    *out = v->type == CHAT_LIST ? (struct chat_val){.type = CHAT_LIST, .u = {.list = list}}
                                : chat_string(chat_sb_str(&sb));
    return ERR_OK;
}

/* ---- text ------------------------------------------------------------------------------------------- */

static enum err repr(struct chat_run *r, struct chat_sb *sb, const struct chat_val *v, int depth);

static bool printable(uint32_t cp)
{
    utf8proc_category_t c = utf8proc_category((utf8proc_int32_t)cp);

    if (c == UTF8PROC_CATEGORY_ZS)
        return cp == ' ';
    return c != UTF8PROC_CATEGORY_CN && c < UTF8PROC_CATEGORY_ZL; /* then come ZP CC CF CS CO */
}

/* How repr() (python) or json.dumps writes one character; its length, 0: as it is. */
static size_t escaped(uint32_t cp, char quote, bool json, char out[16])
{
    static const char from[] = "\n\r\t\b\f", to[] = "nrtbf";
    const char *known = cp != 0 && cp < 0x80 ? strchr(from, (int)cp) : NULL;

    if (cp == '\\' || cp == (unsigned char)quote) {
        out[0] = '\\';
        out[1] = (char)cp;
        return 2;
    }
    if (known != NULL && (json || known - from < 3)) {
        out[0] = '\\';
        out[1] = to[known - from];
        return 2;
    }
    if (json ? cp >= 0x20 : printable(cp))
        return 0;
    if (json || (cp > 0xff && cp < 0x10000))
        return (size_t)snprintf(out, 16, "\\u%04x", cp);
    return (size_t)(cp > 0xff ? snprintf(out, 16, "\\U%08x", cp)
                              : snprintf(out, 16, "\\x%02x", cp));
}

static enum err quoted(struct chat_run *r, struct chat_sb *sb, struct chat_str s, bool json)
{
    char quote =
        json || (s.n > 0 && memchr(s.p, '\'', s.n) != NULL && memchr(s.p, '"', s.n) == NULL) ? '"'
                                                                                             : '\'';
    size_t plain = 0, at = 0;

    CHAT_TRY(chat_sb_raw(r, sb, &quote, 1));
    while (at < s.n) {
        uint32_t cp = 0;
        size_t n = tok_utf8_get(s.p + at, s.p + s.n, &cp), len;
        char text[16];

        if (n == 0)
            break;
        len = escaped(cp, quote, json, text);
        if (len > 0) {
            struct chat_str e = {text, len, s.taint != NULL ? CHAT_TAINT_ALL : NULL};

            CHAT_TRY(chat_sb_add(r, sb, chat_sub(s, plain, at)));
            CHAT_TRY(chat_sb_add(r, sb, e));
            plain = at + n;
        }
        at += n;
    }
    CHAT_TRY(chat_sb_add(r, sb, chat_sub(s, plain, at)));
    return chat_sb_raw(r, sb, &quote, 1);
}

static enum err repr_list(struct chat_run *r, struct chat_sb *sb, const struct chat_list *l,
                          int depth)
{
    CHAT_TRY(chat_sb_raw(r, sb, l->tuple ? "(" : "[", 1));
    for (size_t i = 0; i < l->n; i++) {
        if (i > 0)
            CHAT_TRY(chat_sb_raw(r, sb, ", ", 2));
        CHAT_TRY(repr(r, sb, &l->v[i], depth + 1));
    }
    return chat_sb_raw(r, sb, l->tuple ? l->n == 1 ? ",)" : ")" : "]",
                       l->tuple && l->n == 1 ? 2 : 1);
}

static enum err repr_map(struct chat_run *r, struct chat_sb *sb, const struct chat_map *m,
                         int depth)
{
    CHAT_TRY(chat_sb_raw(r, sb, "{", 1));
    for (size_t i = 0; i < m->n; i++) {
        if (i > 0)
            CHAT_TRY(chat_sb_raw(r, sb, ", ", 2));
        CHAT_TRY(quoted(r, sb, m->e[i].key, false));
        CHAT_TRY(chat_sb_raw(r, sb, ": ", 2));
        CHAT_TRY(repr(r, sb, &m->e[i].val, depth + 1));
    }
    return chat_sb_raw(r, sb, "}", 1);
}

static enum err repr(struct chat_run *r, struct chat_sb *sb, const struct chat_val *v, int depth)
{
    struct chat_str s;

    if (depth > PRINT_DEPTH_MAX)
        return chat_fail(r, NULL, "a value too deep to print");
    switch (v->type) {
    case CHAT_UNDEFINED:
        return chat_sb_raw(r, sb, "Undefined", 9);
    case CHAT_NONE:
        return chat_sb_raw(r, sb, "None", 4);
    case CHAT_BOOL:
        return v->u.b ? chat_sb_raw(r, sb, "True", 4) : chat_sb_raw(r, sb, "False", 5);
    case CHAT_INT:
    case CHAT_FLOAT:
        CHAT_TRY(chat_number_str(r, v, &s));
        return chat_sb_add(r, sb, s);
    case CHAT_STR:
        return quoted(r, sb, v->u.s, false);
    case CHAT_LIST:
        return repr_list(r, sb, v->u.list, depth);
    case CHAT_MAP:
        return repr_map(r, sb, v->u.map, depth);
    case CHAT_NAMESPACE:
    case CHAT_FUNCTION:
    case CHAT_MACRO:
    case CHAT_LOOP:
        break;
    }
    return chat_fail(r, NULL, "a %s cannot be printed", chat_type_name(v));
}

enum err chat_to_str(struct chat_run *r, const struct chat_val *v, struct chat_str *out)
{
    struct chat_sb sb = {0};

    *out = chat_lit("");
    if (v->type == CHAT_STR)
        *out = v->u.s;
    if (v->type == CHAT_STR || v->type == CHAT_UNDEFINED)
        return ERR_OK;
    CHAT_TRY(repr(r, &sb, v, 0));
    *out = chat_sb_str(&sb);
    return ERR_OK;
}

struct json_out {
    struct chat_sb sb;
    const struct chat_node *at;
    int indent; /* -1: one line */
};

static enum err json_break(struct chat_run *r, struct json_out *o, int depth)
{
    if (o->indent < 0)
        return ERR_OK;
    CHAT_TRY(chat_sb_raw(r, &o->sb, "\n", 1));
    for (int i = 0; i < depth * o->indent; i++)
        CHAT_TRY(chat_sb_raw(r, &o->sb, " ", 1));
    return ERR_OK;
}

static enum err json_put(struct chat_run *r, struct json_out *o, const struct chat_val *v,
                         int depth)
{
    bool list = v->type == CHAT_LIST;
    size_t n = list ? v->u.list->n : v->type == CHAT_MAP ? v->u.map->n : 0;
    struct chat_str s;

    if (depth > PRINT_DEPTH_MAX)
        return chat_fail(r, o->at, "a value too deep for JSON");
    if (v->type == CHAT_STR)
        return quoted(r, &o->sb, v->u.s, true);
    if (v->type == CHAT_NONE)
        return chat_sb_raw(r, &o->sb, "null", 4);
    if (v->type == CHAT_BOOL)
        return v->u.b ? chat_sb_raw(r, &o->sb, "true", 4) : chat_sb_raw(r, &o->sb, "false", 5);
    if (v->type == CHAT_INT || v->type == CHAT_FLOAT) {
        CHAT_TRY(chat_number_str(r, v, &s));
        return chat_sb_add(r, &o->sb, s);
    }
    if (!list && v->type != CHAT_MAP)
        return chat_fail(r, o->at, "%s has no JSON form", chat_type_name(v));
    CHAT_TRY(chat_sb_raw(r, &o->sb, list ? "[" : "{", 1));
    for (size_t i = 0; i < n; i++) {
        if (i > 0)
            CHAT_TRY(chat_sb_raw(r, &o->sb, ", ", o->indent < 0 ? 2 : 1));
        CHAT_TRY(json_break(r, o, depth + 1));
        if (!list) {
            CHAT_TRY(quoted(r, &o->sb, v->u.map->e[i].key, true));
            CHAT_TRY(chat_sb_raw(r, &o->sb, ": ", 2));
        }
        CHAT_TRY(json_put(r, o, list ? &v->u.list->v[i] : &v->u.map->e[i].val, depth + 1));
    }
    if (n > 0)
        CHAT_TRY(json_break(r, o, depth));
    return chat_sb_raw(r, &o->sb, list ? "]" : "}", 1);
}

enum err chat_to_json(struct chat_run *r, const struct chat_node *at, const struct chat_val *v,
                      int indent, struct chat_str *out)
{
    struct json_out o = {.at = at, .indent = indent};

    CHAT_TRY(json_put(r, &o, v, 0));
    *out = chat_sb_str(&o.sb);
    return ERR_OK;
}
