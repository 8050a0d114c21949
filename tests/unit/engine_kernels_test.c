/* tests/unit/engine_kernels_test.c - the arithmetic of the CPU backend in every instruction set this
 * processor has: the same row gives the same bits in any company, values agree with their formulas,
 * nothing is read that is not there; and the pool of threads that runs it. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/mem.h"
#include "engine/cpu/cpu_kernels.h"
#include "engine/cpu/cpu_pool.h"

static float random_float(void)
{
    static uint64_t state = 88172645463325252u;

    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return (float)(state >> 40) / (float)(1 << 24) - 0.5f;
}

/* ---- kernels ---- */

enum { GEMM_M = 512, GEMM_N = 37, GEMM_K_MAX = 1100 };

struct gemm_case {
    float *x;     /* [GEMM_M][ldx] */
    uint16_t *xh; /* the same as bf16 */
    uint8_t *w;
    float *all, *one, bias[GEMM_N];
    size_t ldx;
    uint32_t k;
};

static void *must_alloc(size_t bytes)
{
    void *p = mem_try_aligned(64, bytes);

    assert_non_null(p);
    memset(p, 0, bytes);
    return p;
}

static void gemm_case_make(struct gemm_case *c, uint32_t k, enum engine_dtype dtype)
{
    c->k = k;
    c->ldx = (k + CPU_K_PAD - 1) / CPU_K_PAD * CPU_K_PAD;
    c->x = must_alloc(GEMM_M * c->ldx * sizeof(float));
    c->xh = must_alloc(GEMM_M * c->ldx * sizeof(uint16_t));
    c->w = must_alloc((size_t)GEMM_N * k * 4);
    c->all = must_alloc(GEMM_M * GEMM_N * sizeof(float));
    c->one = must_alloc(GEMM_N * sizeof(float));
    for (uint32_t i = 0; i < GEMM_M; i++) {
        for (uint32_t j = 0; j < k; j++)
            c->x[i * c->ldx + j] = random_float();
        cpu_round_bf16(c->xh + i * c->ldx, c->x + i * c->ldx, (uint32_t)c->ldx);
    }
    for (size_t i = 0; i < (size_t)GEMM_N * k; i++) {
        float f = random_float();
        uint16_t h;

        if (dtype == ENGINE_F32) {
            memcpy(c->w + i * 4, &f, 4);
            continue;
        }
        cpu_round_bf16(&h, &f, 1);
        h = dtype == ENGINE_F16 ? (uint16_t)((h & 0x83ff) | 0x2c00) : h;
        memcpy(c->w + i * 2, &h, 2);
    }
    for (uint32_t n = 0; n < GEMM_N; n++)
        c->bias[n] = random_float();
}

static void gemm_case_free(struct gemm_case *c)
{
    mem_free(c->x);
    mem_free(c->xh);
    mem_free(c->w);
    mem_free(c->all);
    mem_free(c->one);
}

static struct cpu_gemm gemm_of(const struct gemm_case *c, bool bf16, uint32_t row, uint32_t m,
                               float *out)
{
    return (struct cpu_gemm){.x = bf16 ? (const void *)(c->xh + row * c->ldx)
                                       : (const void *)(c->x + row * c->ldx),
                             .ldx = c->ldx,
                             .m = m,
                             .k = c->k,
                             .w = c->w,
                             .ldw = c->k,
                             .out = out,
                             .ldo = GEMM_N,
                             .bias = c->bias};
}

/* 512 rows at once, then each alone, and in runs of every small length, columns cut in pieces. */
static void check_same_bits(const struct gemm_case *c, cpu_gemm_fn fn, bool bf16)
{
    struct cpu_gemm g = gemm_of(c, bf16, 0, GEMM_M, c->all);
    float *some = must_alloc((size_t)24 * GEMM_N * sizeof(float));

    fn(&g, 0, GEMM_N);
    for (uint32_t row = 0; row < GEMM_M; row += 13) {
        g = gemm_of(c, bf16, row, 1, c->one);
        fn(&g, 0, 5);
        fn(&g, 5, 6);
        fn(&g, 6, GEMM_N);
        assert_memory_equal(c->one, c->all + (size_t)row * GEMM_N, GEMM_N * sizeof(float));
    }
    for (uint32_t m = 1; m <= 24; m++) {
        g = gemm_of(c, bf16, m, m, some);
        fn(&g, 0, 16);
        fn(&g, 16, GEMM_N);
        assert_memory_equal(some, c->all + (size_t)m * GEMM_N, m * GEMM_N * sizeof(float));
    }
    mem_free(some);
}

