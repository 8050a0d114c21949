/* engine/cuda/cuda_device.cu - see the header for the contract. */
#include "engine/cuda/cuda_device.h"

#include <cuda_runtime.h>
#include <stdio.h>

extern "C" void engine_cuda_describe(char *out, size_t cap)
{
    int count = 0;
    cudaDeviceProp prop;
    cudaError_t rc = cudaGetDeviceCount(&count);

    if (rc == cudaSuccess && count > 0)
        rc = cudaGetDeviceProperties(&prop, 0);
    if (rc != cudaSuccess)
        snprintf(out, cap, "no usable device: %s", cudaGetErrorString(rc));
    else if (count == 0)
        snprintf(out, cap, "no device");
    else
        snprintf(out, cap, "%d device%s, first: %s, sm_%d%d, %zu MiB", count, count == 1 ? "" : "s",
                 prop.name, prop.major, prop.minor, prop.totalGlobalMem >> 20);
}
