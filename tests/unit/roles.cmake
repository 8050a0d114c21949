# The two worker roles: each over a fake engine and KV node, then both over the real ones.
baton_unit_test(NAME prefill_test SOURCES unit/prefill_test.c unit/roles_fake.c LIBS prefill)
baton_unit_test(NAME decode_test SOURCES unit/decode_test.c unit/roles_decode.c unit/roles_fake.c LIBS decode)
baton_unit_test(NAME decode_room_test SOURCES unit/decode_room_test.c unit/roles_decode.c unit/roles_fake.c LIBS decode)
baton_unit_test(NAME decode_pool_test SOURCES unit/decode_pool_test.c unit/roles_fake.c LIBS decode)
baton_unit_test(NAME decode_plan_test SOURCES unit/decode_plan_test.c unit/roles_fake.c LIBS decode)
baton_unit_test(NAME roles_test SOURCES unit/roles_test.c LIBS prefill decode TIMEOUT 180)
baton_unit_test(NAME roles_park_test SOURCES unit/roles_park_test.c unit/engine_fixture.c LIBS decode TIMEOUT 180)
