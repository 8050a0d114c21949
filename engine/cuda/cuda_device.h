/* engine/cuda/cuda_device.h - what the CUDA runtime says about the devices of this machine.
 *
 * C on the outside, compiled by nvcc on the inside; no CUDA type crosses.  Thread: any. */
#ifndef ENGINE_CUDA_CUDA_DEVICE_H
#define ENGINE_CUDA_CUDA_DEVICE_H

#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

/* One line about device 0 and the number of devices, or why there is none.  Always terminated. */
void engine_cuda_describe(char *out, size_t cap);

#ifdef __cplusplus
}
#endif
#endif
