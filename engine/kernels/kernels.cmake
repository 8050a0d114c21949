# The kernels of this folder, one name per line: NAME.cu with NAME.h, and NAME_ref.c, what it must compute, in plain C.
# tests/gpu/NAME_test.c is found by the same name.
set(KERNEL_SOURCES
  quantize
  dequantize
  gemv
  attention_decode
  attention_prefill
  sample
  rmsnorm
  rope_kv
  swiglu
  gather_rows
  kv_digest
  kv_move
  fill_random
)

# Libraries that a kernel's test needs beside the references.
set(KERNEL_TEST_LIBS_sample engine) # engine_sample() is what it is compared with

# Those of them that use instructions of sm_90a alone (wgmma, setmaxnreg).
set(KERNEL_SM90A
)
