# engine/gpu.h itself: gpu_cuda.c on a device, and the emulation by the same contract.
baton_gpu_test(device)
