# Products by plans, over cuBLASLt on a device and plain loops in the emulation.
baton_gpu_test(blas)

# gpu_blas_lt.c itself on the emulation: a fake of cuBLASLt computes what it is told, by the letter of the documentation.
if(BATON_CUDA AND TARGET gpu_emu)
  set(fake ${CMAKE_CURRENT_BINARY_DIR}/fake)
  add_library(fake_cublas_lt SHARED gpu/fake/fake_cublas_lt.c ${CMAKE_SOURCE_DIR}/engine/kernels/quantize_ref.c)
  set_target_properties(fake_cublas_lt PROPERTIES OUTPUT_NAME cublasLt SUFFIX .so.13 LIBRARY_OUTPUT_DIRECTORY ${fake})
  add_executable(emu_blas_lt gpu/blas_test.c ${CMAKE_SOURCE_DIR}/engine/cuda/gpu_blas_lt.c
    ${CMAKE_SOURCE_DIR}/engine/cuda/gpu_lib.c)
  set_target_properties(emu_blas_lt PROPERTIES ENABLE_EXPORTS ON) # the fake enqueues by our gpu.h
  target_compile_definitions(emu_blas_lt PRIVATE GPU_EMULATED)
  target_link_libraries(emu_blas_lt PRIVATE gpu_emu engine_kernels_ref base PkgConfig::CMOCKA m ${CMAKE_DL_LIBS})
  foreach(target fake_cublas_lt emu_blas_lt)
    target_include_directories(${target} SYSTEM PRIVATE ${BATON_CUDA_INCLUDES})
  endforeach()
  target_link_libraries(fake_cublas_lt PRIVATE baton_flags)
  add_dependencies(emu_blas_lt fake_cublas_lt)
  add_test(NAME emu_blas_lt COMMAND emu_blas_lt WORKING_DIRECTORY ${CMAKE_SOURCE_DIR})
  add_dependencies(gpu_tests emu_blas_lt)
  set_tests_properties(emu_blas_lt PROPERTIES LABELS "emu;gpu" TIMEOUT ${BATON_TEST_TIMEOUT}
    ENVIRONMENT "${BATON_TEST_ENV};LD_LIBRARY_PATH=${fake}")
endif()
