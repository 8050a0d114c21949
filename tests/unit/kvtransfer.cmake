baton_unit_test(NAME kvt_transfer_test SOURCES unit/kvt_transfer_test.c kvt/kvt_pair.c LIBS kvtransfer)
