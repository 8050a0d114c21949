# scheduler: the state machine by hand, then against random worlds, then with bugs planted in it.
set(SIM ${CMAKE_SOURCE_DIR}/tests/sim)
set(UNIT ${CMAKE_SOURCE_DIR}/tests/unit)
foreach(name life table order ledger nomem)
  baton_unit_test(NAME sched_${name}_test SOURCES ${UNIT}/sched_${name}_test.c ${SIM}/sched_rig.c
    LIBS scheduler)
endforeach()
set(SIM_SOURCES ${SIM}/sched_sim.c ${SIM}/sim_oracle.c ${SIM}/sim_workers.c)
baton_unit_test(NAME sched_sim_test SOURCES ${UNIT}/sched_sim_test.c ${SIM_SOURCES} LIBS scheduler
  TIMEOUT 240)

# The same sources with one planted bug each; the simulator has to see every one (0: no bug, none seen).
# Asserts are off: the oracle must find them, not a crash.
add_library(sched_sim OBJECT ${SIM_SOURCES})
target_link_libraries(sched_sim PRIVATE base)
foreach(n RANGE 0 23)
  add_executable(sched_mutant_${n} ${SIM}/sched_mutant_main.c ${SCHED_SOURCES}
    $<TARGET_OBJECTS:sched_sim>)
  target_link_libraries(sched_mutant_${n} PRIVATE base)
  target_compile_definitions(sched_mutant_${n} PRIVATE SCHED_MUTANT=${n} NDEBUG)
  set_target_properties(sched_mutant_${n} PROPERTIES UNITY_BUILD ON UNITY_BUILD_BATCH_SIZE 0)
  add_test(NAME sched_mutant_${n} COMMAND sched_mutant_${n})
  set_tests_properties(sched_mutant_${n} PROPERTIES LABELS unit TIMEOUT 120
    ENVIRONMENT "${BATON_TEST_ENV}")
endforeach()

baton_unit_test(NAME sched_edf_test SOURCES ${UNIT}/sched_edf_test.c LIBS scheduler)
