/* scheduler/sched_pace.c - see the header. */
#include "scheduler/sched_pace.h"

enum {
    PACE_AFRESH = 16, /* answers after which `rest` is made anew */
    PACE_MEMORY = 1000
};
static const float PACE_ENDS = 0.01F;        /* part of the answers that may end sooner */
static const double PACE_LEAST = 0.35;       /* of the tbt */
static const double PACE_PART_OF_TBT = 0.97; /* steps scatter */

static float pace_all(const struct sched_pace *p)
{
    float all = p->longer;

    for (int i = 0; i < SCHED_PACE_YOUNG; i++)
        all += p->count[i];
    return all;
}

/* For each index k: of the answers longer than k, the first length by which more than PACE_ENDS of them have
 * ended; its last token has that index less one. */
static void pace_learn(struct sched_pace *p)
{
    float alive = pace_all(p);

    for (uint32_t k = 0; k < SCHED_PACE_YOUNG; k++) {
        float ended = 0;
        uint32_t length = k + 1;

        alive -= p->count[k];
        for (; length < SCHED_PACE_YOUNG; length++) {
            ended += p->count[length];
            if (ended > PACE_ENDS * alive)
                break;
        }
        p->rest[k] = (uint8_t)(length - 1 - k);
    }
}

void sched_pace_ended(struct sched_pace *p, uint32_t tokens)
{
    if (tokens < SCHED_PACE_YOUNG)
        p->count[tokens] += 1;
    else
        p->longer += 1;
    if (++p->fresh < PACE_AFRESH)
        return;
    p->fresh = 0;
    p->learned = true;
    pace_learn(p);
    if (pace_all(p) < PACE_MEMORY)
        return;
    for (int i = 0; i < SCHED_PACE_YOUNG; i++)
        p->count[i] *= 0.5F;
    p->longer *= 0.5F;
}

double sched_pace_least(uint64_t tbt_ns)
{
    return PACE_LEAST * (double)tbt_ns;
}

int64_t sched_pace_before(const struct sched_pace *p, uint64_t tbt_ns, double step_ns)
{
    double left, least = sched_pace_least(tbt_ns);

    if (!p->learned || tbt_ns == 0)
        return INT64_MAX;
    left = 0.5 * (p->rest[1] + 1) * (PACE_PART_OF_TBT * (double)tbt_ns - step_ns);
    return (int64_t)(left > least ? left : least);
}

double sched_pace_of(const struct sched_pace *p, uint64_t first_ns, uint64_t k, uint64_t tbt_ns,
                     uint64_t now_ns)
{
    double tbt = (double)tbt_ns, ahead = (double)(first_ns + k * tbt_ns) - (double)now_ns, pace;
    double least = sched_pace_least(tbt_ns), rest;

    if (!p->learned || k >= SCHED_PACE_YOUNG || tbt_ns == 0)
        return 0;
    rest = p->rest[k];
    pace = (ahead + rest * tbt) / (rest + 1);
    if (pace >= tbt)
        return 0;
    pace *= PACE_PART_OF_TBT;
    if (pace >= least)
        return pace;
    return least - ahead <= (tbt - least) * (double)(SCHED_PACE_YOUNG - k) ? least : 0;
}
