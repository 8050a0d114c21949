/* engine/engine_chat_filter.c - the filters that a template may use. */
#include "engine/engine_chat_impl.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>

/* Filters that look at text take str() of what they get, as Jinja's do. */
static enum err text_filter(struct chat_run *r, enum chat_filter which, const struct chat_val *in,
                            const struct chat_args *args, struct chat_val *out)
{
    const struct chat_val *a = chat_arg(r, args, 0, which == CHAT_FILTER_trim ? "chars" : "old");
    const struct chat_val *b = chat_arg(r, args, 1, "new"), *most = chat_arg(r, args, 2, "count");
    struct chat_str s, from, to;

    CHAT_TRY(chat_to_str(r, in, &s));
    CHAT_TRY(chat_charge(r, s.n));
    if (which == CHAT_FILTER_trim) {
        s = chat_strip(s, a != NULL && a->type == CHAT_STR ? &a->u.s : NULL,
                       CHAT_STRIP_LEFT | CHAT_STRIP_RIGHT);
    } else if (which == CHAT_FILTER_replace) {
        if (a == NULL || b == NULL)
            return chat_fail(r, args->at, "replace needs two strings");
        CHAT_TRY(chat_to_str(r, a, &from));
        CHAT_TRY(chat_to_str(r, b, &to));
        CHAT_TRY(chat_replace(r, s, from, to,
                              most != NULL && most->type == CHAT_INT ? most->u.i : -1, &s));
    } else if (which != CHAT_FILTER_string) {
        enum chat_case how = which == CHAT_FILTER_upper   ? CHAT_CASE_UPPER
                             : which == CHAT_FILTER_lower ? CHAT_CASE_LOWER
                                                          : CHAT_CASE_CAPITALIZE;

        CHAT_TRY(chat_recase(r, s, how, &s));
    }
    *out = chat_string(s);
    return ERR_OK;
}

static enum err filter_length(struct chat_run *r, const struct chat_val *in,
                              const struct chat_args *args, struct chat_val *out)
{
    if (in->type == CHAT_STR)
        *out = chat_int((long long)chat_code_points(in->u.s));
    else if (in->type == CHAT_LIST)
        *out = chat_int((long long)in->u.list->n);
    else if (in->type == CHAT_MAP)
        *out = chat_int((long long)in->u.map->n);
    else if (in->type == CHAT_UNDEFINED)
        *out = chat_int(0);
    else
        return chat_fail(r, args->at, "%s has no length", chat_type_name(in));
    return chat_charge(r, in->type == CHAT_STR ? in->u.s.n : 0);
}

/* "a.b" of v. */
static enum err attribute(struct chat_run *r, const struct chat_node *at, const struct chat_val *v,
                          const struct chat_val *path, struct chat_val *out)
{
    struct chat_str rest;

    *out = *v;
    if (path->type != CHAT_STR)
        return chat_get_item(r, at, v, path, out);
    for (rest = path->u.s; rest.n > 0;) {
        const char *dot = memchr(rest.p, '.', rest.n);
        size_t n = dot != NULL ? (size_t)(dot - rest.p) : rest.n;
        struct chat_val object = *out;

        if (object.type == CHAT_UNDEFINED)
            return ERR_OK;
        CHAT_TRY(chat_get_attr(r, at, &object, chat_sub(rest, 0, n), out));
        rest = chat_sub(rest, dot != NULL ? n + 1 : n, rest.n);
    }
    return ERR_OK;
}

