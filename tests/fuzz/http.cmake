# HTTP requests and request bodies from arbitrary bytes.
if(NOT TARGET daemon_http)
  include(${CMAKE_SOURCE_DIR}/daemon/http.cmake)
endif()

baton_fuzz_target(NAME http_fuzz SOURCES ${CMAKE_SOURCE_DIR}/tests/fuzz/http_fuzz.c LIBS daemon_http)
baton_fuzz_target(NAME api_request_fuzz SOURCES ${CMAKE_SOURCE_DIR}/tests/fuzz/api_request_fuzz.c
  LIBS daemon_http PkgConfig::JANSSON)
