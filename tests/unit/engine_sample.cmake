baton_unit_test(NAME engine_sample_test SOURCES unit/engine_sample_test.c LIBS engine m)
