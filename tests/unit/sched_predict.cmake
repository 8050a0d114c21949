# What the scheduler predicts: step and link times, output lengths.
baton_unit_test(NAME sched_predict_test SOURCES unit/sched_predict_test.c LIBS scheduler m)
baton_unit_test(NAME sched_length_test SOURCES unit/sched_length_test.c LIBS scheduler m)
