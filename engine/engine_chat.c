/* engine/engine_chat.c - see the header for the contract.
 *
 * The variables of a run are those that the transformers library passes: messages, add_generation_prompt,
 * tools and documents (both none), and the special tokens that tokenizer_config.json names. */
#include "engine/engine_chat.h"

#include <string.h>

#include "base/mem.h"
#include "engine/engine_chat_impl.h"
#include "engine/engine_tok_file.h"
#include "engine/engine_tok_utf8.h"

enum {
    ARENA_COMPILE_MAX = 64 << 20,
    ARENA_RUN_MAX = 64 << 20, /* beside eight times the messages */
};

static const char *const token_vars[] = {"bos_token", "eos_token", "unk_token", "pad_token",
                                         "sep_token", "cls_token", "mask_token"};
enum { N_TOKEN_VARS = sizeof(token_vars) / sizeof(token_vars[0]) };

enum err chat_intern(struct engine_chat *c, const char *s, size_t n, uint32_t *out)
{
    char *copy;

    for (uint32_t i = 0; i < c->n_names; i++) {
        if (c->names[i].n == n && memcmp(c->names[i].p, s, n) == 0) {
            *out = i;
            return ERR_OK;
        }
    }
    if (c->n_names == CHAT_NAMES_MAX)
        return ERR_LIMIT;
    copy = chat_alloc(&c->arena, n + 1);
    if (copy == NULL)
        return c->arena.err;
    memcpy(copy, s, n);
    c->names[c->n_names] = (struct chat_str){copy, n, NULL};
    *out = c->n_names++;
    return ERR_OK;
}

static enum err intern_known(struct engine_chat *c)
{
    c->names = chat_alloc(&c->arena, CHAT_NAMES_MAX * sizeof(*c->names));
    if (c->names == NULL)
        return c->arena.err;
    CHAT_TRY(chat_intern(c, "loop", 4, &c->loop_name));
    CHAT_TRY(chat_intern(c, "messages", 8, &c->messages_name));
    CHAT_TRY(chat_intern(c, "add_generation_prompt", 21, &c->prompt_name));
    CHAT_TRY(chat_intern(c, "tools", 5, &c->tools_name));
    return chat_intern(c, "documents", 9, &c->documents_name);
}

static enum err add_token_var(struct engine_chat *c, const char *name, const char *value)
{
    size_t n = strlen(value);
    char *copy = chat_alloc(&c->arena, n + 1);

    if (copy == NULL)
        return c->arena.err;
    memcpy(copy, value, n);
    CHAT_TRY(chat_intern(c, name, strlen(name), &c->vars[c->n_vars].name));
    c->vars[c->n_vars++].val = chat_string((struct chat_str){copy, n, NULL});
    return ERR_OK;
}

static enum err compile(struct engine_chat *c, const char *source, size_t len,
                        const char *const values[N_TOKEN_VARS], struct err_msg *msg)
{
    struct chat_tokens tokens = {0};
    enum err err;

    CHAT_TRY(intern_known(c));
    for (size_t i = 0; i < N_TOKEN_VARS; i++)
        if (values[i] != NULL)
            CHAT_TRY(add_token_var(c, token_vars[i], values[i]));
    err = chat_lex(&c->arena, source, len, &tokens, msg);
    if (err == ERR_OK)
        err = chat_parse(c, &tokens, msg);
    mem_free(tokens.v);
    return err;
}

static enum err compile_new(const char *source, size_t len, const char *const values[N_TOKEN_VARS],
                            struct err_msg *msg, struct engine_chat **out)
{
    struct err_msg why = {""};
    struct engine_chat *c;
    enum err err;

    if (len > CHAT_SOURCE_MAX)
        return err_set(msg, ERR_LIMIT, "chat template: larger than %d KiB", CHAT_SOURCE_MAX >> 10);
    if (!tok_utf8_valid(source, len))
        return err_set(msg, ERR_INVALID, "chat template: not UTF-8");
    c = mem_try_calloc(1, sizeof(*c));
    if (c == NULL)
        return err_set(msg, ERR_NOMEM, "chat template: out of memory");
    c->arena.limit = ARENA_COMPILE_MAX;
    err = compile(c, source, len, values, &why);
    if (err == ERR_OK) {
        *out = c;
        return ERR_OK;
    }
    engine_chat_close(c);
    return err_set(msg, err, "%s",
                   why.text[0] != '\0' ? why.text
                   : err == ERR_NOMEM  ? "chat template: out of memory"
                                       : "chat template: too large or too many names");
}

enum err engine_chat_compile(const char *source, size_t len, const char *bos, const char *eos,
                             struct err_msg *msg, struct engine_chat **out)
{
    const char *values[N_TOKEN_VARS] = {bos, eos};

    return compile_new(source, len, values, msg, out);
}

/* The template inside tokenizer_config.json: a string, or the "default" of a list. */
static const json_t *config_template(const json_t *config)
{
    const json_t *j = json_object_get(config, "chat_template"), *one;
    size_t i;

    json_array_foreach(j, i, one)
    {
        const char *name = json_string_value(json_object_get(one, "name"));

        if (name != NULL && strcmp(name, "default") == 0)
            return json_object_get(one, "template");
    }
    return j;
}

enum err engine_chat_open(const char *dir, struct err_msg *msg, struct engine_chat **out)
{
    const char *values[N_TOKEN_VARS] = {NULL};
    struct buf file = BUF_INIT;
    json_t *config = NULL;
    const json_t *source;
    enum err err = engine_tok_read_config(dir, &config, msg), file_err;

