# Early starts of kernels, alone.
baton_gpu_test(early)
