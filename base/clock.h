/* base/clock.h - the two clocks of the program.  Thread: any.  Units: nanoseconds. */
#ifndef BASE_CLOCK_H
#define BASE_CLOCK_H

#include <stdint.h>

#define CLOCK_NS_PER_US 1000ull
#define CLOCK_NS_PER_MS 1000000ull
#define CLOCK_NS_PER_S 1000000000ull

uint64_t clock_now_ns(void); /* monotonic, one time base for all processes of a machine */
uint64_t
clock_wall_ns(void); /* since 1970-01-01 UTC; for stamps that people read, never for waits */

#endif
