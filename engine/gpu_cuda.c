/* engine/gpu_cuda.c - engine/gpu.h over the CUDA runtime, which is linked statically: a program with this file in it
 * starts on machines without a driver and says there that it found none.
 *
 * Every call of the runtime is wrapped in check(), the one place where its errors become ours. */
#include "engine/gpu.h"

#include <cuda_runtime_api.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <time.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"

#ifndef BATON_CUDA_ARCH
#define BATON_CUDA_ARCH 90 /* the compute capability that kernels are compiled for, times ten */
#endif

/* A wait asks without sleeping for as long as a wake-up would take, then sleeps a small share of what it has waited,
 * so that it ends late by that share at most. */
enum { SPIN_NS = 20000, SLEEP_MIN_NS = 5000, SLEEP_MAX_NS = 200000, SLEEP_SHARE = 256 };
enum { TIMER_SLACK_NS = 1000 }; /* the kernel's 50 us would be 1 % of a short decode step */

struct gpu {
    int device;
    struct gpu_info info;
};

/* ---- errors ---- */

/* Set by the first error that ends the life of the process's context: from then on the runtime answers everything
 * with it, frees included, which therefore need not be tried.  Set also for a device that hangs. */
static atomic_bool context_lost;

void gpu_abandon(void)
{
    atomic_store(&context_lost, true);
}

bool gpu_lost(void)
{
    return atomic_load(&context_lost);
}

/* Only these leave the context unusable; after all others the next call may work, though the step has failed. */
static bool is_sticky(cudaError_t e)
{
    return (e >= cudaErrorIllegalAddress && e <= cudaErrorLaunchTimeout &&
            e != cudaErrorLaunchOutOfResources) ||
           (e >= cudaErrorContextIsDestroyed && e <= cudaErrorAssert) ||
           (e >= cudaErrorHardwareStackError && e <= cudaErrorLaunchFailure) ||
           e == cudaErrorECCUncorrectable || e == cudaErrorNvlinkUncorrectable ||
           e == cudaErrorContained || e == cudaErrorTensorMemoryLeak ||
           e == cudaErrorExternalDevice || e == cudaErrorMpsRpcFailure ||
           e == cudaErrorMpsClientTerminated;
}

static enum err check(cudaError_t e, const char *call)
{
    char text[256];

    switch ((int)e) {
    case cudaSuccess:
        return ERR_OK;
    case cudaErrorNotReady:
        (void)
            cudaGetLastError(); /* an answer, which would else be found by the next check of a launch */
        return ERR_TIMEOUT;
    case cudaErrorMemoryAllocation:
        (void)cudaGetLastError();
        return ERR_NOMEM;
    default:
        break;
    }
    (void)cudaGetLastError();
    if (is_sticky(e))
        atomic_store(&context_lost, true);
    snprintf(text, sizeof(text), "%s (%s)%s", cudaGetErrorString(e), cudaGetErrorName(e),
             is_sticky(e) ? "; the device is lost to this process, which has to start again" : "");
    return gpu_fail(call, text);
}
#define CHECK(name, ...) check(name(__VA_ARGS__), #name)

/* Errors of opening are the caller's to report: nothing has failed that worked before. */
static enum err refuse(struct err_msg *msg, uint32_t device, const char *call, cudaError_t e)
{
    (void)cudaGetLastError();
    return err_set(msg, ERR_DEVICE, "GPU %u: %s: %s (%s)", device, call, cudaGetErrorString(e),
                   cudaGetErrorName(e));
}

/* ---- devices ---- */

/* Why the runtime sees no device.  A driver that is missing and one that is too old give the same error; the version
 * tells them apart. */
