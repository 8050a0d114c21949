baton_fuzz_target(NAME class_file_fuzz SOURCES fuzz/class_file_fuzz.c LIBS bench)
