/* engine/engine_chat_eval.c - expressions of a running template.
 *
 * Recursion is bounded twice: no node is higher than CHAT_HEIGHT_MAX, and a run counts its depth, which
 * macros calling macros can raise. */
#include "engine/engine_chat_impl.h"

#include <limits.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/mem.h"

enum err chat_charge(struct chat_run *r, size_t bytes)
{
    size_t steps = 1 + bytes / CHAT_BYTES_PER_STEP;

    if (steps > CHAT_STEPS_MAX - r->steps)
        return err_set(r->msg, ERR_LIMIT, "chat template: more than %d steps", CHAT_STEPS_MAX);
    r->steps += steps;
    return ERR_OK;
}

enum err chat_fail(struct chat_run *r, const struct chat_node *at, const char *format, ...)
{
    char text[320];
    va_list args;

    va_start(args, format);
    vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    if (at == NULL)
        return err_set(r->msg, ERR_INVALID, "chat template: %s", text);
    return err_set(r->msg, ERR_INVALID, "chat template line %d: %s", at->line, text);
}

static enum err eval_name(struct chat_run *r, uint32_t name, struct chat_val *out)
{
    struct chat_str s;
    int function;

    for (const struct chat_scope *scope = r->scope; scope != NULL; scope = scope->parent) {
        for (size_t i = scope->n; i-- > 0;) {
            if (scope->vars[i].name == name) {
                *out = scope->vars[i].val;
                return ERR_OK;
            }
        }
    }
    s = r->c->names[name];
    function = chat_function_find(s.p, s.n);
    *out = function >= 0 ? (struct chat_val){.type = CHAT_FUNCTION, .u = {.i = function}}
                         : chat_undefined();
    return ERR_OK;
}

static enum err eval_list(struct chat_run *r, const struct chat_node *n, struct chat_val *out)
{
    struct chat_list *list;
    struct chat_val v;

    CHAT_TRY(chat_list_new(r, n->type == CHAT_N_TUPLE, &list));
    for (size_t i = 0; i < n->n_kids; i++) {
        CHAT_TRY(chat_eval(r, n->kids[i], &v));
        CHAT_TRY(chat_list_push(r, list, v));
    }
    *out = (struct chat_val){.type = CHAT_LIST, .u = {.list = list}};
    return ERR_OK;
}

static enum err eval_dict(struct chat_run *r, const struct chat_node *n, struct chat_val *out)
{
    struct chat_map *map = chat_alloc(&r->arena, sizeof(*map));
    struct chat_val key, v;

    if (map == NULL)
        return r->arena.err;
    for (size_t i = 0; i + 1 < n->n_kids; i += 2) {
        CHAT_TRY(chat_eval(r, n->kids[i], &key));
        CHAT_TRY(chat_eval(r, n->kids[i + 1], &v));
        if (key.type != CHAT_STR)
            return chat_fail(r, n, "the key of a dict must be a string, not %s",
                             chat_type_name(&key));
        CHAT_TRY(chat_map_put(r, map, key.u.s, v));
    }
    *out = (struct chat_val){.type = CHAT_MAP, .u = {.map = map}};
    return ERR_OK;
}

static bool is_int(const struct chat_val *v)
{
    return v->type == CHAT_INT || v->type == CHAT_BOOL;
}

static enum err int_binary(struct chat_run *r, const struct chat_node *n, long long a, long long b,
                           struct chat_val *out)
{
    long long c = 0;
    bool over = false;

    if (b == 0 && (n->op == CHAT_DIV || n->op == CHAT_FLOORDIV || n->op == CHAT_MOD))
        return chat_fail(r, n, "division by zero");
    if (n->op == CHAT_ADD)
        over = __builtin_add_overflow(a, b, &c);
    else if (n->op == CHAT_SUB)
        over = __builtin_sub_overflow(a, b, &c);
    else if (n->op == CHAT_MUL)
        over = __builtin_mul_overflow(a, b, &c);
    else if (n->op == CHAT_FLOORDIV && !(over = a == LLONG_MIN && b == -1))
        c = a / b - (a % b != 0 && (a < 0) != (b < 0));
    else if (n->op == CHAT_MOD && b != -1)
        c = a % b + (a % b != 0 && (a < 0) != (b < 0) ? b : 0);
    if (over)
        return chat_fail(r, n, "a number out of range");
    *out = n->op == CHAT_DIV ? chat_float((double)a / (double)b) : chat_int(c);
    return ERR_OK;
}

