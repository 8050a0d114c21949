/* engine/cpu/cpu_kernels.c - which table of kernels this processor can run, and exact conversions. */
#include "engine/cpu/cpu_kernels.h"

#include <string.h>

#ifdef ENGINE_CPU_X86
static bool has(enum cpu_isa isa)
{
    bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                  __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");

    switch (isa) {
    case CPU_ISA_AVX2:
        return avx2; /* every processor with AVX2 has F16C */
    case CPU_ISA_AVX512:
        return avx512;
    case CPU_ISA_AVX512_BF16:
        return avx512 && __builtin_cpu_supports("avx512bf16");
    case CPU_ISA_PORTABLE:
    case CPU_ISA_COUNT:
        break;
    }
    return false;
}
#endif

const struct cpu_kernels *cpu_kernels_get(enum cpu_isa isa)
{
    if (isa == CPU_ISA_PORTABLE)
        return &cpu_kernels_portable;
#ifdef ENGINE_CPU_X86
    if (isa == CPU_ISA_AVX2 && has(isa))
        return &cpu_kernels_avx2;
    if (isa == CPU_ISA_AVX512 && has(isa))
        return &cpu_kernels_avx512;
    if (isa == CPU_ISA_AVX512_BF16 && has(isa))
        return &cpu_kernels_avx512bf16;
#endif
    return NULL;
}

const struct cpu_kernels *cpu_kernels_best(void)
{
    for (int isa = CPU_ISA_COUNT - 1; isa > 0; isa--) {
        const struct cpu_kernels *k = cpu_kernels_get((enum cpu_isa)isa);

        if (k != NULL)
            return k;
    }
    return &cpu_kernels_portable;
}

/* By bits: exponent re-biased; subnormal halves are normal floats, so they are built by a
 * multiplication. */
static float half_to_float(uint16_t h)
{
    union {
        uint32_t u;
        float f;
    } v;
    uint32_t sign = (uint32_t)(h & 0x8000) << 16;
    uint32_t exponent = (h >> 10) & 0x1f, mantissa = h & 0x3ff;

    if (exponent == 0) {
        v.f = (float)mantissa * 0x1p-24f;
        v.u |= sign;
    } else if (exponent == 31) {
        v.u = sign | 0x7f800000u | mantissa << 13;
    } else {
        v.u = sign | (exponent + 112) << 23 | mantissa << 13;
    }
    return v.f;
}

void cpu_to_float(float *dst, const void *src, enum engine_dtype dtype, size_t n)
{
    const uint16_t *half = src;

    switch (dtype) {
    case ENGINE_F32:
        memcpy(dst, src, n * sizeof(float));
        break;
    case ENGINE_F16:
        for (size_t i = 0; i < n; i++)
            dst[i] = half_to_float(half[i]);
        break;
    case ENGINE_BF16:
        for (size_t i = 0; i < n; i++)
            dst[i] = cpu_bf16_to_float(half[i]);
        break;
    }
}

void cpu_round_bf16(uint16_t *out, const float *x, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) {
        uint32_t u;

        memcpy(&u, &x[i], sizeof(u));
        if ((u & 0x7fffffffu) > 0x7f800000u)
            out[i] = (uint16_t)(u >> 16 | 0x40); /* a NaN stays one */
        else
            out[i] = (uint16_t)((u + 0x7fff + (u >> 16 & 1)) >> 16);
    }
}

/* Per row: CPU_KEY_BLOCK scores, head_dim sums (padded to a vector), maximum and total. */
size_t cpu_attend_scratch(uint32_t head_dim)
{
    size_t padded = ((size_t)head_dim + 15) / 16 * 16;

    return CPU_ATTEND_ROWS * (CPU_KEY_BLOCK + padded + 2) + 32;
}
