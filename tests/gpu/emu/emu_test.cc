/* tests/gpu/emu/emu_test.cc - the emulation itself: its matrix steps mean what the PTX ISA says, and it catches
 * the faults it claims to catch.  A fault ends the process, so each is met in a child. */
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

extern "C" {
#include "base/clock.h"
}
#include "engine/kernels/gpu_kernel.cuh"
#include "tests/gpu/emu/gpu_emu.h"

namespace
{

int failures;
#define CHECK(what, ok)                                   \
    do {                                                  \
        bool good = (ok);                                 \
        printf("%s: %s\n", good ? "ok" : "FAILED", what); \
        failures += !good;                                \
    } while (0)

enum { N = 256 };

__global__ void reverse(float *out, const float *in, int with_barrier)
{
    GPU_SHARED(float, s, N);
    s[threadIdx.x] = in[threadIdx.x];
    if (with_barrier)
        __syncthreads();
    out[threadIdx.x] = s[N - 1 - threadIdx.x];
}

__global__ void copy_through_shared(float *out, const float *in, int with_wait)
{
    GPU_SHARED_DYNAMIC(bytes);
    float *s = (float *)bytes;
    cp_async16(s + threadIdx.x * 4, in + threadIdx.x * 4, true);
    cp_async_commit();
    if (with_wait)
        cp_async_wait<0>();
    for (int i = 0; i < 4; i++)
        out[threadIdx.x * 4 + i] = s[threadIdx.x * 4 + i];
}

__global__ void warp_sums(float *out, const float *in)
{
    float sum = warp_sum(in[threadIdx.x]);
    if (threadIdx.x % 32 == 0)
        out[threadIdx.x / 32] = sum;
}

__global__ void lonely_barrier(float *)
{
    if (threadIdx.x > 0 || blockIdx.x > 0)
        __syncwarp(0x1);
    __syncthreads();
}

__global__ void half_warp_shuffle(float *out)
{
    if (threadIdx.x < 16)
        out[threadIdx.x] = __shfl_xor_sync(0xffffffffu, 1.0f, 1);
}

__global__ void out_of_bounds(float *out)
{
    out[threadIdx.x + 64] = 1;
}

__global__ void impatient(float *out)
{
    if (threadIdx.x == 0)
        return; /* the kernel after this one could not tell when the one before has ended */
    gpu_wait_previous();
    *out = 1;
}

/* d[16][8] = a[16][16] b, b as [8][16] (column-major), by ldmatrix and mma. */
__global__ void product(float *d, const bf16 *a, const bf16 *b)
{
    GPU_SHARED(bf16, as, 256);
    GPU_SHARED(bf16, bs, 256);
    unsigned l = threadIdx.x;
    float sum[4] = {};
    uint32_t af[4], bf[4];

    for (unsigned i = l; i < 256; i += 32) {
        as[i] = a[i];
        bs[i] = i < 128 ? b[i] : bf16{0};
    }
    __syncthreads();
    ldmatrix_x4(af, as + (l % 16) * 16 + l / 16 * 8);
    ldmatrix_x4(bf, bs + (l % 8) * 16 + (l / 8 % 2) * 8);
    mma_16816<bf16>(sum, af, bf);
    for (unsigned i = 0; i < 4; i++)
        d[(l / 4 + i / 2 * 8) * 8 + l % 4 * 2 + i % 2] = sum[i];
}

__global__ void transposed(bf16 *out, const bf16 *in)
{
    GPU_SHARED(bf16, s, 256);
    unsigned l = threadIdx.x;
    uint32_t r[4];

    for (unsigned i = l; i < 256; i += 32)
        s[i] = in[i];
    __syncthreads();
    ldmatrix_x4_trans(r, s + l * 8);
    for (unsigned i = 0; i < 4; i++) {
        out[i * 64 + l / 4 * 8 + l % 4 * 2] = bf16{(uint16_t)r[i]};
        out[i * 64 + l / 4 * 8 + l % 4 * 2 + 1] = bf16{(uint16_t)(r[i] >> 16)};
    }
}

struct rig {
    struct gpu *g;
    void *in, *out;
    float host[1024];
};

void open_rig(rig *r)
{
    struct err_msg msg;
    if (gpu_open(0, &msg, &r->g) != ERR_OK || gpu_alloc(r->g, 4096, &r->in) != ERR_OK ||
        gpu_alloc(r->g, 4096, &r->out) != ERR_OK)
        exit(3);
    for (int i = 0; i < 1024; i++)
        r->host[i] = (float)(i % 37) - 11;
    if (gpu_copy(r->in, r->host, sizeof(r->host), GPU_TO_DEVICE, NULL) != ERR_OK)
        exit(3);
}

void read_rig(rig *r, size_t bytes)
{
    if (gpu_copy(r->host, r->out, bytes, GPU_TO_HOST, NULL) != ERR_OK ||
        gpu_stream_wait(NULL, clock_now_ns() + 20000000000ull) != ERR_OK)
        exit(3);
}

void close_rig(rig *r)
{
    gpu_free(r->g, r->in);
    gpu_free(r->g, r->out);
    gpu_close(r->g);
}

float at(int i)
{
    return (float)(i % 37) - 11;
}

bool reversed(int with_barrier)
{
    static rig r;
    bool good = true;
    open_rig(&r);
    good = gpu_launch<reverse>({1, 1, 1, N, 0}, NULL, (float *)r.out, (const float *)r.in,
                               with_barrier) == ERR_OK;
    read_rig(&r, N * 4);
    for (int i = 0; i < N; i++)
        good = good && r.host[i] == at(N - 1 - i);
    close_rig(&r);
    return good;
}

bool copied(int with_wait)
{
    static rig r;
    bool good = true;
    open_rig(&r);
    good = gpu_launch<copy_through_shared>({1, 1, 1, 64, 1024}, NULL, (float *)r.out,
                                           (const float *)r.in, with_wait) == ERR_OK;
    read_rig(&r, N * 4);
    for (int i = 0; i < N; i++)
        good = good && r.host[i] == at(i);
    close_rig(&r);
    return good;
}

bool summed()
{
    static rig r;
    bool good = true;
    open_rig(&r);
    good =
        gpu_launch<warp_sums>({1, 1, 1, N, 0}, NULL, (float *)r.out, (const float *)r.in) == ERR_OK;
    read_rig(&r, 32);
    for (int w = 0; w < N / 32; w++) {
        float sum = 0;
        for (int i = 0; i < 32; i++)
            sum += at(w * 32 + i);
        good = good && r.host[w] == sum;
    }
    close_rig(&r);
    return good;
}

bool multiplied()
{
    static rig r;
    static bf16 a[256], b[128], back[512];
    bool good = true;
    open_rig(&r);
    for (int i = 0; i < 256; i++)
        a[i] = from_float<bf16>((float)((i * 7) % 23 - 11) / 8);
    for (int i = 0; i < 128; i++)
        b[i] = from_float<bf16>((float)((i * 5) % 19 - 9) / 4);
    good = gpu_copy(r.in, a, sizeof(a), GPU_TO_DEVICE, NULL) == ERR_OK &&
           gpu_copy((char *)r.in + 1024, b, sizeof(b), GPU_TO_DEVICE, NULL) == ERR_OK &&
           gpu_launch<product>({1, 1, 1, 32, 0}, NULL, (float *)r.out, (const bf16 *)r.in,
                               (const bf16 *)r.in + 512) == ERR_OK;
    read_rig(&r, 512);
    for (int m = 0; m < 16; m++)
        for (int n = 0; n < 8; n++) {
            double sum = 0;
            for (int k = 0; k < 16; k++)
                sum += (double)to_float(a[m * 16 + k]) * (double)to_float(b[n * 16 + k]);
            good = good && fabs((double)r.host[m * 8 + n] - sum) < 1e-4;
        }
    good = good && gpu_launch<transposed>({1, 1, 1, 32, 0}, NULL, (bf16 *)r.out,
                                          (const bf16 *)r.in) == ERR_OK;
    read_rig(&r, 512);
    memcpy(back, r.host, 512);
    for (int i = 0; i < 4; i++)
        for (int row = 0; row < 8; row++)
            for (int col = 0; col < 8; col++)
                good = good && back[i * 64 + row * 8 + col].bits == a[i * 64 + col * 8 + row].bits;
    close_rig(&r);
    return good;
}

template <auto *kernel> void run_fault()
{
    static rig r;
    open_rig(&r);
    if (gpu_launch<kernel>({1, 1, 1, 32, 0}, NULL, (float *)r.out + 1024 - 64) != ERR_OK)
        exit(3);
    read_rig(&r, 4);
    close_rig(&r);
}

void run_impatient()
{
    static rig r;
    open_rig(&r);
    if (gpu_launch_early<impatient>({1, 1, 1, 32, 0}, NULL, (float *)r.out) != ERR_OK)
        exit(3);
    read_rig(&r, 4);
    close_rig(&r);
}

void touch_device_memory()
{
    static rig r;
    open_rig(&r);
    if (gpu_stream_wait(NULL, clock_now_ns() + 1000000000ull) != ERR_OK)
        exit(0);
    printf("%g\n", (double)*(volatile float *)r.out);
}

bool dies(void (*fn)())
{
    int status;
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        if (freopen("/dev/null", "w", stderr) == NULL)
            exit(3);
        fn();
        _exit(0);
    }
    return waitpid(child, &status, 0) == child && !(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

bool late_and_in_order()
{
    static rig r;
    gpu_stream a, b;
    gpu_event e;
    float *pinned;
    int wrong = 0;
    open_rig(&r);
    if (gpu_stream_create(r.g, false, &a) != ERR_OK ||
        gpu_stream_create(r.g, false, &b) != ERR_OK || gpu_event_create(r.g, false, &e) != ERR_OK ||
        gpu_host_alloc(r.g, 4096, (void **)&pinned) != ERR_OK)
        return false;
    for (int i = 0; i < 50; i++) {
        bool ordered = i % 2 == 0;
        if (gpu_fill(r.out, 0, 4, a) != ERR_OK ||
            gpu_stream_wait(a, clock_now_ns() + 1000000000ull) != ERR_OK ||
            gpu_fill(r.out, 1, 4, a) != ERR_OK || gpu_fill(r.out, 2, 4, a) != ERR_OK ||
            gpu_event_record(e, a) != ERR_OK || (ordered && gpu_stream_await(b, e) != ERR_OK) ||
            gpu_copy(pinned, r.out, 4, GPU_TO_HOST, b) != ERR_OK ||
            gpu_stream_wait(b, clock_now_ns() + 1000000000ull) != ERR_OK)
            return false;
        if (ordered && *(int *)pinned != 0x02020202)
            return false;
        wrong += !ordered && *(int *)pinned != 0x02020202;
    }
    printf("    %d of 25 copies without an event came early\n", wrong);
    gpu_event_destroy(e);
    gpu_stream_destroy(a);
    gpu_stream_destroy(b);
    gpu_host_free(r.g, pinned);
    close_rig(&r);
    return wrong > 0;
}

bool breaks(void (*inject)(uint32_t), enum err want)
{
    static rig r;
    open_rig(&r);
    bool good = gpu_stream_wait(NULL, clock_now_ns() + 1000000000ull) == ERR_OK;
    inject(1);
    good = good && gpu_fill(r.out, 1, 4, NULL) == ERR_OK &&
           gpu_fill(r.out, 1, 4, NULL) != ERR_INVALID &&
           gpu_stream_wait(NULL, clock_now_ns() + 100000000ull) == want;
    if (want == ERR_TIMEOUT)
        gpu_abandon(); /* else a free would wait for the device */
    close_rig(&r);
    gpu_emu_reset();
    return good;
}

} // namespace

int main()
{
    CHECK("a barrier orders shared memory", reversed(1));
    CHECK("a missing barrier shows", !reversed(0));
    CHECK("cp.async is there after the wait", copied(1));
    CHECK("a missing wait shows", !copied(0));
    CHECK("warp sums", summed());
    CHECK("ldmatrix and mma", multiplied());
    CHECK("a barrier that not all reach ends the run", dies(run_fault<lonely_barrier>));
    CHECK("a shuffle that not all lanes reach ends the run", dies(run_fault<half_warp_shuffle>));
    CHECK("a write past the end of device memory ends the run", dies(run_fault<out_of_bounds>));
    CHECK("a thread that does not wait for the kernel before ends the run", dies(run_impatient));
    CHECK("the host may not touch device memory", dies(touch_device_memory));
    CHECK("streams run late and know only events", late_and_in_order());
    CHECK("an injected failure is ERR_DEVICE", breaks(gpu_emu_fail_after, ERR_DEVICE));
    CHECK("an injected hang runs into the deadline", breaks(gpu_emu_hang_after, ERR_TIMEOUT));
    return failures != 0;
}
