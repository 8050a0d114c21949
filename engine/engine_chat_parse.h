/* engine/engine_chat_parse.h - what the two halves of the template parser share. */
#ifndef ENGINE_ENGINE_CHAT_PARSE_H
#define ENGINE_ENGINE_CHAT_PARSE_H

#include "engine/engine_chat_impl.h"

struct chat_parser {
    struct engine_chat *c;
    const struct chat_token *t; /* the current token; the list ends with CHAT_T_END */
    struct err_msg *msg;
    int depth;
    int loops;                  /* for loops around the current place */
    struct chat_node **scratch; /* stack of nodes whose parent is being parsed */
    size_t n_scratch, cap_scratch;
    uint32_t macros[64]; /* names of macros seen so far */
    size_t n_macros;
    const struct chat_node *calls; /* calls of names to check at the end, linked by e */
};

/* Expressions, engine_chat_expr.c. */
MUST_USE enum err chat_parse_expr(struct chat_parser *p, struct chat_node **out);
/* a, b, c as a tuple, or one expression.  with_cond false: "if" ends it. */
MUST_USE enum err chat_parse_tuple(struct chat_parser *p, bool with_cond, struct chat_node **out);
/* name, name.attr (a namespace's), or (a, b) for unpacking. */
MUST_USE enum err chat_parse_target(struct chat_parser *p, struct chat_node **out);

/* Shared. */
bool chat_at_op(const struct chat_parser *p, int op);
bool chat_at_name(const struct chat_parser *p, const char *name);
bool chat_skip_op(struct chat_parser *p, int op);
bool chat_skip_name(struct chat_parser *p, const char *name);
MUST_USE enum err chat_need_op(struct chat_parser *p, int op);
MUST_USE enum err chat_syntax(struct chat_parser *p, const char *expected);
MUST_USE enum err chat_unsupported(struct chat_parser *p, int line, const char *what, const char *s,
                                   size_t n);
MUST_USE enum err chat_node_new(struct chat_parser *p, enum chat_node_type type,
                                struct chat_node **out);
/* Set the height of n from its parts; ERR_LIMIT if it is too high. */
MUST_USE enum err chat_node_done(struct chat_parser *p, struct chat_node *n);
MUST_USE enum err chat_scratch_push(struct chat_parser *p, struct chat_node *n);
/* Give n the nodes pushed since mark as kids. */
MUST_USE enum err chat_scratch_take(struct chat_parser *p, size_t mark, struct chat_node *n);
MUST_USE enum err chat_nest(struct chat_parser *p); /* p->depth-- undoes it */

#endif
