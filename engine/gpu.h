/* engine/gpu.h - the one way to a GPU outside of kernels: devices, memory, streams, events, graphs.
 *
 *   gpu_open -> alloc / stream / event / copy / graph ... -> gpu_close
 *
 * Work is enqueued on streams and runs later; a stream runs its work in order, two streams know nothing
 * of each other but by events.  No type of a vendor crosses this header: gpu_cuda.c implements it over
 * the CUDA runtime, tests/gpu/emu over host memory.
 *
 * Thread     a struct gpu belongs to the thread that opened it (it makes its device current there), but
 *            what is marked "any thread" may be called from others.
 * Ownership  memory, streams, events and graphs are freed by the caller before gpu_close.
 * Blocking   nothing waits for the device but gpu_event_wait, gpu_stream_wait and the frees.
 * Errors     ERR_DEVICE: the runtime refused or an earlier work has failed; its text is logged once and
 *            kept (gpu_trouble).  After it the device may not be used by this process any more: close
 *            everything and end.  ERR_TIMEOUT: the deadline of a wait passed; the work may still run. */
#ifndef ENGINE_GPU_H
#define ENGINE_GPU_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

#ifdef __cplusplus
extern "C" {
#endif

struct gpu;
typedef struct CUstream_st *gpu_stream;   /* a cudaStream_t, without its headers */
typedef struct CUevent_st *gpu_event;     /* a cudaEvent_t */
typedef struct CUgraphExec_st *gpu_graph; /* a cudaGraphExec_t */

/* The 16-bit types that activations, weights and KV are held in. */
enum gpu_dtype { GPU_BF16 = 1, GPU_F16 = 2 };

struct gpu_info {
    char name[96];
    char bus_id[32];       /* of the card: equal in two processes that share it */
    uint32_t major, minor; /* compute capability */
    uint32_t n_multiprocessors;
    uint64_t total_bytes, l2_bytes;
    uint32_t shared_bytes; /* most dynamic shared memory of a block */
};

/* ---- devices ---- */

/* Devices this process sees; 0 with the reason in msg. */
uint32_t gpu_count(struct err_msg *msg);
/* ERR_NOT_FOUND: no such device; ERR_UNSUPPORTED: this build has no code for it (both name it). */
MUST_USE enum err gpu_open(uint32_t device, struct err_msg *msg, struct gpu **out);
void gpu_close(struct gpu *g); /* NULL is fine */
const struct gpu_info *gpu_info(const struct gpu *g);
MUST_USE enum err gpu_memory(struct gpu *g, uint64_t *free_bytes, uint64_t *total_bytes);
/* Make g's device current on this thread, for helpers of its owner (any thread). */
MUST_USE enum err gpu_use(struct gpu *g);
/* The text of the first failure of this process's devices, "" if there was none.  Any thread. */
const char *gpu_trouble(void);
/* For libraries beside the runtime: `call` failed, with this text.  The first failure of the process is logged
 * and kept for gpu_trouble.  Returns ERR_DEVICE.  Any thread. */
enum err gpu_fail(const char *call, const char *text);
/* A device of this process hangs: a wait has reached its deadline.  From here on frees leave everything as it is,
 * since they would wait for ever; the end of the process frees it.  Any thread. */
void gpu_abandon(void);
/* Abandoned, or lost by an error that the process cannot get over.  Any thread. */
bool gpu_lost(void);

/* ---- memory ---- */

/* Device memory, 256-byte aligned, contents undefined.  ERR_NOMEM: not that much is free. */
MUST_USE enum err gpu_alloc(struct gpu *g, size_t bytes, void **out);
void gpu_free(struct gpu *g, void *p); /* waits for the device; NULL is fine */
/* Host memory that the device copies to and from without a detour.  ERR_NOMEM. */
MUST_USE enum err gpu_host_alloc(struct gpu *g, size_t bytes, void **out);
void gpu_host_free(struct gpu *g, void *p);
/* Make host memory that is there already as fit as that, for every device and for kernels, at the address it has.
 * Thread: any.  ERR_NOMEM: the system does not pin so much. */
MUST_USE enum err gpu_host_register(struct gpu *g, void *p, size_t bytes);
void gpu_host_unregister(struct gpu *g, void *p); /* NULL is fine */

enum gpu_copy_kind { GPU_TO_DEVICE = 1, GPU_TO_HOST, GPU_ON_DEVICE };
/* Host memory of an asynchronous copy must come from gpu_host_alloc and stay untouched until the stream
 * has passed it. */
MUST_USE enum err gpu_copy(void *dst, const void *src, size_t bytes, enum gpu_copy_kind kind,
                           gpu_stream s);
/* height pieces of width bytes, the starts pitch bytes apart. */
MUST_USE enum err gpu_copy_2d(void *dst, size_t dst_pitch, const void *src, size_t src_pitch,
                              size_t width, size_t height, enum gpu_copy_kind kind, gpu_stream s);
MUST_USE enum err gpu_fill(void *dst, uint8_t byte, size_t bytes, gpu_stream s);

/* ---- streams and events ---- */

/* high: its work goes before that of other streams where both are ready. */
MUST_USE enum err gpu_stream_create(struct gpu *g, bool high, gpu_stream *out);
void gpu_stream_destroy(gpu_stream s); /* NULL is fine */
/* Run fn on a thread of the runtime when the stream gets here; fn may not call gpu_*.  After a failure of the device it
 * is not called: nobody may rely on it alone. */
MUST_USE enum err gpu_stream_call(gpu_stream s, void (*fn)(void *arg), void *arg);
MUST_USE enum err gpu_stream_wait(gpu_stream s, uint64_t deadline_ns);

/* timed: gpu_event_ms may be asked for it. */
MUST_USE enum err gpu_event_create(struct gpu *g, bool timed, gpu_event *out);
void gpu_event_destroy(gpu_event e); /* NULL is fine */
MUST_USE enum err gpu_event_record(gpu_event e, gpu_stream s);
/* What is enqueued on s from now on runs after the last record of e.  Any thread. */
MUST_USE enum err gpu_stream_await(gpu_stream s, gpu_event e);
/* ERR_OK: the last record has been passed; ERR_TIMEOUT: not yet.  Any thread. */
MUST_USE enum err gpu_event_query(gpu_event e);
/* Sleep until it has been passed or clock_now_ns() reaches deadline_ns. */
MUST_USE enum err gpu_event_wait(gpu_event e, uint64_t deadline_ns);
/* Device milliseconds between two passed, timed events. */
MUST_USE enum err gpu_event_ms(gpu_event from, gpu_event to, float *ms);

/* ---- graphs ---- */

/* Between begin and end, what is enqueued on s (and on streams that wait for its events) is not run but
 * becomes the graph, with the pointers and sizes it has now.  Host memory is read at each launch. */
MUST_USE enum err gpu_capture_begin(gpu_stream s);
MUST_USE enum err gpu_capture_end(gpu_stream s, gpu_graph *out);
MUST_USE enum err gpu_graph_launch(gpu_graph graph, gpu_stream s);
void gpu_graph_destroy(gpu_graph graph); /* NULL is fine */

#ifdef __cplusplus
}
#endif
#endif
