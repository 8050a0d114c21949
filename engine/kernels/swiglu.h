/* engine/kernels/swiglu.h - out[r,c] = silu(gate[r,c]) * up[r,c], with silu(g) = g / (1 + e^-g).
 *
 *   gate_up  16-bit [rows][2 * ffn], row-major, 16-byte aligned: of each row the gates, then the ups
 *   out      16-bit [rows][ffn], 16-byte aligned, not overlapping gate_up
 *
 * Computed in fp32 (e^x and 1/x by the fast instructions: relative error below 1e-5), rounded to nearest
 * even once.  Gates below -87 give 0, as e^-g is out of range: the formula's values there are below 2e-36 * up.
 *
 * swiglu() only enqueues.  ERR_INVALID: ffn outside 8 .. 2^20 or no multiple of 8, more than 2^31 pieces of
 * 8 KiB, a wrong dtype; rows 0 does nothing.  ERR_DEVICE: the launch was refused.
 * Moves 6 * rows * ffn bytes; bound by memory. */
#ifndef ENGINE_KERNELS_SWIGLU_H
#define ENGINE_KERNELS_SWIGLU_H

#include <stdint.h>

#include "base/err.h"
#include "engine/gpu.h"

#ifdef __cplusplus
extern "C" {
#endif

struct swiglu_args {
    void *out;
    const void *gate_up;
    uint32_t rows, ffn;
    enum gpu_dtype dtype;
};

MUST_USE enum err swiglu(const struct swiglu_args *a, gpu_stream stream);

/* The definition, in host memory. */
void swiglu_ref(float *out, const float *gate_up, uint32_t rows, uint32_t ffn);

#ifdef __cplusplus
}
#endif
#endif
