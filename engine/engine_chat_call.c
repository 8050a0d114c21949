/* engine/engine_chat_call.c - the methods, tests and functions that a template may use. */
#include "engine/engine_chat_impl.h"

#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

enum { RANGE_MAX = 100000 };

static const struct chat_val *str_arg(const struct chat_run *r, const struct chat_args *args,
                                      size_t i, const char *name)
{
    const struct chat_val *v = chat_arg(r, args, i, name);

    return v != NULL && v->type == CHAT_STR ? v : NULL;
}

static long long int_arg(const struct chat_run *r, const struct chat_args *args, size_t i,
                         const char *name, long long missing)
{
    const struct chat_val *v = chat_arg(r, args, i, name);

    return v != NULL && v->type == CHAT_INT ? v->u.i : missing;
}

/* ---- methods ---------------------------------------------------------------------------------------- */

static enum err ends_with(struct chat_run *r, const struct chat_args *args, struct chat_str s,
                          bool at_end, struct chat_val *out)
{
    const struct chat_val *what = chat_arg(r, args, 0, "");
    struct chat_list one = {(struct chat_val *)(uintptr_t)what, 1, 1, true};
    const struct chat_list *list = what != NULL && what->type == CHAT_LIST ? what->u.list : &one;

    if (what == NULL || (what->type != CHAT_STR && what->type != CHAT_LIST))
        return chat_fail(r, args->at, "startswith and endswith need a string");
    *out = chat_bool(false);
    for (size_t i = 0; i < list->n; i++) {
        struct chat_str w = list->v[i].u.s;

        if (list->v[i].type != CHAT_STR)
            return chat_fail(r, args->at, "startswith and endswith need strings");
        if (w.n <= s.n && (w.n == 0 || memcmp(at_end ? s.p + s.n - w.n : s.p, w.p, w.n) == 0))
            *out = chat_bool(true);
    }
    return ERR_OK;
}

static enum err method_strip(struct chat_run *r, const struct chat_args *args, struct chat_str s,
                             int sides, struct chat_val *out)
{
    const struct chat_val *chars = chat_arg(r, args, 0, "chars");

    if (chars != NULL && chars->type != CHAT_STR && chars->type != CHAT_NONE)
        return chat_fail(r, args->at, "strip needs a string");
    *out = chat_string(
        chat_strip(s, chars != NULL && chars->type == CHAT_STR ? &chars->u.s : NULL, sides));
    return chat_charge(r, s.n);
}

static enum err method_split(struct chat_run *r, const struct chat_args *args, struct chat_str s,
                             struct chat_val *out)
{
    const struct chat_val *sep = str_arg(r, args, 0, "sep");
    struct chat_list *list;

    if (sep != NULL && sep->u.s.n == 0)
        return chat_fail(r, args->at, "split needs a separator that is not empty");
    CHAT_TRY(chat_list_new(r, false, &list));
    CHAT_TRY(chat_split(r, s, sep != NULL ? &sep->u.s : NULL, int_arg(r, args, 1, "maxsplit", -1),
                        list));
    *out = (struct chat_val){.type = CHAT_LIST, .u = {.list = list}};
    return ERR_OK;
}

static enum err method_replace(struct chat_run *r, const struct chat_args *args, struct chat_str s,
                               struct chat_val *out)
{
    const struct chat_val *from = str_arg(r, args, 0, "old"), *to = str_arg(r, args, 1, "new");

    if (from == NULL || to == NULL)
        return chat_fail(r, args->at, "replace needs two strings");
    CHAT_TRY(chat_replace(r, s, from->u.s, to->u.s, int_arg(r, args, 2, "count", -1), &s));
    *out = chat_string(s);
    return ERR_OK;
}

static enum err method_join(struct chat_run *r, const struct chat_args *args, struct chat_str s,
                            struct chat_val *out)
{
    const struct chat_val *items = chat_arg(r, args, 0, "");
    struct chat_list *list;
    struct chat_sb sb = {0};

    if (items == NULL)
        return chat_fail(r, args->at, "join needs a list");
    CHAT_TRY(chat_to_list(r, args->at, items, &list));
    for (size_t i = 0; i < list->n; i++) {
        if (list->v[i].type != CHAT_STR)
            return chat_fail(r, args->at, "join needs strings, not %s",
                             chat_type_name(&list->v[i]));
        if (i > 0)
            CHAT_TRY(chat_sb_add(r, &sb, s));
        CHAT_TRY(chat_sb_add(r, &sb, list->v[i].u.s));
    }
    *out = chat_string(chat_sb_str(&sb));
    return ERR_OK;
}

