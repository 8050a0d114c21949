/* engine/engine_chat_exec.c - statements of a running template: output, scopes, loops, macros. */
#include "engine/engine_chat_impl.h"

#include <string.h>

#include "base/mem.h"

void chat_sink_free(struct chat_sink *s)
{
    buf_free(&s->text);
    mem_free(s->spans);
    *s = (struct chat_sink){.text = BUF_INIT};
}

/* Note that bytes [begin, end) of the sink came from a message. */
static enum err add_span(struct chat_sink *s, size_t begin, size_t end)
{
    if (s->n_spans > 0 && s->spans[2 * s->n_spans - 1] == begin) {
        s->spans[2 * s->n_spans - 1] = end;
        return ERR_OK;
    }
    if (s->n_spans == s->cap_spans) {
        size_t cap = s->cap_spans == 0 ? 16 : s->cap_spans * 2;
        size_t *grown = mem_try_realloc(s->spans, 2 * cap * sizeof(*grown));

        if (grown == NULL)
            return ERR_NOMEM;
        s->spans = grown;
        s->cap_spans = cap;
    }
    s->spans[2 * s->n_spans] = begin;
    s->spans[2 * s->n_spans + 1] = end;
    s->n_spans++;
    return ERR_OK;
}

static enum err emit(struct chat_run *r, struct chat_str s)
{
    struct chat_sink *sink = r->sink;
    size_t base = sink->text.len;

    CHAT_TRY(chat_charge(r, s.n));
    if (s.n > CHAT_OUTPUT_MAX - base)
        return err_set(r->msg, ERR_LIMIT, "chat template: more than %d MiB of output",
                       CHAT_OUTPUT_MAX >> 20);
    CHAT_TRY(buf_append(&sink->text, s.p, s.n));
    if (s.taint == CHAT_TAINT_ALL && s.n > 0)
        return add_span(sink, base, base + s.n);
    for (size_t i = 0; s.taint != NULL && i < s.n; i++) {
        size_t begin = i;

        while (i < s.n && s.taint[i] != 0)
            i++;
        if (i > begin)
            CHAT_TRY(add_span(sink, base + begin, base + i));
    }
    return ERR_OK;
}

/* The content of a sink as a string of the run. */
static enum err sink_str(struct chat_run *r, const struct chat_sink *sink, struct chat_str *out)
{
    size_t n = sink->text.len;
    char *p = chat_alloc(&r->arena, n + 1);
    unsigned char *taint = sink->n_spans > 0 ? chat_alloc(&r->arena, n) : NULL;

    if (p == NULL || (sink->n_spans > 0 && taint == NULL))
        return r->arena.err;
    if (n > 0)
        memcpy(p, buf_bytes(&sink->text), n);
    for (size_t i = 0; i < sink->n_spans; i++)
        memset(taint + sink->spans[2 * i], 1, sink->spans[2 * i + 1] - sink->spans[2 * i]);
    *out = (struct chat_str){p, n, taint};
    return ERR_OK;
}

/* Run body and give what it prints. */
static enum err capture(struct chat_run *r, const struct chat_node *body, struct chat_val *out)
{
    struct chat_sink mine = {.text = BUF_INIT}, *outer = r->sink;
    struct chat_str s = {"", 0, NULL};
    enum err err;

    r->sink = &mine;
    err = chat_exec(r, body);
    r->sink = outer;
    if (err == ERR_OK)
        err = sink_str(r, &mine, &s);
    chat_sink_free(&mine);
    *out = chat_string(s);
    return err;
}

enum err chat_scope_set(struct chat_run *r, struct chat_scope *s, uint32_t name,
                        struct chat_val val)
{
    CHAT_TRY(chat_charge(r, s->n * 4));
    for (size_t i = 0; i < s->n; i++) {
        if (s->vars[i].name == name) {
            s->vars[i].val = val;
            return ERR_OK;
        }
    }
    if (s->n == s->cap) {
        size_t cap = s->cap == 0 ? 8 : s->cap * 2;
        struct chat_var *grown = chat_alloc(&r->arena, cap * sizeof(*grown));

        if (grown == NULL)
            return r->arena.err;
        if (s->n > 0)
            memcpy(grown, s->vars, s->n * sizeof(*grown));
        s->vars = grown;
        s->cap = cap;
    }
    s->vars[s->n++] = (struct chat_var){name, val};
    return ERR_OK;
}

