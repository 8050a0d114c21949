/* daemon/device_list.h - which devices a worker uses, and how much of each: for backends with devices.
 *
 * `baton serve` deals the devices out to its workers in their order, prefill workers first, as many to each
 * as it has ranks, and starts again at the end of the list; workers that then share a device get equal
 * shares of its memory.  Without a list every worker uses devices 0, 1, ... up to its ranks.
 *
 * Pure code.  Thread: any. */
#ifndef DAEMON_DEVICE_LIST_H
#define DAEMON_DEVICE_LIST_H

#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

enum { DAEMON_DEVICES_MAX = 64, DAEMON_DEVICE_LAST = 1023 };

struct daemon_device_list {
    uint32_t v[DAEMON_DEVICES_MAX], n;
};

/* "0,1,4".  ERR_INVALID: not such a list, too long, or a device twice. */
MUST_USE enum err daemon_device_list_parse(const char *text, struct daemon_device_list *out,
                                           struct err_msg *msg);
/* "0.45": above 0, at most 1.  ERR_INVALID. */
MUST_USE enum err daemon_device_share_parse(const char *text, double *out, struct err_msg *msg);

/* The workers of one machine: ranks[i] of the i-th. */
struct daemon_device_users {
    const struct daemon_device_list *list; /* NULL: none was given */
    const uint32_t *ranks;
    uint32_t n;
    double share; /* of a device's memory, for all who use it */
};

/* The devices of worker i, and its share of each.  ERR_INVALID: it has more ranks than there are devices. */
MUST_USE enum err daemon_device_deal(const struct daemon_device_users *u, uint32_t i,
                                     struct daemon_device_list *out, double *share,
                                     struct err_msg *msg);
/* "0,1,4" */
void daemon_device_list_text(const struct daemon_device_list *l, char *out, size_t cap);

#endif