static void explain_none(cudaError_t e, struct err_msg *msg)
{
    int driver = 0;

    (void)cudaGetLastError();
    if (cudaDriverGetVersion(&driver) != cudaSuccess)
        driver = 0;
    (void)cudaGetLastError();
    if (driver == 0)
        err_set(msg, ERR_NOT_FOUND,
                "no CUDA driver: libcuda.so.1 could not be loaded; install the NVIDIA driver, or, "
                "in a container, "
                "start it with access to the GPU (--gpus all)");
    else if (driver / 1000 < CUDART_VERSION / 1000)
        err_set(msg, ERR_UNSUPPORTED,
                "the CUDA driver is too old: it serves CUDA %d.%d, and this program needs %d.0; "
                "update the NVIDIA "
                "driver (580 or newer for CUDA 13)",
                driver / 1000, driver % 1000 / 10, CUDART_VERSION / 1000);
    else if (e == cudaErrorNoDevice || e == cudaSuccess)
        err_set(msg, ERR_NOT_FOUND,
                "no CUDA device: the driver (CUDA %d.%d) works but shows none to this process; "
                "look at nvidia-smi and "
                "at CUDA_VISIBLE_DEVICES",
                driver / 1000, driver % 1000 / 10);
    else
        err_set(msg, ERR_DEVICE,
                "no usable CUDA device: %s (%s); look at nvidia-smi and at the kernel's log (NVRM)",
                cudaGetErrorString(e), cudaGetErrorName(e));
}

uint32_t gpu_count(struct err_msg *msg)
{
    int count = 0;
    cudaError_t e = cudaGetDeviceCount(&count);

    if (e != cudaSuccess || count <= 0) {
        explain_none(e, msg);
        return 0;
    }
    return (uint32_t)count;
}

static enum err describe(struct gpu *g, struct err_msg *msg)
{
    struct gpu_info *i = &g->info;
    struct cudaDeviceProp prop;
    uint32_t device = (uint32_t)g->device;
    cudaError_t e = cudaGetDeviceProperties(&prop, g->device);

    if (e != cudaSuccess)
        return refuse(msg, device, "cudaGetDeviceProperties", e);
    e = cudaDeviceGetPCIBusId(i->bus_id, sizeof(i->bus_id), g->device);
    if (e != cudaSuccess)
        return refuse(msg, device, "cudaDeviceGetPCIBusId", e);
    snprintf(i->name, sizeof(i->name), "%.*s", (int)sizeof(i->name) - 1, prop.name);
    i->major = (uint32_t)prop.major;
    i->minor = (uint32_t)prop.minor;
    i->n_multiprocessors = (uint32_t)prop.multiProcessorCount;
    i->total_bytes = prop.totalGlobalMem;
    i->l2_bytes = (uint64_t)prop.l2CacheSize;
    i->shared_bytes = (uint32_t)prop.sharedMemPerBlockOptin;
    if (i->major * 10 + i->minor < BATON_CUDA_ARCH)
        return err_set(
            msg, ERR_UNSUPPORTED,
            "GPU %u (%s) has compute capability %u.%u; this program has code for %d.%d and newer",
            device, i->name, i->major, i->minor, BATON_CUDA_ARCH / 10, BATON_CUDA_ARCH % 10);
    return ERR_OK;
}

enum err gpu_open(uint32_t device, struct err_msg *msg, struct gpu **out)
{
    struct err_msg none;
    uint32_t count = gpu_count(&none);
    struct gpu *g;
    enum err err;
    cudaError_t e;

    if (device >= count)
        return count == 0 ? err_set(msg, ERR_NOT_FOUND, "%s", none.text)
                          : err_set(msg, ERR_NOT_FOUND, "GPU %u: there %s %u here, counted from 0",
                                    device, count == 1 ? "is" : "are", count);
    g = mem_try_calloc(1, sizeof(*g));
    if (g == NULL)
        return err_set(msg, ERR_NOMEM, "GPU %u: out of host memory", device);
    g->device = (int)device;
    err = describe(g, msg);
    if (err == ERR_OK) { /* frees and the like sleep while they wait, too */
        e = cudaInitDevice(g->device, cudaDeviceScheduleBlockingSync, cudaInitDeviceFlagsAreValid);
        if (e == cudaErrorDevicesUnavailable)
            err = err_set(msg, ERR_DEVICE,
                          "GPU %u (%s) is in use by a process that has it alone (nvidia-smi -c)",
                          device, g->info.name);
        else if (e != cudaSuccess)
            err = refuse(msg, device, "cudaInitDevice", e);
    }
    if (err == ERR_OK && gpu_use(g) != ERR_OK)
        err = err_set(msg, ERR_DEVICE, "GPU %u: %s", device, gpu_trouble());
    if (err != ERR_OK) {
        mem_free(g);
        return err;
    }
    *out = g;
    return ERR_OK;
}

