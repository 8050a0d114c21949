# scheduler: any events in any order.
baton_fuzz_target(NAME sched_fuzz SOURCES ${CMAKE_SOURCE_DIR}/tests/fuzz/sched_fuzz.c LIBS scheduler)