static enum err float_binary(struct chat_run *r, const struct chat_node *n, double a, double b,
                             struct chat_val *out)
{
    double c = 0;

    if (b == 0 && (n->op == CHAT_DIV || n->op == CHAT_FLOORDIV || n->op == CHAT_MOD))
        return chat_fail(r, n, "division by zero");
    if (n->op == CHAT_ADD)
        c = a + b;
    else if (n->op == CHAT_SUB)
        c = a - b;
    else if (n->op == CHAT_MUL)
        c = a * b;
    else if (n->op == CHAT_DIV)
        c = a / b;
    else if (n->op == CHAT_FLOORDIV)
        c = floor(a / b);
    else
        c = a - b * floor(a / b);
    *out = chat_float(c);
    return ERR_OK;
}

static enum err list_add(struct chat_run *r, const struct chat_list *a, const struct chat_list *b,
                         struct chat_val *out)
{
    struct chat_list *list;

    CHAT_TRY(chat_list_new(r, a->tuple, &list));
    for (size_t i = 0; i < a->n; i++)
        CHAT_TRY(chat_list_push(r, list, a->v[i]));
    for (size_t i = 0; i < b->n; i++)
        CHAT_TRY(chat_list_push(r, list, b->v[i]));
    *out = (struct chat_val){.type = CHAT_LIST, .u = {.list = list}};
    return ERR_OK;
}

static enum err str_repeat(struct chat_run *r, struct chat_str s, long long times,
                           struct chat_val *out)
{
    struct chat_sb sb = {0};

    for (long long i = 0; i < times && s.n > 0; i++)
        CHAT_TRY(chat_sb_add(r, &sb, s));
    *out = chat_string(chat_sb_str(&sb));
    return ERR_OK;
}

static double number(const struct chat_val *v)
{
    return v->type == CHAT_FLOAT ? v->u.f : v->type == CHAT_BOOL ? (double)v->u.b : (double)v->u.i;
}

static enum err binary(struct chat_run *r, const struct chat_node *n, const struct chat_val *a,
                       const struct chat_val *b, struct chat_val *out)
{
    struct chat_str x, y;

    if (n->op == CHAT_CONCAT) {
        CHAT_TRY(chat_to_str(r, a, &x));
        CHAT_TRY(chat_to_str(r, b, &y));
        CHAT_TRY(chat_concat(r, x, y, &x));
        *out = chat_string(x);
        return ERR_OK;
    }
    if (is_int(a) && is_int(b))
        return int_binary(r, n, a->type == CHAT_INT ? a->u.i : a->u.b,
                          b->type == CHAT_INT ? b->u.i : b->u.b, out);
    if ((is_int(a) || a->type == CHAT_FLOAT) && (is_int(b) || b->type == CHAT_FLOAT))
        return float_binary(r, n, number(a), number(b), out);
    if (n->op == CHAT_ADD && a->type == CHAT_STR && b->type == CHAT_STR) {
        CHAT_TRY(chat_concat(r, a->u.s, b->u.s, &x));
        *out = chat_string(x);
        return ERR_OK;
    }
    if (n->op == CHAT_ADD && a->type == CHAT_LIST && b->type == CHAT_LIST &&
        a->u.list->tuple == b->u.list->tuple)
        return list_add(r, a->u.list, b->u.list, out);
    if (n->op == CHAT_MUL && a->type == CHAT_STR && b->type == CHAT_INT)
        return str_repeat(r, a->u.s, b->u.i, out);
    if (n->op == CHAT_MUL && a->type == CHAT_INT && b->type == CHAT_STR)
        return str_repeat(r, b->u.s, a->u.i, out);
    return chat_fail(r, n, "%s and %s do not go together here", chat_type_name(a),
                     chat_type_name(b));
}

static enum err compare_one(struct chat_run *r, const struct chat_node *n, const struct chat_val *a,
                            const struct chat_val *b, bool *out)
{
    int order = 0;

    if (n->op == CHAT_EQ || n->op == CHAT_NE) {
        *out = chat_equal(a, b) == (n->op == CHAT_EQ);
        return chat_charge(r, a->type == CHAT_STR ? a->u.s.n : 0);
    }
    if (n->op == CHAT_IN || n->op == CHAT_NOT_IN) {
        CHAT_TRY(chat_contains(r, n, a, b, out));
        *out = *out == (n->op == CHAT_IN);
        return ERR_OK;
    }
    CHAT_TRY(chat_order(r, n, a, b, &order));
    *out = n->op == CHAT_LT   ? order < 0
           : n->op == CHAT_LE ? order <= 0
           : n->op == CHAT_GT ? order > 0
                              : order >= 0;
    return ERR_OK;
}

