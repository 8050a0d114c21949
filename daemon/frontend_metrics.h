/* daemon/frontend_metrics.h - feeds the metric series of this process from calls, workers and the HTTP server.
 * Private to the front end. */
#ifndef DAEMON_FRONTEND_METRICS_H
#define DAEMON_FRONTEND_METRICS_H

#include <stdint.h>

#include "base/buf.h"
#include "base/err.h"
#include "daemon/frontend_impl.h"

MUST_USE enum err frontend_metrics_create(struct daemon_frontend *f, struct err_msg *msg);
void frontend_metrics_destroy(struct daemon_frontend *f);
/* Prometheus text; reads workers, scheduler and live objects at this moment. */
MUST_USE enum err frontend_metrics_render(struct daemon_frontend *f, struct buf *out);
void frontend_metrics_http(struct daemon_frontend *f, const struct http_route *route, int status,
                           uint64_t duration_ns, uint64_t bytes_out);
/* Each generation that was submitted, once its call has ended. */
void frontend_metrics_call(const struct call *call);
/* What the scheduler knows of a request that has ended. */
void frontend_metrics_record(struct daemon_frontend *f, const struct sched_record *r);

#endif