/* find() in code points, or count(). */
static enum err method_search(struct chat_run *r, const struct chat_args *args, struct chat_str s,
                              bool count, struct chat_val *out)
{
    const struct chat_val *what = str_arg(r, args, 0, "");
    long long n = 0;
    size_t at;

    if (what == NULL)
        return chat_fail(r, args->at, "find and count need a string");
    if (count && what->u.s.n == 0) {
        *out = chat_int((long long)chat_code_points(s) + 1);
        return chat_charge(r, s.n);
    }
    CHAT_TRY(chat_find(r, s, what->u.s, &at));
    if (!count) {
        *out = chat_int(at > s.n ? -1 : (long long)chat_code_points(chat_sub(s, 0, at)));
        return ERR_OK;
    }
    while (at <= s.n) {
        n++;
        s = chat_sub(s, at + what->u.s.n, s.n);
        CHAT_TRY(chat_find(r, s, what->u.s, &at));
    }
    *out = chat_int(n);
    return ERR_OK;
}

static enum err method_remove(struct chat_run *r, const struct chat_args *args, struct chat_str s,
                              bool end, struct chat_val *out)
{
    const struct chat_val *w = str_arg(r, args, 0, "");
    bool there;

    if (w == NULL)
        return chat_fail(r, args->at, "removeprefix and removesuffix need a string");
    there = w->u.s.n <= s.n &&
            (w->u.s.n == 0 || memcmp(end ? s.p + s.n - w->u.s.n : s.p, w->u.s.p, w->u.s.n) == 0);
    if (there)
        s = end ? chat_sub(s, 0, s.n - w->u.s.n) : chat_sub(s, w->u.s.n, s.n);
    *out = chat_string(s);
    return ERR_OK;
}

static enum err method_recase(struct chat_run *r, struct chat_str s, enum chat_case how,
                              struct chat_val *out)
{
    CHAT_TRY(chat_recase(r, s, how, &s));
    *out = chat_string(s);
    return ERR_OK;
}

static enum err no_method(struct chat_run *r, const struct chat_args *args,
                          const struct chat_val *in)
{
    return chat_fail(r, args->at, "%s has no such method", chat_type_name(in));
}

static enum err str_method(struct chat_run *r, enum chat_method which, const struct chat_val *in,
                           const struct chat_args *args, struct chat_val *out)
{
    struct chat_str s = in->u.s;

    switch (which) {
    case CHAT_METHOD_strip:
        return method_strip(r, args, s, CHAT_STRIP_LEFT | CHAT_STRIP_RIGHT, out);
    case CHAT_METHOD_lstrip:
        return method_strip(r, args, s, CHAT_STRIP_LEFT, out);
    case CHAT_METHOD_rstrip:
        return method_strip(r, args, s, CHAT_STRIP_RIGHT, out);
    case CHAT_METHOD_split:
        return method_split(r, args, s, out);
    case CHAT_METHOD_startswith:
    case CHAT_METHOD_endswith:
        return ends_with(r, args, s, which == CHAT_METHOD_endswith, out);
    case CHAT_METHOD_upper:
        return method_recase(r, s, CHAT_CASE_UPPER, out);
    case CHAT_METHOD_lower:
        return method_recase(r, s, CHAT_CASE_LOWER, out);
    case CHAT_METHOD_title:
        return method_recase(r, s, CHAT_CASE_TITLE, out);
    case CHAT_METHOD_capitalize:
        return method_recase(r, s, CHAT_CASE_CAPITALIZE, out);
    case CHAT_METHOD_replace:
        return method_replace(r, args, s, out);
    case CHAT_METHOD_join:
        return method_join(r, args, s, out);
    case CHAT_METHOD_find:
    case CHAT_METHOD_count:
        return method_search(r, args, s, which == CHAT_METHOD_count, out);
    case CHAT_METHOD_removeprefix:
    case CHAT_METHOD_removesuffix:
        return method_remove(r, args, s, which == CHAT_METHOD_removesuffix, out);
    case CHAT_METHOD_items:
    case CHAT_METHOD_keys:
    case CHAT_METHOD_values:
    case CHAT_METHOD_get:
    case CHAT_METHOD_cycle:
    case CHAT_METHOD_COUNT:
        break;
    }
    return no_method(r, args, in);
}