static enum err eval_compare(struct chat_run *r, const struct chat_node *n, struct chat_val *out)
{
    struct chat_val left, right;
    bool yes = true;

    CHAT_TRY(chat_eval(r, n->a, &left));
    for (size_t i = 0; i < n->n_kids && yes; i++) {
        CHAT_TRY(chat_eval(r, n->kids[i]->b, &right));
        CHAT_TRY(compare_one(r, n->kids[i], &left, &right, &yes));
        left = right;
    }
    *out = chat_bool(yes);
    return ERR_OK;
}

static enum err eval_sign(struct chat_run *r, const struct chat_node *n, struct chat_val *out)
{
    struct chat_val v;

    CHAT_TRY(chat_eval(r, n->a, &v));
    if (v.type == CHAT_FLOAT)
        *out = chat_float(n->type == CHAT_N_NEG ? -v.u.f : v.u.f);
    else if (is_int(&v) && !(v.type == CHAT_INT && v.u.i == LLONG_MIN))
        *out = chat_int((n->type == CHAT_N_NEG ? -1 : 1) * (v.type == CHAT_INT ? v.u.i : v.u.b));
    else
        return chat_fail(r, n, "a sign before %s", chat_type_name(&v));
    return ERR_OK;
}

static enum err eval_optional(struct chat_run *r, const struct chat_node *n, struct chat_val *v,
                              const struct chat_val **out)
{
    *out = NULL;
    if (n == NULL)
        return ERR_OK;
    *out = v;
    return chat_eval(r, n, v);
}

static enum err eval_slice(struct chat_run *r, const struct chat_node *n, struct chat_val *out)
{
    struct chat_val v, part[3];
    const struct chat_val *given[3];

    CHAT_TRY(chat_eval(r, n->a, &v));
    CHAT_TRY(eval_optional(r, n->b, &part[0], &given[0]));
    CHAT_TRY(eval_optional(r, n->c, &part[1], &given[1]));
    CHAT_TRY(eval_optional(r, n->d, &part[2], &given[2]));
    return chat_slice(r, n, &v, given[0], given[1], given[2], out);
}

enum err chat_args_eval(struct chat_run *r, const struct chat_node *n, struct chat_args *out)
{
    out->at = n;
    out->n = out->n_named = 0;
    for (size_t i = 0; i < n->n_kids; i++) {
        const struct chat_node *kid = n->kids[i];

        if (kid->type == CHAT_N_KEYWORD) {
            CHAT_TRY(chat_eval(r, kid->a, &out->named[out->n_named]));
            out->names[out->n_named++] = kid->name;
        } else {
            CHAT_TRY(chat_eval(r, kid, &out->v[out->n++]));
        }
    }
    return ERR_OK;
}

const struct chat_val *chat_arg(const struct chat_run *r, const struct chat_args *args, size_t i,
                                const char *name)
{
    if (i < args->n)
        return &args->v[i];
    for (size_t k = 0; k < args->n_named; k++)
        if (chat_str_equal(r->c->names[args->names[k]], chat_lit(name)))
            return &args->named[k];
    return NULL;
}

static enum err eval_call(struct chat_run *r, const struct chat_node *n, struct chat_val *out)
{
    struct chat_val f;
    struct chat_args args;

    CHAT_TRY(eval_name(r, n->name, &f));
    if (f.type == CHAT_MACRO)
        return chat_call_macro(r, n, f.u.macro, out);
    if (f.type != CHAT_FUNCTION)
        return chat_fail(r, n, "%s cannot be called", chat_type_name(&f));
    CHAT_TRY(chat_args_eval(r, n, &args));
    return chat_function(r, (enum chat_function)f.u.i, &args, out);
}

/* A method, filter or test of n->a. */
static enum err eval_applied(struct chat_run *r, const struct chat_node *n, struct chat_val *out)
{
    struct chat_val v;
    struct chat_args args;
    bool yes;

