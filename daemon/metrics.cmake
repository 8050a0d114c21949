# The metrics registry and the list of series.
set(DAEMON_METRICS_SOURCES metrics.c metrics_list.c metrics_series.c)
