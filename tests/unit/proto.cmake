# Frames, the rules of every message, and the handshake.
baton_unit_test(NAME proto_frame_test SOURCES unit/proto_frame_test.c LIBS proto)
baton_unit_test(NAME proto_auth_test SOURCES unit/proto_auth_test.c LIBS proto)
baton_unit_test(NAME proto_kv_plan_test SOURCES unit/proto_kv_plan_test.c LIBS proto)
