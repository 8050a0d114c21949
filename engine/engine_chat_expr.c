/* engine/engine_chat_expr.c - the expressions of a template, by recursive descent in Jinja's order of
 * precedence: condition, or, and, not, comparison, + -, ~, * / // %, sign, postfix, filter and test. */
#include "engine/engine_chat_parse.h"

#include <string.h>

#define OP2(a, b) ((a)*256 + (b))

static enum err parse_or(struct chat_parser *p, struct chat_node **out);
static enum err parse_unary(struct chat_parser *p, bool filters, struct chat_node **out);

static enum err node_2(struct chat_parser *p, enum chat_node_type type, enum chat_op op,
                       struct chat_node *a, struct chat_node *b, struct chat_node **out)
{
    CHAT_TRY(chat_node_new(p, type, out));
    (*out)->op = op;
    (*out)->a = a;
    (*out)->b = b;
    return chat_node_done(p, *out);
}

static enum err node_const(struct chat_parser *p, struct chat_val v, struct chat_node **out)
{
    CHAT_TRY(chat_node_new(p, CHAT_N_CONST, out));
    (*out)->val = v;
    return ERR_OK;
}

/* One argument: expression or name=expression. */
static enum err parse_argument(struct chat_parser *p, bool *keyword, struct chat_node **out)
{
    if (chat_at_op(p, '*') || chat_at_op(p, OP2('*', '*')))
        return chat_unsupported(p, p->t->line, "unpacking of arguments with", "*", 1);
    if (p->t->type == CHAT_T_NAME && p->t[1].type == CHAT_T_OP && p->t[1].op == '=') {
        CHAT_TRY(chat_node_new(p, CHAT_N_KEYWORD, out));
        CHAT_TRY(chat_intern(p->c, p->t->str.p, p->t->str.n, &(*out)->name));
        p->t += 2;
        *keyword = true;
        CHAT_TRY(chat_parse_expr(p, &(*out)->a));
        return chat_node_done(p, *out);
    }
    if (*keyword)
        return chat_syntax(p, "a keyword argument");
    return chat_parse_expr(p, out);
}

/* "(" arguments ")" into the kids of n. */
static enum err parse_arguments(struct chat_parser *p, struct chat_node *n)
{
    size_t mark = p->n_scratch;
    bool keyword = false;

    CHAT_TRY(chat_need_op(p, '('));
    while (!chat_at_op(p, ')')) {
        struct chat_node *arg = NULL;

        if (p->n_scratch > mark)
            CHAT_TRY(chat_need_op(p, ','));
        if (chat_at_op(p, ')'))
            break;
        CHAT_TRY(parse_argument(p, &keyword, &arg));
        CHAT_TRY(chat_scratch_push(p, arg));
        if (p->n_scratch - mark > CHAT_ARGS_MAX)
            return chat_unsupported(p, p->t->line, "a call with more than eight arguments", "", 0);
    }
    CHAT_TRY(chat_need_op(p, ')'));
    return chat_scratch_take(p, mark, n);
}

static enum err parse_items(struct chat_parser *p, int close, struct chat_node *n)
{
    size_t mark = p->n_scratch;
    bool dict = close == '}';

    p->t++;
    while (!chat_at_op(p, close)) {
        struct chat_node *item;

        if (p->n_scratch > mark)
            CHAT_TRY(chat_need_op(p, ','));
        if (chat_at_op(p, close))
            break;
        CHAT_TRY(chat_parse_expr(p, &item));
        CHAT_TRY(chat_scratch_push(p, item));
        if (dict) {
            CHAT_TRY(chat_need_op(p, ':'));
            CHAT_TRY(chat_parse_expr(p, &item));
            CHAT_TRY(chat_scratch_push(p, item));
        }
    }
    CHAT_TRY(chat_need_op(p, close));
    return chat_scratch_take(p, mark, n);
}

static enum err parse_strings(struct chat_parser *p, struct chat_node **out)
{
    struct chat_str joined = {"", 0, NULL};

    for (; p->t->type == CHAT_T_STRING; p->t++) {
        char *both = chat_alloc(&p->c->arena, joined.n + p->t->str.n + 1);

        if (both == NULL)
            return p->c->arena.err;
        memcpy(both, joined.p, joined.n);
        memcpy(both + joined.n, p->t->str.p, p->t->str.n);
        joined = (struct chat_str){both, joined.n + p->t->str.n, NULL};
    }
    return node_const(p, chat_string(joined), out);
}

