/* Tests of bench/perf_gpu.h on a card and an engine that are played here: what the figures of the model stand beside, and
 * that a kernel which fails does not cost them, for a visit to a GPU may be the only one. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "bench/kernels/gpu_bench.h"
#include "bench/perf_gpu.h"
#include "engine/cuda/cuda_times.h"
#include "proto/kv_memory.h"

/* The card: what happens when it is opened, what its benchmarks make of it, and whether the model was asked for. */
static struct {
    enum err open, benches, model;
    bool lost, model_asked;
} card;

/* Llama 3.1 8B. */
static const struct engine_info info = {.kv = {.n_layers = 32,
                                               .n_kv_heads = 8,
                                               .head_dim = 128,
                                               .block_tokens = 16,
                                               .dtype = WIRE_KV_BF16,
                                               .parts = 1},
                                        .vocab = 128256};
static const struct kv_memory pool = {.n_blocks = 1 << 20};

enum err gpu_open(uint32_t device, struct err_msg *msg, struct gpu **out)
{
    (void)device;
    *out = NULL;
    return card.open == ERR_OK ? ERR_OK : err_set(msg, card.open, "no card");
}

void gpu_close(struct gpu *g)
{
    (void)g;
}

bool gpu_lost(void)
{
    return card.lost;
}

const char *gpu_trouble(void)
{
    return "";
}

enum err gpu_benches_run(struct gpu *g, bool small, const char *only, struct bench_report *report,
                         struct err_msg *msg)
{
    (void)g, (void)small, (void)only;
    bench_report_add(report, "ceiling.copy", 1000, "GB/s", BENCH_HIGHER);
    bench_report_add(report, "ceiling.product", 100, "TFLOP/s", BENCH_HIGHER);
    bench_report_add(report, "ceiling.product.sustained", 90, "TFLOP/s", BENCH_HIGHER);
    return card.benches == ERR_OK ? ERR_OK : err_set(msg, card.benches, "a kernel");
}

enum err engine_open(const struct engine_config *config, struct err_msg *msg, struct engine **out)
{
    static char engine;

    (void)config;
    card.model_asked = true;
    *out = (struct engine *)(void *)&engine;
    return card.model == ERR_OK ? ERR_OK : err_set(msg, card.model, "the model");
}

const struct engine_info *engine_info(const struct engine *e)
{
    (void)e;
    return &info;
}

const struct kv_memory *engine_kv_memory(const struct engine *e)
{
    (void)e;
    return &pool;
}

enum err engine_step(struct engine *e, struct engine_slot *slots, uint32_t n, uint32_t group_layers,
                     engine_layers_fn layers_done, void *arg)
{
    (void)e, (void)slots, (void)n, (void)group_layers, (void)layers_done, (void)arg;
    usleep(1);
    return ERR_OK;
}

void engine_close(struct engine *e)
{
    (void)e;
}

uint64_t cuda_engine_host_ns(const struct engine *e)
{
    (void)e;
    return 0;
}

void cuda_engine_profile_next(struct engine *e)
{
    (void)e;
}

const struct cuda_profile *cuda_engine_profile(const struct engine *e)
{
    (void)e;
    return NULL;
}

/* ---- tests ---- */

/* The error that is told, and its text; what is printed goes to `text`. */
static enum err run(enum engine_weights weights, struct err_msg *msg, char *text, size_t cap)
{
    const struct bench_perf_gpu_options o = {.seed = 1, .weights = weights};
    int out = dup(STDOUT_FILENO);
    FILE *file = tmpfile();
    enum err err;

    assert_non_null(file);
    assert_true(out >= 0);
    fflush(stdout);
    assert_true(dup2(fileno(file), STDOUT_FILENO) >= 0);
    msg->text[0] = '\0';
    card.model_asked = false;
    err = bench_perf_gpu(&o, true, msg);
    fflush(stdout);
    assert_true(dup2(out, STDOUT_FILENO) >= 0);
    rewind(file);
    text[fread(text, 1, cap - 1, file)] = '\0';
    fclose(file);
    close(out);
    return err;
}

