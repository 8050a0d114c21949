/* engine/cpu/cpu_simd_float_gemms.h - the three products whose activations are
 * floats. */

#define GEMM_NAME SIMD(gemm_f32)
#define GEMM_X float
#define GEMM_W float
#define GEMM_XV vf
#define GEMM_WV vf
#define GEMM_STEP VEC_LANES
#define GEMM_LOAD_X(p) vload(p)
#define GEMM_LOAD_W(p) vload(p)
#define GEMM_LOAD_W_N(p, n) vload_n(p, n)
#define GEMM_MAC(acc, x, w) vfma(x, w, acc)
#include "engine/cpu/cpu_simd_gemm.h"

#define GEMM_NAME SIMD(gemm_f16)
#define GEMM_X float
#define GEMM_W uint16_t
#define GEMM_XV vf
#define GEMM_WV vf
#define GEMM_STEP VEC_LANES
#define GEMM_LOAD_X(p) vload(p)
#define GEMM_LOAD_W(p) vload_f16(p)
#define GEMM_LOAD_W_N(p, n) vload_f16_n(p, n)
#define GEMM_MAC(acc, x, w) vfma(x, w, acc)
#include "engine/cpu/cpu_simd_gemm.h"

#define GEMM_NAME SIMD(gemm_bf16)
#define GEMM_X float
#define GEMM_W uint16_t
#define GEMM_XV vf
#define GEMM_WV vf
#define GEMM_STEP VEC_LANES
#define GEMM_LOAD_X(p) vload(p)
#define GEMM_LOAD_W(p) vload_bf16(p)
#define GEMM_LOAD_W_N(p, n) vload_bf16_n(p, n)
#define GEMM_MAC(acc, x, w) vfma(x, w, acc)
#include "engine/cpu/cpu_simd_gemm.h"
