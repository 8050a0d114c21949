# Collectives between devices: NCCL between two or more, or as many as the emulation makes.
baton_gpu_test(comm)
