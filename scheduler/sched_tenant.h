/* scheduler/sched_tenant.h - quotas and fair shares of tenants.
 *
 * Quota: a token bucket over all tiers, filled at tokens_per_s, holding burst_s seconds of it, charged with
 * prompt + 2 x expected output at admission and corrected at the end.  Share: service received in a tier over
 * the last 10 s (decayed) against weight / sum of the weights of tenants active there.  Source of the 1:2 count and
 * of lifting a tenant that comes back to the smallest active counter: VTC (arXiv 2401.00588).
 *
 * Thread: none.  Ownership: the table owns its rows; a row of a tenant without a quota, live requests or
 * recent service is forgotten.  Units: ns; tokens of service. */
#ifndef SCHEDULER_SCHED_TENANT_H
#define SCHEDULER_SCHED_TENANT_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "scheduler/sched_config.h"

struct sched_tenants; /* opaque */

MUST_USE enum err sched_tenants_create(struct sched_tenants **out); /* ERR_NOMEM */
void sched_tenants_free(struct sched_tenants *t);
MUST_USE enum err sched_tenants_set(struct sched_tenants *t, const struct sched_tenant *row);

/* One more request of `cost` tokens?  ERR_OK: charged, and one more is live.  ERR_LIMIT: the quota or
 * max_live says no and nothing changed; *wait_ns: until the bucket has it (0: when one of its requests ends).
 * ERR_NOMEM.  id 0 is always taken. */
MUST_USE enum err sched_tenants_take(struct sched_tenants *t, uint32_t id, uint64_t now_ns,
                                     double cost, uint64_t *wait_ns);
/* It ended: `cost` as taken, `used` really, service in `tier`. */
void sched_tenants_end(struct sched_tenants *t, uint32_t id, uint32_t tier, uint64_t now_ns,
                       double cost, double used);
/* Factor on the weight of its next request in the tier: 1 at or below its fair share, down to 0.05 the
 * further it is above. */
double sched_tenants_share(const struct sched_tenants *t, uint32_t id, uint32_t tier,
                           uint64_t now_ns);
uint32_t sched_tenants_live(const struct sched_tenants *t, uint32_t id);

#endif