void gpu_close(struct gpu *g)
{
    mem_free(g);
}

const struct gpu_info *gpu_info(const struct gpu *g)
{
    return &g->info;
}

enum err gpu_memory(struct gpu *g, uint64_t *free_bytes, uint64_t *total_bytes)
{
    size_t free_now = 0, total = 0;
    enum err err = gpu_use(g);

    if (err == ERR_OK)
        err = CHECK(cudaMemGetInfo, &free_now, &total);
    *free_bytes = free_now;
    *total_bytes = total;
    return err;
}

enum err gpu_use(struct gpu *g)
{
    (void)prctl(PR_SET_TIMERSLACK, TIMER_SLACK_NS, 0, 0, 0);
    return CHECK(cudaSetDevice, g->device);
}

/* ---- memory ---- */

enum err gpu_alloc(struct gpu *g, size_t bytes, void **out)
{
    enum err err = CHECK(cudaSetDevice, g->device);

    return err != ERR_OK ? err : CHECK(cudaMalloc, out, bytes == 0 ? 1 : bytes);
}

void gpu_free(struct gpu *g, void *p)
{
    if (p == NULL || atomic_load(&context_lost) || CHECK(cudaSetDevice, g->device) != ERR_OK)
        return;
    (void)CHECK(cudaFree, p);
}

enum err gpu_host_alloc(struct gpu *g, size_t bytes, void **out)
{
    enum err err = CHECK(cudaSetDevice, g->device);

    return err != ERR_OK ? err
                         : CHECK(cudaHostAlloc, out, bytes == 0 ? 1 : bytes, cudaHostAllocPortable);
}

void gpu_host_free(struct gpu *g, void *p)
{
    if (p == NULL || atomic_load(&context_lost) || CHECK(cudaSetDevice, g->device) != ERR_OK)
        return;
    (void)CHECK(cudaFreeHost, p);
}

enum err gpu_host_register(struct gpu *g, void *p, size_t bytes)
{
    enum err err = CHECK(cudaSetDevice, g->device);

    return err != ERR_OK ? err
                         : CHECK(cudaHostRegister, p, bytes,
                                 cudaHostRegisterPortable | cudaHostRegisterMapped);
}

void gpu_host_unregister(struct gpu *g, void *p)
{
    if (p == NULL || atomic_load(&context_lost) || CHECK(cudaSetDevice, g->device) != ERR_OK)
        return;
    (void)CHECK(cudaHostUnregister, p);
}

static const enum cudaMemcpyKind copy_kinds[] = {
    [GPU_TO_DEVICE] = cudaMemcpyHostToDevice,
    [GPU_TO_HOST] = cudaMemcpyDeviceToHost,
    [GPU_ON_DEVICE] = cudaMemcpyDeviceToDevice,
};

enum err gpu_copy(void *dst, const void *src, size_t bytes, enum gpu_copy_kind kind, gpu_stream s)
{
    return bytes == 0 ? ERR_OK : CHECK(cudaMemcpyAsync, dst, src, bytes, copy_kinds[kind], s);
}

enum err gpu_copy_2d(void *dst, size_t dst_pitch, const void *src, size_t src_pitch, size_t width,
                     size_t height, enum gpu_copy_kind kind, gpu_stream s)
{
    if (width == 0 || height == 0)
        return ERR_OK;
    return CHECK(cudaMemcpy2DAsync, dst, dst_pitch, src, src_pitch, width, height, copy_kinds[kind],
                 s);
}

enum err gpu_fill(void *dst, uint8_t byte, size_t bytes, gpu_stream s)
{
    return bytes == 0 ? ERR_OK : CHECK(cudaMemsetAsync, dst, byte, bytes, s);
}

/* ---- streams and events ---- */

enum err gpu_stream_create(struct gpu *g, bool high, gpu_stream *out)
{
    int least = 0, greatest = 0; /* the smaller number goes first */
    enum err err = CHECK(cudaSetDevice, g->device);

    if (err == ERR_OK)
        err = CHECK(cudaDeviceGetStreamPriorityRange, &least, &greatest);
    return err != ERR_OK ? err
                         : CHECK(cudaStreamCreateWithPriority, out, cudaStreamNonBlocking,
                                 high ? greatest : least);
}

