/* engine/engine_chat_parse.c - the statements of a template, and what both halves of the parser use.
 *
 * Whatever Jinja has and this does not is refused here, with its name and line, also where a request
 * would never reach it. */
#include "engine/engine_chat_parse.h"

#include <stdio.h>
#include <string.h>

#include "base/mem.h"

static enum err parse_body(struct chat_parser *p, const char *const *ends, struct chat_node **out);

bool chat_at_op(const struct chat_parser *p, int op)
{
    return p->t->type == CHAT_T_OP && p->t->op == op;
}

static bool token_is(const struct chat_token *t, const char *name)
{
    return t->type == CHAT_T_NAME && t->str.n == strlen(name) &&
           memcmp(t->str.p, name, t->str.n) == 0;
}

bool chat_at_name(const struct chat_parser *p, const char *name)
{
    return token_is(p->t, name);
}

bool chat_skip_op(struct chat_parser *p, int op)
{
    bool yes = chat_at_op(p, op);

    p->t += yes;
    return yes;
}

bool chat_skip_name(struct chat_parser *p, const char *name)
{
    bool yes = chat_at_name(p, name);

    p->t += yes;
    return yes;
}

static void describe(const struct chat_token *t, char *out, size_t cap)
{
    switch (t->type) {
    case CHAT_T_NAME:
        snprintf(out, cap, "\"%.*s\"", t->str.n > 40 ? 40 : (int)t->str.n, t->str.p);
        break;
    case CHAT_T_OP:
        if (t->op > 255)
            snprintf(out, cap, "\"%c%c\"", t->op / 256, t->op % 256);
        else
            snprintf(out, cap, "\"%c\"", t->op);
        break;
    case CHAT_T_END:
        snprintf(out, cap, "the end of the template");
        break;
    case CHAT_T_BLOCK_END:
    case CHAT_T_PRINT_END:
        snprintf(out, cap, "the end of the tag");
        break;
    case CHAT_T_STRING:
        snprintf(out, cap, "a string");
        break;
    case CHAT_T_INT:
    case CHAT_T_FLOAT:
        snprintf(out, cap, "a number");
        break;
    case CHAT_T_TEXT:
    case CHAT_T_BLOCK_BEGIN:
    case CHAT_T_PRINT_BEGIN:
        snprintf(out, cap, "text");
        break;
    }
}

enum err chat_syntax(struct chat_parser *p, const char *expected)
{
    char found[64];

    describe(p->t, found, sizeof(found));
    return err_set(p->msg, ERR_INVALID, "chat template line %d: expected %s, found %s", p->t->line,
                   expected, found);
}

enum err chat_unsupported(struct chat_parser *p, int line, const char *what, const char *s,
                          size_t n)
{
    return err_set(p->msg, ERR_UNSUPPORTED, "chat template line %d: %s%s%.*s%s is not supported",
                   line, what, n > 0 ? " \"" : "", n > 60 ? 60 : (int)n, s, n > 0 ? "\"" : "");
}

enum err chat_need_op(struct chat_parser *p, int op)
{
    char text[8] = {'"', (char)op, '"'};

    return chat_skip_op(p, op) ? ERR_OK : chat_syntax(p, text);
}

enum err chat_nest(struct chat_parser *p)
{
    if (p->depth >= CHAT_NEST_MAX)
        return err_set(p->msg, ERR_LIMIT, "chat template line %d: nested deeper than %d",
                       p->t->line, CHAT_NEST_MAX);
    p->depth++;
    return ERR_OK;
}

enum err chat_node_new(struct chat_parser *p, enum chat_node_type type, struct chat_node **out)
{
    *out = chat_alloc(&p->c->arena, sizeof(**out));
    if (*out == NULL)
        return p->c->arena.err;
    (*out)->type = type;
    (*out)->line = p->t->line;
    (*out)->name = CHAT_NO_NAME;
    (*out)->height = 1;
    return ERR_OK;
}

enum err chat_node_done(struct chat_parser *p, struct chat_node *n)
{
    const struct chat_node *parts[] = {n->a, n->b, n->c, n->d,
                                       n->type == CHAT_N_CALL ? NULL : n->e};

