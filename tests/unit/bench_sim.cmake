# Traces, the simulator and its bound.
baton_unit_test(NAME bench_trace_test SOURCES ${CMAKE_SOURCE_DIR}/tests/unit/bench_trace_test.c
  LIBS bench PkgConfig::ZLIB)
baton_unit_test(NAME bench_bound_test SOURCES ${CMAKE_SOURCE_DIR}/tests/unit/bench_bound_test.c
  LIBS bench)
baton_unit_test(NAME bench_sim_test SOURCES ${CMAKE_SOURCE_DIR}/tests/unit/bench_sim_test.c
  LIBS bench)
