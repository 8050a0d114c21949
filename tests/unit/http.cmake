# The HTTP server and the OpenAI layer, without the rest of the daemon.
if(NOT TARGET daemon_http)
  include(${CMAKE_SOURCE_DIR}/daemon/http.cmake)
endif()

add_executable(http_echo ${CMAKE_SOURCE_DIR}/tests/http/http_echo.c)
target_link_libraries(http_echo PRIVATE daemon_http base)

baton_unit_test(NAME api_json_test SOURCES ${CMAKE_SOURCE_DIR}/tests/unit/api_json_test.c
  LIBS daemon_http PkgConfig::JANSSON m)
baton_unit_test(NAME api_request_test SOURCES ${CMAKE_SOURCE_DIR}/tests/unit/api_request_test.c
  LIBS daemon_http m)
baton_unit_test(NAME api_render_test SOURCES ${CMAKE_SOURCE_DIR}/tests/unit/api_render_test.c
  LIBS daemon_http PkgConfig::JANSSON m)
baton_unit_test(NAME http_wheel_test SOURCES ${CMAKE_SOURCE_DIR}/tests/unit/http_wheel_test.c
  LIBS daemon_http)
baton_unit_test(NAME http_server_test SOURCES ${CMAKE_SOURCE_DIR}/tests/unit/http_server_test.c
  LIBS daemon_http)
