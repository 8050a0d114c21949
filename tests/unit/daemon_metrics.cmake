# The metrics stand by themselves: the test builds them from their sources.
include(${CMAKE_SOURCE_DIR}/daemon/metrics.cmake)
list(TRANSFORM DAEMON_METRICS_SOURCES PREPEND ${CMAKE_SOURCE_DIR}/daemon/)
baton_unit_test(NAME daemon_metrics_test SOURCES unit/daemon_metrics_test.c
  ${DAEMON_METRICS_SOURCES} LIBS m)
