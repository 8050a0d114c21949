/* bench/load_command.h - the command `baton bench`: options, runs, sweep, output.
 *
 * Thread: the caller's; it blocks until all is done.  argv is what stands behind the command word.  Returns the exit
 * status: 0 done, 1 failed, 2 wrong options, 3 not valid because the client itself was late. */
#ifndef BENCH_LOAD_COMMAND_H
#define BENCH_LOAD_COMMAND_H

int bench_load_command(int argc, char **argv);

#endif