    CHAT_TRY(chat_eval(r, n->a, &v));
    CHAT_TRY(chat_args_eval(r, n, &args));
    if (n->type == CHAT_N_METHOD)
        return chat_method(r, (enum chat_method)n->code, &v, &args, out);
    if (n->type == CHAT_N_FILTER)
        return chat_filter(r, (enum chat_filter)n->code, &v, &args, out);
    CHAT_TRY(chat_test(r, (enum chat_test)n->code, &v, &args, &yes));
    *out = chat_bool(yes);
    return ERR_OK;
}

static enum err eval_logic(struct chat_run *r, const struct chat_node *n, struct chat_val *out)
{
    CHAT_TRY(chat_eval(r, n->a, out));
    if (chat_truth(out) == (n->type == CHAT_N_AND))
        return chat_eval(r, n->b, out);
    return ERR_OK;
}

static enum err eval_cond(struct chat_run *r, const struct chat_node *n, struct chat_val *out)
{
    struct chat_val cond;

    CHAT_TRY(chat_eval(r, n->b, &cond));
    if (chat_truth(&cond))
        return chat_eval(r, n->a, out);
    *out = chat_undefined();
    return n->c != NULL ? chat_eval(r, n->c, out) : ERR_OK;
}

static enum err eval_two(struct chat_run *r, const struct chat_node *n, struct chat_val *out)
{
    struct chat_val a, b;

    CHAT_TRY(chat_eval(r, n->a, &a));
    CHAT_TRY(chat_eval(r, n->b, &b));
    return n->type == CHAT_N_ITEM ? chat_get_item(r, n, &a, &b, out) : binary(r, n, &a, &b, out);
}

static enum err eval_not(struct chat_run *r, const struct chat_node *n, struct chat_val *out)
{
    struct chat_val v;

    CHAT_TRY(chat_eval(r, n->a, &v));
    *out = chat_bool(!chat_truth(&v));
    return ERR_OK;
}

static enum err eval_attr(struct chat_run *r, const struct chat_node *n, struct chat_val *out)
{
    struct chat_val v;

    CHAT_TRY(chat_eval(r, n->a, &v));
    return chat_get_attr(r, n, &v, r->c->names[n->name], out);
}

static enum err dispatch(struct chat_run *r, const struct chat_node *n, struct chat_val *out)
{
    switch (n->type) {
    case CHAT_N_CONST:
        *out = n->val;
        return ERR_OK;
    case CHAT_N_NAME:
        return eval_name(r, n->name, out);
    case CHAT_N_LIST:
    case CHAT_N_TUPLE:
        return eval_list(r, n, out);
    case CHAT_N_DICT:
        return eval_dict(r, n, out);
    case CHAT_N_ATTR:
        return eval_attr(r, n, out);
    case CHAT_N_ITEM:
    case CHAT_N_BINARY:
        return eval_two(r, n, out);
    case CHAT_N_SLICE:
        return eval_slice(r, n, out);
    case CHAT_N_CALL:
        return eval_call(r, n, out);
    case CHAT_N_METHOD:
    case CHAT_N_FILTER:
    case CHAT_N_TEST:
        return eval_applied(r, n, out);
    case CHAT_N_NOT:
        return eval_not(r, n, out);
    case CHAT_N_NEG:
    case CHAT_N_POS:
        return eval_sign(r, n, out);
    case CHAT_N_AND:
    case CHAT_N_OR:
        return eval_logic(r, n, out);
    case CHAT_N_COMPARE:
        return eval_compare(r, n, out);
    case CHAT_N_COND:
        return eval_cond(r, n, out);
    case CHAT_N_KEYWORD:
    case CHAT_N_BODY:
    case CHAT_N_PRINT:
    case CHAT_N_IF:
    case CHAT_N_FOR:
    case CHAT_N_SET:
    case CHAT_N_SET_BLOCK:
    case CHAT_N_MACRO:
    case CHAT_N_BREAK:
    case CHAT_N_CONTINUE:
        break;
    }
    return chat_fail(r, n, "a statement where a value is needed");
}

enum err chat_eval(struct chat_run *r, const struct chat_node *n, struct chat_val *out)
{
    enum err err;

    CHAT_TRY(chat_charge(r, 0));
    if (r->depth >= CHAT_DEPTH_MAX)
        return err_set(r->msg, ERR_LIMIT, "chat template line %d: more than %d levels deep",
                       n->line, CHAT_DEPTH_MAX);
    r->depth++;
    err = dispatch(r, n, out);
    r->depth--;
    return err;
}
