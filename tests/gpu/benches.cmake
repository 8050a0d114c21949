# All benchmarks of kernels in one program, on tiny shapes.
include(${CMAKE_SOURCE_DIR}/bench/kernels/kernels.cmake)
baton_gpu_test(benches LIBS bench_report)
foreach(target emu_benches gpu_benches)
  if(TARGET ${target})
    baton_gpu_benches(${target})
  endif()
endforeach()
