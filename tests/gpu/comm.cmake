# Collectives between devices: NCCL between two or more, or as many as the emulation makes.
baton_gpu_test(comm)

# gpu_comm_nccl.c itself on the emulation: a fake of NCCL that is in progress for long and ends the program on misuse.
if(BATON_CUDA AND TARGET gpu_emu)
  set(fake ${CMAKE_CURRENT_BINARY_DIR}/fake)
  add_library(fake_nccl SHARED gpu/fake/fake_nccl.c)
  set_target_properties(fake_nccl PROPERTIES OUTPUT_NAME nccl SUFFIX .so.2 LIBRARY_OUTPUT_DIRECTORY ${fake})
  add_executable(emu_comm_nccl gpu/comm_test.c ${CMAKE_SOURCE_DIR}/engine/cuda/gpu_comm_nccl.c
    ${CMAKE_SOURCE_DIR}/engine/cuda/gpu_lib.c)
  set_target_properties(emu_comm_nccl PROPERTIES ENABLE_EXPORTS ON) # the fake enqueues by our gpu.h
  target_compile_definitions(emu_comm_nccl PRIVATE GPU_EMULATED FAKE_NCCL_FAILS=777)
  target_link_libraries(emu_comm_nccl PRIVATE gpu_emu base PkgConfig::CMOCKA m ${CMAKE_DL_LIBS})
  foreach(target fake_nccl emu_comm_nccl)
    target_include_directories(${target} SYSTEM PRIVATE ${BATON_CUDA_INCLUDES})
  endforeach()
  target_link_libraries(fake_nccl PRIVATE baton_flags)
  add_dependencies(emu_comm_nccl fake_nccl)
  add_test(NAME emu_comm_nccl COMMAND emu_comm_nccl WORKING_DIRECTORY ${CMAKE_SOURCE_DIR})
  add_dependencies(gpu_tests emu_comm_nccl)
  set_tests_properties(emu_comm_nccl PROPERTIES LABELS "emu;gpu" TIMEOUT ${BATON_TEST_TIMEOUT}
    ENVIRONMENT "${BATON_TEST_ENV};LD_LIBRARY_PATH=${fake}")
endif()
