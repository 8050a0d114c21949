/* tests/gpu/emu/gpu_emulated.cuh - the device side of engine/kernels/gpu_kernel.cuh for the host compiler.
 *
 * A block's threads are fibers of one host thread.  They run one after the other, in a shuffled order that
 * changes at every stop, each up to its next barrier or warp operation; a block's shared memory is poisoned
 * before it starts; what cp.async brings appears at the wait and not before.  So a missing barrier, a forgotten
 * wait, a read of what nobody wrote and (with AddressSanitizer) an index out of bounds show here.  Blocks of a
 * launch run one after the other, in a shuffled order.  Arithmetic is the host's: rounding as IEEE says, exp2
 * exact instead of fast, sums of mma in double.
 *
 * Not found here: races between two threads that no order of whole sections shows (a warp operation orders here what
 * its lanes wrote to shared memory, on a device only __syncwarp does), misaligned 16-byte accesses through plain
 * pointers (loads by vec16 are checked), memory-order faults between blocks, reads that stand too early, before
 * gpu_wait_previous (that it is called at all is checked), what the first level of the cache still holds, speed. */
#ifndef TESTS_GPU_EMU_GPU_EMULATED_CUH
#define TESTS_GPU_EMU_GPU_EMULATED_CUH

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <functional>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline __attribute__((always_inline))
#define __restrict__ __restrict
#define __launch_bounds__(...)
#define __grid_constant__

namespace emu
{

struct dim3u {
    unsigned x, y, z;
};

struct thread_state { /* of the running fiber */
    dim3u thread, block, block_dim, grid_dim;
};
extern thread_local thread_state *now;

void waited();
void barrier();
int barrier_or(int value);
/* Every lane of mask gives n words and gets those of all 32 lanes: all[lane * n + i]. */
enum { EXCHANGE_WORDS = 8 };
const uint32_t *exchange(uint32_t mask, const uint32_t *words, unsigned n);
unsigned lane();

/* Static shared arrays: one per declaration and host thread, poisoned before each block. */
struct shared_array {
    void *bytes;
    size_t len;
    shared_array *next;
    shared_array(void *b, size_t n);
};
unsigned char *shared_dynamic();

void cp_async(void *dst, const void *src, bool valid);
void cp_commit();
void cp_wait(unsigned newer);

/* Runs fn as every thread of every block, when the stream gets there.  early: each has to call waited(). */
enum err launch(struct gpu_dims d, gpu_stream s, const char *name, bool early,
                std::function<void()> fn);
[[noreturn]] void fault(const char *what, const void *p);

} // namespace emu

#define threadIdx (emu::now->thread)
#define blockIdx (emu::now->block)
#define blockDim (emu::now->block_dim)
#define gridDim (emu::now->grid_dim)

