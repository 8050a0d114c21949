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

math(EXPR T_TIMEOUT "2 * ${BATON_TEST_TIMEOUT}") # thousands of hand-overs between threads: slow on a busy machine
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

# The daemon on emulated devices, for tests/e2e/test_gpu.py and as a dry run of `baton perf gpu`.
if(TARGET gpu_emu AND NOT BATON_CUDA)
  include(${CMAKE_SOURCE_DIR}/bench/kernels/kernels.cmake)
  add_executable(baton_emu ${CMAKE_SOURCE_DIR}/daemon/main.c ${CMAKE_SOURCE_DIR}/engine/engine.c
    ${CMAKE_SOURCE_DIR}/bench/perf_gpu.c gpu/emu/emu_signals.cc)
  baton_gpu_benches(baton_emu)
  target_compile_definitions(baton_emu PRIVATE BATON_ENGINE_CUDA BATON_ENGINE_SIM BATON_CUDA GPU_EMULATED)
  target_link_libraries(baton_emu PRIVATE engine_cuda_emu gpu_emu engine_kernels_ref daemon m)
  add_test(NAME emu_perf_gpu COMMAND baton_emu perf gpu ${CMAKE_CURRENT_SOURCE_DIR}/gpu/emu/model --only rmsnorm --json)
  set_tests_properties(emu_perf_gpu PROPERTIES LABELS emu TIMEOUT ${BATON_TEST_TIMEOUT} ENVIRONMENT "${BATON_TEST_ENV}"
    PASS_REGULAR_EXPRESSION "gpu.profile.decode" FAIL_REGULAR_EXPRESSION "failed")
  add_test(NAME emu_perf_kernels COMMAND baton_emu perf gpu - --only rmsnorm --json)
  set_tests_properties(emu_perf_kernels PROPERTIES LABELS emu TIMEOUT ${BATON_TEST_TIMEOUT} ENVIRONMENT "${BATON_TEST_ENV}"
    PASS_REGULAR_EXPRESSION "rmsnorm" FAIL_REGULAR_EXPRESSION "gpu.kv.tokens;failed")
  add_test(NAME emu_perf_profile COMMAND baton_emu perf profile ${CMAKE_SOURCE_DIR}/deploy/demo-model/model --backend cuda
    --seconds 8 --max-step-tokens 32 --max-batch 2 --json)
  set_tests_properties(emu_perf_profile PROPERTIES LABELS emu TIMEOUT ${BATON_TEST_TIMEOUT} ENVIRONMENT "${BATON_TEST_ENV}"
    PASS_REGULAR_EXPRESSION "profile.kv.copy" FAIL_REGULAR_EXPRESSION "failed")
endif()