    for (size_t i = 0; i < sizeof(parts) / sizeof(parts[0]); i++)
        if (parts[i] != NULL && parts[i]->height >= n->height)
            n->height = parts[i]->height + 1;
    for (size_t i = 0; i < n->n_kids; i++)
        if (n->kids[i]->height >= n->height)
            n->height = n->kids[i]->height + 1;
    if (n->height > CHAT_HEIGHT_MAX)
        return err_set(p->msg, ERR_LIMIT,
                       "chat template line %d: an expression of more than %d levels", n->line,
                       CHAT_HEIGHT_MAX);
    return ERR_OK;
}

enum err chat_scratch_push(struct chat_parser *p, struct chat_node *n)
{
    if (p->n_scratch == p->cap_scratch) {
        size_t cap = p->cap_scratch == 0 ? 64 : p->cap_scratch * 2;
        struct chat_node **grown = mem_try_realloc(p->scratch, cap * sizeof(struct chat_node *));

        if (grown == NULL)
            return ERR_NOMEM;
        p->scratch = grown;
        p->cap_scratch = cap;
    }
    p->scratch[p->n_scratch++] = n;
    return ERR_OK;
}

enum err chat_scratch_take(struct chat_parser *p, size_t mark, struct chat_node *n)
{
    n->n_kids = p->n_scratch - mark;
    n->kids = chat_alloc(&p->c->arena, n->n_kids * sizeof(struct chat_node *));
    if (n->kids == NULL)
        return p->c->arena.err;
    if (n->n_kids > 0)
        memcpy(n->kids, p->scratch + mark, n->n_kids * sizeof(struct chat_node *));
    p->n_scratch = mark;
    return ERR_OK;
}

static enum err need_block_end(struct chat_parser *p)
{
    if (p->t->type != CHAT_T_BLOCK_END)
        return chat_syntax(p, "the end of the tag");
    p->t++;
    return ERR_OK;
}

/* Skip "{% name"; the body parser has found it there. */
static void skip_tag_name(struct chat_parser *p)
{
    p->t += 2;
}

static enum err parse_if(struct chat_parser *p, struct chat_node **out)
{
    static const char *const ends[] = {"endif", "elif", "else", NULL};
    static const char *const last[] = {"endif", NULL};
    struct chat_node **at = out;
    struct chat_node *chain[256];
    size_t n = 0;

    for (;;) { /* a chain of elif is a list, so it is not parsed by recursion */
        struct chat_node *one;

        CHAT_TRY(chat_node_new(p, CHAT_N_IF, &one));
        CHAT_TRY(chat_parse_tuple(p, false, &one->a));
        CHAT_TRY(need_block_end(p));
        CHAT_TRY(parse_body(p, ends, &one->b));
        if (n == sizeof(chain) / sizeof(chain[0]))
            return err_set(p->msg, ERR_LIMIT, "chat template line %d: a chain of too many elif",
                           one->line);
        chain[n++] = one;
        *at = one;
        at = &one->c;
        if (token_is(&p->t[1], "elif")) {
            skip_tag_name(p);
            continue;
        }
        if (token_is(&p->t[1], "else")) {
            skip_tag_name(p);
            CHAT_TRY(need_block_end(p));
            CHAT_TRY(parse_body(p, last, &one->c));
        }
        break;
    }
    skip_tag_name(p);
    while (n > 0)
        CHAT_TRY(chat_node_done(p, chain[--n]));
    return need_block_end(p);
}

static enum err parse_for(struct chat_parser *p, struct chat_node **out)
{
    static const char *const ends[] = {"endfor", "else", NULL};
    static const char *const last[] = {"endfor", NULL};
    struct chat_node *n;

    CHAT_TRY(chat_node_new(p, CHAT_N_FOR, out));
    n = *out;
    CHAT_TRY(chat_parse_target(p, &n->a));
    if (!chat_skip_name(p, "in"))
        return chat_syntax(p, "\"in\"");
    CHAT_TRY(chat_parse_tuple(p, false, &n->b));
    if (chat_skip_name(p, "if"))
        CHAT_TRY(chat_parse_expr(p, &n->c));
    if (chat_at_name(p, "recursive"))
        return chat_unsupported(p, p->t->line, "loop modifier", "recursive", 9);
    CHAT_TRY(need_block_end(p));
    p->loops++;
    CHAT_TRY(parse_body(p, ends, &n->d));
    p->loops--;
    if (token_is(&p->t[1], "else")) {
        skip_tag_name(p);
        CHAT_TRY(need_block_end(p));
        CHAT_TRY(parse_body(p, last, &n->e));
    }
    skip_tag_name(p);
    CHAT_TRY(need_block_end(p));
    return chat_node_done(p, n);
}

