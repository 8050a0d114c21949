# Fuzz targets of the engine's model files.
baton_fuzz_target(NAME safetensors_fuzz SOURCES fuzz/safetensors_fuzz.c LIBS engine)
baton_fuzz_target(NAME model_config_fuzz SOURCES fuzz/model_config_fuzz.c LIBS engine)
