/* daemon/frontend.h - the front end: OpenAI requests in, tokens out.  Routes, tokenizing, generations,
 * streaming, cancel, resume.
 *
 * A call is one HTTP exchange; it owns n x prompts generations.  A call whose client has left cancels its
 * generations and is gone as soon as nothing off the loop refers to it.
 *
 * Thread     the loop's; long texts are tokenized on libuv's pool.
 * Ownership  borrows config, tokenizer, template and hub, which outlive it. */
#ifndef DAEMON_FRONTEND_H
#define DAEMON_FRONTEND_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "daemon/config.h"
#include "daemon/http.h"
#include "daemon/hub.h"
#include "engine/engine_chat.h"
#include "engine/engine_model.h"
#include "engine/engine_tok.h"

struct uv_loop_s;
struct daemon_frontend;

struct daemon_frontend_config {
    struct uv_loop_s *loop;
    const struct daemon_config *config;
    const struct engine_tok *tok;   /* NULL: token ids only */
    const struct engine_chat *chat; /* NULL: the model has no template; chat_why says so */
    const char *chat_why;
    const struct engine_model_config *model;
    uint32_t max_context;
    uint32_t vocab;
};

MUST_USE enum err daemon_frontend_create(const struct daemon_frontend_config *c,
                                         struct err_msg *msg, struct daemon_frontend **out);
/* The hooks to create the hub with; their arg is the front end.  Then give it the hub. */
void daemon_frontend_hooks(struct daemon_hub_hooks *hooks);
void daemon_frontend_set_hub(struct daemon_frontend *f, struct daemon_hub *hub);
MUST_USE enum err daemon_frontend_listen(struct daemon_frontend *f, const char *host, uint16_t port,
                                         uint16_t *bound, struct err_msg *msg);
/* Call when the hub's on_pool_change hook runs. */
void daemon_frontend_pool_changed(struct daemon_frontend *f);
/* Something about workers changed that the supervisor knows: shown by /health until NULL. */
void daemon_frontend_set_trouble(struct daemon_frontend *f, const char *text);
/* The records file was moved away: go on in a new one of its name. */
void daemon_frontend_reopen(struct daemon_frontend *f);
/* Take no new work; running streams go on. */
void daemon_frontend_drain(struct daemon_frontend *f);
uint32_t daemon_frontend_calls(const struct daemon_frontend *f); /* live */
/* Bytes of answers that wait for their clients. */
uint64_t daemon_frontend_unsent(const struct daemon_frontend *f);
/* Cut what is left, free in a later loop turn. */
void daemon_frontend_close(struct daemon_frontend *f);

#endif
