# Engine: model files, CPU backend, and the comparison with an independent NumPy reference.
add_executable(engine_run ${CMAKE_SOURCE_DIR}/tests/engine_ref/engine_run.c)
target_link_libraries(engine_run PRIVATE engine base)

# 77 says that NumPy or pytest is not installed.
add_test(NAME engine_reference
  COMMAND sh -c "python3 -c 'import numpy, pytest' || exit 77; exec python3 -B -m pytest -q -p no:cacheprovider tests/engine_ref"
  WORKING_DIRECTORY ${CMAKE_SOURCE_DIR})
set_tests_properties(engine_reference PROPERTIES LABELS slow TIMEOUT 600 SKIP_RETURN_CODE 77
  ENVIRONMENT "${BATON_TEST_ENV};BATON_ENGINE_RUN=$<TARGET_FILE:engine_run>")

baton_unit_test(NAME engine_model_test SOURCES unit/engine_model_test.c unit/engine_fixture.c
  LIBS engine m)
baton_unit_test(NAME engine_cpu_test SOURCES unit/engine_cpu_test.c unit/engine_fixture.c
  LIBS engine m)
baton_unit_test(NAME engine_cpu_tp_test SOURCES unit/engine_cpu_tp_test.c unit/engine_fixture.c
  LIBS engine m)
baton_unit_test(NAME engine_kernels_test SOURCES unit/engine_kernels_test.c LIBS engine m)
baton_unit_test(NAME engine_tp_shard_test SOURCES unit/engine_tp_shard_test.c LIBS engine)
baton_unit_test(NAME engine_tp_comm_test SOURCES unit/engine_tp_comm_test.c LIBS engine)