/* Against a sum in double. */
static void check_values(const struct gemm_case *c, enum engine_dtype dtype, bool bf16)
{
    float *w = must_alloc(c->k * sizeof(float)), *x = must_alloc(c->k * sizeof(float));

    for (uint32_t n = 0; n < GEMM_N; n++) {
        cpu_to_float(w, c->w + (size_t)n * c->k * (dtype == ENGINE_F32 ? 4 : 2), dtype, c->k);
        for (uint32_t i = 0; i < GEMM_M; i += 101) {
            double sum = c->bias[n], size = 0;

            if (bf16)
                cpu_to_float(x, c->xh + i * c->ldx, ENGINE_BF16, c->k);
            else
                memcpy(x, c->x + i * c->ldx, c->k * sizeof(float));
            for (uint32_t k = 0; k < c->k; k++) {
                sum += (double)x[k] * (double)w[k];
                size += fabs((double)x[k] * (double)w[k]);
            }
            assert_true(fabs(sum - (double)c->all[i * GEMM_N + n]) <= 1e-6 * (size + 1));
        }
    }
    mem_free(w);
    mem_free(x);
}

static void a_row_has_the_same_bits_at_any_number_of_rows(void **state)
{
    static const uint32_t widths[] = {1, 8, 15, 31, 32, 33, 100, 172, 768, 1100};

    (void)state;
    for (int isa = 0; isa < CPU_ISA_COUNT; isa++) {
        const struct cpu_kernels *k = cpu_kernels_get((enum cpu_isa)isa);

        if (k == NULL) {
            print_message("skipped: this processor lacks instruction set %d\n", isa);
            continue;
        }
        for (size_t i = 0; i < sizeof(widths) / sizeof(widths[0]); i++) {
            const cpu_gemm_fn fns[] = {k->gemm_f32, k->gemm_f16, k->gemm_bf16, k->gemm_bf16_bf16};
            const enum engine_dtype dtypes[] = {ENGINE_F32, ENGINE_F16, ENGINE_BF16, ENGINE_BF16};

            for (int f = 0; f < 4 && fns[f] != NULL; f++) {
                struct gemm_case c;

                gemm_case_make(&c, widths[i], dtypes[f]);
                check_same_bits(&c, fns[f], f == 3);
                check_values(&c, dtypes[f], f == 3);
                gemm_case_free(&c);
            }
        }
    }
}

static void products_can_add_to_what_was_there(void **state)
{
    (void)state;
    for (int isa = 0; isa < CPU_ISA_COUNT; isa++) {
        const struct cpu_kernels *k = cpu_kernels_get((enum cpu_isa)isa);
        struct gemm_case c;
        struct cpu_gemm g;

        if (k == NULL)
            continue;
        gemm_case_make(&c, 70, ENGINE_F32);
        g = gemm_of(&c, false, 0, 9, c.all);
        k->gemm_f32(&g, 0, GEMM_N);
        memcpy(c.one, c.all, GEMM_N * sizeof(float));
        g.add = true;
        k->gemm_f32(&g, 0, GEMM_N);
        for (uint32_t n = 0; n < GEMM_N; n++)
            assert_true(c.all[n] == c.one[n] + c.one[n]);
        gemm_case_free(&c);
    }
}

/* len bytes that end where an unreadable page begins. */
static uint8_t *guarded(size_t len, uint8_t **map, size_t *map_len)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE), body = (len + page - 1) / page * page;
    uint8_t *p;

    *map_len = body + page;
    p = mmap(NULL, *map_len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_true(p != MAP_FAILED);
    assert_int_equal(mprotect(p + body, page, PROT_NONE), 0);
    *map = p;
    return p + body - len;
}

