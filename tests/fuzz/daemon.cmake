baton_fuzz_target(NAME config_file_fuzz SOURCES fuzz/config_file_fuzz.c LIBS daemon)
