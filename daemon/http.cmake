# The HTTP server and the OpenAI layer: usable without the rest of the daemon, so that tests can.
set(DAEMON_HTTP_SOURCES
  api_check.c api_fields.c api_json.c api_readers.c api_render.c api_request.c
  http_conn.c http_head.c http_parse.c http_reply.c http_route.c http_scan.c http_server.c http_wheel.c)
list(TRANSFORM DAEMON_HTTP_SOURCES PREPEND ${CMAKE_SOURCE_DIR}/daemon/)

# llhttp is not ours: hardened and sanitised like the rest, but not under our warnings.  Its strict mode
# is chosen when it is compiled.
add_library(baton_llhttp STATIC
  ${LLHTTP_SOURCE}/api.c ${LLHTTP_SOURCE}/http.c ${LLHTTP_SOURCE}/llhttp.c)
target_link_libraries(baton_llhttp PRIVATE baton_flags)
target_compile_options(baton_llhttp PRIVATE -w -Wno-error)
target_compile_definitions(baton_llhttp PUBLIC LLHTTP_STRICT_MODE=1)
target_include_directories(baton_llhttp SYSTEM PUBLIC ${LLHTTP_INCLUDE})

add_library(daemon_http STATIC ${DAEMON_HTTP_SOURCES})
target_link_libraries(daemon_http PUBLIC base baton_llhttp PRIVATE m)