/* A weight file's last tensor may end with the last byte of the mapping. */
static void nothing_is_read_behind_the_last_weight_or_the_last_key(void **state)
{
    static const uint32_t widths[] = {1, 7, 31, 33, 47, 100};

    (void)state;
    for (int isa = 0; isa < CPU_ISA_COUNT; isa++) {
        const struct cpu_kernels *k = cpu_kernels_get((enum cpu_isa)isa);

        for (size_t i = 0; k != NULL && i < sizeof(widths) / sizeof(widths[0]); i++) {
            const cpu_gemm_fn fns[] = {k->gemm_f32, k->gemm_f16, k->gemm_bf16, k->gemm_bf16_bf16};

            for (int f = 0; f < 4 && fns[f] != NULL; f++) {
                size_t len = (size_t)GEMM_N * widths[i] * (f == 0 ? 4 : 2), map_len;
                struct gemm_case c;
                struct cpu_gemm g;
                uint8_t *map;

                gemm_case_make(&c, widths[i], f == 0 ? ENGINE_F32 : ENGINE_BF16);
                for (uint32_t m = 1; m <= 7; m++) {
                    g = gemm_of(&c, f == 3, 0, m, c.all);
                    g.w = memcpy(guarded(len, &map, &map_len), c.w, len);
                    fns[f](&g, 0, GEMM_N);
                    munmap(map, map_len);
                }
                gemm_case_free(&c);
            }
        }
    }
}

/* Keys and values end at the unreadable page; what lies behind the sequence in its block is NaN. */
static void check_attention_bounds(const struct cpu_kernels *k, uint32_t dim, uint32_t n_keys)
{
    enum { BT = 16, HEADS = 3 };
    const uint32_t blocks[2] = {0, 0};
    size_t floats = (size_t)BT * dim, map_len;
    float *q = must_alloc((size_t)HEADS * dim * sizeof(float));
    float *out = must_alloc((size_t)HEADS * dim * sizeof(float));
    float *scratch = must_alloc(cpu_attend_scratch(dim) * sizeof(float));
    uint8_t *map, *kv = guarded(floats * sizeof(float), &map, &map_len);
    struct cpu_attend a = {.q = q,
                           .out = out,
                           .ldq = (size_t)HEADS * dim,
                           .n_tokens = 1,
                           .n_heads = HEADS,
                           .position = n_keys - 1,
                           .head_dim = dim,
                           .k = kv,
                           .v = kv,
                           .blocks = blocks,
                           .block_tokens = BT,
                           .scale = 0.3f,
                           .scratch = scratch};

    memset(kv, 0xff, floats * sizeof(float));
    memset(scratch, 0xff, cpu_attend_scratch(dim) * sizeof(float));
    for (size_t i = 0; i < (size_t)n_keys * dim; i++)
        ((float *)(void *)kv)[i] = random_float();
    k->attend(&a);
    for (uint32_t i = 0; i < HEADS * dim; i++)
        assert_true(out[i] >= -0.5f && out[i] <= 0.5f);
    munmap(map, map_len);
    mem_free(q);
    mem_free(out);
    mem_free(scratch);
}

static void attention_stays_within_the_keys_it_may_see(void **state)
{
    static const uint32_t dims[] = {2, 8, 20, 64, 80, 128};

    (void)state;
    for (int isa = 0; isa < CPU_ISA_COUNT; isa++) {
        const struct cpu_kernels *k = cpu_kernels_get((enum cpu_isa)isa);

        for (size_t i = 0; k != NULL && i < sizeof(dims) / sizeof(dims[0]); i++) {
            for (uint32_t n = 1; n <= 16; n++)
                check_attention_bounds(k, dims[i], n);
        }
    }
}

