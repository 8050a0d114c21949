/* tests/gpu/gpu_test.h - what the kernel tests share: a device or a skip, guarded and poisoned device memory, random
 * 16-bit data, comparisons.
 *
 *   int main(int argc, char **argv) { return gpu_test_main(argc, argv, tests, sizeof(tests) / sizeof(tests[0])); }
 *
 * The same test runs on a device and on the emulation.  The data come from a seed: 1, or the
 * program's argument.  One file per program, one thread. */
#ifndef TESTS_GPU_GPU_TEST_H
#define TESTS_GPU_GPU_TEST_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/err.h"
#include "base/mem.h"
#include "engine/gpu.h"

#define TEST_OK(call) assert_int_equal(ERR_OK, (call))

static struct gpu *test_gpu;
static gpu_stream test_stream;
static uint64_t test_random_state;

/* ---- random data ---- */

static inline uint64_t test_random(void)
{
    uint64_t z = (test_random_state += UINT64_C(0x9e3779b97f4a7c15));

    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

/* 0 .. n - 1 */
static inline uint32_t test_below(uint32_t n)
{
    return (uint32_t)((test_random() >> 32) * n >> 32);
}

/* -1 .. 1 */
static inline double test_uniform(void)
{
    return (double)(int64_t)test_random() * 0x1p-63;
}

/* About normal, with the variance 1: some values are large, as activations are. */
static inline double test_normal(void)
{
    double sum = 0;

    for (int i = 0; i < 3; i++)
        sum += test_uniform();
    return sum;
}

/* ---- 16-bit floats on the host ---- */

static inline float test_from16(enum gpu_dtype dtype, uint16_t bits)
{
    float f;

    if (dtype == GPU_BF16) {
        uint32_t u = (uint32_t)bits << 16;
        memcpy(&f, &u, sizeof(f));
        return f;
    }
    int exponent = bits >> 10 & 31, fraction = bits & 1023;
    if (exponent == 31)
        f = fraction != 0 ? NAN : INFINITY;
    else if (exponent == 0)
        f = (float)fraction * 0x1p-24f;
    else
        f = ldexpf((float)(1024 + fraction), exponent - 25);
    return (bits & 0x8000) != 0 ? -f : f;
}

/* To nearest, ties to even; beyond the largest: infinity. */
static inline uint16_t test_to16(enum gpu_dtype dtype, double value)
{
    uint16_t sign = signbit(value) ? 0x8000 : 0;
    int bits = dtype == GPU_BF16 ? 7 : 10, bias = dtype == GPU_BF16 ? 127 : 15, e;
    double size = fabs(value);

    if (isnan(value))
        return (uint16_t)(0x7fff);
    if (isinf(value) || size >= ldexp(2.0 - ldexp(1, -bits - 1), bias))
        return (uint16_t)(sign | (2 * bias + 1) << bits);
    if (size == 0)
        return sign;
    (void)frexp(size, &e); /* size = [0.5, 1) * 2^e */
    e = e - 1 < 1 - bias ? 1 - bias : e - 1;
    /* A fraction that rounds up to the next power of two carries into the exponent by itself. */
    int steps = (int)nearbyint(ldexp(size, bits - e));
    return (uint16_t)(sign | (((e + bias - 1) << bits) + steps));
}

static inline void *test_alloc(size_t bytes)
{
    void *p = mem_try_alloc(bytes);

    assert_non_null(p);
    return p;
}

/* n normal values of this size, as the type holds them. */
static inline uint16_t *test_random16(enum gpu_dtype dtype, size_t n, double size)
{
    uint16_t *out = (uint16_t *)test_alloc(n * sizeof(*out));

    for (size_t i = 0; i < n; i++)
        out[i] = test_to16(dtype, test_normal() * size);
    return out;
}

static inline float *test_widen(enum gpu_dtype dtype, const uint16_t *in, size_t n)
{
    float *out = (float *)test_alloc(n * sizeof(*out));

    for (size_t i = 0; i < n; i++)
        out[i] = test_from16(dtype, in[i]);
    return out;
}

/* ---- device memory ---- */

enum {
    TEST_GUARD = 256,
    TEST_POISON = 0xff /* a NaN in every float type */,
    TEST_GUARD_BYTE = 0xa5
};

static inline void test_wait(void)
{
    TEST_OK(gpu_stream_wait(test_stream, clock_now_ns() + UINT64_C(120000000000)));
}

/* Poisoned, between guards that test_device_free looks at. */
static inline void *test_device(size_t bytes)
{
    void *p;

    TEST_OK(gpu_alloc(test_gpu, bytes + 2 * TEST_GUARD, &p));
    TEST_OK(gpu_fill(p, TEST_GUARD_BYTE, bytes + 2 * TEST_GUARD, test_stream));
    TEST_OK(gpu_fill((uint8_t *)p + TEST_GUARD, TEST_POISON, bytes, test_stream));
    return (uint8_t *)p + TEST_GUARD;
}

static inline void test_to_host(void *dst, const void *src, size_t bytes)
{
    void *staging;

    TEST_OK(gpu_host_alloc(test_gpu, bytes, &staging));
    TEST_OK(gpu_copy(staging, src, bytes, GPU_TO_HOST, test_stream));
    test_wait();
    memcpy(dst, staging, bytes);
    gpu_host_free(test_gpu, staging);
}

static inline void test_to_device(void *dst, const void *src, size_t bytes)
{
    void *staging;

    TEST_OK(gpu_host_alloc(test_gpu, bytes, &staging));
    memcpy(staging, src, bytes);
    TEST_OK(gpu_copy(dst, staging, bytes, GPU_TO_DEVICE, test_stream));
    test_wait();
    gpu_host_free(test_gpu, staging);
}

static inline void *test_upload(const void *src, size_t bytes)
{
    void *p = test_device(bytes);

    test_to_device(p, src, bytes);
    return p;
}

/* bytes as at test_device: the guards on both sides must be as they were. */
static inline void test_device_free(void *p, size_t bytes)
{
    uint8_t guard[2][TEST_GUARD];

    test_to_host(guard[0], (uint8_t *)p - TEST_GUARD, TEST_GUARD);
    test_to_host(guard[1], (uint8_t *)p + bytes, TEST_GUARD);
    for (size_t i = 0; i < sizeof(guard); i++) {
        if (((uint8_t *)guard)[i] != TEST_GUARD_BYTE)
            fail_msg("written %s a buffer of %zu bytes", i < TEST_GUARD ? "before" : "behind",
                     bytes);
    }
    gpu_free(test_gpu, (uint8_t *)p - TEST_GUARD);
}

/* ---- comparison ---- */

/* What one rounding to the type costs at most, relative to the value. */
static inline double test_rounding(enum gpu_dtype dtype)
{
    return dtype == GPU_BF16 ? 0x1p-8 : 0x1p-11;
}

/* Every |got - want| <= relative * |want| + absolute, where NaN is close to NaN alone and infinities to themselves; so
 * a poisoned element that was not written fails.  Returns the relative L2 error. */
static inline double test_close(const char *what, const float *got, const float *want, size_t n,
                                double relative, double absolute)
{
    double wrong = 0, size = 0;

    for (size_t i = 0; i < n; i++) {
        double g = (double)got[i], w = (double)want[i], d = fabs(g - w);
        if ((isnan(g) && isnan(w)) || g == w) {
            size += isfinite(w) ? w * w : 0;
            continue;
        }
        if (!(d <= relative * fabs(w) + absolute))
            fail_msg("%s: element %zu of %zu is %.9g, not %.9g (within %g of it and %g)", what, i,
                     n, g, w, relative, absolute);
        wrong += d * d;
        size += w * w;
    }
    return size > 0 ? sqrt(wrong / size) : sqrt(wrong);
}

static inline double test_close16(const char *what, enum gpu_dtype dtype, const uint16_t *got,
                                  const float *want, size_t n, double relative, double absolute)
{
    float *wide = test_widen(dtype, got, n);
    double error = test_close(what, wide, want, n, relative, absolute);

    mem_free(wide);
    return error;
}

/* ---- running ---- */

/* Opens device 0 and runs the tests; 77, the exit status of a skip, without a device.  The seed is printed. */
static inline int gpu_test_main(int argc, char **argv, const struct CMUnitTest *tests, size_t n)
{
    struct err_msg msg = {0};
    int failed;

    if (gpu_count(&msg) == 0) {
        printf("SKIP: no CUDA device: %s\n", msg.text);
        return 77;
    }
    test_random_state = argc > 1 ? strtoull(argv[1], NULL, 10) : 1;
    printf("seed %" PRIu64 "\n", test_random_state);
    if (gpu_open(0, &msg, &test_gpu) != ERR_OK ||
        gpu_stream_create(test_gpu, false, &test_stream) != ERR_OK) {
        printf("the device does not open: %s %s\n", msg.text, gpu_trouble());
        return 1;
    }
    failed = _cmocka_run_group_tests(argv[0], tests, n, NULL, NULL);
    gpu_stream_destroy(test_stream);
    gpu_close(test_gpu);
    return failed != 0;
}

#endif
