/* engine/kernels/kv_digest.h - the digest of runs of KV in device memory: wire_kv_digest(), where the bytes are.
 *
 *   base    of the part that the runs are in
 *   runs    [n_runs] in device memory (pinned host memory would do, but every piece then waits for the bus): at,
 *           len, canonical and salt are used, all but the salt multiples of 4; part and host are not looked at
 *   digest  device memory: becomes the sum (mod 2^64) over the runs of
 *           wire_kv_digest(base + at, len, canonical, salt), to the bit
 *
 * Runs of any length may be mixed; `longest` is the greatest len, by which work is divided.  Runs whose address and
 * len are multiples of 16 are read 16 bytes at a time.  The runs are trusted to lie in the part.
 *
 * kv_digest() only enqueues (a fill of `digest`, and a kernel of at most `blocks` blocks; 0: as many as are of use).
 * ERR_INVALID: longest 0 with runs, or n_runs pieces of 16 KiB above 2^31; n_runs 0 gives the digest 0.
 * ERR_DEVICE: the launch was refused.
 * Reads the bytes of the runs once; bound by memory. */
#ifndef ENGINE_KERNELS_KV_DIGEST_H
#define ENGINE_KERNELS_KV_DIGEST_H

#include <stdint.h>

#include "base/err.h"
#include "engine/gpu.h"
#include "proto/kv_memory.h"

#ifdef __cplusplus
extern "C" {
#endif

struct kv_digest_args {
    const void *base;
    const struct kv_memory_run *runs;
    uint32_t n_runs, blocks;
    uint64_t longest;
    uint64_t *digest;
};

MUST_USE enum err kv_digest(const struct kv_digest_args *a, gpu_stream stream);

/* The same, of host memory. */
uint64_t kv_digest_ref(const void *base, const struct kv_memory_run *runs, uint32_t n_runs);

#ifdef __cplusplus
}
#endif
#endif
