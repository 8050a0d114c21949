/* engine/kernels/kv_move.h - runs of KV in device memory to one dense buffer (kv_gather), and back (kv_scatter).
 *
 *   base    of the part that the runs are in, in device memory
 *   dense   pinned host memory (the device reaches it over the bus), or device memory
 *   runs    [n_runs] in device memory (pinned host memory would do, but every piece then waits for the bus): run i
 *           is the bytes at .. at + len of the part and host .. host + len of dense; all three multiples of 4.
 *           part, canonical and salt are not looked at
 *
 * The runs of a launch are disjoint on the side that is written; `longest` is the greatest len, by which work is
 * divided.  Runs whose addresses and len are multiples of 16 move 16 bytes at a time.  The runs are trusted to lie
 * in the part and in the buffer.
 *
 * At most `blocks` blocks (0: KV_MOVE_BLOCKS) of 256 threads, so that the other SMs go on computing.  A block has
 * 16 KiB on the way: over the bus (64 GB/s, 1.5 us) 8 are enough, between places in device memory each moves
 * some 15 GB/s.
 *
 * kv_gather() and kv_scatter() only enqueue.  ERR_INVALID: longest 0 with runs, or n_runs pieces of 16 KiB above
 * 2^31; n_runs 0 does nothing.  ERR_DEVICE: the launch was refused.
 * Move each byte once; bound by the bus, or by the few blocks. */
#ifndef ENGINE_KERNELS_KV_MOVE_H
#define ENGINE_KERNELS_KV_MOVE_H

#include <stdint.h>

#include "base/err.h"
#include "engine/gpu.h"
#include "proto/kv_memory.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { KV_MOVE_BLOCKS = 12 };

struct kv_move_args {
    void *base, *dense;
    const struct kv_memory_run *runs;
    uint32_t n_runs, blocks;
    uint64_t longest;
};

MUST_USE enum err kv_gather(const struct kv_move_args *a, gpu_stream stream);
MUST_USE enum err kv_scatter(const struct kv_move_args *a, gpu_stream stream);

/* The same, in host memory. */
void kv_gather_ref(const struct kv_move_args *a);
void kv_scatter_ref(const struct kv_move_args *a);

#ifdef __cplusplus
}
#endif
#endif
