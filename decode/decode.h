/* decode/decode.h - the decode role of a worker: grants blocks, takes hand-overs, and generates tokens in
 * one continuous batch.
 *
 *   decode_create -> decode_on_* (messages) -> decode_destroy
 *
 * A request is in one state: GRANTED (blocks set aside, waits for a verified hand-over), RUNNING (in the
 * batch), LEAVING (canceled while a step runs), QUARANTINED (ended, but something may still write to its blocks).  Nothing is decoded from a block
 * that has not been verified.  Every request given by decode_on_reserve is answered by one GRANTED message
 * (refused or not) and ends with exactly one RELEASED message, when its blocks are free again.
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
    void *arg;
    void (*to_scheduler)(void *arg, enum wire_type t, const ProtobufCMessage *m);
    void (*to_frontend)(void *arg, uint32_t frontend, const Baton__Tokens *m);
    void (*on_broken)(void *arg, const char *why);
};

MUST_USE enum err decode_create(const struct decode_config *c, struct decode **out);
void decode_on_reserve(struct decode *d, const Baton__Reserve *m);
void decode_on_cancel(struct decode *d, const Baton__Cancel *m);
void decode_cancel_all(struct decode *d);
/* Cancel what belongs to one front end: its connection is gone. */
void decode_cancel_frontend(struct decode *d, uint32_t frontend);
void decode_report(const struct decode *d, Baton__Report *m);
/* Requests of the batch and how many tokens each has in all (the first one included), for DECODE_PROGRESS; arrays are valid until the next call. */
void decode_progress(struct decode *d, Baton__DecodeProgress *m);
uint32_t decode_live(const struct decode *d);
void decode_destroy(struct decode *d);

#endif
