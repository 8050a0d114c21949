# Figures of runs, the report page and the load generator.
baton_unit_test(NAME bench_outcome_test SOURCES ${CMAKE_SOURCE_DIR}/tests/unit/bench_outcome_test.c
  LIBS bench_report)
baton_unit_test(NAME bench_html_test SOURCES ${CMAKE_SOURCE_DIR}/tests/unit/bench_html_test.c
  LIBS bench_report)
baton_unit_test(NAME bench_load_test SOURCES ${CMAKE_SOURCE_DIR}/tests/unit/bench_load_test.c
  LIBS bench PkgConfig::LIBUV)
baton_unit_test(NAME bench_perf_gpu_test
  SOURCES unit/bench_perf_gpu_test.c ${CMAKE_SOURCE_DIR}/bench/perf_gpu.c LIBS bench_report engine)
target_compile_definitions(bench_perf_gpu_test PRIVATE BATON_CUDA)
