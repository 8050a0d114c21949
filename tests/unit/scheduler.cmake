# scheduler: the state machine by hand, then against random worlds, then with bugs planted in it.
set(SIM ${CMAKE_SOURCE_DIR}/tests/sim)
set(UNIT ${CMAKE_SOURCE_DIR}/tests/unit)
foreach(name life table order ledger nomem)
  baton_unit_test(NAME sched_${name}_test SOURCES ${UNIT}/sched_${name}_test.c ${SIM}/sched_rig.c
    LIBS scheduler)
endforeach()
