# CUDA objects for the cuda preset.  nvcc is called directly: enabling CUDA as a CMake language would make nvcc link
# every program.  Where nvcc and the headers are is settled by deploy/install-cuda.sh.
set(BATON_CUDA_TOOLKIT ${CMAKE_SOURCE_DIR}/build/cuda-toolkit CACHE PATH
  "The folder deploy/install-cuda.sh was run for")
set(BATON_CUDA_ARCH 90 CACHE STRING "Compute capabilities to build for, a list")
option(BATON_CUDA_EARLY "Let a kernel start while the one before it ends (engine/kernels/README.md)" ON)
include(${BATON_CUDA_TOOLKIT}/toolkit.cmake OPTIONAL)
foreach(needed BATON_CUDA_NVCC BATON_CUDA_RUNTIME)
  if(NOT EXISTS "${${needed}}")
    message(FATAL_ERROR "no CUDA toolkit at ${BATON_CUDA_TOOLKIT}: run deploy/install-cuda.sh first")
  endif()
endforeach()

set(BATON_CUDA_FLAGS -O3 -std=c++17 -lineinfo -ccbin ${CMAKE_C_COMPILER} -I${CMAKE_SOURCE_DIR} -Xptxas=-v
  -Xcompiler=-fPIC,-Wall,-fno-exceptions,-fno-rtti,-fno-threadsafe-statics) # no C++ library is linked
if(NOT BATON_CUDA_EARLY)
  list(APPEND BATON_CUDA_FLAGS -DBATON_CUDA_NO_EARLY)
endif()
list(LENGTH BATON_CUDA_ARCH count)
if(count GREATER 1)
  list(APPEND BATON_CUDA_FLAGS --threads ${count})
endif()
set(BATON_CUDA_OBJECTS ${CMAKE_BINARY_DIR}/cuda) # NAME.o, and NAME.log: what ptxas said of each kernel
file(MAKE_DIRECTORY ${BATON_CUDA_OBJECTS})
set_property(GLOBAL PROPERTY BATON_CUDA_LOGS "")

# baton_cuda_object(OUT folder/name.cu [SM90A]): OUT is the object to add to a target's sources.  SM90A: the file uses
# instructions that only Hopper has (wgmma, setmaxnreg); there is no such code for other devices.
function(baton_cuda_object out source)
  cmake_parse_arguments(A "SM90A" "" "" ${ARGN})
  cmake_path(ABSOLUTE_PATH source BASE_DIRECTORY ${CMAKE_CURRENT_SOURCE_DIR})
  cmake_path(GET source STEM name)
  set(object ${BATON_CUDA_OBJECTS}/${name}.o)
  set(log ${BATON_CUDA_OBJECTS}/${name}.log)
  set(targets "")
  if(A_SM90A)
    set(targets -gencode=arch=compute_90a,code=sm_90a)
  else()
    foreach(arch ${BATON_CUDA_ARCH})
      list(APPEND targets "-gencode=arch=compute_${arch},code=[compute_${arch},sm_${arch}]")
    endforeach()
  endif()
  add_custom_command(OUTPUT ${object} ${log}
    COMMAND sh ${CMAKE_SOURCE_DIR}/cmake/nvcc.sh ${log} ${BATON_CUDA_NVCC} -c ${source} -o ${object}
      -MD -MF ${object}.d ${targets} ${BATON_CUDA_FLAGS}
    DEPENDS ${source} ${CMAKE_SOURCE_DIR}/cmake/nvcc.sh DEPFILE ${object}.d
    COMMENT "nvcc ${name}.cu" VERBATIM)
  set_source_files_properties(${object} PROPERTIES EXTERNAL_OBJECT ON GENERATED ON)
  set_property(GLOBAL APPEND PROPERTY BATON_CUDA_LOGS ${log})
  set(${out} ${object} PARENT_SCOPE)
endfunction()

# One line for every kernel made so far: registers, stack, spills, shared memory.  Read it after a change.
function(baton_cuda_table)
  get_property(logs GLOBAL PROPERTY BATON_CUDA_LOGS)
  set(table ${BATON_CUDA_OBJECTS}/kernels.txt)
  add_custom_command(OUTPUT ${table}
    COMMAND sh ${CMAKE_SOURCE_DIR}/cmake/kernel_table.sh ${table} ${logs}
    DEPENDS ${logs} ${CMAKE_SOURCE_DIR}/cmake/kernel_table.sh VERBATIM)
  add_custom_target(cuda_kernels ALL DEPENDS ${table})
endfunction()
