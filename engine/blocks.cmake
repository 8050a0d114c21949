# What both worker roles share of a request: who has which block, and its sampling parameters.
set(ENGINE_BLOCKS_SOURCES engine_attempts.c engine_blocks.c engine_samples.c engine_params.c)
