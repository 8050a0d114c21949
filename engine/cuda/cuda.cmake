# The CUDA backend, one file per line.  The first list needs no CUDA header: a test can build it against the emulation.
set(CUDA_BACKEND_SOURCES
  gpu_trouble.c
  cuda/cuda_backend.c
  cuda/gpu_blas.c
  cuda/gpu_lib.c
)

# What calls CUDA or NVIDIA's libraries: needs their headers.
set(CUDA_LIBRARY_SOURCES
  cuda/gpu_blas_lt.c
  cuda/gpu_comm_nccl.c
  gpu_cuda.c
)

# .cu files beside the kernels, without extension.
set(CUDA_DEVICE_SOURCES
  cuda/cuda_device
)
