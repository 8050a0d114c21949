# Control frames from a hostile peer, down to the state machines of the two roles.
baton_fuzz_target(NAME frame_fuzz SOURCES fuzz/frame_fuzz.c unit/roles_fake.c LIBS prefill decode)
