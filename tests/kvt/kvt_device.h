/* tests/kvt/kvt_device.h - a device that is not there: a KV pool that the process cannot touch, with threads
 * that copy for it, late and in any order, and fail or hang when a test says so.
 *
 * The pool's addresses (device_memory()->base) are mapped without access: whoever reads or writes them
 * crashes.  The device's threads, and a test that holds the lock, see the same bytes through windows.
 *
 * Thread: any. */
#ifndef TESTS_KVT_DEVICE_H
#define TESTS_KVT_DEVICE_H

#include <stdbool.h>
#include <stdint.h>

#include "proto/kv_memory.h"

struct device;

/* delay_us: every job takes up to so long.  A test ends if the memory cannot be had. */
struct device *device_open(const struct wire_kv_layout *layout, uint32_t n_blocks,
                           unsigned delay_us);
/* Before a node uses it: its pool can be reached as host memory can (KV_MEMORY_COHERENT). */
void device_open_up(struct device *d);
void device_close(struct device *d); /* no job is open; NULL is fine */
const struct kv_memory *device_memory(const struct device *d);

/* NULL is fine for both. */
void device_lock(struct device *d);
void device_unlock(struct device *d);
uint8_t *device_window(struct device *d, uint32_t part); /* to read or write under the lock */

enum device_op { DEVICE_OUT = 0, DEVICE_IN, DEVICE_DIGEST, DEVICE_OPS };

/* Tickets up to this one have passed; at first, all. */
void device_pass(struct device *d, uint64_t ticket);
/* The n-th job of this kind from now (0: the next) fails with ERR_DEVICE; or is refused when it is started;
 * or copies a wrong byte. */
void device_fail(struct device *d, enum device_op op, unsigned n);
void device_refuse(struct device *d, enum device_op op, unsigned n);
void device_corrupt(struct device *d, enum device_op op, unsigned n);
/* Jobs of this kind do not end, aborted or not, until they may. */
void device_hang(struct device *d, enum device_op op, bool hang);
/* The next pin fails. */
void device_refuse_pin(struct device *d);

struct device_counts {
    uint64_t jobs[DEVICE_OPS]; /* ended with ERR_OK */
    uint64_t bytes[DEVICE_OPS];
    unsigned open, most; /* jobs started and not done: now, and at most */
    unsigned aborted;
    bool pinned;
    const char *wrong; /* what the transfer did that it may not do; NULL: nothing */
};
struct device_counts device_counts(struct device *d);

#endif
