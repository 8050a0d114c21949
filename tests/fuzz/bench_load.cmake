# The load generator: streams of servers that mean it harm.
baton_fuzz_target(NAME load_sse_fuzz SOURCES ${CMAKE_SOURCE_DIR}/tests/fuzz/load_sse_fuzz.c LIBS bench_report)