static enum err filter_join(struct chat_run *r, const struct chat_val *in,
                            const struct chat_args *args, struct chat_val *out)
{
    const struct chat_val *sep = chat_arg(r, args, 0, "d"),
                          *attr = chat_arg(r, args, 1, "attribute");
    struct chat_str between = {"", 0, NULL}, s;
    struct chat_list *list;
    struct chat_sb sb = {0};
    struct chat_val v;

    if (sep != NULL)
        CHAT_TRY(chat_to_str(r, sep, &between));
    CHAT_TRY(chat_to_list(r, args->at, in, &list));
    for (size_t i = 0; i < list->n; i++) {
        v = list->v[i];
        if (attr != NULL)
            CHAT_TRY(attribute(r, args->at, &list->v[i], attr, &v));
        CHAT_TRY(chat_to_str(r, &v, &s));
        if (i > 0)
            CHAT_TRY(chat_sb_add(r, &sb, between));
        CHAT_TRY(chat_sb_add(r, &sb, s));
    }
    *out = chat_string(chat_sb_str(&sb));
    return ERR_OK;
}

/* int() and float() of text; the default where it is no number. */
static enum err filter_number(struct chat_run *r, enum chat_filter which, const struct chat_val *in,
                              const struct chat_args *args, struct chat_val *out)
{
    const struct chat_val *missing = chat_arg(r, args, 0, "default");
    bool whole = which == CHAT_FILTER_int;
    struct chat_str s;
    char text[64], *end;
    double f;

    *out = missing != NULL ? *missing : whole ? chat_int(0) : chat_float(0);
    if (in->type == CHAT_INT || in->type == CHAT_BOOL) {
        long long i = in->type == CHAT_INT ? in->u.i : in->u.b;

        *out = whole ? chat_int(i) : chat_float((double)i);
    } else if (in->type == CHAT_FLOAT) {
        if (whole && !(in->u.f > -9e18 && in->u.f < 9e18))
            return chat_fail(r, args->at, "a number out of range");
        *out = whole ? chat_int((long long)in->u.f) : *in;
    } else if (in->type == CHAT_STR) {
        s = chat_strip(in->u.s, NULL, CHAT_STRIP_LEFT | CHAT_STRIP_RIGHT);
        if (s.n == 0 || s.n >= sizeof(text) || memchr("+-.0123456789", s.p[0], 13) == NULL)
            return ERR_OK;
        memcpy(text, s.p, s.n);
        text[s.n] = '\0';
        if (strpbrk(text, "xXnNpP") != NULL) /* strtod reads more than Python does */
            return ERR_OK;
        f = strtod(text, &end);
        if (*end == '\0' && f > -9e18 && f < 9e18)
            *out = !whole ? chat_float(f)
                          : chat_int(strpbrk(text, ".eE") != NULL ? (long long)f
                                                                  : strtoll(text, NULL, 10));
    }
    return ERR_OK;
}

static enum err filter_list(struct chat_run *r, enum chat_filter which, const struct chat_val *in,
                            const struct chat_args *args, struct chat_val *out)
{
    struct chat_list *items, *list;
    struct chat_sb sb = {0};

    CHAT_TRY(chat_to_list(r, args->at, in, &items));
    *out = chat_undefined();
    if (which == CHAT_FILTER_first || which == CHAT_FILTER_last) {
        if (items->n > 0)
            *out = items->v[which == CHAT_FILTER_first ? 0 : items->n - 1];
        return ERR_OK;
    }
    CHAT_TRY(chat_list_new(r, false, &list));
    for (size_t i = 0; i < items->n; i++) {
        struct chat_val v = items->v[which == CHAT_FILTER_reverse ? items->n - 1 - i : i];

        if (which == CHAT_FILTER_reverse && in->type == CHAT_STR)
            CHAT_TRY(chat_sb_add(r, &sb, v.u.s));
        else
            CHAT_TRY(chat_list_push(r, list, v));
    }
    *out = which == CHAT_FILTER_reverse && in->type == CHAT_STR
               ? chat_string(chat_sb_str(&sb))
               : (struct chat_val){.type = CHAT_LIST, .u = {.list = list}};
    return ERR_OK;
}

