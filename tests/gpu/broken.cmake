# What is left after work has broken a device: a program of its own, since nothing works after it.
baton_gpu_test(broken)
