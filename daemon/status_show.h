/* daemon/status_show.h - a status as text: the table that people read, the object that programs read.
 *
 * Thread: any.  ERR_NOMEM alone. */
#ifndef DAEMON_STATUS_SHOW_H
#define DAEMON_STATUS_SHOW_H

#include "daemon/status_read.h"

/* before: the one of seconds ago, for rates; NULL: none. */
MUST_USE enum err status_show_table(const struct status *s, const struct status *before,
                                    double seconds, struct buf *out);
MUST_USE enum err status_show_json(const struct status *s, struct buf *out);

#endif
