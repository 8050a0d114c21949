# The sampler and the sim backend: pure C.  Without contraction a multiply-add rounds alike on every
# machine, which the reproducible draw needs.
set(ENGINE_SAMPLE_SOURCES engine_history.c engine_sample.c kernels/sample_row.c
  sim/engine_sim.c sim/engine_sim_kv.c sim/engine_sim_profile.c)
set_source_files_properties(engine_sample.c kernels/sample_row.c kernels/sample_ref.c
  PROPERTIES COMPILE_OPTIONS "-O3;-ffp-contract=off;-fno-trapping-math")
set_source_files_properties(sim/engine_sim_kv.c PROPERTIES COMPILE_OPTIONS "-O3")
