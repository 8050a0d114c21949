# The emulated GPU: kernels compiled by the host's C++ compiler, engine/gpu.h over host memory.  Test code only.
# ThreadSanitizer does not know the fibers; every other build has the emulation.
if(BATON_SANITIZE STREQUAL "thread")
  return()
endif()
enable_language(CXX)
include(${CMAKE_SOURCE_DIR}/engine/kernels/kernels.cmake OPTIONAL)
find_library(BOOST_CONTEXT boost_context REQUIRED)

set(emu_kernels "")
foreach(kernel ${KERNEL_SOURCES})
  list(APPEND emu_kernels ${CMAKE_SOURCE_DIR}/engine/kernels/${kernel}.cu)
endforeach()
# CMake would call nvcc for .cu, or nothing: the language is said here.
set_source_files_properties(${emu_kernels} PROPERTIES LANGUAGE CXX COMPILE_OPTIONS "-xc++")
add_library(gpu_emu STATIC gpu/emu/emu_block.cc gpu/emu/emu_device.cc gpu/emu/emu_blas.cc gpu/emu/emu_comm.cc
  ${CMAKE_SOURCE_DIR}/engine/cuda/gpu_blas.c ${CMAKE_SOURCE_DIR}/engine/tp/tp_comm.c ${emu_kernels})
target_include_directories(gpu_emu PRIVATE ${CMAKE_SOURCE_DIR} ${CMAKE_CURRENT_SOURCE_DIR}/gpu/emu)
target_compile_features(gpu_emu PUBLIC cxx_std_17)
target_compile_definitions(gpu_emu PRIVATE GPU_EMULATED _GNU_SOURCE)
# No contraction: a device kernel that says __fmul_rn means it.  Optimised whatever the preset: fibers are slow enough.
target_compile_options(gpu_emu PRIVATE -O2 -ffp-contract=off -Wall -Wextra -Wno-unknown-pragmas -Werror)
target_link_libraries(gpu_emu PUBLIC base ${BOOST_CONTEXT})

add_executable(emu_selftest gpu/emu/emu_test.cc)
target_compile_definitions(emu_selftest PRIVATE GPU_EMULATED _GNU_SOURCE)
target_compile_options(emu_selftest PRIVATE -O1 -Wall -Wextra -Werror)
target_include_directories(emu_selftest PRIVATE ${CMAKE_SOURCE_DIR} ${CMAKE_CURRENT_SOURCE_DIR}/gpu/emu)
target_link_libraries(emu_selftest PRIVATE gpu_emu)
add_test(NAME emu_selftest COMMAND emu_selftest)
set_tests_properties(emu_selftest PROPERTIES LABELS "unit;emu" TIMEOUT ${BATON_TEST_TIMEOUT}
  ENVIRONMENT "${BATON_TEST_ENV}")