static enum err parse_set(struct chat_parser *p, struct chat_node **out)
{
    static const char *const ends[] = {"endset", NULL};
    struct chat_node *n;

    CHAT_TRY(chat_node_new(p, CHAT_N_SET, out));
    n = *out;
    CHAT_TRY(chat_parse_target(p, &n->a));
    if (chat_skip_op(p, '=')) {
        CHAT_TRY(chat_parse_tuple(p, true, &n->b));
        CHAT_TRY(need_block_end(p));
        return chat_node_done(p, n);
    }
    if (chat_at_op(p, '|'))
        return chat_unsupported(p, p->t->line, "a filter on a", "set block", 9);
    n->type = CHAT_N_SET_BLOCK;
    CHAT_TRY(need_block_end(p));
    CHAT_TRY(parse_body(p, ends, &n->b));
    skip_tag_name(p);
    CHAT_TRY(need_block_end(p));
    return chat_node_done(p, n);
}

static enum err parse_parameters(struct chat_parser *p, struct chat_node *n)
{
    size_t mark = p->n_scratch;
    bool defaults = false;

    CHAT_TRY(chat_need_op(p, '('));
    while (!chat_at_op(p, ')')) {
        struct chat_node *param;

        if (p->n_scratch > mark)
            CHAT_TRY(chat_need_op(p, ','));
        if (p->t->type != CHAT_T_NAME)
            return chat_syntax(p, "the name of a parameter");
        CHAT_TRY(chat_node_new(p, CHAT_N_KEYWORD, &param));
        CHAT_TRY(chat_intern(p->c, p->t->str.p, p->t->str.n, &param->name));
        p->t++;
        if (chat_skip_op(p, '=')) {
            defaults = true;
            CHAT_TRY(chat_parse_expr(p, &param->a));
            CHAT_TRY(chat_node_done(p, param));
        } else if (defaults) {
            return chat_syntax(p, "a default for this parameter too");
        }
        CHAT_TRY(chat_scratch_push(p, param));
        if (p->n_scratch - mark > CHAT_ARGS_MAX)
            return chat_unsupported(p, p->t->line, "a macro with more than eight parameters", "",
                                    0);
    }
    p->t++;
    return chat_scratch_take(p, mark, n);
}

static enum err parse_macro(struct chat_parser *p, struct chat_node **out)
{
    static const char *const ends[] = {"endmacro", NULL};
    int loops = p->loops;
    struct chat_node *n;

    CHAT_TRY(chat_node_new(p, CHAT_N_MACRO, out));
    n = *out;
    if (p->t->type != CHAT_T_NAME)
        return chat_syntax(p, "the name of a macro");
    CHAT_TRY(chat_intern(p->c, p->t->str.p, p->t->str.n, &n->name));
    p->t++;
    if (p->n_macros == sizeof(p->macros) / sizeof(p->macros[0]))
        return err_set(p->msg, ERR_LIMIT, "chat template line %d: too many macros", n->line);
    p->macros[p->n_macros++] = n->name;
    CHAT_TRY(parse_parameters(p, n));
    CHAT_TRY(need_block_end(p));
    p->loops = 0;
    CHAT_TRY(parse_body(p, ends, &n->b));
    p->loops = loops;
    skip_tag_name(p);
    CHAT_TRY(need_block_end(p));
    return chat_node_done(p, n);
}

/* {% generation %}, which transformers adds to mark the assistant's part: its body is rendered. */
static enum err parse_generation(struct chat_parser *p, struct chat_node **out)
{
    static const char *const ends[] = {"endgeneration", NULL};

    CHAT_TRY(need_block_end(p));
    CHAT_TRY(parse_body(p, ends, out));
    skip_tag_name(p);
    return need_block_end(p);
}

