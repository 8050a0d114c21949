baton_fuzz_target(NAME config_file_fuzz SOURCES fuzz/config_file_fuzz.c LIBS daemon)
baton_fuzz_target(NAME status_fuzz SOURCES fuzz/status_fuzz.c LIBS daemon)
