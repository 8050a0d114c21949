# Class files and the fit behind them.
baton_unit_test(NAME bench_profile_test SOURCES unit/bench_profile_test.c LIBS bench m)
