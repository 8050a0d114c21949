# Texts that the sim backend reads.
baton_fuzz_target(NAME sim_profile_fuzz SOURCES fuzz/sim_profile_fuzz.c LIBS engine)
