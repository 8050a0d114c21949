# Every outside library, found once.  Debian 12 package names: deploy/packages.txt.
find_package(Threads REQUIRED)
find_package(PkgConfig REQUIRED)
find_package(OpenSSL 3 REQUIRED)
pkg_check_modules(LIBUV REQUIRED IMPORTED_TARGET libuv>=1.44)
pkg_check_modules(JANSSON REQUIRED IMPORTED_TARGET jansson>=2.13)
pkg_check_modules(PROTOBUF_C REQUIRED IMPORTED_TARGET libprotobuf-c>=1.4.1)
pkg_check_modules(PCRE2 REQUIRED IMPORTED_TARGET libpcre2-8)
pkg_check_modules(UTF8PROC REQUIRED IMPORTED_TARGET libutf8proc)
pkg_check_modules(CYAML REQUIRED IMPORTED_TARGET libcyaml)
pkg_check_modules(YAML REQUIRED IMPORTED_TARGET yaml-0.1)
pkg_check_modules(ZLIB REQUIRED IMPORTED_TARGET zlib)
pkg_check_modules(UCX REQUIRED IMPORTED_TARGET ucx)
# libucm defines mmap and its like: linked to the program itself it would answer our own calls, and then call
# itself for ever.  UCX loads it where it needs it.
get_target_property(ucx_libraries PkgConfig::UCX INTERFACE_LINK_LIBRARIES)
list(FILTER ucx_libraries EXCLUDE REGEX "ucm")
set_target_properties(PkgConfig::UCX PROPERTIES INTERFACE_LINK_LIBRARIES "${ucx_libraries}")
pkg_check_modules(CMOCKA REQUIRED IMPORTED_TARGET cmocka)
find_program(PROTOC_C protoc-c REQUIRED)
find_path(LLHTTP_INCLUDE llhttp.h PATHS /usr/share/include/llhttp REQUIRED)
find_path(LLHTTP_SOURCE llhttp.c PATHS /usr/share/llhttp REQUIRED)

# The sanitizers bring their own allocator.
set(BATON_MALLOC "")
if(NOT BATON_SANITIZE)
  pkg_check_modules(JEMALLOC REQUIRED IMPORTED_TARGET jemalloc)
  set(BATON_MALLOC PkgConfig::JEMALLOC)
endif()
