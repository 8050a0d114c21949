# scheduler: decode batches, the planner's formulas and controller, tenants.
foreach(name batch plan tenant)
  baton_unit_test(NAME sched_${name}_test SOURCES ${CMAKE_SOURCE_DIR}/tests/unit/sched_${name}_test.c
    LIBS scheduler)
endforeach()
