# Traces and the simulator: the part of bench that needs no worker.
target_sources(bench PRIVATE rng.c trace.c trace_csv.c trace_draw.c trace_json.c)
target_link_libraries(bench PRIVATE PkgConfig::ZLIB PkgConfig::YAML)
