# Tests of the GPU code (tests/gpu/README.md).  The same source runs twice: on the emulation in every preset (emu_NAME, label
# emu), and in the cuda preset on a device (gpu_NAME, label gpu), where it ends with 77 if there is none.
include(${CMAKE_SOURCE_DIR}/engine/kernels/kernels.cmake)
if(BATON_CUDA)
  include(${BATON_CUDA_TOOLKIT}/toolkit.cmake)
endif()

option(BATON_EMULATION "Build the emulated GPU for the tests (needs a C++ compiler and boost_context)" ON)
if(BATON_EMULATION)
  include(gpu/emu/emu.cmake) # gpu_emu, where the preset can have it
endif()
add_custom_target(gpu_tests) # everything that ctest -L gpu runs

# The device's libraries are opened by name, and the toolkit's folder is not one the system knows.
set(BATON_GPU_LIBRARIES "")
foreach(folder ${BATON_CUDA_LIBRARIES})
  list(APPEND BATON_GPU_LIBRARIES "LD_LIBRARY_PATH=path_list_append:${folder}")
endforeach()

function(baton_gpu_program target kind test)
  add_executable(${target} ${test} ${T_SOURCES})
  target_link_libraries(${target} PRIVATE ${ARGN} ${T_LIBS} engine_kernels_ref base PkgConfig::CMOCKA m)
  add_test(NAME ${target} COMMAND ${target} WORKING_DIRECTORY ${CMAKE_SOURCE_DIR})
  set_tests_properties(${target} PROPERTIES LABELS ${kind} TIMEOUT ${T_TIMEOUT} SKIP_RETURN_CODE 77
    ENVIRONMENT "${BATON_TEST_ENV}" ENVIRONMENT_MODIFICATION "${BATON_GPU_LIBRARIES}")
endfunction()

# baton_gpu_test(NAME [SOURCES more.c] [LIBS ...] [TIMEOUT s]): tests/gpu/NAME_test.c on both.
function(baton_gpu_test name)
  cmake_parse_arguments(T "" "TIMEOUT" "SOURCES;LIBS" ${ARGN})
  if(NOT T_TIMEOUT)
    set(T_TIMEOUT ${BATON_TEST_TIMEOUT})
  endif()
  if(TARGET gpu_emu)
    baton_gpu_program(emu_${name} emu gpu/${name}_test.c gpu_emu)
    target_compile_definitions(emu_${name} PRIVATE GPU_EMULATED)
  endif()
  if(BATON_CUDA)
    baton_gpu_program(gpu_${name} gpu gpu/${name}_test.c engine)
    set_tests_properties(gpu_${name} PROPERTIES RUN_SERIAL ON) # they share one card
    add_dependencies(gpu_tests gpu_${name})
  endif()
endfunction()

# baton_gpu_fake_test(NAME TEST FAKE LIBRARY VERSION [FAKE_SOURCES ...] [DEFINITIONS ...]): emu_NAME is the test
# TEST with the caller of a library, engine/cuda/gpu_NAME.c, itself on the emulation, against the fake of that library.
function(baton_gpu_fake_test name test fake library version)
  cmake_parse_arguments(T "" "" "FAKE_SOURCES;DEFINITIONS" ${ARGN})
  set(folder ${CMAKE_CURRENT_BINARY_DIR}/fake)
  add_library(${fake} SHARED gpu/fake/${fake}.c ${T_FAKE_SOURCES})
  set_target_properties(${fake} PROPERTIES OUTPUT_NAME ${library} SUFFIX .so.${version} LIBRARY_OUTPUT_DIRECTORY ${folder})
  add_executable(emu_${name} gpu/${test}_test.c ${CMAKE_SOURCE_DIR}/engine/cuda/gpu_${name}.c
    ${CMAKE_SOURCE_DIR}/engine/cuda/gpu_lib.c)
  set_target_properties(emu_${name} PROPERTIES ENABLE_EXPORTS ON) # the fake enqueues by our gpu.h
  target_compile_definitions(emu_${name} PRIVATE GPU_EMULATED ${T_DEFINITIONS})
  target_link_libraries(emu_${name} PRIVATE gpu_emu engine_kernels_ref base PkgConfig::CMOCKA m ${CMAKE_DL_LIBS})
  foreach(target ${fake} emu_${name})
    target_include_directories(${target} SYSTEM PRIVATE ${BATON_CUDA_INCLUDES})
  endforeach()
  target_link_libraries(${fake} PRIVATE baton_flags)
  add_dependencies(emu_${name} ${fake})
  add_dependencies(gpu_tests emu_${name})
  add_test(NAME emu_${name} COMMAND emu_${name} WORKING_DIRECTORY ${CMAKE_SOURCE_DIR})
  set_tests_properties(emu_${name} PROPERTIES LABELS "emu;gpu" TIMEOUT ${BATON_TEST_TIMEOUT}
    ENVIRONMENT "${BATON_TEST_ENV};LD_LIBRARY_PATH=${folder}")
endfunction()

# Every kernel has a test of its name; others are registered in a .cmake file beside this one.
foreach(name ${KERNEL_SOURCES})
  if(EXISTS ${CMAKE_CURRENT_SOURCE_DIR}/gpu/${name}_test.c)
    baton_gpu_test(${name} LIBS ${KERNEL_TEST_LIBS_${name}})
  endif()
endforeach()
file(GLOB registered CONFIGURE_DEPENDS gpu/*.cmake)
foreach(file ${registered})
  if(NOT file MATCHES "gpu/gpu.cmake$")
    include(${file})
  endif()
endforeach()

# The loader of the libraries: a test of the tree everywhere, and of the real libraries here.
baton_unit_test(NAME engine_gpu_lib_test
  SOURCES unit/engine_gpu_lib_test.c ${CMAKE_SOURCE_DIR}/engine/cuda/gpu_lib.c LIBS ${CMAKE_DL_LIBS})
if(BATON_CUDA AND BATON_CUDA_LIBRARIES)
  target_compile_definitions(engine_gpu_lib_test PRIVATE BATON_CUDA_LIBRARIES)
  set_tests_properties(engine_gpu_lib_test PROPERTIES LABELS "unit;gpu"
    ENVIRONMENT_MODIFICATION "${BATON_GPU_LIBRARIES}")
  add_dependencies(gpu_tests engine_gpu_lib_test)
endif()
