baton_fuzz_target(NAME kvt_wire_fuzz SOURCES fuzz/kvt_wire_fuzz.c LIBS kvtransfer)
