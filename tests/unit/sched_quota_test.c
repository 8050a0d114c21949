/* tests/unit/sched_quota_test.c - two tenants on one prefill worker in virtual time: what a tenant asks beyond its
 * quota is not felt by the other. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "tests/sim/sched_rig.h"

#define S (1000 * RIG_MS)

enum { W = 1, MODEST = 1, GREEDY = 2, RUNNING = 4096, SEEN = 8192, TOKENS = 100, CHUNK = 512 };

struct job {
    uint64_t id, order, left_ns;
};

struct world {
    struct rig r;
    uint64_t rng, next_id;
    struct job job[RUNNING];
    uint32_t n_job, n_refused, n_served;
    uint64_t arrived[65536]; /* by id */
    bool modest[65536];
    double ttft[SEEN]; /* of the modest one, s */
    uint32_t n_ttft;
};

static double gap(struct world *w, double rate)
{
    w->rng = w->rng * 6364136223846793005u + 1442695040888963407u;
    return -log(((double)(w->rng >> 11) + 0.5) / 9007199254740992.0) / rate * 1e9;
}

static void take_actions(struct world *w)
{
    for (size_t i = 0; i < w->r.act.n; i++) {
        const struct sched_action *a = &w->r.act.v[i];

        if (a->kind == SCHED_ACT_PREFILL) {
            assert_true(w->n_job < RUNNING);
            w->job[w->n_job++] = (struct job){a->request, a->order, TOKENS * RIG_MS};
        }
        w->n_refused += a->kind == SCHED_ACT_REJECT && !w->modest[a->request];
    }
}

static void arrive(struct world *w, uint32_t tenant)
{
    struct sched_event e = {.kind = SCHED_EV_ARRIVE, .request = ++w->next_id};

    assert_true(w->next_id < 65536);
    e.u.arrive.tier = 1;
    e.u.arrive.n_prompt = TOKENS;
    e.u.arrive.max_new = 1;
    e.u.arrive.arrived_ns = w->r.now;
    e.u.arrive.tenant = tenant;
    w->arrived[e.request] = w->r.now;
    w->modest[e.request] = tenant == MODEST;
    rig_apply(&w->r, &e);
    take_actions(w);
}

static struct job *first_job(struct world *w)
{
    struct job *best = NULL;

    for (uint32_t i = 0; i < w->n_job; i++) {
        if (best == NULL || w->job[i].order < best->order)
            best = &w->job[i];
    }
    return best;
}

static void done(struct world *w, struct job *j, uint64_t from_ns)
{
    uint64_t id = j->id;

    *j = w->job[--w->n_job];
    w->n_served++;
    if (w->modest[id] && w->arrived[id] >= from_ns)
        w->ttft[w->n_ttft++] = (double)(w->r.now - w->arrived[id]) / 1e9;
    rig_prefilled(&w->r, id, 1, W, true);
    take_actions(w);
    rig_released(&w->r, id, 1, W, ERR_OK);
    take_actions(w);
    rig_finish(&w->r, id);
    take_actions(w);
}

static int by_size(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

/* p99 of the first tokens of the modest tenant, which asks for 40 % of what the worker can do; the other one has a
 * quota of 40 % and asks for `times` of that. */
static double p99_beside(double times, uint32_t *n_refused, double *served)
{
    static const struct sched_class law = {.name = "slow", .prefill = {.c = {0, 1e6, 0, 0}}};
    static const struct sched_tenant quota = {.id = GREEDY, .tokens_per_s = 4 * (TOKENS + 2)};
    static struct world w;
    struct sched_config cfg;
    double modest, greedy;
    uint32_t klass;

    w = (struct world){.rng = 7};
    rig_config(&cfg);
    snprintf(cfg.policy, sizeof(cfg.policy), "baton");
    rig_open(&w.r, &cfg);
    assert_int_equal(sched_add_class(w.r.s, &law, NULL, &klass), ERR_OK);
    assert_int_equal(sched_set_tenant(w.r.s, &quota, NULL), ERR_OK);
    rig_join_can(&w.r, W, SCHED_ROLE_PREFILL, klass, false);
    modest = gap(&w, 4);
    greedy = gap(&w, 4 * times);
    while (w.r.now < 900 * S) {
        struct job *j = first_job(&w);
        double at = fmin(modest, greedy);
        uint64_t timer = sched_next_timer(w.r.s), now = w.r.now, next = (uint64_t)at;

        next = timer < next ? timer : next;
        if (j != NULL && now + j->left_ns <= next)
            next = now + j->left_ns;
        next = next > now ? next : now;
        if (j != NULL)
            j->left_ns -= next - now;
        w.r.now = next;
        if (j != NULL && j->left_ns == 0) {
            done(&w, j, 30 * S);
        } else if ((double)next >= floor(modest)) {
            arrive(&w, MODEST);
            modest += gap(&w, 4);
        } else if ((double)next >= floor(greedy)) {
            arrive(&w, GREEDY);
            greedy += gap(&w, 4 * times);
        } else {
            rig_timer(&w.r, next);
            take_actions(&w);
        }
    }
    *n_refused = w.n_refused;
    *served = (double)(w.n_served - w.n_ttft) / 900;
    assert_true(w.n_ttft > 3000);
    qsort(w.ttft, w.n_ttft, sizeof(w.ttft[0]), by_size);
    rig_close(&w.r);
    return w.ttft[w.n_ttft * 99 / 100];
}

static void a_tenant_at_ten_times_its_quota_is_not_felt_by_another(void **state)
{
    uint32_t some, most;
    double alone, beside, few, many;

    (void)state;
    alone = p99_beside(1, &some, &few);
    beside = p99_beside(10, &most, &many);
    print_message("p99 %.3f s at its quota, %.3f s at ten times; refused %u and %u\n", alone,
                  beside, (unsigned)some, (unsigned)most);
    assert_true(most > 25000);             /* of 36000 */
    assert_true(many < 4.3 && many > 3.9); /* it gets its quota, and no more */
    assert_true(beside <= 1.05 * alone);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_tenant_at_ten_times_its_quota_is_not_felt_by_another),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
