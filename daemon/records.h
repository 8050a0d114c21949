/* daemon/records.h - what became of each request: the last ones in memory, and all of them in a file, one
 * JSON line each.  No prompt, no output, no key.
 *
 *   create -> expect(request) -> add(record) ... -> close -> closed callback
 *
 * The file is written on libuv's pool, one write at a time; lines wait in memory meanwhile.  When too many
 * wait, or the disk is full, lines are lost: counted, and said once until it works again.
 *
 * Thread: the loop's.  Blocking: nothing, save opening the file (create, reopen). */
#ifndef DAEMON_RECORDS_H
#define DAEMON_RECORDS_H

#include <stdbool.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/err.h"
#include "daemon/config.h"
#include "daemon/hub.h"

struct uv_loop_s;
struct daemon_records;

struct daemon_records_stats {
    uint64_t taken, lost; /* lost: lines that the file did not get */
};

/* Takes path (NULL: no file), how many to keep, and the names of tiers and tenants from the config, which
 * outlives it.  ERR_IO: the file cannot be opened; ERR_NOMEM. */
MUST_USE enum err daemon_records_create(struct uv_loop_s *loop, const struct daemon_config *config,
                                        struct err_msg *msg, struct daemon_records **out);
/* A request was submitted for this call; its record will name it.  Without memory it is named by its number. */
void daemon_records_expect(struct daemon_records *r, uint64_t request, const char *call_id,
                           const char *request_id);
void daemon_records_add(struct daemon_records *r, const struct daemon_hub *hub,
                        const struct sched_record *record);
/* Up to max records as a JSON array, the newest first.  tier SCHED_TIERS_MAX, outcome 0: any. */
MUST_USE enum err daemon_records_render(const struct daemon_records *r, uint32_t max, uint32_t tier,
                                        unsigned outcome, struct buf *out);
void daemon_records_stats(const struct daemon_records *r, struct daemon_records_stats *out);
/* The file was moved away: go on in a new one of its name, or in the old one where that cannot be opened.
 * Lines that are being written still go to the old one. */
void daemon_records_reopen(struct daemon_records *r);
/* Write what waits, then free and call closed (in a later loop turn). */
void daemon_records_close(struct daemon_records *r, void (*closed)(void *arg), void *arg);

#endif
