/* engine/kernels/dequantize.cu - a block per row, 16 bytes in and 32 out per thread and step. */
#include "engine/kernels/dequantize.h"
#include "engine/kernels/eight_bit.cuh"

namespace
{

constexpr unsigned kBlock = 256, kVec = 16;

template <class T, class Q>
__global__ void __launch_bounds__(kBlock) dequantize_kernel(dequantize_args a)
{
    const uint8_t *q = a.q + (size_t)blockIdx.x * a.cols;
    uint16_t *y = a.y + (size_t)blockIdx.x * a.cols;
    float scale = a.scale[blockIdx.x];

    for (unsigned i = threadIdx.x; i < a.cols / kVec; i += kBlock) {
        vec16 in = load_streaming(q + i * kVec), out[2];
        for (unsigned k = 0; k < kVec; k += 2)
            out[k / 8].w[k / 2 % 4] = pack2<T>(Q::to_float(in.w[k / 4], k % 4) * scale,
                                               Q::to_float(in.w[k / 4], k % 4 + 1) * scale);
        ((vec16 *)y)[2 * i] = out[0];
        ((vec16 *)y)[2 * i + 1] = out[1];
    }
}

template <class T> enum err launch(const struct dequantize_args *a, gpu_stream stream)
{
    struct gpu_dims d = {a->rows, 1, 1, kBlock, 0};

    return a->format == GPU_WEIGHT_E4M3 ? gpu_launch<dequantize_kernel<T, e4m3>>(d, stream, *a)
                                        : gpu_launch<dequantize_kernel<T, int8>>(d, stream, *a);
}

} // namespace

extern "C" enum err dequantize(const struct dequantize_args *a, gpu_stream stream)
{
    if (a->cols < kVec || a->cols % kVec != 0 || a->rows > INT32_MAX || (uintptr_t)a->q % 16 != 0 ||
        (uintptr_t)a->y % 16 != 0 || (a->format != GPU_WEIGHT_E4M3 && a->format != GPU_WEIGHT_INT8))
        return ERR_INVALID;
    if (a->rows == 0)
        return ERR_OK;
    return a->dtype == GPU_BF16  ? launch<bf16>(a, stream)
           : a->dtype == GPU_F16 ? launch<f16>(a, stream)
                                 : ERR_INVALID;
}
