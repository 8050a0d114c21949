# What the CUDA build says on the machine it runs on, with or without a device, and with drivers that serve none.
if(BATON_CUDA)
  baton_unit_test(NAME gpu_cuda_test SOURCES unit/gpu_cuda_test.c LIBS engine)
  set_tests_properties(gpu_cuda_test PROPERTIES LABELS "unit;gpu")
  add_dependencies(gpu_tests gpu_cuda_test)

  function(gpu_cuda_stub_test NAME VERSION INIT SAYS)
    set(dir ${CMAKE_CURRENT_BINARY_DIR}/${NAME})
    add_library(${NAME}_driver SHARED ${CMAKE_SOURCE_DIR}/tests/unit/gpu_driver_stub.c)
    target_link_libraries(${NAME}_driver PRIVATE baton_flags)
    add_dependencies(gpu_tests ${NAME}_driver)
    target_compile_definitions(${NAME}_driver PRIVATE STUB_VERSION=${VERSION} STUB_INIT=${INIT})
    set_target_properties(${NAME}_driver PROPERTIES LIBRARY_OUTPUT_DIRECTORY ${dir}
      OUTPUT_NAME cuda SUFFIX .so.1)
    add_test(NAME ${NAME} COMMAND gpu_cuda_test ${SAYS} WORKING_DIRECTORY ${CMAKE_SOURCE_DIR})
    set_tests_properties(${NAME} PROPERTIES LABELS "unit;gpu" TIMEOUT ${BATON_TEST_TIMEOUT}
      ENVIRONMENT "${BATON_TEST_ENV};LD_LIBRARY_PATH=${dir}")
  endfunction()
  gpu_cuda_stub_test(gpu_cuda_old_driver 12040 100 "the CUDA driver is too old: ")
  gpu_cuda_stub_test(gpu_cuda_no_device 13000 100 "no CUDA device: ")
  gpu_cuda_stub_test(gpu_cuda_sick_driver 13000 803 "no usable CUDA device: ")
endif()