static enum err assign(struct chat_run *r, const struct chat_node *target, struct chat_val val)
{
    struct chat_val object;

    if (target->type == CHAT_N_NAME)
        return chat_scope_set(r, r->scope, target->name, val);
    if (target->type == CHAT_N_ATTR) {
        CHAT_TRY(chat_eval(r, target->a, &object));
        if (object.type != CHAT_NAMESPACE)
            return chat_fail(r, target, "only a namespace takes attributes, not %s",
                             chat_type_name(&object));
        return chat_map_put(r, object.u.map, r->c->names[target->name], val);
    }
    if (val.type != CHAT_LIST || val.u.list->n != target->n_kids)
        return chat_fail(r, target, "%s does not unpack into %zu names", chat_type_name(&val),
                         target->n_kids);
    for (size_t i = 0; i < target->n_kids; i++)
        CHAT_TRY(assign(r, target->kids[i], val.u.list->v[i]));
    return ERR_OK;
}

/* The items of a loop that its "if" lets pass. */
static enum err loop_items(struct chat_run *r, const struct chat_node *n, struct chat_list **out)
{
    struct chat_scope scope = {.parent = r->scope};
    struct chat_list *all, *kept;
    struct chat_val v, yes;
    enum err err = ERR_OK;

    CHAT_TRY(chat_eval(r, n->b, &v));
    CHAT_TRY(chat_to_list(r, n, &v, &all));
    *out = all;
    if (n->c == NULL)
        return ERR_OK;
    CHAT_TRY(chat_list_new(r, false, &kept));
    r->scope = &scope;
    for (size_t i = 0; i < all->n && err == ERR_OK; i++) {
        err = assign(r, n->a, all->v[i]);
        if (err == ERR_OK)
            err = chat_eval(r, n->c, &yes);
        if (err == ERR_OK && chat_truth(&yes))
            err = chat_list_push(r, kept, all->v[i]);
    }
    r->scope = scope.parent;
    *out = kept;
    return err;
}

static enum err exec_for(struct chat_run *r, const struct chat_node *n)
{
    struct chat_scope scope = {.parent = r->scope};
    struct chat_loop *loop = chat_alloc(&r->arena, sizeof(*loop));
    struct chat_list *items;
    enum err err = ERR_OK;

    if (loop == NULL)
        return r->arena.err;
    CHAT_TRY(loop_items(r, n, &items));
    loop->items = items;
    if (items->n == 0)
        return n->e != NULL ? chat_exec(r, n->e) : ERR_OK;
    r->scope = &scope;
    for (size_t i = 0; i < items->n && err == ERR_OK && r->flow != CHAT_FLOW_BREAK; i++) {
        scope.n = 0; /* what one turn sets, the next does not see */
        loop->at = i;
        r->flow = CHAT_FLOW_ON;
        err = chat_scope_set(r, &scope, r->c->loop_name,
                             (struct chat_val){.type = CHAT_LOOP, .u = {.loop = loop}});
        if (err == ERR_OK)
            err = assign(r, n->a, items->v[i]);
        if (err == ERR_OK)
            err = chat_exec(r, n->d);
    }
    r->flow = CHAT_FLOW_ON;
    r->scope = scope.parent;
    return err;
}

static enum err exec_if(struct chat_run *r, const struct chat_node *n)
{
    struct chat_val cond;

    for (; n != NULL && n->type == CHAT_N_IF; n = n->c) {
        CHAT_TRY(chat_eval(r, n->a, &cond));
        if (chat_truth(&cond))
            return chat_exec(r, n->b);
    }
    return n != NULL ? chat_exec(r, n) : ERR_OK;
}

static enum err exec_print(struct chat_run *r, const struct chat_node *n)
{
    struct chat_val v;
    struct chat_str s;

    CHAT_TRY(chat_eval(r, n->a, &v));
    CHAT_TRY(chat_to_str(r, &v, &s));
    return emit(r, s);
}

static enum err exec_set(struct chat_run *r, const struct chat_node *n)
{
    struct chat_val v;

    if (n->type == CHAT_N_SET)
        CHAT_TRY(chat_eval(r, n->b, &v));
    else
        CHAT_TRY(capture(r, n->b, &v));
    return assign(r, n->a, v);
}

