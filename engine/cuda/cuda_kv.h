/* engine/cuda/cuda_kv.h - private to engine/cuda: the pool as the KV transfer and the parking lot see it.
 *
 *   cuda_kv_open (the engine is ready to step) -> jobs, copies ... -> cuda_kv_close
 *
 * Jobs of the transfer (proto/kv_memory.h) run on two streams of each device, one for what leaves and one for
 * what comes, beside the steps' stream; a thread for each direction waits for the oldest job and reports it.
 *
 * Thread     the operations of kv_memory: the transfer's; cuda_kv_copy: the stepping one.
 * Ownership  of the engine. */
#ifndef ENGINE_CUDA_CUDA_KV_H
#define ENGINE_CUDA_CUDA_KV_H

#include "engine/cuda/cuda_engine.h"
#include "proto/kv_memory.h"

/* ERR_NOMEM, ERR_DEVICE. */
MUST_USE enum err cuda_kv_open(struct cuda_engine *e, struct cuda_kv **out, struct err_msg *msg);
const struct kv_memory *cuda_kv_memory(const struct cuda_kv *k); /* NULL for NULL */
/* engine_kv_copy: one block, whole when it returns. */
enum err cuda_kv_copy(struct engine *e, uint32_t block, void *host, enum engine_kv_dir dir);
/* Jobs that have not ended end with ERR_DEVICE.  NULL is fine. */
void cuda_kv_close(struct cuda_kv *k);

#endif
