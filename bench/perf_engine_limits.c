/* bench/perf_engine_limits.c - see the header.  Each figure is the best of several rounds: a limit is
 * what the machine can do, not what it did while something else ran. */
#include "bench/perf_engine_limits.h"

#include <pthread.h>
#include <sched.h>
#include <stdbool.h>
#include <string.h>

#include "base/clock.h"
#include "base/mem.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

enum { ROUNDS = 5, CHAINS = 12, FLOP_STEPS = 4 << 20, THREADS_MAX = 256 };
static const size_t READ_BYTES = (size_t)512 << 20;

enum kind { READ_MEMORY, FLOPS_F32, FLOPS_BF16 };

struct job {
    enum kind kind;
    const uint8_t *data;
    size_t bytes;
    double work; /* bytes read or operations done */
    uint64_t sink;
};

#if defined(__x86_64__)
__attribute__((target("avx512f"))) static double fma_512(uint64_t *sink)
{
    __m512 acc[CHAINS], a = _mm512_set1_ps(0.999f), b = _mm512_set1_ps(1e-3f);

    for (int c = 0; c < CHAINS; c++)
        acc[c] = _mm512_set1_ps((float)c);
    for (int i = 0; i < FLOP_STEPS; i++) {
#pragma GCC unroll 12
        for (int c = 0; c < CHAINS; c++)
            acc[c] = _mm512_fmadd_ps(acc[c], a, b);
    }
    for (int c = 1; c < CHAINS; c++)
        acc[0] = _mm512_add_ps(acc[0], acc[c]);
    *sink += (uint64_t)_mm512_reduce_add_ps(acc[0]);
    return 32.0 * CHAINS * FLOP_STEPS;
}

__attribute__((target("avx2,fma"))) static double fma_256(uint64_t *sink)
{
    __m256 acc[CHAINS], a = _mm256_set1_ps(0.999f), b = _mm256_set1_ps(1e-3f);
    float out[8];

    for (int c = 0; c < CHAINS; c++)
        acc[c] = _mm256_set1_ps((float)c);
    for (int i = 0; i < FLOP_STEPS; i++) {
#pragma GCC unroll 12
        for (int c = 0; c < CHAINS; c++)
            acc[c] = _mm256_fmadd_ps(acc[c], a, b);
    }
    for (int c = 1; c < CHAINS; c++)
        acc[0] = _mm256_add_ps(acc[0], acc[c]);
    _mm256_storeu_ps(out, acc[0]);
    *sink += (uint64_t)out[0];
    return 16.0 * CHAINS * FLOP_STEPS;
}

__attribute__((target("avx512f,avx512bf16"))) static double dot_bf16(uint64_t *sink)
{
    __m512 acc[CHAINS];
    __m512bh a = (__m512bh)_mm512_set1_epi16(0x3c00), b = (__m512bh)_mm512_set1_epi16(0x3a00);

    for (int c = 0; c < CHAINS; c++)
        acc[c] = _mm512_set1_ps((float)c);
    for (int i = 0; i < FLOP_STEPS; i++) {
#pragma GCC unroll 12
        for (int c = 0; c < CHAINS; c++)
            acc[c] = _mm512_dpbf16_ps(acc[c], a, b);
    }
    for (int c = 1; c < CHAINS; c++)
        acc[0] = _mm512_add_ps(acc[0], acc[c]);
    *sink += (uint64_t)_mm512_reduce_add_ps(acc[0]);
    return 64.0 * CHAINS * FLOP_STEPS;
}

__attribute__((target("avx512f"))) static void read_512(const uint8_t *p, size_t n, uint64_t *sink)
{
    __m512i acc[8];

    for (int c = 0; c < 8; c++)
        acc[c] = _mm512_setzero_si512();
    for (size_t i = 0; i + 512 <= n; i += 512) {
#pragma GCC unroll 8
        for (int c = 0; c < 8; c++)
            acc[c] = _mm512_xor_si512(acc[c], _mm512_loadu_si512(p + i + 64 * c));
    }
    for (int c = 1; c < 8; c++)
        acc[0] = _mm512_xor_si512(acc[0], acc[c]);
    *sink += (uint64_t)_mm512_reduce_add_epi64(acc[0]);
}
#endif