static enum err parse_name(struct chat_parser *p, struct chat_node **out)
{
    static const struct {
        const char *name;
        enum chat_type type;
        bool b;
    } consts[] = {{"true", CHAT_BOOL, true},   {"True", CHAT_BOOL, true},
                  {"false", CHAT_BOOL, false}, {"False", CHAT_BOOL, false},
                  {"none", CHAT_NONE, false},  {"None", CHAT_NONE, false}};

    for (size_t i = 0; i < sizeof(consts) / sizeof(consts[0]); i++)
        if (chat_skip_name(p, consts[i].name))
            return node_const(p, consts[i].type == CHAT_BOOL ? chat_bool(consts[i].b) : chat_none(),
                              out);
    CHAT_TRY(chat_node_new(p, CHAT_N_NAME, out));
    CHAT_TRY(chat_intern(p->c, p->t->str.p, p->t->str.n, &(*out)->name));
    p->t++;
    return ERR_OK;
}

static enum err parse_parens(struct chat_parser *p, struct chat_node **out)
{
    p->t++;
    if (chat_skip_op(p, ')')) {
        CHAT_TRY(chat_node_new(p, CHAT_N_TUPLE, out));
        return ERR_OK;
    }
    CHAT_TRY(chat_parse_tuple(p, true, out));
    return chat_need_op(p, ')');
}

static enum err parse_primary(struct chat_parser *p, struct chat_node **out)
{
    if (p->t->type == CHAT_T_NAME)
        return parse_name(p, out);
    if (p->t->type == CHAT_T_STRING)
        return parse_strings(p, out);
    if (p->t->type == CHAT_T_INT || p->t->type == CHAT_T_FLOAT) {
        struct chat_val v = p->t->type == CHAT_T_INT ? chat_int(p->t->i) : chat_float(p->t->f);

        p->t++;
        return node_const(p, v, out);
    }
    if (chat_at_op(p, '('))
        return parse_parens(p, out);
    if (chat_at_op(p, '[')) {
        CHAT_TRY(chat_node_new(p, CHAT_N_LIST, out));
        return parse_items(p, ']', *out);
    }
    if (chat_at_op(p, '{')) {
        CHAT_TRY(chat_node_new(p, CHAT_N_DICT, out));
        return parse_items(p, '}', *out);
    }
    return chat_syntax(p, "an expression");
}

/* a[...] with the bracket at the current token. */
static enum err parse_subscript(struct chat_parser *p, struct chat_node *a, struct chat_node **out)
{
    struct chat_node *part[3] = {NULL, NULL, NULL};
    size_t n = 0;

    p->t++;
    for (;; n++) {
        if (!chat_at_op(p, ':') && !chat_at_op(p, ']'))
            CHAT_TRY(chat_parse_expr(p, &part[n]));
        if (n == 2 || !chat_skip_op(p, ':'))
            break;
    }
    if (chat_at_op(p, ','))
        return chat_unsupported(p, p->t->line, "a subscript with", "a comma", 7);
    CHAT_TRY(chat_need_op(p, ']'));
    if (n == 0 && part[0] == NULL)
        return chat_syntax(p, "a subscript");
    CHAT_TRY(chat_node_new(p, n == 0 ? CHAT_N_ITEM : CHAT_N_SLICE, out));
    (*out)->a = a;
    (*out)->b = part[0];
    (*out)->c = part[1];
    (*out)->d = part[2];
    return chat_node_done(p, *out);
}

static bool is_loop_member(const char *s, size_t n)
{
    static const char *const names[] = {"index",    "index0", "revindex", "revindex0",
                                        "first",    "last",   "length",   "previtem",
                                        "nextitem", "depth",  "depth0",   "cycle"};

    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
        if (strlen(names[i]) == n && memcmp(names[i], s, n) == 0)
            return true;
    return false;
}

/* a.name or a.0 */
static enum err parse_attribute(struct chat_parser *p, struct chat_node *a, struct chat_node **out)
{
    p->t++;
    if (p->t->type == CHAT_T_INT) {
        struct chat_node *key;

        CHAT_TRY(node_const(p, chat_int(p->t->i), &key));
        p->t++;
        return node_2(p, CHAT_N_ITEM, CHAT_OP_NONE, a, key, out);
    }
    if (p->t->type != CHAT_T_NAME)
        return chat_syntax(p, "a name after \".\"");
    if (a->type == CHAT_N_NAME && a->name == p->c->loop_name &&
        !is_loop_member(p->t->str.p, p->t->str.n))
        return chat_unsupported(p, p->t->line, "loop", p->t->str.p, p->t->str.n);
    CHAT_TRY(chat_node_new(p, CHAT_N_ATTR, out));
    (*out)->a = a;
    CHAT_TRY(chat_intern(p->c, p->t->str.p, p->t->str.n, &(*out)->name));
    p->t++;
    return chat_node_done(p, *out);
}