#define GPU_SHARED(type, name, count)                                                       \
    alignas(128) static thread_local unsigned char name##_bytes[sizeof(type) * (count)];    \
    static thread_local emu::shared_array name##_array(name##_bytes, sizeof(name##_bytes)); \
    (void)name##_array;                                                                     \
    type(&name)[count] = *reinterpret_cast<type(*)[count]>(name##_bytes)
#define GPU_SHARED_DYNAMIC(name) unsigned char *name = emu::shared_dynamic()

template <auto *kernel, class... Args>
static enum err gpu_launch(struct gpu_dims d, gpu_stream stream, Args... args)
{
    return emu::launch(d, stream, __PRETTY_FUNCTION__, false, [=] { kernel(args...); });
}
template <auto *kernel, class... Args>
static enum err gpu_launch_early(struct gpu_dims d, gpu_stream stream, Args... args)
{
    return emu::launch(d, stream, __PRETTY_FUNCTION__, true, [=] { kernel(args...); });
}
static inline void gpu_wait_previous()
{
    emu::waited();
}

/* ---- barriers and exchanges ---- */

static inline void __syncthreads()
{
    emu::barrier();
}
static inline int __syncthreads_or(int v)
{
    return emu::barrier_or(v);
}
static inline void __syncwarp(uint32_t mask = 0xffffffffu)
{
    uint32_t none = 0;
    emu::exchange(mask, &none, 1);
}
template <class T> static inline T emu_shuffle(uint32_t mask, T v, unsigned from)
{
    enum { N = (sizeof(T) + 3) / 4 };
    uint32_t words[N] = {};
    memcpy(words, &v, sizeof(T));
    const uint32_t *all = emu::exchange(mask, words, N);
    if ((mask >> from & 1) == 0)
        emu::fault("shuffle from a lane outside the mask", nullptr);
    memcpy(&v, all + from * N, sizeof(T));
    return v;
}
template <class T> static inline T __shfl_sync(uint32_t mask, T v, int from, int width = 32)
{
    return emu_shuffle(
        mask, v, (emu::lane() & ~(unsigned)(width - 1)) | ((unsigned)from & (unsigned)(width - 1)));
}
template <class T> static inline T __shfl_xor_sync(uint32_t mask, T v, int bits, int width = 32)
{
    unsigned l = emu::lane(), from = l ^ (unsigned)bits;
    return emu_shuffle(mask, v,
                       (from & ~(unsigned)(width - 1)) == (l & ~(unsigned)(width - 1)) ? from : l);
}
template <class T> static inline T __shfl_up_sync(uint32_t mask, T v, unsigned by, int width = 32)
{
    unsigned l = emu::lane();
    return emu_shuffle(mask, v, (l & (unsigned)(width - 1)) >= by ? l - by : l);
}
template <class T> static inline T __shfl_down_sync(uint32_t mask, T v, unsigned by, int width = 32)
{
    unsigned l = emu::lane();
    return emu_shuffle(mask, v, (l & (unsigned)(width - 1)) + by < (unsigned)width ? l + by : l);
}
static inline uint32_t __ballot_sync(uint32_t mask, int v)
{
    uint32_t word = v != 0, bits = 0;
    const uint32_t *all = emu::exchange(mask, &word, 1);
    for (unsigned i = 0; i < 32; i++)
        bits |= (mask >> i & 1) && all[i] ? 1u << i : 0;
    return bits;
}
static inline int __any_sync(uint32_t mask, int v)
{
    return __ballot_sync(mask, v) != 0;
}

/* ---- arithmetic ---- */

/* A fiber runs alone between two stops and blocks one after the other: plain operations are atomic. */
template <class T> static inline T atomicAdd(T *p, T v)
{
    T old = *p;
    *p = old + v;
    return old;
}
template <class T> static inline T atomicMax(T *p, T v)
{
    T old = *p;
    *p = old > v ? old : v;
    return old;
}
template <class T> static inline T atomicExch(T *p, T v)
{
    T old = *p;
    *p = v;
    return old;
}
template <class T> static inline T atomicCAS(T *p, T want, T v)
{
    T old = *p;
    *p = old == want ? v : old;
    return old;
}
static inline void __threadfence()
{
}
static inline int __popc(unsigned v)
{
    return __builtin_popcount(v);
}
static inline int __popcll(unsigned long long v)
{
    return __builtin_popcountll(v);
}
static inline int __clz(int v)
{
    return v == 0 ? 32 : __builtin_clz((unsigned)v);
}
static inline int __ffs(int v)
{
    return __builtin_ffs(v);
}
static inline unsigned __umulhi(unsigned a, unsigned b)
{
    return (unsigned)((uint64_t)a * b >> 32);
}
static inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b)
{
    return (unsigned long long)((unsigned __int128)a * b >> 64);
}
static inline uint32_t __float_as_uint(float v)
{
    uint32_t w;
    memcpy(&w, &v, 4);
    return w;
}
static inline float __uint_as_float(uint32_t w)
{
    float v;
    memcpy(&v, &w, 4);
    return v;
}
static inline float __fmul_rn(float a, float b)
{
    return a * b; /* compiled without contraction */
}
static inline float __fadd_rn(float a, float b)
{
    return a + b;
}
static inline float __fmaf_rn(float a, float b, float c)
{
    return fmaf(a, b, c);
}
static inline float rsqrtf(float v)
{
    return (float)(1.0 / sqrt((double)v));
}
static inline float exp2_fast(float v)
{
    float y = exp2f(v);
    return y < 1.17549435e-38f ? 0.0f : y;
}
static inline float reciprocal_fast(float v)
{
    float y = 1.0f / (fabsf(v) < 1.17549435e-38f ? copysignf(0.0f, v) : v);
    return fabsf(y) < 1.17549435e-38f ? copysignf(0.0f, y) : y;
}
template <class T> static inline T min(T a, T b)
{
    return a < b ? a : b;
}
template <class T> static inline T max(T a, T b)
{
    return a > b ? a : b;
}

/* ---- 16-bit floats ---- */