static void rounding_to_bf16_is_to_nearest_even_in_every_instruction_set(void **state)
{
    static const float in[] = {1.0f,     -1.0f,        1.00390625f, 1.01171875f, 3.1415927f,
                               1e30f,    -1e-30f,      0.0f,        -0.0f,       65504.0f,
                               INFINITY, -INFINITY,    1.00390637f, 1e-20f,      123456.789f,
                               -0.1f,    3.3895314e38f};
    static const uint16_t want[] = {0x3f80, 0xbf80, 0x3f80, 0x3f82, 0x4049, 0x714a,
                                    0x8da2, 0x0000, 0x8000, 0x4780, 0x7f80, 0xff80,
                                    0x3f81, 0x1e3d, 0x47f1, 0xbdcd, 0x7f7f};
    uint16_t got[sizeof(in) / sizeof(in[0])];

    (void)state;
    for (int isa = 0; isa < CPU_ISA_COUNT; isa++) {
        const struct cpu_kernels *k = cpu_kernels_get((enum cpu_isa)isa);

        if (k == NULL)
            continue;
        k->round_bf16(got, in, sizeof(in) / sizeof(in[0]));
        for (size_t i = 0; i < sizeof(in) / sizeof(in[0]); i++)
            assert_int_equal(got[i], want[i]);
    }
}

static void norms_and_activations_agree_with_their_formulas(void **state)
{
    enum { N = 77 };
    float x[N], w[N], out[N];

    (void)state;
    for (int i = 0; i < N; i++) {
        x[i] = random_float() * 8;
        w[i] = random_float();
    }
    x[3] = -95.0f;
    x[4] = 95.0f;
    for (int isa = 0; isa < CPU_ISA_COUNT; isa++) {
        const struct cpu_kernels *k = cpu_kernels_get((enum cpu_isa)isa);
        double square = 0;

        if (k == NULL)
            continue;
        for (int i = 0; i < N; i++)
            square += (double)x[i] * (double)x[i];
        k->rmsnorm(out, x, w, N, 1e-5f);
        for (int i = 0; i < N; i++) {
            double want = (double)x[i] / sqrt(square / N + 1e-5) * (double)w[i];

            assert_true(fabs((double)out[i] - want) <= 1e-6 * fabs(want) + 1e-9);
        }
        k->silu_mul(out, x, w, N);
        for (int i = 0; i < N; i++) {
            double want = (double)x[i] / (1 + exp(-(double)x[i])) * (double)w[i];

            assert_true(fabs((double)out[i] - want) <= 1e-6 * fabs(want) + 1e-30);
        }
    }
}

/* ---- pool ---- */

struct counts {
    uint32_t runs[300];
};

static void count_task(void *arg, uint32_t task, uint32_t thread)
{
    struct counts *c = arg;

    (void)thread;
    c->runs[task]++; /* each task belongs to one thread, so this is no race */
}

static void the_pool_runs_every_task_once(void **state)
{
    struct cpu_pool *p = NULL;
    struct counts c;

    (void)state;
    assert_int_equal(cpu_pool_create(5, &p), ERR_OK);
    for (uint32_t round = 0; round < 3000; round++) {
        uint32_t n = round % 300;

        memset(&c, 0, sizeof(c));
        cpu_pool_run(p, count_task, &c, n);
        for (uint32_t i = 0; i < 300; i++)
            assert_int_equal(c.runs[i], i < n ? 1 : 0);
        if (round % 1000 == 0)
            usleep(2000); /* long enough for all to fall asleep */
    }
    cpu_pool_destroy(p);
}

/* A thread that looked before the stop and slept after it would hang this test. */
static void pools_can_be_made_and_closed_many_times(void **state)
{
    struct counts c = {{0}};

    (void)state;
    for (int i = 0; i < 2000; i++) {
        struct cpu_pool *p = NULL;

        assert_int_equal(cpu_pool_create(3, &p), ERR_OK);
        if (i % 3 == 0)
            cpu_pool_run(p, count_task, &c, 4);
        if (i % 2 == 0)
            usleep((useconds_t)(i % 80));
        cpu_pool_destroy(p);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_row_has_the_same_bits_at_any_number_of_rows),
        cmocka_unit_test(products_can_add_to_what_was_there),
        cmocka_unit_test(nothing_is_read_behind_the_last_weight_or_the_last_key),
        cmocka_unit_test(attention_stays_within_the_keys_it_may_see),
        cmocka_unit_test(rounding_to_bf16_is_to_nearest_even_in_every_instruction_set),
        cmocka_unit_test(norms_and_activations_agree_with_their_formulas),
        cmocka_unit_test(the_pool_runs_every_task_once),
        cmocka_unit_test(pools_can_be_made_and_closed_many_times),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
