# Traces and the simulator: the part of bench that needs no worker.
target_sources(bench PRIVATE bound.c rng.c trace.c trace_csv.c trace_draw.c trace_json.c
  sim_batch.c sim_cluster.c sim_decode.c sim_engine.c sim_heap.c sim_link.c sim_load.c sim_prefill.c
  sim_record.c sim_study.c sim_study_load.c sim_study_rows.c sim_study_tenants.c sim_world.c)
target_link_libraries(bench PRIVATE PkgConfig::ZLIB PkgConfig::YAML)