static enum err filter_items(struct chat_run *r, const struct chat_val *in,
                             const struct chat_args *args, struct chat_val *out)
{
    struct chat_list *list;

    if (in->type == CHAT_MAP)
        return chat_method(r, CHAT_METHOD_items, in, args, out);
    if (in->type != CHAT_UNDEFINED)
        return chat_fail(r, args->at, "%s has no items", chat_type_name(in));
    CHAT_TRY(chat_list_new(r, false, &list));
    *out = (struct chat_val){.type = CHAT_LIST, .u = {.list = list}};
    return ERR_OK;
}

/* The arguments of a filter or test named inside another filter: those from `from` on. */
static void tail_args(const struct chat_args *args, size_t from, struct chat_args *out)
{
    *out = (struct chat_args){.at = args->at};
    for (size_t i = from; i < args->n; i++)
        out->v[out->n++] = args->v[i];
}

/* map(attribute=x) or map("filter", ...) of one item. */
static enum err map_one(struct chat_run *r, const struct chat_val *in, const struct chat_args *args,
                        struct chat_val *out)
{
    const struct chat_val *attr = args->n == 0 ? chat_arg(r, args, 0, "attribute") : NULL;
    const struct chat_val *missing = chat_arg(r, args, CHAT_ARGS_MAX, "default");
    struct chat_args rest;
    int which;

    if (attr != NULL) {
        CHAT_TRY(attribute(r, args->at, in, attr, out));
        if (out->type == CHAT_UNDEFINED && missing != NULL)
            *out = *missing;
        return ERR_OK;
    }
    if (args->n == 0 || args->v[0].type != CHAT_STR)
        return chat_fail(r, args->at, "map needs an attribute or the name of a filter");
    which = chat_filter_find(args->v[0].u.s.p, args->v[0].u.s.n);
    if (which < 0 || which == CHAT_FILTER_map)
        return chat_fail(r, args->at, "map with the filter \"%.*s\"", (int)args->v[0].u.s.n,
                         args->v[0].u.s.p);
    tail_args(args, 1, &rest);
    return chat_filter(r, (enum chat_filter)which, in, &rest, out);
}

/* select, reject, selectattr, rejectattr: does one item pass its test? */
static enum err passes(struct chat_run *r, const struct chat_val *in, const struct chat_args *args,
                       bool by_attr, bool *out)
{
    size_t at = by_attr ? 1 : 0;
    struct chat_val v = *in;
    struct chat_args rest;
    int which;

    if (by_attr && args->n == 0)
        return chat_fail(r, args->at, "selectattr and rejectattr need an attribute");
    if (by_attr)
        CHAT_TRY(attribute(r, args->at, in, &args->v[0], &v));
    *out = chat_truth(&v);
    if (args->n == at)
        return ERR_OK;
    which =
        args->v[at].type == CHAT_STR ? chat_test_find(args->v[at].u.s.p, args->v[at].u.s.n) : -1;
    if (which < 0)
        return chat_fail(r, args->at, "a test by that name is not known");
    tail_args(args, at + 1, &rest);
    return chat_test(r, (enum chat_test)which, &v, &rest, out);
}

static enum err filter_each(struct chat_run *r, enum chat_filter which, const struct chat_val *in,
                            const struct chat_args *args, struct chat_val *out)
{
    bool by_attr = which == CHAT_FILTER_selectattr || which == CHAT_FILTER_rejectattr;
    bool want = which == CHAT_FILTER_select || which == CHAT_FILTER_selectattr, yes;
    struct chat_list *items, *list;
    struct chat_val v;

    CHAT_TRY(chat_to_list(r, args->at, in, &items));
    CHAT_TRY(chat_list_new(r, false, &list));
    for (size_t i = 0; i < items->n; i++) {
        if (which == CHAT_FILTER_map) {
            CHAT_TRY(map_one(r, &items->v[i], args, &v));
            CHAT_TRY(chat_list_push(r, list, v));
            continue;
        }
        CHAT_TRY(passes(r, &items->v[i], args, by_attr, &yes));
        if (yes == want)
            CHAT_TRY(chat_list_push(r, list, items->v[i]));
    }
    *out = (struct chat_val){.type = CHAT_LIST, .u = {.list = list}};
    return ERR_OK;
}

