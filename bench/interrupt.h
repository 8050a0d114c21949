/* bench/interrupt.h - Ctrl-C and SIGTERM while a command measures: it stops, and writes what it has measured so far.
 *
 *   bench_interrupt_catch -> work that looks at bench_interrupted now and then
 *
 * The first signal is remembered; a second one ends the process at once, as without this.
 *
 * Thread: any may ask; caught for the whole process. */
#ifndef BENCH_INTERRUPT_H
#define BENCH_INTERRUPT_H

void bench_interrupt_catch(void);
int bench_interrupted(void); /* 0, or the signal that came */

#endif
