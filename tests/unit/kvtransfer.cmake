baton_unit_test(NAME kvt_transfer_test SOURCES unit/kvt_transfer_test.c kvt/kvt_pair.c LIBS kvtransfer)
baton_unit_test(NAME kvt_refuse_test SOURCES unit/kvt_refuse_test.c kvt/kvt_pair.c kvt/kvt_rogue.c
  LIBS kvtransfer)
baton_unit_test(NAME kvt_cancel_test SOURCES unit/kvt_cancel_test.c kvt/kvt_pair.c kvt/kvt_rogue.c
  LIBS kvtransfer)
