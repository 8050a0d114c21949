/* daemon/worker_role.h - the prefill and the decode role behind one set of verbs, for the worker process
 * that carries either.  Contracts: prefill/prefill.h, decode/decode.h. */
#ifndef DAEMON_WORKER_ROLE_H
#define DAEMON_WORKER_ROLE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "daemon/worker.h"
#include "engine/engine.h"
#include "kvtransfer/kvt.h"
#include "proto/wire_frame.h"

struct uv_loop_s;
struct daemon_role;

struct daemon_role_config {
    enum daemon_worker_role role;
    struct uv_loop_s *loop;
    struct engine *engine;
    struct kvt_node *kvt;
    uint32_t n_blocks;
    uint64_t park_bytes; /* decode: decode_config.park_bytes */
    void *arg;
    void (*to_scheduler)(void *arg, enum wire_type t, const ProtobufCMessage *m);
    void (*to_frontend)(void *arg, uint32_t frontend, const Baton__Tokens *m);
    void (*on_broken)(void *arg, const char *why);
};

MUST_USE enum err daemon_role_create(const struct daemon_role_config *c, struct daemon_role **out);
/* self: this worker's id.  *frontend: whom the message's request belongs to, 0 if it names none.  false: no message of this role. */
bool daemon_role_on_frame(struct daemon_role *r, uint32_t self, enum wire_type t,
                          const ProtobufCMessage *m, uint32_t *frontend);
void daemon_role_cancel_all(struct daemon_role *r);
void daemon_role_cancel_frontend(struct daemon_role *r, uint32_t frontend);
/* Once per report: what it moves out is not reported again.  Arrays are valid until the next call. */
void daemon_role_report(struct daemon_role *r, Baton__Report *m);
/* false: nothing to tell. */
bool daemon_role_progress(struct daemon_role *r, Baton__DecodeProgress *m);
uint32_t daemon_role_park_blocks(const struct daemon_role *r); /* 0: it parks nobody */
uint32_t daemon_role_live(const struct daemon_role *r);
void daemon_role_destroy(struct daemon_role *r); /* NULL is fine */

#endif
