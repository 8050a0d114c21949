# The HTTP server and the OpenAI layer, without the rest of the daemon.
if(NOT TARGET daemon_http)
  include(${CMAKE_SOURCE_DIR}/daemon/http.cmake)
endif()

add_executable(http_echo ${CMAKE_SOURCE_DIR}/tests/http/http_echo.c)
target_link_libraries(http_echo PRIVATE daemon_http base)