/* The value of one parameter of a macro. */
static enum err bind(struct chat_run *r, const struct chat_node *param,
                     const struct chat_args *args, size_t i, struct chat_val *out)
{
    if (i < args->n) {
        *out = args->v[i];
        return ERR_OK;
    }
    for (size_t k = 0; k < args->n_named; k++) {
        if (args->names[k] == param->name) {
            *out = args->named[k];
            return ERR_OK;
        }
    }
    *out = chat_undefined();
    return param->a != NULL ? chat_eval(r, param->a, out) : ERR_OK;
}

enum err chat_call_macro(struct chat_run *r, const struct chat_node *call,
                         const struct chat_node *macro, struct chat_val *out)
{
    struct chat_scope scope = {.parent = r->top}, *outer = r->scope;
    struct chat_args args;
    struct chat_val v;
    enum err err = ERR_OK;

    CHAT_TRY(chat_args_eval(r, call, &args));
    if (args.n + args.n_named > macro->n_kids)
        return chat_fail(r, call, "too many arguments for the macro");
    for (size_t k = 0; k < args.n_named; k++) {
        bool known = false;

        for (size_t i = args.n; i < macro->n_kids; i++)
            known |= macro->kids[i]->name == args.names[k];
        if (!known)
            return chat_fail(r, call, "an argument that the macro does not have");
    }
    r->scope = &scope;
    for (size_t i = 0; i < macro->n_kids && err == ERR_OK; i++) {
        err = bind(r, macro->kids[i], &args, i, &v);
        if (err == ERR_OK)
            err = chat_scope_set(r, &scope, macro->kids[i]->name, v);
    }
    if (err == ERR_OK)
        err = capture(r, macro->b, out);
    r->scope = outer;
    return err;
}

static enum err exec_body(struct chat_run *r, const struct chat_node *n)
{
    enum err err = ERR_OK;

    for (size_t i = 0; i < n->n_kids && err == ERR_OK && r->flow == CHAT_FLOW_ON; i++)
        err = chat_exec(r, n->kids[i]);
    return err;
}

static enum err dispatch(struct chat_run *r, const struct chat_node *n)
{
    switch (n->type) {
    case CHAT_N_CONST:
        return emit(r, n->val.u.s);
    case CHAT_N_BODY:
        return exec_body(r, n);
    case CHAT_N_PRINT:
        return exec_print(r, n);
    case CHAT_N_IF:
        return exec_if(r, n);
    case CHAT_N_FOR:
        return exec_for(r, n);
    case CHAT_N_SET:
    case CHAT_N_SET_BLOCK:
        return exec_set(r, n);
    case CHAT_N_MACRO:
        return chat_scope_set(r, r->scope, n->name,
                              (struct chat_val){.type = CHAT_MACRO, .u = {.macro = n}});
    case CHAT_N_BREAK:
        r->flow = CHAT_FLOW_BREAK;
        return ERR_OK;
    case CHAT_N_CONTINUE:
        r->flow = CHAT_FLOW_CONTINUE;
        return ERR_OK;
    case CHAT_N_NAME:
    case CHAT_N_LIST:
    case CHAT_N_TUPLE:
    case CHAT_N_DICT:
    case CHAT_N_ATTR:
    case CHAT_N_ITEM:
    case CHAT_N_SLICE:
    case CHAT_N_CALL:
    case CHAT_N_METHOD:
    case CHAT_N_FILTER:
    case CHAT_N_TEST:
    case CHAT_N_KEYWORD:
    case CHAT_N_NOT:
    case CHAT_N_NEG:
    case CHAT_N_POS:
    case CHAT_N_AND:
    case CHAT_N_OR:
    case CHAT_N_BINARY:
    case CHAT_N_COMPARE:
    case CHAT_N_COND:
        break;
    }
    return chat_fail(r, n, "a value where a statement is needed");
}

enum err chat_exec(struct chat_run *r, const struct chat_node *n)
{
    enum err err;

    CHAT_TRY(chat_charge(r, 0));
    if (r->depth >= CHAT_DEPTH_MAX)
        return err_set(r->msg, ERR_LIMIT, "chat template line %d: more than %d levels deep",
                       n->line, CHAT_DEPTH_MAX);
    r->depth++;
    err = dispatch(r, n);
    r->depth--;
    return err;
}
