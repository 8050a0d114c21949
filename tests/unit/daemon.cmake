# The daemon's own parts.
baton_unit_test(NAME daemon_text_test SOURCES unit/daemon_text_test.c LIBS daemon)
baton_unit_test(NAME daemon_config_test SOURCES unit/daemon_config_test.c LIBS daemon)
baton_unit_test(NAME daemon_device_test SOURCES unit/daemon_device_test.c LIBS daemon)
baton_unit_test(NAME daemon_link_test SOURCES unit/daemon_link_test.c LIBS daemon)
baton_unit_test(NAME daemon_hub_test SOURCES unit/daemon_hub_test.c LIBS daemon)
baton_unit_test(NAME daemon_status_test SOURCES unit/daemon_status_test.c LIBS daemon)
baton_unit_test(NAME daemon_scale_test SOURCES unit/daemon_scale_test.c LIBS daemon)
