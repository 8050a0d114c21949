/* bench/sim_old_core.c - stands in for what the present scheduler core does not have yet; goes with it. */
#include <string.h>

#include "scheduler/sched_view.h"

__attribute__((weak)) const char *sched_policy_names(void)
{
    return "baton";
}
__attribute__((weak)) const char *sched_stage_name(enum sched_stage st)
{
    (void)st;
    return "stage";
}
__attribute__((weak)) void sched_get_health(const struct sched *s, uint32_t tier,
                                            enum sched_stage stage, struct sched_health *out)
{
    (void)s;
    (void)tier;
    (void)stage;
    memset(out, 0, sizeof(*out));
}
__attribute__((weak)) enum err sched_add_class(struct sched *s, const struct sched_class *c,
                                               struct err_msg *msg, uint32_t *id)
{
    (void)s;
    (void)c;
    (void)msg;
    *id = 0;
    return ERR_OK;
}