static enum err map_items(struct chat_run *r, const struct chat_map *m, enum chat_method which,
                          struct chat_val *out)
{
    struct chat_list *list, *pair;

    CHAT_TRY(chat_list_new(r, false, &list));
    for (size_t i = 0; i < m->n; i++) {
        struct chat_val v = which == CHAT_METHOD_keys ? chat_string(m->e[i].key) : m->e[i].val;

        if (which == CHAT_METHOD_items) {
            CHAT_TRY(chat_list_new(r, true, &pair));
            CHAT_TRY(chat_list_push(r, pair, chat_string(m->e[i].key)));
            CHAT_TRY(chat_list_push(r, pair, v));
            v = (struct chat_val){.type = CHAT_LIST, .u = {.list = pair}};
        }
        CHAT_TRY(chat_list_push(r, list, v));
    }
    *out = (struct chat_val){.type = CHAT_LIST, .u = {.list = list}};
    return ERR_OK;
}

static enum err map_get_method(struct chat_run *r, const struct chat_map *m,
                               const struct chat_args *args, struct chat_val *out)
{
    const struct chat_val *key = chat_arg(r, args, 0, "key"),
                          *missing = chat_arg(r, args, 1, "default");
    const struct chat_val *found = NULL;

    if (key != NULL && key->type == CHAT_STR)
        found = chat_map_get(m, key->u.s.p, key->u.s.n);
    *out = found != NULL ? *found : missing != NULL ? *missing : chat_none();
    return ERR_OK;
}

static enum err list_count(struct chat_run *r, const struct chat_list *l,
                           const struct chat_args *args, struct chat_val *out)
{
    const struct chat_val *what = chat_arg(r, args, 0, "");
    long long n = 0;

    for (size_t i = 0; i < l->n && what != NULL; i++)
        n += chat_equal(&l->v[i], what);
    *out = chat_int(n);
    return chat_charge(r, l->n);
}

enum err chat_method(struct chat_run *r, enum chat_method which, const struct chat_val *in,
                     const struct chat_args *args, struct chat_val *out)
{
    if (in->type == CHAT_STR)
        return str_method(r, which, in, args, out);
    if (in->type == CHAT_LIST && which == CHAT_METHOD_count)
        return list_count(r, in->u.list, args, out);
    if (in->type == CHAT_LOOP && which == CHAT_METHOD_cycle && args->n > 0) {
        *out = args->v[in->u.loop->at % args->n];
        return ERR_OK;
    }
    if (in->type == CHAT_MAP && which == CHAT_METHOD_get)
        return map_get_method(r, in->u.map, args, out);
    if (in->type == CHAT_MAP &&
        (which == CHAT_METHOD_items || which == CHAT_METHOD_keys || which == CHAT_METHOD_values))
        return map_items(r, in->u.map, which, out);
    return no_method(r, args, in);
}

/* ---- tests ------------------------------------------------------------------------------------------ */

static enum err test_number(struct chat_run *r, enum chat_test which, const struct chat_val *in,
                            const struct chat_args *args, bool *out)
{
    long long by = which == CHAT_TEST_divisibleby ? int_arg(r, args, 0, "num", 0) : 2;

    if (in->type != CHAT_INT || by == 0)
        return chat_fail(r, args->at, "this test needs whole numbers, and not zero");
    *out = by == -1 || in->u.i % by == 0;
    if (which == CHAT_TEST_odd)
        *out = !*out;
    return ERR_OK;
}

static enum err test_compare(struct chat_run *r, enum chat_test which, const struct chat_val *in,
                             const struct chat_args *args, bool *out)
{
    const struct chat_val *other = chat_arg(r, args, 0, "");
    int order = 0;

    if (other == NULL)
        return chat_fail(r, args->at, "this test needs an argument");
    if (which == CHAT_TEST_in)
        return chat_contains(r, args->at, in, other, out);
    if (which == CHAT_TEST_eq || which == CHAT_TEST_equalto || which == CHAT_TEST_ne) {
        *out = chat_equal(in, other) == (which != CHAT_TEST_ne);
        return ERR_OK;
    }
    CHAT_TRY(chat_order(r, args->at, in, other, &order));
    *out = which == CHAT_TEST_lt   ? order < 0
           : which == CHAT_TEST_le ? order <= 0
           : which == CHAT_TEST_gt ? order > 0
                                   : order >= 0;
    return ERR_OK;
}

