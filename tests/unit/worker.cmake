# The worker process, as the scheduler sees it.  Its own sources, so that it does not wait for the program.
set(BATON_WORKER_SOURCES worker.c worker_load.c device_list.c worker_role.c hangup.c link.c link_addr.c secret.c)
list(TRANSFORM BATON_WORKER_SOURCES PREPEND ${CMAKE_SOURCE_DIR}/daemon/)
baton_unit_test(NAME worker_test SOURCES unit/worker_test.c ${BATON_WORKER_SOURCES}
  LIBS prefill decode engine kvtransfer PkgConfig::LIBUV OpenSSL::Crypto TIMEOUT 180)
