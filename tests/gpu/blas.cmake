# Products by plans, over cuBLASLt on a device and plain loops in the emulation.
baton_gpu_test(blas)

# gpu_blas_lt.c itself on the emulation: a fake of cuBLASLt computes what it is told, by the letter of the documentation.
if(BATON_CUDA AND TARGET gpu_emu)
  baton_gpu_fake_test(blas_lt blas fake_cublas_lt cublasLt 13
    FAKE_SOURCES ${CMAKE_SOURCE_DIR}/engine/kernels/quantize_ref.c)
endif()