enum err chat_test(struct chat_run *r, enum chat_test which, const struct chat_val *in,
                   const struct chat_args *args, bool *out)
{
    enum chat_type t = in->type;

    switch (which) {
    case CHAT_TEST_defined:
        *out = t != CHAT_UNDEFINED;
        return ERR_OK;
    case CHAT_TEST_undefined:
        *out = t == CHAT_UNDEFINED;
        return ERR_OK;
    case CHAT_TEST_none:
        *out = t == CHAT_NONE;
        return ERR_OK;
    case CHAT_TEST_string:
        *out = t == CHAT_STR;
        return ERR_OK;
    case CHAT_TEST_mapping:
        *out = t == CHAT_MAP;
        return ERR_OK;
    case CHAT_TEST_sequence:
    case CHAT_TEST_iterable: /* an undefined value is an empty sequence, as in Jinja */
        *out = t == CHAT_STR || t == CHAT_LIST || t == CHAT_MAP || t == CHAT_UNDEFINED;
        return ERR_OK;
    case CHAT_TEST_number:
        *out = t == CHAT_INT || t == CHAT_FLOAT || t == CHAT_BOOL;
        return ERR_OK;
    case CHAT_TEST_integer:
        *out = t == CHAT_INT;
        return ERR_OK;
    case CHAT_TEST_float:
        *out = t == CHAT_FLOAT;
        return ERR_OK;
    case CHAT_TEST_boolean:
        *out = t == CHAT_BOOL;
        return ERR_OK;
    case CHAT_TEST_true:
        *out = t == CHAT_BOOL && in->u.b;
        return ERR_OK;
    case CHAT_TEST_false:
        *out = t == CHAT_BOOL && !in->u.b;
        return ERR_OK;
    case CHAT_TEST_callable:
        *out = t == CHAT_FUNCTION || t == CHAT_MACRO;
        return ERR_OK;
    case CHAT_TEST_odd:
    case CHAT_TEST_even:
    case CHAT_TEST_divisibleby:
        return test_number(r, which, in, args, out);
    case CHAT_TEST_eq:
    case CHAT_TEST_equalto:
    case CHAT_TEST_ne:
    case CHAT_TEST_lt:
    case CHAT_TEST_le:
    case CHAT_TEST_gt:
    case CHAT_TEST_ge:
    case CHAT_TEST_in:
        return test_compare(r, which, in, args, out);
    case CHAT_TEST_COUNT:
        break;
    }
    return chat_fail(r, args->at, "an unknown test");
}

/* ---- functions --------------------------------------------------------------------------------------- */

/* One conversion of strftime_now, in the C locale; false: not built. */
static bool date_part(char c, const struct tm *t, char *out, size_t cap)
{
    static const char *const days[] = {"Sunday",   "Monday", "Tuesday", "Wednesday",
                                       "Thursday", "Friday", "Saturday"};
    static const char *const months[] = {"January",   "February", "March",    "April",
                                         "May",       "June",     "July",     "August",
                                         "September", "October",  "November", "December"};
    const struct {
        char c;
        int width, value;
    } numbers[] = {
        {'d', 2, t->tm_mday},       {'m', 2, t->tm_mon + 1},
        {'y', 2, t->tm_year % 100}, {'Y', 1, t->tm_year + 1900},
        {'H', 2, t->tm_hour},       {'I', 2, t->tm_hour % 12 == 0 ? 12 : t->tm_hour % 12},
        {'M', 2, t->tm_min},        {'S', 2, t->tm_sec},
        {'j', 3, t->tm_yday + 1}};

    if (c == '%')
        snprintf(out, cap, "%%");
    else if (c == 'a' || c == 'A')
        snprintf(out, cap, "%.*s", c == 'a' ? 3 : 9, days[t->tm_wday]);
    else if (c == 'b' || c == 'B')
        snprintf(out, cap, "%.*s", c == 'b' ? 3 : 9, months[t->tm_mon]);
    else if (c == 'p')
        snprintf(out, cap, "%s", t->tm_hour < 12 ? "AM" : "PM");
    else {
        for (size_t i = 0; i < sizeof(numbers) / sizeof(numbers[0]); i++) {
            if (numbers[i].c != c)
                continue;
            snprintf(out, cap, "%0*d", numbers[i].width, numbers[i].value);
            return true;
        }
        return false;
    }
    return true;
}

