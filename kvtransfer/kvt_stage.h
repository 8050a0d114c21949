/* kvtransfer/kvt_stage.h - staging: pinned host buffers, and the asynchronous copies between them and a pool
 * in device memory (proto/kv_memory.h).  Internal to kvtransfer.
 *
 *   kvt_stage_open -> (kvt_copy_new -> kvt_copy_add ... -> kvt_copy_start -> over -> kvt_copy_free) ...
 *                  -> kvt_stage_idle -> kvt_stage_close
 *
 * A copy has a buffer of KVT_MESSAGE_MAX bytes from its birth until it is freed (a digest has none).  Those that come out of the
 * pool have buffers of their own and those that go in have others, because the former wait for peers and
 * the latter for the device alone: so neither keeps the other from ending.
 *
 * A copy that does not end by its deadline is over with ERR_DEVICE; its buffer, and for copies in the slots it
 * writes to, stay out of use until the device has said that it is done.
 *
 * Thread: the loop's.  Callbacks run from the loop, or from kvt_stage_sweep, never inside kvt_copy_start. */
#ifndef KVTRANSFER_KVT_STAGE_H
#define KVTRANSFER_KVT_STAGE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "proto/kv_memory.h"

struct uv_loop_s;
struct kvt_stage;
struct kvt_copy;

enum kvt_copy_dir {
    KVT_COPY_OUT = 0,
    KVT_COPY_IN,
    KVT_COPY_DIRS,
    KVT_COPY_DIGEST = KVT_COPY_DIRS /* of what is in the pool: no buffer, no bytes */
};

struct kvt_copy_owner {
    void *arg;
    /* Once, unless the copy was abandoned.  ERR_OK: digest and buffer are there, and the owner frees the
     * copy; else it is gone for the owner when this returns. */
    void (*over)(void *arg, struct kvt_copy *c, enum err err);
    /* Once, after over or instead of it: the device does not touch the pool any more.  May be NULL. */
    void (*gone)(void *arg);
};

/* memory: `bytes` of host memory, page-aligned, that outlives the stage.  ERR_NOMEM; ERR_INVALID: too few
 * bytes; ERR_DEVICE: they cannot be pinned (msg). */
MUST_USE enum err kvt_stage_open(struct uv_loop_s *loop, const struct kv_memory *device,
                                 uint8_t *memory, size_t bytes, struct err_msg *msg,
                                 struct kvt_stage **out);
/* True if no copy is alive, and nobody is about to say so. */
bool kvt_stage_idle(const struct kvt_stage *st);
/* Idle.  Freed in a later loop turn; the memory is not used any more when this returns. */
void kvt_stage_close(struct kvt_stage *st);

/* Buffers that are free in this direction. */
uint32_t kvt_stage_room(const struct kvt_stage *st, enum kvt_copy_dir dir);
/* The device has let a deadline pass and still holds every buffer of this direction. */
bool kvt_stage_stuck(const struct kvt_stage *st, enum kvt_copy_dir dir);
/* Buffers that are held by copies whose deadline has passed, both directions. */
uint32_t kvt_stage_quarantined(const struct kvt_stage *st);
/* End what is past its deadline. */
void kvt_stage_sweep(struct kvt_stage *st, uint64_t now);

/* NULL: no buffer is free, or no memory. */
struct kvt_copy *kvt_copy_new(struct kvt_stage *st, enum kvt_copy_dir dir);
uint8_t *kvt_copy_buffer(struct kvt_copy *c); /* KVT_MESSAGE_MAX bytes */
/* false: no memory. */
MUST_USE bool kvt_copy_add(struct kvt_copy *c, const struct kv_memory_run *run);
/* At least one run was added.  ready: for copies out, the engine's ticket.  ERR_NOMEM: nothing was started,
 * and the copy is freed.  Every other failure comes through over. */
MUST_USE enum err kvt_copy_start(struct kvt_copy *c, uint64_t ready, uint64_t deadline_ns,
                                 const struct kvt_copy_owner *owner);
uint64_t kvt_copy_digest(const struct kvt_copy *c);
/* Started and not over: nobody wants to know any more; only gone still comes. */
void kvt_copy_abandon(struct kvt_copy *c);
/* Never started, or over with ERR_OK. */
void kvt_copy_free(struct kvt_copy *c);

#endif
