/* engine/kernels/eight_bit.cuh - the 8-bit weight formats on the device: one value from and to fp32.
 *
 * Plain arithmetic, the same on the device and its emulation, in about as many instructions as the conversions of
 * sm_90 need to reach bf16 (e4m3 -> f16 -> f32 -> bf16). */
#ifndef ENGINE_KERNELS_EIGHT_BIT_CUH
#define ENGINE_KERNELS_EIGHT_BIT_CUH

#include "engine/kernels/gpu_kernel.cuh"

/* A byte shifted to the exponent's place reads 2^120 times too small, subnormals included. */
struct e4m3 {
    uint8_t bits;
    static constexpr float kLargest = 448.0f;

    /* byte 0 .. 3 of w */
    static __device__ __forceinline__ float to_float(uint32_t w, unsigned byte)
    {
        uint32_t at_top = w << (24 - 8 * byte);
        return __uint_as_float((at_top & 0x80000000u) | (at_top >> 4 & 0x07f00000u)) * 0x1p120f;
    }
    /* |v| may be a rounding above kLargest. */
    static __device__ __forceinline__ uint8_t from_float(float v)
    {
        uint32_t bits = __float_as_uint(v), sign = bits >> 24 & 0x80u, code;
        float size = fminf(fabsf(v), kLargest);

        if (size < 0x1p-6f) { /* subnormal: the sum's last place is 2^-9, one step */
            code = __float_as_uint(size + 16384.0f) & 15u;
        } else {
            uint32_t u = __float_as_uint(size);
            code = ((u + 0x7ffffu + (u >> 20 & 1u)) >> 20) - (120u << 3);
        }
        return (uint8_t)(sign | code);
    }
};

struct int8 {
    uint8_t bits;
    static constexpr float kLargest = 127.0f;

    /* 2^23 + 128 + value, exactly, from the byte with its sign flipped. */
    static __device__ __forceinline__ float to_float(uint32_t w, unsigned byte)
    {
        return __uint_as_float(0x4b000000u | ((w ^ 0x80808080u) >> (8 * byte) & 0xffu)) -
               8388736.0f;
    }
    static __device__ __forceinline__ uint8_t from_float(float v)
    {
        /* 1.5 * 2^23: the sum's last place is 1, and its low byte the two's complement. */
        return (uint8_t)__float_as_uint(fmaxf(fminf(v, kLargest), -kLargest) + 12582912.0f);
    }
};

#endif
