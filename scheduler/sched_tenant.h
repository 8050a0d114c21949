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
/* Add or replace; what it has live and has received stays.  A new quota starts with a full bucket.
 * ERR_INVALID: id 0, or a value that is negative or not finite; ERR_NOMEM. */
MUST_USE enum err sched_tenants_set(struct sched_tenants *t, const struct sched_tenant *row);

/* One more request of `cost` tokens?  ERR_OK: charged, and one more is live.  ERR_LIMIT: the quota or
 * max_live says no and nothing changed; *wait_ns: until the bucket has it (0: when one of its requests ends;
 * UINT64_MAX: never, it is more than the bucket holds).  ERR_NOMEM.  id 0 is always taken. */
MUST_USE enum err sched_tenants_take(struct sched_tenants *t, uint32_t id, uint64_t now_ns,
                                     double cost, uint64_t *wait_ns);
/* It ended: `cost` as taken, `used` really, service in `tier`.  What was used less comes back, what was used
 * more is owed.  Without a live request nothing happens: a slot is released once. */
void sched_tenants_end(struct sched_tenants *t, uint32_t id, uint32_t tier, uint64_t now_ns,
                       double cost, double used);
/* Factor on the weight of its next request in the tier: 1 at or below its fair share f, above it the odds
 * of f over the odds of its share, at least 0.05.  A tenant that comes back starts level with the one that has
 * received least for its weight, not with credit for the time it was away. */
double sched_tenants_share(const struct sched_tenants *t, uint32_t id, uint32_t tier,
                           uint64_t now_ns);
/* Service of the last 10 s as it is expected before a request ends: what was asked for in the tier, whatever came of it,
 * and what was granted of it. */
enum sched_tenant_claim { SCHED_TENANT_ASKED, SCHED_TENANT_GRANTED, SCHED_TENANT_CLAIMS };
/* One more request of `cost` tokens; below 0: one that is taken back. */
void sched_tenants_claim(struct sched_tenants *t, uint32_t id, uint32_t tier, uint64_t now_ns,
                         enum sched_tenant_claim what, double cost);
/* As sched_tenants_share, by these claims: 1: no more of what all have than its fair share. */
double sched_tenants_claimed(const struct sched_tenants *t, uint32_t id, uint32_t tier,
                             uint64_t now_ns, enum sched_tenant_claim what);
uint32_t sched_tenants_live(const struct sched_tenants *t, uint32_t id);
uint32_t sched_tenants_rows(const struct sched_tenants *t); /* that are remembered now */

#endif
