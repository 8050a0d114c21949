baton_unit_test(NAME kvt_wire_test SOURCES unit/kvt_wire_test.c LIBS kvtransfer)
baton_unit_test(NAME kvt_transfer_test SOURCES unit/kvt_transfer_test.c kvt/kvt_pair.c kvt/kvt_device.c LIBS kvtransfer)
baton_unit_test(NAME kvt_refuse_test SOURCES unit/kvt_refuse_test.c kvt/kvt_pair.c kvt/kvt_device.c kvt/kvt_rogue.c
  LIBS kvtransfer)
baton_unit_test(NAME kvt_reshard_test SOURCES unit/kvt_reshard_test.c kvt/kvt_pair.c kvt/kvt_device.c kvt/kvt_rogue.c
  LIBS kvtransfer)
baton_unit_test(NAME kvt_staged_test SOURCES unit/kvt_staged_test.c kvt/kvt_pair.c kvt/kvt_device.c kvt/kvt_rogue.c
  LIBS kvtransfer)
baton_unit_test(NAME kvt_cancel_test SOURCES unit/kvt_cancel_test.c kvt/kvt_pair.c kvt/kvt_device.c kvt/kvt_rogue.c
  LIBS kvtransfer)
# UCX patches mmap and madvise of the whole process before main, which ThreadSanitizer does not survive.
foreach(test kvt_wire_test kvt_transfer_test kvt_refuse_test kvt_reshard_test kvt_staged_test
    kvt_cancel_test)
  set_property(TEST ${test} APPEND PROPERTY ENVIRONMENT "UCX_MEM_MMAP_HOOK_MODE=none")
endforeach()

# Driven by tests/e2e/test_kvt_*.py.
add_executable(kvt_peer ${CMAKE_CURRENT_LIST_DIR}/../kvt/kvt_peer.c
  ${CMAKE_CURRENT_LIST_DIR}/../kvt/kvt_device.c)
target_link_libraries(kvt_peer PRIVATE kvtransfer base)
