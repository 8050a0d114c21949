/* engine/engine_chat_impl.h - what the files of the template engine share.  Not for use outside
 * engine_chat*.
 *
 *   source -> (lex) tokens -> (parse) nodes -> frozen;  nodes + messages -> (exec, eval) text + spans
 *
 * Ownership  compile-time objects live in the arena of engine_chat, run-time ones in that of chat_run;
 *            both are freed whole. */
#ifndef ENGINE_ENGINE_CHAT_IMPL_H
#define ENGINE_ENGINE_CHAT_IMPL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/err.h"
#include "engine/engine_chat.h"
#include "engine/engine_chat_value.h"

enum {
    CHAT_SOURCE_MAX = 64 << 10,
    CHAT_NEST_MAX = 32,    /* blocks and parentheses, while parsing */
    CHAT_HEIGHT_MAX = 128, /* of one node over its leaves: bounds the recursion of a run */
    CHAT_DEPTH_MAX = 320,  /* of a run, macros included */
    CHAT_NAMES_MAX = 1024,
    CHAT_STEPS_MAX = 1000000,
    CHAT_BYTES_PER_STEP = 64, /* how much string work counts as one step */
    CHAT_OUTPUT_MAX = 4 << 20,
    CHAT_VARS_MAX = 12,
};
#define CHAT_NO_NAME UINT32_MAX

#define CHAT_TRY(call)             \
    do {                           \
        enum err try_err = (call); \
        if (try_err != ERR_OK)     \
            return try_err;        \
    } while (0)

/* ---- the compiled template ------------------------------------------------------------------------- */

enum chat_op {
    CHAT_OP_NONE = 0,
    CHAT_ADD,
    CHAT_SUB,
    CHAT_MUL,
    CHAT_DIV,
    CHAT_FLOORDIV,
    CHAT_MOD,
    CHAT_CONCAT,
    CHAT_EQ,
    CHAT_NE,
    CHAT_LT,
    CHAT_LE,
    CHAT_GT,
    CHAT_GE,
    CHAT_IN,
    CHAT_NOT_IN,
};

enum chat_node_type {
    /* expressions */
    CHAT_N_CONST = 1, /* val */
    CHAT_N_NAME,      /* name */
    CHAT_N_LIST,      /* kids */
    CHAT_N_TUPLE,     /* kids */
    CHAT_N_DICT,      /* kids: key, value, key, value */
    CHAT_N_ATTR,      /* a . name */
    CHAT_N_ITEM,      /* a [b] */
    CHAT_N_SLICE,     /* a [b:c:d], each of b c d may be NULL */
    CHAT_N_CALL,      /* a (kids) with CHAT_N_KEYWORD among the kids, last */
    CHAT_N_METHOD,    /* a . code (kids) */
    CHAT_N_FILTER,    /* a | code (kids) */
    CHAT_N_TEST,      /* a is code (kids) */
    CHAT_N_KEYWORD,   /* name = a */
    CHAT_N_NOT,
    CHAT_N_NEG,
    CHAT_N_POS,
    CHAT_N_AND,
    CHAT_N_OR,
    CHAT_N_BINARY,  /* a op b */
    CHAT_N_COMPARE, /* a, then kids: CHAT_N_BINARY with op and b */
    CHAT_N_COND,    /* a if b else c; c may be NULL */
    /* statements */
    CHAT_N_BODY,      /* kids */
    CHAT_N_PRINT,     /* a */
    CHAT_N_IF,        /* if a: b, else c (NULL, a body, or another IF) */
    CHAT_N_FOR,       /* for target a in b if c: d, else e */
    CHAT_N_SET,       /* target a = b */
    CHAT_N_SET_BLOCK, /* target a = output of b */
    CHAT_N_MACRO,     /* name, kids: CHAT_N_KEYWORD parameters (a: default or NULL), b: body */
    CHAT_N_BREAK,
    CHAT_N_CONTINUE,
};

struct chat_node {
    enum chat_node_type type;
    enum chat_op op;
    int code; /* which filter, test or method */
    int line;
    int height;
    uint32_t name;
    struct chat_node *a, *b, *c, *d, *e;
    struct chat_node **kids;
    size_t n_kids;
    struct chat_val val;
};

struct chat_var {
    uint32_t name;
    struct chat_val val;
};

struct engine_chat {
    struct chat_arena arena;
    struct chat_node *body;
    struct chat_str *names; /* by number */
    uint32_t n_names;
    uint32_t n_vars;
    struct chat_var vars[CHAT_VARS_MAX]; /* bos_token and the like */
    uint32_t loop_name, messages_name, prompt_name, tools_name, documents_name;
};

/* The number of a name; ERR_LIMIT: too many. */
MUST_USE enum err chat_intern(struct engine_chat *c, const char *s, size_t n, uint32_t *out);

/* ---- lexer ------------------------------------------------------------------------------------------ */

enum chat_token_type {
    CHAT_T_END = 0,
    CHAT_T_TEXT, /* str */
    CHAT_T_BLOCK_BEGIN,
    CHAT_T_BLOCK_END,
    CHAT_T_PRINT_BEGIN,
    CHAT_T_PRINT_END,
    CHAT_T_NAME,   /* str */
    CHAT_T_STRING, /* str, escapes resolved */
    CHAT_T_INT,    /* i */
    CHAT_T_FLOAT,  /* f */
    CHAT_T_OP,     /* op: one character, or two as first * 256 + second */
};
struct chat_token {
    enum chat_token_type type;
    int line, op;
    struct chat_str str;
    long long i;
    double f;
};
struct chat_tokens {
    struct chat_token *v; /* mem_free */
    size_t n, cap;
};
MUST_USE enum err chat_lex(struct chat_arena *arena, const char *source, size_t len,
                           struct chat_tokens *out, struct err_msg *msg);
