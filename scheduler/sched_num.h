/* scheduler/sched_num.h - private to scheduler/: the larger and the smaller of two numbers that are both no NaN.
 *
 * fmax and fmin are calls, since they must find the one that is a number; these are one instruction.  They are for
 * what every event runs through; the caller has checked what comes in. */
#ifndef SCHEDULER_SCHED_NUM_H
#define SCHEDULER_SCHED_NUM_H

static inline double num_max(double a, double b)
{
    return a > b ? a : b;
}

static inline double num_min(double a, double b)
{
    return a < b ? a : b;
}

#endif
