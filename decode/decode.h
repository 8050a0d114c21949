/* decode/decode.h - the decode role of a worker: takes hand-overs, or computes prompts itself, and generates
 * tokens in one continuous batch.
 *
 *   decode_create -> decode_on_* (messages) -> decode_destroy
 *
 * A request is in one state (DECODE_STATE_MAP in decode_request.h): WAITING (for its blocks), GRANTED (blocks set
 * aside, waits for a verified hand-over), COMPUTING (its prompt is computed here, in pieces beside the batch),
 * RUNNING (decodes; or is parked, its KV in host memory, until there is room again), LEAVING (ended while a
 * step runs), QUARANTINED (ended, but something may still write to its blocks).  Nothing is decoded from
 * a block that has not been verified.  Every request given by decode_on_reserve is answered by one GRANTED
 * message (refused or not); every request ends with exactly one RELEASED message, when its blocks are free
 * again.
 *
 * Blocks are taken for what is there, the prompt, and then one at a time as the text grows.  Who waits, who is
 * skipped, who is parked so that others have room: scheduler/sched_batch.h, by the terms of each request.
 * When nobody can go on and nobody can be parked the loosest one is released with ERR_LIMIT, to be tried
 * elsewhere.
 *
 * The meta bytes of the hand-over (proto/wire_meta.h) carry what decode must know
 * beside the KV: the first token and its index.
 *
 * The engine runs on a thread of its own, which this module starts; requests join and leave the batch
 * between steps.  Tokens of one step go out as one frame per front end.
 *
 * Thread     all functions and the out hooks: the loop thread.
 * Ownership  the engine and the kvt node belong to the caller and outlive this object.
 * Blocking   decode_destroy waits for the step that runs to end. */
#ifndef DECODE_DECODE_H
#define DECODE_DECODE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "engine/engine.h"
#include "kvtransfer/kvt.h"
#include "proto/wire_frame.h"

struct uv_loop_s;
struct decode;

struct decode_config {
    struct uv_loop_s *loop;
    struct engine *engine; /* pool attached */
    struct kvt_node *kvt;
    uint32_t n_blocks;
    uint64_t
        park_bytes; /* host memory for parked KV, at most; taken as it is needed; 0: nobody is parked */
    void *arg;
    void (*to_scheduler)(void *arg, enum wire_type t, const ProtobufCMessage *m);
    void (*to_frontend)(void *arg, uint32_t frontend, const Baton__Tokens *m);
    void (*on_broken)(void *arg, const char *why);
};

MUST_USE enum err decode_create(const struct decode_config *c, struct decode **out);
void decode_on_reserve(struct decode *d, const Baton__Reserve *m);
/* The prompt is computed here, and decoded from then on if decode_worker is this worker, self; not if it
 * is 0; for any other it is refused. */
void decode_on_prefill(struct decode *d, uint32_t self, const Baton__Prefill *m);
void decode_on_cancel(struct decode *d, const Baton__Cancel *m);
void decode_cancel_all(struct decode *d);
/* Cancel what belongs to one front end: its connection is gone. */
void decode_cancel_frontend(struct decode *d, uint32_t frontend);
/* Moves the step samples out: each is reported once.  Arrays are valid until the next call. */
void decode_report(struct decode *d, Baton__Report *m);
/* Requests of the batch and how many tokens each has in all (the first one included), for DECODE_PROGRESS; arrays are valid until the next call. */
void decode_progress(struct decode *d, Baton__DecodeProgress *m);
uint32_t decode_park_blocks(const struct decode *d); /* that the park memory may hold */
uint32_t decode_live(const struct decode *d);
void decode_destroy(struct decode *d);

#endif
