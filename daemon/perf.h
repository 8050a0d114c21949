/* daemon/perf.h - `baton perf WHAT [options]`: picks a micro-benchmark of bench/. */
#ifndef DAEMON_PERF_H
#define DAEMON_PERF_H

int daemon_perf_run(int argc, char **argv); /* exit status */

#endif
