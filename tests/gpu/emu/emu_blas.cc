/* tests/gpu/emu/emu_blas.cc - engine/cuda/gpu_blas_lib.h by plain loops, enqueued like any other work. */
#include "engine/cuda/gpu_blas_lib.h"
#include "engine/kernels/eight_bit.cuh"
#include "tests/gpu/emu/emu.hh"

#include <vector>

struct gpu_blas_lib {
};

struct gpu_blas_call {
    gpu_blas_product p;
};

namespace
{

float half(enum gpu_dtype dtype, uint16_t bits)
{
    return dtype == GPU_BF16 ? to_float(bf16{bits}) : to_float(f16{bits});
}

/* A row of an operand as floats. */
void widen(const gpu_blas_product &p, float *out, const void *from, size_t at)
{
    for (uint32_t k = 0; k < p.k; k++)
        out[k] = p.fp8 ? e4m3::to_float(((const uint8_t *)from)[at + k], 0)
                       : half(p.dtype, ((const uint16_t *)from)[at + k]);
}

void store(const gpu_blas_product &p, void *y, size_t at, float v)
{
    if (p.y_f32)
        ((float *)y)[at] = v + (p.add ? ((float *)y)[at] : 0.0f);
    else if (p.dtype == GPU_BF16)
        ((bf16 *)y)[at] = from_float<bf16>(v + (p.add ? to_float(((bf16 *)y)[at]) : 0.0f));
    else
        ((f16 *)y)[at] = from_float<f16>(v + (p.add ? to_float(((f16 *)y)[at]) : 0.0f));
}

void multiply(const gpu_blas_product &p, uint32_t rows, const gpu_blas_operands &o)
{
    std::vector<float> x((size_t)rows * p.k), w(p.k);

    for (uint32_t m = 0; m < rows; m++)
        widen(p, x.data() + (size_t)m * p.k, o.x, m * p.x_stride);
    for (uint32_t n = 0; n < p.n; n++) {
        widen(p, w.data(), o.w, (size_t)n * p.k);
        for (uint32_t m = 0; m < rows; m++) {
            float sum = 0.0f;

            for (uint32_t k = 0; k < p.k; k++)
                sum += x[(size_t)m * p.k + k] * w[k];
            if (p.fp8)
                sum *= o.x_scale[m] * o.w_scale[n];
            if (p.bias)
                sum += half(p.dtype, o.bias[n]);
            store(p, o.y, m * p.y_stride + n, sum);
        }
    }
}

} // namespace

enum err gpu_blas_lib_open(struct gpu *, void *, struct err_msg *, struct gpu_blas_lib **out)
{
    *out = new gpu_blas_lib();
    return ERR_OK;
}

void gpu_blas_lib_close(struct gpu_blas_lib *l)
{
    delete l;
}

/* Refuses what cuBLASLt refuses. */
enum err gpu_blas_call_create(struct gpu_blas_lib *, const struct gpu_blas_product *p,
                              struct err_msg *msg, struct gpu_blas_call **out, uint32_t *n)
{
    if (p->bias && p->y_f32)
        return err_set(msg, ERR_UNSUPPORTED,
                       "products of more than 16 rows: float results have no bias");
    *out = new gpu_blas_call{*p};
    *n = 1;
    return ERR_OK;
}

void gpu_blas_call_free(struct gpu_blas_call *c)
{
    delete c;
}

void gpu_blas_call_choose(struct gpu_blas_call *, uint32_t)
{
}

enum err gpu_blas_call_run(struct gpu_blas_call *c, uint32_t rows,
                           const struct gpu_blas_operands *o, gpu_stream stream)
{
    gpu_blas_product p = c->p;
    gpu_blas_operands operands = *o;

    return emu::enqueue(stream, [=] { multiply(p, rows, operands); });
}
