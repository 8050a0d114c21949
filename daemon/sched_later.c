/* daemon/sched_later.c - what sched.h and sched_view.h promise and the core does not say yet: weak, so that the
 * real functions take their place as they come.  Goes away with the last of them. */
#include <string.h>

#include "scheduler/sched_view.h"

#define LATER __attribute__((weak))

LATER enum err sched_add_class(struct sched *s, const struct sched_class *c, struct err_msg *msg,
                               uint32_t *id)
{
    (void)s, (void)c, (void)msg;
    *id = 0;
    return ERR_OK;
}
LATER enum err sched_set_tenant(struct sched *s, const struct sched_tenant *t, struct err_msg *msg)
{
    (void)s, (void)t, (void)msg;
    return ERR_OK;
}
LATER const char *sched_policy_names(void)
{
    return "baton";
}
LATER void sched_get_tier_stats(const struct sched *s, uint32_t tier, struct sched_tier_stats *out)
{
    (void)s, (void)tier;
    memset(out, 0, sizeof(*out));
}
LATER void sched_get_health(const struct sched *s, uint32_t tier, enum sched_stage stage,
                            struct sched_health *out)
{
    (void)s, (void)tier, (void)stage;
    memset(out, 0, sizeof(*out));
}
LATER const char *sched_fallback(const struct sched *s)
{
    (void)s;
    return "";
}
LATER uint64_t sched_record_next(const struct sched *s)
{
    (void)s;
    return 0;
}
LATER enum err sched_record_get(const struct sched *s, uint64_t number, struct sched_record *out)
{
    (void)s, (void)number, (void)out;
    return ERR_NOT_FOUND;
}
LATER const char *sched_resource_name(enum sched_resource r)
{
    (void)r;
    return "";
}
LATER const char *sched_resource_stage(enum sched_resource r)
{
    (void)r;
    return "";
}
LATER const char *sched_outcome_name(enum sched_outcome o)
{
    (void)o;
    return "";
}
LATER const char *sched_cause_name(enum sched_cause c)
{
    (void)c;
    return "";
}
LATER const char *sched_stage_name(enum sched_stage st)
{
    (void)st;
    return "";
}