/* f(...): of a name, checked at the end of the template, or of a method that is known. */
static enum err parse_call(struct chat_parser *p, struct chat_node *f, struct chat_node **out)
{
    if (f->type == CHAT_N_NAME) {
        CHAT_TRY(chat_node_new(p, CHAT_N_CALL, out));
        (*out)->name = f->name;
        (*out)->line = f->line;
        (*out)->e = (struct chat_node *)(uintptr_t)p->calls;
        p->calls = *out;
    } else if (f->type == CHAT_N_ATTR) {
        struct chat_str name = p->c->names[f->name];

        CHAT_TRY(chat_node_new(p, CHAT_N_METHOD, out));
        (*out)->line = f->line;
        (*out)->code = chat_method_find(name.p, name.n);
        if ((*out)->code < 0)
            return chat_unsupported(p, f->line, "method", name.p, name.n);
        (*out)->a = f->a;
    } else {
        return chat_unsupported(p, p->t->line, "a call of something that is not a name", "", 0);
    }
    CHAT_TRY(parse_arguments(p, *out));
    return chat_node_done(p, *out);
}

static enum err parse_postfix(struct chat_parser *p, struct chat_node **n)
{
    for (;;) {
        if (chat_at_op(p, '.'))
            CHAT_TRY(parse_attribute(p, *n, n));
        else if (chat_at_op(p, '['))
            CHAT_TRY(parse_subscript(p, *n, n));
        else if (chat_at_op(p, '('))
            CHAT_TRY(parse_call(p, *n, n));
        else
            return ERR_OK;
    }
}

static enum err parse_filter(struct chat_parser *p, struct chat_node **n)
{
    struct chat_node *filter;

    p->t++;
    if (p->t->type != CHAT_T_NAME)
        return chat_syntax(p, "the name of a filter");
    CHAT_TRY(chat_node_new(p, CHAT_N_FILTER, &filter));
    filter->code = chat_filter_find(p->t->str.p, p->t->str.n);
    if (filter->code < 0)
        return chat_unsupported(p, p->t->line, "filter", p->t->str.p, p->t->str.n);
    p->t++;
    filter->a = *n;
    if (chat_at_op(p, '('))
        CHAT_TRY(parse_arguments(p, filter));
    *n = filter;
    return chat_node_done(p, filter);
}

static bool starts_test_argument(const struct chat_parser *p)
{
    switch (p->t->type) {
    case CHAT_T_NAME:
        return !chat_at_name(p, "else") && !chat_at_name(p, "or") && !chat_at_name(p, "and") &&
               !chat_at_name(p, "is") && !chat_at_name(p, "if") && !chat_at_name(p, "in") &&
               !chat_at_name(p, "not");
    case CHAT_T_STRING:
    case CHAT_T_INT:
    case CHAT_T_FLOAT:
        return true;
    case CHAT_T_OP:
        return chat_at_op(p, '[') || chat_at_op(p, '{');
    case CHAT_T_END:
    case CHAT_T_TEXT:
    case CHAT_T_BLOCK_BEGIN:
    case CHAT_T_BLOCK_END:
    case CHAT_T_PRINT_BEGIN:
    case CHAT_T_PRINT_END:
        break;
    }
    return false;
}

static enum err parse_test(struct chat_parser *p, struct chat_node **n)
{
    struct chat_node *test, *arg;
    bool negated;

    p->t++;
    negated = chat_skip_name(p, "not");
    if (p->t->type != CHAT_T_NAME)
        return chat_syntax(p, "the name of a test");
    CHAT_TRY(chat_node_new(p, CHAT_N_TEST, &test));
    test->code = chat_test_find(p->t->str.p, p->t->str.n);
    if (test->code < 0)
        return chat_unsupported(p, p->t->line, "test", p->t->str.p, p->t->str.n);
    p->t++;
    test->a = *n;
    if (chat_at_op(p, '(')) {
        CHAT_TRY(parse_arguments(p, test));
    } else if (starts_test_argument(p)) {
        size_t mark = p->n_scratch;

        CHAT_TRY(parse_primary(p, &arg));
        CHAT_TRY(parse_postfix(p, &arg));
        CHAT_TRY(chat_scratch_push(p, arg));
        CHAT_TRY(chat_scratch_take(p, mark, test));
    }
    CHAT_TRY(chat_node_done(p, test));
    *n = test;
    return negated ? node_2(p, CHAT_N_NOT, CHAT_OP_NONE, test, NULL, n) : ERR_OK;
}