MUST_USE enum err chat_parse(struct engine_chat *c, const struct chat_tokens *tokens,
                             struct err_msg *msg);

/* ---- names of the language, tables in engine_chat_names.c -------------------------------------------- */

/* clang-format off */
#define CHAT_FILTERS(X)                                                                            \
    X(trim) X(tojson) X(default) X(d) X(length) X(count) X(join) X(upper) X(lower)                 \
    X(capitalize) X(first) X(last) X(items) X(list) X(string) X(int) X(float) X(abs) X(replace)    \
    X(map) X(select) X(reject) X(selectattr) X(rejectattr) X(reverse)
#define CHAT_TESTS(X)                                                                              \
    X(defined) X(undefined) X(none) X(string) X(mapping) X(sequence) X(iterable) X(number)         \
    X(integer) X(float) X(boolean) X(true) X(false) X(callable) X(odd) X(even) X(divisibleby)      \
    X(eq) X(equalto) X(ne) X(lt) X(le) X(gt) X(ge) X(in)
#define CHAT_METHODS(X)                                                                            \
    X(strip) X(lstrip) X(rstrip) X(split) X(startswith) X(endswith) X(upper) X(lower) X(title)     \
    X(capitalize) X(replace) X(join) X(find) X(count) X(removeprefix) X(removesuffix) X(items)     \
    X(keys) X(values) X(get) X(cycle)
#define CHAT_FUNCTIONS(X) X(raise_exception) X(strftime_now) X(range) X(namespace) X(dict)
/* clang-format on */

#define X(name) CHAT_FILTER_##name,
enum chat_filter { CHAT_FILTERS(X) CHAT_FILTER_COUNT };
#undef X
#define X(name) CHAT_TEST_##name,
enum chat_test { CHAT_TESTS(X) CHAT_TEST_COUNT };
#undef X
#define X(name) CHAT_METHOD_##name,
enum chat_method { CHAT_METHODS(X) CHAT_METHOD_COUNT };
#undef X
#define X(name) CHAT_FUNCTION_##name,
enum chat_function { CHAT_FUNCTIONS(X) CHAT_FUNCTION_COUNT };
#undef X

/* -1: not in the language built here. */
int chat_filter_find(const char *s, size_t n);
int chat_test_find(const char *s, size_t n);
int chat_method_find(const char *s, size_t n);
int chat_function_find(const char *s, size_t n);

/* ---- a run ------------------------------------------------------------------------------------------- */

struct chat_sink {
    struct buf text;
    size_t *spans; /* pairs */
    size_t n_spans, cap_spans;
};
void chat_sink_free(struct chat_sink *s);

struct chat_scope {
    struct chat_scope *parent;
    struct chat_var *vars;
    size_t n, cap;
};

enum chat_flow { CHAT_FLOW_ON = 0, CHAT_FLOW_BREAK, CHAT_FLOW_CONTINUE };

struct chat_run {
    const struct engine_chat *c;
    struct chat_arena arena;
    struct err_msg *msg;
    struct chat_scope *scope;
    struct chat_scope *top;
    struct chat_sink *sink;
    enum chat_flow flow;
    size_t steps;
    int depth;
    long long date;
};

/* Count work; ERR_LIMIT when a run has done too much. */
MUST_USE enum err chat_charge(struct chat_run *r, size_t bytes);
enum err chat_fail(struct chat_run *r, const struct chat_node *at, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

MUST_USE enum err chat_eval(struct chat_run *r, const struct chat_node *n, struct chat_val *out);
MUST_USE enum err chat_exec(struct chat_run *r, const struct chat_node *n);
MUST_USE enum err chat_call_macro(struct chat_run *r, const struct chat_node *call,
                                  const struct chat_node *macro, struct chat_val *out);
MUST_USE enum err chat_scope_set(struct chat_run *r, struct chat_scope *s, uint32_t name,
                                 struct chat_val val);

/* The arguments of a call, evaluated. */
enum { CHAT_ARGS_MAX = 8 };
struct chat_args {
    const struct chat_node *at;
    struct chat_val v[CHAT_ARGS_MAX]; /* positional */
    size_t n;
    uint32_t names[CHAT_ARGS_MAX]; /* keyword */
    struct chat_val named[CHAT_ARGS_MAX];
    size_t n_named;
};
MUST_USE enum err chat_args_eval(struct chat_run *r, const struct chat_node *n,
                                 struct chat_args *out);
/* Argument i, or the one called name; NULL: not given. */
const struct chat_val *chat_arg(const struct chat_run *r, const struct chat_args *args, size_t i,
                                const char *name);
MUST_USE enum err chat_filter(struct chat_run *r, enum chat_filter which, const struct chat_val *in,
                              const struct chat_args *args, struct chat_val *out);
MUST_USE enum err chat_test(struct chat_run *r, enum chat_test which, const struct chat_val *in,
                            const struct chat_args *args, bool *out);
MUST_USE enum err chat_method(struct chat_run *r, enum chat_method which, const struct chat_val *in,
                              const struct chat_args *args, struct chat_val *out);
MUST_USE enum err chat_function(struct chat_run *r, enum chat_function which,
                                const struct chat_args *args, struct chat_val *out);

#endif
