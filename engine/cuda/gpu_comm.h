/* engine/cuda/gpu_comm.h - collectives between the devices of one worker: ranks are threads, each with its device.
 *
 *   gpu_comm_group_create, once -> every rank: gpu_comm_open -> all_reduce / all_gather ... wait ... -> gpu_comm_close
 *                                                                            -> gpu_comm_group_destroy, once
 *
 * Every rank enqueues the same collectives in the same order, each on one stream of its own; they run when all
 * ranks' streams have come there.  A rank that never comes would keep the others' devices busy for ever: so whoever
 * waits for work that has collectives in it waits by gpu_comm_wait.
 *
 * One rank's trouble is everybody's: gpu_comm_abort, an error of the library, or a wait that reaches its deadline ends
 * the group.  Every rank's wait then returns ERR_DEVICE within milliseconds, its device is released, and every
 * later call returns ERR_DEVICE.  That is final; what the collectives left in memory is undefined.
 *
 * Thread     a rank's calls come from its own thread; gpu_comm_abort from any.
 * Ownership  the caller owns device memory; graphs with collectives in them are destroyed before gpu_comm_close.
 * Blocking   open and close wait for the other ranks, wait for the device: all of them at most until the deadline.
 *            all_reduce and all_gather only enqueue and may be captured in a graph (each first run of a kind outside
 *            of a capture, please: the library connects then). */
#ifndef ENGINE_CUDA_GPU_COMM_H
#define ENGINE_CUDA_GPU_COMM_H

#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "engine/gpu.h"

#ifdef __cplusplus
extern "C" {
#endif

struct gpu_comm_group; /* all ranks of the process */
struct gpu_comm;       /* one of them */

enum { GPU_COMM_MAX = 64 };

/* deadline_ms: how long open, close and an enqueueing call may wait for other ranks.
 * ERR_INVALID: no ranks, too many, no deadline.  ERR_NOT_FOUND, ERR_UNSUPPORTED: no NCCL that fits (engine/cuda/gpu_lib.h;
 * msg says where it was looked for); one rank alone needs none.  ERR_DEVICE, ERR_NOMEM. */
MUST_USE enum err gpu_comm_group_create(uint32_t n_ranks, uint32_t deadline_ms, struct err_msg *msg,
                                        struct gpu_comm_group **out);
/* Every rank has closed.  NULL is fine. */
void gpu_comm_group_destroy(struct gpu_comm_group *group);
void gpu_comm_abort(struct gpu_comm_group *group); /* any thread; NULL is fine */

/* All ranks at about the same time, each with its own device.  ERR_DEVICE: one of them failed or stayed away. */
MUST_USE enum err gpu_comm_open(struct gpu_comm_group *group, uint32_t rank, struct gpu *g,
                                struct err_msg *msg, struct gpu_comm **out);
void gpu_comm_close(struct gpu_comm *c); /* NULL is fine */

/* data[i] becomes the sum of all ranks' data[i], the same on all; additions in fp32, rounded to the type at
 * least once, at most once per rank.  n elements. */
MUST_USE enum err gpu_comm_all_reduce(struct gpu_comm *c, void *data, size_t n,
                                      enum gpu_dtype dtype, gpu_stream stream);
/* out: [n_ranks][bytes], rank by rank; bytes % 4 == 0, the same on all ranks.  in may be the rank's own place in out. */
MUST_USE enum err gpu_comm_all_gather(struct gpu_comm *c, void *out, const void *in, size_t bytes,
                                      gpu_stream stream);

/* As gpu_event_wait, but ERR_DEVICE soon after the group has ended, and a deadline that passes ends it: ERR_DEVICE. */
MUST_USE enum err gpu_comm_wait(struct gpu_comm *c, gpu_event e, uint64_t deadline_ns);

#ifdef __cplusplus
}
#endif
#endif
