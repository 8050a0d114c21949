/* engine/cuda/cuda_open.h - private to engine/cuda: what opening does on each rank, in this order.
 *
 * Thread: the rank's, but cuda_open_group and cuda_open_undo: the engine's.  Each fills r->msg when it fails. */
#ifndef ENGINE_CUDA_CUDA_OPEN_H
#define ENGINE_CUDA_CUDA_OPEN_H

#include "engine/cuda/cuda_engine.h"

enum err cuda_open_device(struct cuda_rank *r, void *unused);
MUST_USE enum err cuda_open_group(struct cuda_engine *e, struct err_msg *msg);
enum err cuda_open_comm(struct cuda_rank *r, void *unused);
/* What it needs, and in need.kv_blocks how many blocks it has room for. */
enum err cuda_open_sizes(struct cuda_rank *r, void *unused);
enum err cuda_open_memory(struct cuda_rank *r, void *unused);
enum err cuda_open_weights(struct cuda_rank *r, void *unused);
enum err cuda_open_tables(struct cuda_rank *r, void *unused);
enum err cuda_open_graphs(struct cuda_rank *r, void *unused);
/* What the ranks do together on the way out. */
enum err cuda_close_comm(struct cuda_rank *r, void *unused);
/* The rest, but the device itself, which owns the host memory. */
void cuda_open_undo(struct cuda_rank *r);

#endif