static enum err strftime_now(struct chat_run *r, const struct chat_args *args, struct chat_val *out)
{
    const struct chat_val *format = str_arg(r, args, 0, "format");
    struct chat_sb sb = {0};
    time_t now = (time_t)r->date;
    struct tm t;

    if (format == NULL)
        return chat_fail(r, args->at, "strftime_now needs a format");
    if (gmtime_r(&now, &t) == NULL || t.tm_year < -1900 || t.tm_year > 8099)
        return chat_fail(r, args->at, "a date out of range");
    for (size_t i = 0; i < format->u.s.n; i++) {
        struct chat_str s = format->u.s;
        char text[32];

        if (s.p[i] != '%' || i + 1 == s.n) {
            CHAT_TRY(chat_sb_add(r, &sb, chat_sub(s, i, i + 1)));
            continue;
        }
        if (!date_part(s.p[++i], &t, text, sizeof(text)))
            return chat_fail(r, args->at, "strftime_now does not know %%%c", s.p[i]);
        CHAT_TRY(chat_sb_raw(r, &sb, text, strlen(text)));
    }
    *out = chat_string(chat_sb_str(&sb));
    return ERR_OK;
}

static enum err make_range(struct chat_run *r, const struct chat_args *args, struct chat_val *out)
{
    long long from = 0, to, by = 1;
    struct chat_list *list;

    for (size_t i = 0; i < args->n; i++)
        if (args->v[i].type != CHAT_INT || args->v[i].u.i > INT_MAX || args->v[i].u.i < INT_MIN)
            return chat_fail(r, args->at, "range needs whole numbers");
    if (args->n == 0 || args->n > 3 || args->n_named > 0)
        return chat_fail(r, args->at, "range needs one to three numbers");
    to = args->v[args->n > 1].u.i;
    from = args->n > 1 ? args->v[0].u.i : 0;
    by = args->n > 2 ? args->v[2].u.i : 1;
    if (by == 0 || (to - from) / by > RANGE_MAX)
        return chat_fail(r, args->at, "a range of more than %d, or with step 0", RANGE_MAX);
    CHAT_TRY(chat_list_new(r, false, &list));
    for (long long i = from; by > 0 ? i < to : i > to; i += by)
        CHAT_TRY(chat_list_push(r, list, chat_int(i)));
    *out = (struct chat_val){.type = CHAT_LIST, .u = {.list = list}};
    return ERR_OK;
}

static enum err make_map(struct chat_run *r, const struct chat_args *args, enum chat_type type,
                         struct chat_val *out)
{
    struct chat_map *map = chat_alloc(&r->arena, sizeof(*map));

    if (map == NULL)
        return r->arena.err;
    if (args->n > 1 || (args->n == 1 && args->v[0].type != CHAT_MAP))
        return chat_fail(r, args->at, "dict and namespace take a dict or name=value");
    for (size_t i = 0; args->n == 1 && i < args->v[0].u.map->n; i++)
        CHAT_TRY(chat_map_put(r, map, args->v[0].u.map->e[i].key, args->v[0].u.map->e[i].val));
    for (size_t i = 0; i < args->n_named; i++)
        CHAT_TRY(chat_map_put(r, map, r->c->names[args->names[i]], args->named[i]));
    *out = (struct chat_val){.type = type, .u = {.map = map}};
    return ERR_OK;
}

enum err chat_function(struct chat_run *r, enum chat_function which, const struct chat_args *args,
                       struct chat_val *out)
{
    const struct chat_val *text;
    struct chat_str s = {"", 0, NULL};

    switch (which) {
    case CHAT_FUNCTION_raise_exception:
        text = chat_arg(r, args, 0, "message");
        if (text != NULL)
            CHAT_TRY(chat_to_str(r, text, &s));
        return err_set(r->msg, ERR_INVALID, "%.*s", s.n > 400 ? 400 : (int)s.n, s.p);
    case CHAT_FUNCTION_strftime_now:
        return strftime_now(r, args, out);
    case CHAT_FUNCTION_range:
        return make_range(r, args, out);
    case CHAT_FUNCTION_namespace:
        return make_map(r, args, CHAT_NAMESPACE, out);
    case CHAT_FUNCTION_dict:
        return make_map(r, args, CHAT_MAP, out);
    case CHAT_FUNCTION_COUNT:
        break;
    }
    return chat_fail(r, args->at, "an unknown function");
}
