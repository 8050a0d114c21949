# The CUDA backend, one file per line.  The first list needs no CUDA header: a test can build it against the emulation.
set(CUDA_BACKEND_SOURCES
  gpu_trouble.c
  cuda/cuda_arena.c
  cuda/cuda_backend.c
  cuda/cuda_batch.c
  cuda/cuda_forward.c
  cuda/cuda_graph.c
  cuda/cuda_kv.c
  cuda/cuda_open.c
  cuda/cuda_profile.c
  cuda/cuda_ranks.c
  cuda/cuda_step.c
  cuda/cuda_weights.c
  cuda/cuda_weights_copy.c
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
)