static inline float to_float(bf16 v)
{
    return __uint_as_float((uint32_t)v.bits << 16);
}
static inline float to_float(f16 v)
{
    uint32_t sign = (uint32_t)(v.bits & 0x8000u) << 16, exponent = v.bits >> 10 & 31u,
             rest = v.bits & 0x3ffu;
    if (exponent == 31)
        return __uint_as_float(sign | 0x7f800000u | rest << 13);
    if (exponent == 0)
        return (sign ? -1.0f : 1.0f) * ldexpf((float)rest, -24);
    return __uint_as_float(sign | (exponent + 112) << 23 | rest << 13);
}
template <class T> static inline T from_float(float v);
template <> inline bf16 from_float<bf16>(float v)
{
    uint32_t w = __float_as_uint(v);
    if (v != v)
        return {0x7fff};
    return {(uint16_t)((w + 0x7fffu + (w >> 16 & 1)) >> 16)};
}
template <> inline f16 from_float<f16>(float v)
{
    uint16_t sign = (uint16_t)(__float_as_uint(v) >> 16 & 0x8000u);
    float a = fabsf(v);
    if (v != v)
        return {0x7fff};
    if (a >= 65520.0f)
        return {(uint16_t)(sign | 0x7c00u)};
    if (a < 6.103515625e-05f) /* the sum rounds to a multiple of 2^-24 */
        return {(uint16_t)(sign | (uint16_t)lrintf(a * 16777216.0f))};
    uint32_t w = __float_as_uint(a);
    w += 0xfffu + (w >> 13 & 1);
    return {(uint16_t)(sign | ((w >> 13) - (112u << 10)))};
}
template <class T> static inline uint32_t pack2(float lo, float hi)
{
    return (uint32_t)from_float<T>(lo).bits | (uint32_t)from_float<T>(hi).bits << 16;
}
template <class T> static inline float low2(uint32_t w)
{
    return to_float(T{(uint16_t)w});
}
template <class T> static inline float high2(uint32_t w)
{
    return to_float(T{(uint16_t)(w >> 16)});
}

/* ---- matrix steps ---- */

template <class T> static inline float emu_half(uint32_t w, unsigned i)
{
    return i ? high2<T>(w) : low2<T>(w);
}

template <class T>
static inline void mma_16816(float d[4], const uint32_t a[4], const uint32_t b[2])
{
    uint32_t words[6] = {a[0], a[1], a[2], a[3], b[0], b[1]};
    const uint32_t *all = emu::exchange(0xffffffffu, words, 6);
    unsigned g = emu::lane() / 4, t = emu::lane() % 4;
    for (unsigned i = 0; i < 4; i++) {
        unsigned row = g + (i / 2) * 8, col = 2 * t + i % 2;
        double sum = d[i];
        for (unsigned k = 0; k < 16; k++) {
            uint32_t wa = all[((row % 8) * 4 + k % 8 / 2) * 6 + row / 8 + 2 * (k / 8)];
            uint32_t wb = all[(col * 4 + k % 8 / 2) * 6 + 4 + k / 8];
            sum += (double)emu_half<T>(wa, k % 2) * (double)emu_half<T>(wb, k % 2);
        }
        d[i] = (float)sum;
    }
}

static inline void emu_ldmatrix(uint32_t r[4], const void *row, bool transposed)
{
    uint32_t words[2];
    uint64_t address = (uint64_t)row;
    if (address % 16 != 0)
        emu::fault("ldmatrix from an address that is not 16-byte aligned", row);
    memcpy(words, &address, 8);
    const uint32_t *all = emu::exchange(0xffffffffu, words, 2);
    unsigned g = emu::lane() / 4, t = emu::lane() % 4;
    for (unsigned i = 0; i < 4; i++) {
        uint16_t v[2];
        for (unsigned j = 0; j < 2; j++) {
            unsigned mrow = transposed ? 2 * t + j : g, mcol = transposed ? g : 2 * t + j;
            memcpy(&address, all + (i * 8 + mrow) * 2, 8);
            memcpy(&v[j], (const uint16_t *)address + mcol, 2);
        }
        r[i] = (uint32_t)v[0] | (uint32_t)v[1] << 16;
    }
    uint32_t none = 0;
    emu::exchange(0xffffffffu, &none, 1); /* all have read before one goes on to write */
}
static inline void ldmatrix_x4(uint32_t r[4], const void *row)
{
    emu_ldmatrix(r, row, false);
}
static inline void ldmatrix_x4_trans(uint32_t r[4], const void *row)
{
    emu_ldmatrix(r, row, true);
}

static inline void cp_async16(void *shared, const void *global, bool valid)
{
    if ((uintptr_t)shared % 16 != 0 || (valid && (uintptr_t)global % 16 != 0))
        emu::fault("cp.async with an address that is not 16-byte aligned", shared);
    emu::cp_async(shared, global, valid);
}
static inline void cp_async_commit()
{
    emu::cp_commit();
}
template <int n> static inline void cp_async_wait()
{
    emu::cp_wait(n);
}
static inline vec16 load_streaming(const void *p)
{
    vec16 v;
    if ((uintptr_t)p % 16 != 0)
        emu::fault("a 16-byte load from an address that is not 16-byte aligned", p);
    memcpy(&v, p, 16);
    return v;
}
static inline vec16 load_fresh(const vec16 *p)
{
    return load_streaming(p);
}
static inline uint32_t load_fresh(const uint32_t *p)
{
    return *p;
}

#endif