static enum err parse_unary(struct chat_parser *p, bool filters, struct chat_node **out)
{
    CHAT_TRY(chat_nest(p));
    if (chat_at_op(p, '-') || chat_at_op(p, '+')) {
        enum chat_node_type type = chat_at_op(p, '-') ? CHAT_N_NEG : CHAT_N_POS;
        struct chat_node *a;

        p->t++;
        CHAT_TRY(parse_unary(p, false, &a));
        CHAT_TRY(node_2(p, type, CHAT_OP_NONE, a, NULL, out));
    } else {
        CHAT_TRY(parse_primary(p, out));
    }
    CHAT_TRY(parse_postfix(p, out));
    while (filters) {
        if (chat_at_op(p, '|'))
            CHAT_TRY(parse_filter(p, out));
        else if (chat_at_name(p, "is"))
            CHAT_TRY(parse_test(p, out));
        else if (chat_at_op(p, '('))
            CHAT_TRY(parse_call(p, *out, out));
        else
            break;
    }
    p->depth--;
    return ERR_OK;
}

static enum err parse_product(struct chat_parser *p, struct chat_node **out)
{
    static const struct {
        int sign;
        enum chat_op op;
    } ops[] = {{'*', CHAT_MUL}, {'/', CHAT_DIV}, {OP2('/', '/'), CHAT_FLOORDIV}, {'%', CHAT_MOD}};

    CHAT_TRY(parse_unary(p, true, out));
    for (size_t i = 0; i < sizeof(ops) / sizeof(ops[0]);) {
        struct chat_node *right;

        if (!chat_skip_op(p, ops[i].sign)) {
            i++;
            continue;
        }
        CHAT_TRY(parse_unary(p, true, &right));
        CHAT_TRY(node_2(p, CHAT_N_BINARY, ops[i].op, *out, right, out));
        i = 0;
    }
    if (chat_at_op(p, OP2('*', '*')))
        return chat_unsupported(p, p->t->line, "operator", "**", 2);
    return ERR_OK;
}

static enum err parse_concat(struct chat_parser *p, struct chat_node **out)
{
    CHAT_TRY(parse_product(p, out));
    while (chat_skip_op(p, '~')) {
        struct chat_node *right;

        CHAT_TRY(parse_product(p, &right));
        CHAT_TRY(node_2(p, CHAT_N_BINARY, CHAT_CONCAT, *out, right, out));
    }
    return ERR_OK;
}

static enum err parse_sum(struct chat_parser *p, struct chat_node **out)
{
    CHAT_TRY(parse_concat(p, out));
    while (chat_at_op(p, '+') || chat_at_op(p, '-')) {
        enum chat_op op = chat_at_op(p, '+') ? CHAT_ADD : CHAT_SUB;
        struct chat_node *right;

        p->t++;
        CHAT_TRY(parse_concat(p, &right));
        CHAT_TRY(node_2(p, CHAT_N_BINARY, op, *out, right, out));
    }
    return ERR_OK;
}

static enum chat_op comparison(struct chat_parser *p)
{
    static const struct {
        int sign;
        enum chat_op op;
    } ops[] = {{OP2('=', '='), CHAT_EQ}, {OP2('!', '='), CHAT_NE}, {OP2('<', '='), CHAT_LE},
               {OP2('>', '='), CHAT_GE}, {'<', CHAT_LT},           {'>', CHAT_GT}};

    for (size_t i = 0; i < sizeof(ops) / sizeof(ops[0]); i++)
        if (chat_skip_op(p, ops[i].sign))
            return ops[i].op;
    if (chat_skip_name(p, "in"))
        return CHAT_IN;
    if (chat_at_name(p, "not") && p->t[1].type == CHAT_T_NAME && p->t[1].str.n == 2 &&
        memcmp(p->t[1].str.p, "in", 2) == 0) {
        p->t += 2;
        return CHAT_NOT_IN;
    }
    return CHAT_OP_NONE;
}

static enum err parse_compare(struct chat_parser *p, struct chat_node **out)
{
    size_t mark = p->n_scratch;
    struct chat_node *first, *part, *right;
    enum chat_op op;

