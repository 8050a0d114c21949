# Products by plans, over cuBLASLt on a device and plain loops in the emulation.
baton_gpu_test(blas)
