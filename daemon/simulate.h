/* daemon/simulate.h - `baton simulate`: options to bench/sim_study.h.  Exit status of the process. */
#ifndef DAEMON_SIMULATE_H
#define DAEMON_SIMULATE_H

int daemon_simulate_run(int argc, char **argv); /* without the words before the options */

#endif