void gpu_stream_destroy(gpu_stream s)
{
    if (s != NULL && !atomic_load(&context_lost))
        (void)CHECK(cudaStreamDestroy, s);
}

enum err gpu_stream_call(gpu_stream s, void (*fn)(void *arg), void *arg)
{
    return CHECK(cudaLaunchHostFunc, s, fn, arg);
}

typedef enum err (*query_fn)(void *what);

/* Ask until the answer is not "not yet" or the deadline has passed. */
static enum err wait_for(query_fn query, void *what, uint64_t deadline_ns)
{
    uint64_t start = clock_now_ns(), now = start;

    for (;;) {
        enum err err = query(what);
        uint64_t pause;

        if (err != ERR_TIMEOUT)
            return err;
        now = clock_now_ns();
        if (now >= deadline_ns)
            return ERR_TIMEOUT;
        if (now - start < SPIN_NS)
            continue;
        pause = (now - start) / SLEEP_SHARE;
        pause = pause < SLEEP_MIN_NS ? SLEEP_MIN_NS : pause > SLEEP_MAX_NS ? SLEEP_MAX_NS : pause;
        if (pause > deadline_ns - now)
            pause = deadline_ns - now;
        nanosleep(&(struct timespec){.tv_nsec = (long)pause}, NULL);
    }
}

static enum err query_stream(void *s)
{
    return CHECK(cudaStreamQuery, (gpu_stream)s);
}

static enum err query_event(void *e)
{
    return CHECK(cudaEventQuery, (gpu_event)e);
}

enum err gpu_stream_wait(gpu_stream s, uint64_t deadline_ns)
{
    return wait_for(query_stream, s, deadline_ns);
}

enum err gpu_event_create(struct gpu *g, bool timed, gpu_event *out)
{
    unsigned flags = cudaEventBlockingSync | (timed ? 0u : (unsigned)cudaEventDisableTiming);
    enum err err = CHECK(cudaSetDevice, g->device);

    return err != ERR_OK ? err : CHECK(cudaEventCreateWithFlags, out, flags);
}

void gpu_event_destroy(gpu_event e)
{
    if (e != NULL && !atomic_load(&context_lost))
        (void)CHECK(cudaEventDestroy, e);
}

enum err gpu_event_record(gpu_event e, gpu_stream s)
{
    return CHECK(cudaEventRecord, e, s);
}

enum err gpu_stream_await(gpu_stream s, gpu_event e)
{
    return CHECK(cudaStreamWaitEvent, s, e, 0);
}

enum err gpu_event_query(gpu_event e)
{
    return query_event(e);
}

enum err gpu_event_wait(gpu_event e, uint64_t deadline_ns)
{
    return wait_for(query_event, e, deadline_ns);
}

enum err gpu_event_ms(gpu_event from, gpu_event to, float *ms)
{
    return CHECK(cudaEventElapsedTime, ms, from, to);
}

/* ---- graphs ---- */

/* Relaxed: libraries load a kernel at its first use, which the stricter modes may forbid to the capturing thread; and
 * what other threads do meanwhile (allocate, free, wait) is no part of this capture and may not end it. */
enum err gpu_capture_begin(gpu_stream s)
{
    return CHECK(cudaStreamBeginCapture, s, cudaStreamCaptureModeRelaxed);
}

enum err gpu_capture_end(gpu_stream s, gpu_graph *out)
{
    cudaGraph_t graph = NULL;
    enum err err = CHECK(cudaStreamEndCapture, s, &graph);

    if (err == ERR_OK)
        err = CHECK(cudaGraphInstantiate, out, graph, 0);
    if (graph != NULL)
        (void)CHECK(cudaGraphDestroy, graph);
    if (err == ERR_OK) /* else the first launch, which is a step's, would do it */
        err = CHECK(cudaGraphUpload, *out, s);
    return err;
}

enum err gpu_graph_launch(gpu_graph graph, gpu_stream s)
{
    return CHECK(cudaGraphLaunch, graph, s);
}

void gpu_graph_destroy(gpu_graph graph)
{
    if (graph != NULL && !atomic_load(&context_lost))
        (void)CHECK(cudaGraphExecDestroy, graph);
}