/* What a row stands beside. */
static double reference(const char *text, const char *name)
{
    char begin[64];
    const char *row, *value;

    snprintf(begin, sizeof(begin), "\"%s\"", name);
    row = strstr(text, begin);
    assert_non_null(row);
    value = strstr(row, "\"reference\"");
    assert_non_null(value);
    assert_true(value < strchr(row, '\n'));
    value = strstr(value, "\"value\": ");
    assert_non_null(value);
    return strtod(value + strlen("\"value\": "), NULL);
}

#define ASSERT_NEAR(want, got) assert_true(fabs((got) / (want)-1) < 1e-4)

static void figures_stand_beside_the_operations_and_bytes_of_the_model(void **state)
{
    /* Parameters of the layers' matrices and of the head, and bytes of the KV of a token. */
    const double layers = 32 * (4096.0 * (2 * 4096 + 2 * 1024) + 3 * 4096.0 * 14336),
                 head = 128256.0 * 4096, kv = 2 * 32 * 8 * 128 * 2.0;
    struct err_msg msg;
    char text[16384];

    (void)state;
    card.model = ERR_OK;
    assert_int_equal(ERR_OK, run(ENGINE_WEIGHTS_STORED, &msg, text, sizeof(text)));
    for (int i = 0; i < 2;
         i++) { /* a query meets the keys up to its own: 2 operations for q k, 2 for p v */
        double n = i == 0 ? 2048 : 8192, attention = 4.0 * 32 * 32 * 128 * n * (n + 1) / 2;

        ASSERT_NEAR(n / ((2 * layers * n + 2 * head + attention) / 100e12),
                    reference(text, i == 0 ? "gpu.prefill.2048" : "gpu.prefill.8192"));
    }
    ASSERT_NEAR(1e12 / (2 * (layers + head) + 2048 * kv), reference(text, "gpu.decode.1.2048"));
    ASSERT_NEAR(64e12 / (2 * (layers + head) + 64 * 2048 * kv),
                reference(text, "gpu.decode.64.2048"));
    /* With 8-bit weights the head keeps its 16. */
    assert_int_equal(ERR_OK, run(ENGINE_WEIGHTS_FP8, &msg, text, sizeof(text)));
    ASSERT_NEAR(1e12 / (layers + 2 * head + 2048 * kv), reference(text, "gpu.decode.1.2048"));
}

static void a_kernel_that_fails_is_told_and_the_model_is_timed_all_the_same(void **state)
{
    static const enum err failures[] = {ERR_CORRUPT, ERR_UNSUPPORTED, ERR_DEVICE, ERR_NOMEM};
    struct err_msg msg;
    char text[16384];

    (void)state;
    card.model = ERR_NOMEM;
    for (size_t i = 0; i < sizeof(failures) / sizeof(failures[0]); i++) {
        card.benches = failures[i];
        assert_int_equal(failures[i], run(ENGINE_WEIGHTS_STORED, &msg, text, sizeof(text)));
        assert_string_equal("a kernel", msg.text);
        assert_true(card.model_asked);
    }
    card.benches = ERR_OK;
    assert_int_equal(ERR_NOMEM, run(ENGINE_WEIGHTS_STORED, &msg, text, sizeof(text)));
    assert_string_equal("the model", msg.text);
}

static void on_a_card_that_is_lost_or_not_there_no_model_is_opened(void **state)
{
    struct err_msg msg;
    char text[16384];

    (void)state;
    card.benches = ERR_DEVICE;
    card.lost = true;
    assert_int_equal(ERR_DEVICE, run(ENGINE_WEIGHTS_STORED, &msg, text, sizeof(text)));
    assert_false(card.model_asked);
    card.lost = false;
    card.open = ERR_NOT_FOUND;
    assert_int_equal(ERR_NOT_FOUND, run(ENGINE_WEIGHTS_STORED, &msg, text, sizeof(text)));
    assert_string_equal("no card", msg.text);
    assert_false(card.model_asked);
    card.open = ERR_OK;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(figures_stand_beside_the_operations_and_bytes_of_the_model),
        cmocka_unit_test(a_kernel_that_fails_is_told_and_the_model_is_timed_all_the_same),
        cmocka_unit_test(on_a_card_that_is_lost_or_not_there_no_model_is_opened),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
