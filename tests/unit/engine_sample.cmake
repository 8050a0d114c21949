# The sampler and the sim backend.
baton_unit_test(NAME engine_sample_test SOURCES unit/engine_sample_test.c LIBS engine m)
baton_unit_test(NAME engine_sim_test SOURCES unit/engine_sim_test.c LIBS engine m)
