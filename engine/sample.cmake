# The sampler: pure C.  Without contraction a multiply-add rounds alike on every machine, which the
# reproducible draw needs.
set(ENGINE_SAMPLE_SOURCES engine_history.c engine_sample.c)
set_source_files_properties(engine_sample.c PROPERTIES COMPILE_OPTIONS "-O3;-ffp-contract=off")
