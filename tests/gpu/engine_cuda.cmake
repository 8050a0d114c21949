# The CUDA backend whole: on the emulation the same C files as in the cuda preset, in a library of their own, so that
# steps are compared with the CPU backend in every build; in the cuda preset the backend itself, on a device.
include(${CMAKE_SOURCE_DIR}/engine/cuda/cuda.cmake)
if(TARGET gpu_emu)
  set(sources ${CUDA_BACKEND_SOURCES})
  list(REMOVE_ITEM sources gpu_trouble.c cuda/gpu_lib.c cuda/gpu_blas.c) # the emulation has its own
  list(TRANSFORM sources PREPEND ${CMAKE_SOURCE_DIR}/engine/)
  add_library(engine_cuda_emu STATIC ${sources})
  target_link_libraries(engine_cuda_emu PUBLIC gpu_emu engine)
endif()

set(T_TIMEOUT ${BATON_TEST_TIMEOUT})
set(T_SOURCES unit/engine_fixture.c)
foreach(name engine_cuda engine_cuda_trouble engine_cuda_tp)
  if(TARGET gpu_emu)
    baton_gpu_program(emu_${name} emu gpu/${name}_test.c engine_cuda_emu)
    target_compile_definitions(emu_${name} PRIVATE GPU_EMULATED)
  endif()
endforeach()
if(BATON_CUDA)
  baton_gpu_program(gpu_engine_cuda gpu gpu/engine_cuda_test.c engine)
  set_tests_properties(gpu_engine_cuda PROPERTIES RUN_SERIAL ON)
  add_dependencies(gpu_tests gpu_engine_cuda)
endif()
