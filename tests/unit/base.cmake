# base and the KV descriptor of proto.
foreach(subject err mem buf map mbox log)
  baton_unit_test(NAME base_${subject}_test SOURCES unit/base_${subject}_test.c)
endforeach()
baton_unit_test(NAME proto_kv_test SOURCES unit/proto_kv_test.c LIBS proto)