/* After "{%", at the name of the statement. */
static enum err parse_statement(struct chat_parser *p, struct chat_node **out)
{
    if (p->t->type != CHAT_T_NAME)
        return chat_syntax(p, "a statement");
    if (chat_skip_name(p, "if"))
        return parse_if(p, out);
    if (chat_skip_name(p, "for"))
        return parse_for(p, out);
    if (chat_skip_name(p, "set"))
        return parse_set(p, out);
    if (chat_skip_name(p, "macro"))
        return parse_macro(p, out);
    if (chat_skip_name(p, "generation"))
        return parse_generation(p, out);
    if (chat_at_name(p, "break") || chat_at_name(p, "continue")) {
        if (p->loops == 0)
            return chat_syntax(p, "a statement that may stand outside a loop");
        CHAT_TRY(chat_node_new(p, chat_at_name(p, "break") ? CHAT_N_BREAK : CHAT_N_CONTINUE, out));
        p->t++;
        return need_block_end(p);
    }
    if (p->t->str.n > 3 && memcmp(p->t->str.p, "end", 3) == 0)
        return chat_syntax(p, "a statement that begins here");
    return chat_unsupported(p, p->t->line, "statement", p->t->str.p, p->t->str.n);
}

static bool at_end_tag(const struct chat_parser *p, const char *const *ends)
{
    if (ends == NULL || p->t->type != CHAT_T_BLOCK_BEGIN)
        return false;
    for (; *ends != NULL; ends++)
        if (token_is(&p->t[1], *ends))
            return true;
    return false;
}

/* Statements up to one of the end tags, which stays the current token; NULL: to the end. */
static enum err parse_body(struct chat_parser *p, const char *const *ends, struct chat_node **out)
{
    size_t mark = p->n_scratch;

    CHAT_TRY(chat_nest(p));
    CHAT_TRY(chat_node_new(p, CHAT_N_BODY, out));
    while (p->t->type != CHAT_T_END && !at_end_tag(p, ends)) {
        struct chat_node *n;

        if (p->t->type == CHAT_T_TEXT) {
            CHAT_TRY(chat_node_new(p, CHAT_N_CONST, &n));
            n->val = chat_string(p->t->str);
            p->t++;
        } else if (p->t->type == CHAT_T_PRINT_BEGIN) {
            CHAT_TRY(chat_node_new(p, CHAT_N_PRINT, &n));
            p->t++;
            CHAT_TRY(chat_parse_tuple(p, true, &n->a));
            if (p->t->type != CHAT_T_PRINT_END)
                return chat_syntax(p, "the end of the tag");
            p->t++;
            CHAT_TRY(chat_node_done(p, n));
        } else {
            p->t++;
            CHAT_TRY(parse_statement(p, &n));
        }
        CHAT_TRY(chat_scratch_push(p, n));
    }
    if (p->t->type == CHAT_T_END && ends != NULL)
        return err_set(p->msg, ERR_INVALID,
                       "chat template line %d: \"%s\" is missing for the block that begins here",
                       (*out)->line, ends[0]);
    CHAT_TRY(chat_scratch_take(p, mark, *out));
    p->depth--;
    return chat_node_done(p, *out);
}

/* A call of a name must be of a function that exists or of a macro of this template. */
static enum err check_calls(struct chat_parser *p)
{
    for (const struct chat_node *call = p->calls; call != NULL; call = call->e) {
        struct chat_str name = p->c->names[call->name];
        bool known = chat_function_find(name.p, name.n) >= 0;

        for (size_t i = 0; i < p->n_macros; i++)
            known |= p->macros[i] == call->name;
        if (!known)
            return chat_unsupported(p, call->line, "function", name.p, name.n);
    }
    return ERR_OK;
}

enum err chat_parse(struct engine_chat *c, const struct chat_tokens *tokens, struct err_msg *msg)
{
    struct chat_parser p = {.c = c, .t = tokens->v, .msg = msg};
    enum err err = parse_body(&p, NULL, &c->body);

    if (err == ERR_OK)
        err = check_calls(&p);
    mem_free(p.scratch);
    return err;
}