static void read_plain(const uint8_t *p, size_t n, uint64_t *sink)
{
    uint64_t sum[4] = {0}, word[4];

    for (size_t i = 0; i + sizeof(word) <= n; i += sizeof(word)) {
        memcpy(word, p + i, sizeof(word));
        for (int c = 0; c < 4; c++)
            sum[c] += word[c];
    }
    *sink += sum[0] + sum[1] + sum[2] + sum[3];
}

static double fma_plain(uint64_t *sink)
{
    float acc[64];

    for (int c = 0; c < 64; c++)
        acc[c] = (float)c;
    for (int i = 0; i < FLOP_STEPS / 8; i++) {
        for (int c = 0; c < 64; c++)
            acc[c] = acc[c] * 0.999f + 1e-3f;
    }
    for (int c = 1; c < 64; c++)
        acc[0] += acc[c];
    *sink += (uint64_t)acc[0];
    return 2.0 * 64 * FLOP_STEPS / 8;
}

static void *run_job(void *arg)
{
    struct job *j = arg;

#if defined(__x86_64__)
    bool wide = __builtin_cpu_supports("avx512f");

    if (j->kind == FLOPS_BF16) {
        j->work = __builtin_cpu_supports("avx512bf16") ? dot_bf16(&j->sink) : 0;
        return NULL;
    }
    if (j->kind == READ_MEMORY && wide) {
        read_512(j->data, j->bytes, &j->sink);
        j->work = (double)j->bytes;
        return NULL;
    }
    if (j->kind == FLOPS_F32 && (wide || __builtin_cpu_supports("fma"))) {
        j->work = wide ? fma_512(&j->sink) : fma_256(&j->sink);
        return NULL;
    }
#endif
    if (j->kind == READ_MEMORY) {
        read_plain(j->data, j->bytes, &j->sink);
        j->work = (double)j->bytes;
    } else {
        j->work = j->kind == FLOPS_F32 ? fma_plain(&j->sink) : 0;
    }
    return NULL;
}

/* Work per second of all threads together in one round. */
static enum err round_rate(enum kind kind, const uint8_t *data, uint32_t n, double *rate)
{
    struct job jobs[THREADS_MAX];
    pthread_t ids[THREADS_MAX];
    uint64_t start = clock_now_ns();
    uint32_t started = 0;
    double work = 0;

    for (uint32_t i = 0; i < n; i++) {
        jobs[i] =
            (struct job){.kind = kind, .data = data + READ_BYTES / n * i, .bytes = READ_BYTES / n};
        if (pthread_create(&ids[i], NULL, run_job, &jobs[i]) != 0)
            break;
        started++;
    }
    for (uint32_t i = 0; i < started; i++) {
        pthread_join(ids[i], NULL);
        work += jobs[i].work;
    }
    *rate = work * 1e9 / (double)(clock_now_ns() - start);
    return started == n ? ERR_OK : ERR_NOMEM;
}

static enum err best_rate(enum kind kind, const uint8_t *data, uint32_t n, double *best)
{
    *best = 0;
    for (int i = 0; i < ROUNDS; i++) {
        double rate;
        enum err err = round_rate(kind, data, n, &rate);

        if (err != ERR_OK)
            return err;
        if (rate > *best)
            *best = rate;
    }
    return ERR_OK;
}

enum err bench_limits_measure(uint32_t n_threads, struct bench_limits *out)
{
    uint32_t n = n_threads < THREADS_MAX ? n_threads : THREADS_MAX;
    uint8_t *data = mem_try_alloc(READ_BYTES);
    struct bench_limits l;
    enum err err;

    if (data == NULL)
        return ERR_NOMEM;
    memset(data, 1, READ_BYTES);
    if ((err = best_rate(READ_MEMORY, data, n, &l.read_bytes_per_s)) == ERR_OK &&
        (err = best_rate(FLOPS_F32, data, n, &l.f32_flops)) == ERR_OK &&
        (err = best_rate(FLOPS_BF16, data, n, &l.bf16_flops)) == ERR_OK)
        *out = l;
    mem_free(data);
    return err;
}

uint32_t bench_limits_cores(void)
{
    cpu_set_t set;

    if (sched_getaffinity(0, sizeof(set), &set) != 0)
        return 1;
    return (uint32_t)CPU_COUNT(&set);
}
