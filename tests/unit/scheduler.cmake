# scheduler: the state machine by hand, then against random worlds, then with bugs planted in it.
set(SIM ${CMAKE_SOURCE_DIR}/tests/sim)
set(UNIT ${CMAKE_SOURCE_DIR}/tests/unit)
foreach(name life table order ledger nomem elastic record quota)
  baton_unit_test(NAME sched_${name}_test SOURCES ${UNIT}/sched_${name}_test.c ${SIM}/sched_rig.c
    LIBS scheduler)
endforeach()
set(SIM_SOURCES ${SIM}/sched_sim.c ${SIM}/sim_oracle.c ${SIM}/sim_workers.c)
baton_unit_test(NAME sched_sim_test SOURCES ${UNIT}/sched_sim_test.c ${SIM_SOURCES} LIBS scheduler
  TIMEOUT 240)

# The same sources with planted bugs, one at a time; the simulator has to see every one (0: no bug, none
# seen).  Asserts are off: the oracle must find them, not a crash.
add_executable(sched_mutants ${SIM}/sched_mutant_main.c ${SIM_SOURCES} ${SCHED_SOURCES})
target_link_libraries(sched_mutants PRIVATE base m)
target_compile_definitions(sched_mutants PRIVATE SCHED_MUTANTS NDEBUG)
foreach(n RANGE 0 31)
  add_test(NAME sched_mutant_${n} COMMAND sched_mutants ${n})
  set_tests_properties(sched_mutant_${n} PROPERTIES LABELS unit TIMEOUT ${BATON_TEST_TIMEOUT}
    ENVIRONMENT "${BATON_TEST_ENV}")
endforeach()

baton_unit_test(NAME sched_pace_test SOURCES ${UNIT}/sched_pace_test.c LIBS scheduler)
baton_unit_test(NAME sched_price_test SOURCES ${UNIT}/sched_price_test.c LIBS scheduler)
baton_unit_test(NAME sched_edf_test SOURCES ${UNIT}/sched_edf_test.c LIBS scheduler)
baton_unit_test(NAME sched_baton_test SOURCES ${UNIT}/sched_baton_test.c ${SIM}/sched_rig.c
  LIBS scheduler)
baton_unit_test(NAME sched_baton_learn_test SOURCES ${UNIT}/sched_baton_learn_test.c ${SIM}/sched_rig.c
  LIBS scheduler)