static enum err filter_default(struct chat_run *r, const struct chat_val *in,
                               const struct chat_args *args, struct chat_val *out)
{
    const struct chat_val *value = chat_arg(r, args, 0, "default_value");
    const struct chat_val *falsy = chat_arg(r, args, 1, "boolean");

    *out = *in;
    if (in->type == CHAT_UNDEFINED || (falsy != NULL && chat_truth(falsy) && !chat_truth(in)))
        *out = value != NULL ? *value : chat_string(chat_lit(""));
    return ERR_OK;
}

static enum err filter_tojson(struct chat_run *r, const struct chat_val *in,
                              const struct chat_args *args, struct chat_val *out)
{
    const struct chat_val *indent = chat_arg(r, args, 1, "indent");
    struct chat_str s;

    for (size_t i = 0; i < args->n_named; i++) {
        struct chat_str name = r->c->names[args->names[i]];
        bool known =
            chat_str_equal(name, chat_lit("indent")) ||
            (chat_str_equal(name, chat_lit("ensure_ascii")) && !chat_truth(&args->named[i]));

        if (!known)
            return chat_fail(r, args->at, "tojson with %.*s", (int)name.n, name.p);
    }
    CHAT_TRY(chat_to_json(r, args->at, in,
                          indent != NULL && indent->type == CHAT_INT && indent->u.i >= 0 &&
                                  indent->u.i <= 16
                              ? (int)indent->u.i
                              : -1,
                          &s));
    *out = chat_string(s);
    return ERR_OK;
}

static enum err filter_abs(struct chat_run *r, const struct chat_val *in,
                           const struct chat_args *args, struct chat_val *out)
{
    if (in->type == CHAT_FLOAT)
        *out = chat_float(in->u.f < 0 ? -in->u.f : in->u.f);
    else if (in->type == CHAT_INT && in->u.i != LLONG_MIN)
        *out = chat_int(in->u.i < 0 ? -in->u.i : in->u.i);
    else
        return chat_fail(r, args->at, "%s has no absolute value", chat_type_name(in));
    return ERR_OK;
}

enum err chat_filter(struct chat_run *r, enum chat_filter which, const struct chat_val *in,
                     const struct chat_args *args, struct chat_val *out)
{
    switch (which) {
    case CHAT_FILTER_trim:
    case CHAT_FILTER_upper:
    case CHAT_FILTER_lower:
    case CHAT_FILTER_capitalize:
    case CHAT_FILTER_string:
    case CHAT_FILTER_replace:
        return text_filter(r, which, in, args, out);
    case CHAT_FILTER_tojson:
        return filter_tojson(r, in, args, out);
    case CHAT_FILTER_default:
    case CHAT_FILTER_d:
        return filter_default(r, in, args, out);
    case CHAT_FILTER_length:
    case CHAT_FILTER_count:
        return filter_length(r, in, args, out);
    case CHAT_FILTER_join:
        return filter_join(r, in, args, out);
    case CHAT_FILTER_first:
    case CHAT_FILTER_last:
    case CHAT_FILTER_list:
    case CHAT_FILTER_reverse:
        return filter_list(r, which, in, args, out);
    case CHAT_FILTER_items:
        return filter_items(r, in, args, out);
    case CHAT_FILTER_int:
    case CHAT_FILTER_float:
        return filter_number(r, which, in, args, out);
    case CHAT_FILTER_abs:
        return filter_abs(r, in, args, out);
    case CHAT_FILTER_map:
    case CHAT_FILTER_select:
    case CHAT_FILTER_reject:
    case CHAT_FILTER_selectattr:
    case CHAT_FILTER_rejectattr:
        return filter_each(r, which, in, args, out);
    case CHAT_FILTER_COUNT:
        break;
    }
    return chat_fail(r, args->at, "an unknown filter");
}
