# Collectives between devices: NCCL between two or more, or as many as the emulation makes.
baton_gpu_test(comm)

# gpu_comm_nccl.c itself on the emulation: a fake of NCCL that is in progress for long and ends the program on misuse.
if(BATON_CUDA AND TARGET gpu_emu)
  baton_gpu_fake_test(comm_nccl comm fake_nccl nccl 2 DEFINITIONS FAKE_NCCL_FAILS=777)
endif()
