# Benchmarks of kernels, one name per line: NAME_bench.c defines `const struct gpu_bench NAME_bench`.
# Built into the program in the cuda preset, and in every preset against the emulation (ctest emu_benches), where a tiny
# run shows that they work.
set(GPU_BENCHES
  ceiling
  products
  quantize
  attention
  rmsnorm
  sample
  rope_kv
  swiglu
  gather_rows
  kv_digest
  kv_move
  fill_random
)

# baton_gpu_benches(TARGET): gpu_bench.c, the benchmarks and their list become sources of the target.
function(baton_gpu_benches target)
  set(list "/* The X-list of benchmarks, from bench/kernels/kernels.cmake; included more than once. */\n")
  set(sources ${CMAKE_SOURCE_DIR}/bench/kernels/gpu_bench.c)
  foreach(name ${GPU_BENCHES})
    string(APPEND list "X(${name})\n")
    list(APPEND sources ${CMAKE_SOURCE_DIR}/bench/kernels/${name}_bench.c)
  endforeach()
  file(CONFIGURE OUTPUT ${CMAKE_BINARY_DIR}/generated/bench/kernels/gpu_bench_list.h CONTENT "${list}" @ONLY)
  target_sources(${target} PRIVATE ${sources})
  target_include_directories(${target} PRIVATE ${CMAKE_BINARY_DIR}/generated)
endfunction()
