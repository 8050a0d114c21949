/* proto/kv_memory.h - a KV pool in device memory, as the KV transfer sees it: where its parts are, and how
 * bytes get out of it, into it and are summed up, without anybody else touching it.
 *
 * The engine's backend provides one (the pool is allocated on its devices); kvtransfer uses it.  Three
 * operations, each asynchronous and each over a list of runs:
 *
 *   copy_out   runs of the pool -> pinned host buffer, and their digest
 *   copy_in    pinned host buffer -> runs of the pool, and then the digest of what stands in the pool
 *   digest     of runs of the pool, in place
 *
 *   pin host memory -> start a job -> done(job) -> ... -> unpin
 *
 * A job's digest is the sum (mod 2^64) over its runs of wire_kv_digest(bytes of the run in the pool, len,
 * canonical, salt), computed on the device.  copy_in reads back from the pool rather than from the
 * buffer: what counts is what arrived.
 *
 * Tickets.  `ready` is a number that the engine gave out (engine_layers_fn) and that stands for a point of
 * its streams: the job's reads happen after it, in stream order and on every device that holds a part;
 * nobody waits for it on the host.  0, and a ticket of long ago, are points that have passed.
 *
 * Thread     pin, unpin, start and abort: the thread of the transfer (never two at once).  done: any thread,
 *            possibly inside the call that starts the job; it only passes the job on.
 * Ownership  job, runs and host buffer belong to the caller, and to the device from the start until done
 *            has been called.
 * Blocking   start and abort never wait for the device.  pin and unpin may take milliseconds.
 * Units      bytes. */
#ifndef PROTO_KV_MEMORY_H
#define PROTO_KV_MEMORY_H

#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "proto/wire_kv.h"

enum {
    KV_MEMORY_RUNS_MAX = 256, /* of one job */
    KV_MEMORY_JOBS_MAX = 256, /* started and not done, over all three operations */
    KV_MEMORY_OWN = 8
};

enum kv_memory_kind {
    KV_MEMORY_DEVICE = 1, /* reached through the operations alone */
    KV_MEMORY_CUDA,       /* the bases are CUDA device pointers: UCX may reach them by itself */
    /* The bases are addresses that UCX can reach as it does host memory.  No backend provides it: over shared
     * memory UCX makes messages of puts into it, which its receiver has to answer (kvtransfer/README.md).  It is
     * how the tests get at the way that CUDA memory goes over RDMA. */
    KV_MEMORY_COHERENT
};

/* `len` contiguous bytes of one part.  at, len and canonical are multiples of 4; nothing more is promised
 * of their alignment, though runs of common models are multiples of 512 bytes. */
struct kv_memory_run {
    uint32_t part;
    uint64_t at;        /* from the base of the part */
    uint64_t host;      /* copies: from the job's host pointer */
    uint64_t len;       /* > 0 */
    uint64_t canonical; /* where they stand in their block (wire_kv.h) */
    uint64_t salt;      /* of their block */
};

struct kv_memory_job {
    /* in */
    const struct kv_memory_run *runs; /* 1 .. KV_MEMORY_RUNS_MAX, disjoint, inside the pool */
    uint32_t n_runs;
    void *host;     /* copies: inside memory that was pinned, 64-byte aligned */
    uint64_t ready; /* copy_out, digest */
    /* err: ERR_OK; ERR_DEVICE, the device failed; ERR_CANCELED, after abort.  Called exactly once, and
     * whatever err is, afterwards the device touches neither the runs nor the buffer. */
    void (*done)(struct kv_memory_job *job, enum err err);
    /* out, valid with ERR_OK */
    uint64_t digest;
    /* The device's own, from the start until done. */
    uint64_t own[KV_MEMORY_OWN];
};

struct kv_memory {
    enum kv_memory_kind kind;
    uint32_t parts;                /* as in the pool's layout */
    uint32_t n_blocks;             /* each part holds so many */
    void *base[WIRE_KV_PARTS_MAX]; /* of each part: for the engine and for UCX, never read here */
    char name[32];                 /* for messages: "cuda:0,1" */
    void *arg;                     /* of the operations */
    /* Make host memory fit for fast copies to every device that holds a part.  ERR_DEVICE. */
    enum err (*pin)(void *arg, void *host, size_t len, struct err_msg *msg);
    void (*unpin)(void *arg, void *host, size_t len);
    /* ERR_OK: done will be called.  Else (ERR_DEVICE) the job was not started and done is not called. */
    enum err (*copy_out)(void *arg, struct kv_memory_job *job);
    enum err (*copy_in)(void *arg, struct kv_memory_job *job);
    enum err (*digest)(void *arg, struct kv_memory_job *job);
    /* The result is not wanted any more: a job that has not begun may end with ERR_CANCELED at once.  It
     * is a hint; done is called once in any case. */
    void (*abort)(void *arg, struct kv_memory_job *job);
};

#endif