    CHAT_TRY(parse_sum(p, &first));
    while ((op = comparison(p)) != CHAT_OP_NONE) {
        CHAT_TRY(parse_sum(p, &right));
        CHAT_TRY(node_2(p, CHAT_N_BINARY, op, NULL, right, &part));
        CHAT_TRY(chat_scratch_push(p, part));
    }
    *out = first;
    if (p->n_scratch == mark)
        return ERR_OK;
    CHAT_TRY(chat_node_new(p, CHAT_N_COMPARE, out));
    (*out)->a = first;
    CHAT_TRY(chat_scratch_take(p, mark, *out));
    return chat_node_done(p, *out);
}

static enum err parse_not(struct chat_parser *p, struct chat_node **out)
{
    struct chat_node *a;

    if (!chat_skip_name(p, "not"))
        return parse_compare(p, out);
    CHAT_TRY(chat_nest(p));
    CHAT_TRY(parse_not(p, &a));
    p->depth--;
    return node_2(p, CHAT_N_NOT, CHAT_OP_NONE, a, NULL, out);
}

static enum err parse_and(struct chat_parser *p, struct chat_node **out)
{
    CHAT_TRY(parse_not(p, out));
    while (chat_skip_name(p, "and")) {
        struct chat_node *right;

        CHAT_TRY(parse_not(p, &right));
        CHAT_TRY(node_2(p, CHAT_N_AND, CHAT_OP_NONE, *out, right, out));
    }
    return ERR_OK;
}

static enum err parse_or(struct chat_parser *p, struct chat_node **out)
{
    CHAT_TRY(parse_and(p, out));
    while (chat_skip_name(p, "or")) {
        struct chat_node *right;

        CHAT_TRY(parse_and(p, &right));
        CHAT_TRY(node_2(p, CHAT_N_OR, CHAT_OP_NONE, *out, right, out));
    }
    return ERR_OK;
}

enum err chat_parse_expr(struct chat_parser *p, struct chat_node **out)
{
    CHAT_TRY(chat_nest(p));
    CHAT_TRY(parse_or(p, out));
    while (chat_skip_name(p, "if")) {
        struct chat_node *cond;

        CHAT_TRY(chat_node_new(p, CHAT_N_COND, &cond));
        cond->a = *out;
        CHAT_TRY(parse_or(p, &cond->b));
        if (chat_skip_name(p, "else"))
            CHAT_TRY(chat_parse_expr(p, &cond->c));
        CHAT_TRY(chat_node_done(p, cond));
        *out = cond;
    }
    p->depth--;
    return ERR_OK;
}

static bool tuple_ends(const struct chat_parser *p)
{
    return p->t->type == CHAT_T_BLOCK_END || p->t->type == CHAT_T_PRINT_END || chat_at_op(p, ')') ||
           chat_at_op(p, '=') || chat_at_name(p, "in");
}

/* items: what one member of the tuple is read with. */
static enum err parse_members(struct chat_parser *p,
                              enum err (*item)(struct chat_parser *, struct chat_node **),
                              struct chat_node **out)
{
    size_t mark = p->n_scratch;
    struct chat_node *one;

    CHAT_TRY(item(p, out));
    if (!chat_at_op(p, ','))
        return ERR_OK;
    CHAT_TRY(chat_scratch_push(p, *out));
    while (chat_skip_op(p, ',') && !tuple_ends(p)) {
        CHAT_TRY(item(p, &one));
        CHAT_TRY(chat_scratch_push(p, one));
    }
    CHAT_TRY(chat_node_new(p, CHAT_N_TUPLE, out));
    CHAT_TRY(chat_scratch_take(p, mark, *out));
    return chat_node_done(p, *out);
}

enum err chat_parse_tuple(struct chat_parser *p, bool with_cond, struct chat_node **out)
{
    return parse_members(p, with_cond ? chat_parse_expr : parse_or, out);
}

static enum err parse_target_item(struct chat_parser *p, struct chat_node **out)
{
    if (chat_skip_op(p, '(')) {
        CHAT_TRY(chat_nest(p));
        CHAT_TRY(chat_parse_target(p, out));
        p->depth--;
        return chat_need_op(p, ')');
    }
    if (p->t->type != CHAT_T_NAME)
        return chat_syntax(p, "a name to assign to");
    CHAT_TRY(parse_name(p, out));
    if ((*out)->type == CHAT_N_NAME && chat_at_op(p, '.'))
        CHAT_TRY(parse_attribute(p, *out, out));
    if ((*out)->type != CHAT_N_NAME && (*out)->type != CHAT_N_ATTR)
        return chat_syntax(p, "a name to assign to");
    return ERR_OK;
}

enum err chat_parse_target(struct chat_parser *p, struct chat_node **out)
{
    return parse_members(p, parse_target_item, out);
}