    if (err != ERR_OK && err != ERR_NOT_FOUND)
        return err;
    for (size_t i = 0; i < N_TOKEN_VARS; i++)
        values[i] = engine_tok_config_name(config, token_vars[i]);
    source = config_template(config);
    file_err = engine_tok_read_file(dir, "chat_template.jinja", CHAT_SOURCE_MAX, &file, msg);
    if (file_err == ERR_OK) /* a file of its own goes before the one in the configuration */
        err = compile_new(file.len > 0 ? buf_bytes(&file) : "", file.len, values, msg, out);
    else if (file_err != ERR_NOT_FOUND)
        err = file_err;
    else if (json_is_string(source))
        err = compile_new(json_string_value(source), json_string_length(source), values, msg, out);
    else if (source == NULL || json_is_null(source))
        err = err_set(msg, ERR_NOT_FOUND,
                      "%s: no chat template: neither chat_template.jinja nor \"chat_template\" in "
                      "tokenizer_config.json",
                      dir);
    else
        err = err_set(
            msg, ERR_INVALID,
            "%s/tokenizer_config.json: \"chat_template\" is neither a string nor a list with "
            "a \"default\"",
            dir);
    buf_free(&file);
    json_decref(config);
    return err;
}

void engine_chat_close(struct engine_chat *c)
{
    if (c == NULL)
        return;
    chat_arena_free(&c->arena);
    mem_free(c);
}

static enum err make_messages(struct chat_run *r, const struct engine_chat_message *messages,
                              size_t n, struct chat_val *out)
{
    struct chat_list *list;

    CHAT_TRY(chat_list_new(r, false, &list));
    for (size_t i = 0; i < n; i++) {
        struct chat_map *map = chat_alloc(&r->arena, sizeof(*map));
        struct chat_str role = {messages[i].role, strlen(messages[i].role), CHAT_TAINT_ALL};
        struct chat_str content = {messages[i].content, messages[i].content_len, CHAT_TAINT_ALL};

        if (map == NULL)
            return r->arena.err;
        if (!tok_utf8_valid(role.p, role.n) || !tok_utf8_valid(content.p, content.n))
            return err_set(r->msg, ERR_INVALID, "message %zu is not UTF-8", i);
        CHAT_TRY(chat_map_put(r, map, chat_lit("role"), chat_string(role)));
        CHAT_TRY(chat_map_put(r, map, chat_lit("content"), chat_string(content)));
        CHAT_TRY(chat_list_push(r, list, (struct chat_val){.type = CHAT_MAP, .u = {.map = map}}));
    }
    *out = (struct chat_val){.type = CHAT_LIST, .u = {.list = list}};
    return ERR_OK;
}

static enum err run(struct chat_run *r, const struct engine_chat_message *messages, size_t n,
                    bool add_generation_prompt)
{
    const struct engine_chat *c = r->c;
    struct chat_val v;

    CHAT_TRY(make_messages(r, messages, n, &v));
    CHAT_TRY(chat_scope_set(r, r->top, c->messages_name, v));
    CHAT_TRY(chat_scope_set(r, r->top, c->prompt_name, chat_bool(add_generation_prompt)));
    CHAT_TRY(chat_scope_set(r, r->top, c->tools_name, chat_none()));
    CHAT_TRY(chat_scope_set(r, r->top, c->documents_name, chat_none()));
    for (uint32_t i = 0; i < c->n_vars; i++)
        CHAT_TRY(chat_scope_set(r, r->top, c->vars[i].name, c->vars[i].val));
    return chat_exec(r, c->body);
}

enum err engine_chat_render(const struct engine_chat *c, const struct engine_chat_message *messages,
                            size_t n, bool add_generation_prompt, long long date, struct buf *out,
                            size_t **spans, size_t *n_spans, struct err_msg *msg)
{
    struct err_msg why = {""};
    struct chat_scope top = {0};
    struct chat_sink sink = {.text = BUF_INIT};
    struct chat_run r = {
        .c = c, .msg = &why, .scope = &top, .top = &top, .sink = &sink, .date = date};
    size_t limit = ARENA_RUN_MAX;
    enum err err;

    for (size_t i = 0; i < n; i++)
        limit += messages[i].content_len < ((size_t)1 << 32) ? 8 * messages[i].content_len : 0;
    r.arena.limit = limit;
    err = run(&r, messages, n, add_generation_prompt);
    chat_arena_free(&r.arena);
    if (err == ERR_OK)
        err = buf_append(out, sink.text.len > 0 ? buf_bytes(&sink.text) : "", sink.text.len);
    if (err != ERR_OK) {
        chat_sink_free(&sink);
        return err_set(msg, err, "%s",
                       why.text[0] != '\0' || err == ERR_INVALID ? why.text
                       : err == ERR_NOMEM                        ? "chat template: out of memory"
                                          : "chat template: too much memory");
    }
    *spans = sink.spans;
    *n_spans = sink.n_spans;
    buf_free(&sink.text);
    return ERR_OK;
}

enum err engine_chat_encode(const struct engine_tok *t, const char *text, size_t len,
                            const size_t *spans, size_t n_spans, struct engine_ids *ids)
{
    return engine_tok_encode_spans(t, text, len, ENGINE_TOK_PARSE_SPECIAL, spans, n_spans, ids);
}
