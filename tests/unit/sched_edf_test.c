/* tests/unit/sched_edf_test.c - the prefill queue gives the answers of a plain sorted list. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "scheduler/sched_edf.h"
#include "scheduler/sched_timer.h"

enum { ITEMS = 96, STEPS = 40000 };
#define STRETCH 1.25

static uint64_t rng_state;

static uint64_t rng(uint64_t below)
{
    rng_state = rng_state * 6364136223846793005u + 1442695040888963407u;
    return (rng_state >> 33) % below;
}

/* ---- the model: the items in order, everything counted anew ---- */

struct model {
    struct sched_edf_item *v[ITEMS];
    size_t n;
};

static bool comes_before(const struct sched_edf_item *a, const struct sched_edf_item *b)
{
    return a->key != b->key ? a->key < b->key : a->id < b->id;
}

static void model_add(struct model *m, struct sched_edf_item *i)
{
    size_t at = m->n++;

    while (at > 0 && comes_before(i, m->v[at - 1])) {
        m->v[at] = m->v[at - 1];
        at--;
    }
    m->v[at] = i;
}

static void model_drop(struct model *m, size_t at)
{
    memmove(&m->v[at], &m->v[at + 1], (m->n - at - 1) * sizeof m->v[0]);
    m->n--;
}

static bool item_late(const struct sched_edf_item *i, double finish)
{
    return i->deadline_ns != SCHED_NEVER && finish > (double)i->deadline_ns;
}

static struct sched_edf_item *model_first_late(const struct model *m, double start)
{
    double at = start;

    for (size_t i = 0; i < m->n; i++) {
        at += STRETCH * m->v[i]->work;
        if (item_late(m->v[i], at))
            return m->v[i];
    }
    return NULL;
}

static struct sched_edf_answer model_try(const struct model *m, const struct sched_edf_item *c,
                                         double start)
{
    struct sched_edf_answer a = {.self = true, .others = true, .finish = start + c->work};
    double at = start;
    bool put = false;

    for (size_t i = 0; i <= m->n; i++) {
        if (!put && (i == m->n || comes_before(c, m->v[i]))) {
            at += STRETCH * c->work;
            a.self = !item_late(c, at);
            put = true;
        }
        if (i == m->n)
            break;
        at += STRETCH * m->v[i]->work;
        if (!put)
            a.finish += m->v[i]->work;
        else if (item_late(m->v[i], at))
            a.others = false;
    }
    return a;
}

static double model_densest(const struct model *m, const struct sched_edf_item *upto)
{
    double best = 0;

    for (size_t i = 0; i < m->n && !(upto != NULL && comes_before(upto, m->v[i])); i++)
        best = m->v[i]->density > best ? m->v[i]->density : best;
    return best;
}

/* Whole numbers small enough for exact sums in any order, deadlines off the grid of finish times: no answer
 * hangs on rounding. */
static void draw(struct sched_edf_item *i, uint64_t id)
{
    *i = (struct sched_edf_item){.key = 1000 + rng(60) * 50, .id = id};
    i->work = (double)(4 * (1 + rng(25)));
    i->density = rng(4) == 0 ? 0 : (double)(1 + rng(40));
    i->deadline_ns = rng(5) == 0 ? SCHED_NEVER : i->key + 5 * rng(400) + 2 + (rng(2) == 0);
}

static void compare(const struct sched_edf *q, const struct model *m, uint64_t id)
{
    double start = (double)rng(3000) + 0.5;
    const struct sched_edf_item *upto = m->n > 0 && rng(3) > 0 ? m->v[rng(m->n)] : NULL;
    struct sched_edf_item c, *dense = sched_edf_densest(q, upto);
    struct sched_edf_answer want, got;
    double ahead = 0;

    draw(&c, id);
    want = model_try(m, &c, start);
    got = sched_edf_try(q, &c, start);
    assert_int_equal(got.self, want.self);
    assert_int_equal(got.others, want.others);
    assert_true(fabs(got.finish - want.finish) < 1e-6);
    assert_ptr_equal(sched_edf_first_late(q, start), model_first_late(m, start));
    assert_true(fabs((dense == NULL ? 0 : dense->density) - model_densest(m, upto)) < 1e-9);
    assert_false(dense != NULL && upto != NULL && comes_before(upto, dense));
    for (size_t i = 0; i < m->n && comes_before(m->v[i], &c); i++)
        ahead += m->v[i]->work;
    assert_true(fabs(sched_edf_before(q, c.key, c.id) - ahead) < 1e-6);
}

static void it_answers_as_a_sorted_list_does(void **state)
{
    static struct sched_edf_item items[ITEMS];
    struct sched_edf q = {.stretch = STRETCH};
    struct model m = {.n = 0};
    uint64_t ids = 1;

    (void)state;
    rng_state = 7;
    memset(items, 0, sizeof items);
    for (int step = 0; step < STEPS; step++) {
        struct sched_edf_item *i = &items[rng(ITEMS)];
        size_t at = 0;

        if (i->count == 0) {
            draw(i, ids++);
            sched_edf_insert(&q, i);
            model_add(&m, i);
        } else if (rng(3) == 0) {
            sched_edf_change(&q, i, rng(4) == 0 ? SCHED_NEVER : i->key + 5 * rng(400) + 2,
                             (double)(4 * rng(25)), (double)rng(40));
        } else {
            while (m.v[at] != i)
                at++;
            sched_edf_remove(&q, i);
            model_drop(&m, at);
        }
        assert_true(sched_edf_valid(&q));
        assert_int_equal(sched_edf_count(&q), m.n);
        compare(&q, &m, ids + 1000000);
    }
}

static void it_walks_in_order_of_key_then_id(void **state)
{
    struct sched_edf_item v[] = {
        {.key = 5, .id = 1}, {.key = 3, .id = 9}, {.key = 3, .id = 2}, {.key = 8, .id = 0}};
    const uint64_t want[] = {2, 9, 1, 0};
    struct sched_edf q = {.stretch = 1};
    const struct sched_edf_item *i;
    size_t n = 0;

    (void)state;
    for (size_t k = 0; k < 4; k++)
        sched_edf_insert(&q, &v[k]);
    for (i = sched_edf_first(&q); i != NULL; i = sched_edf_next(i))
        assert_int_equal(i->id, want[n++]);
    assert_int_equal(n, 4);
}

static void an_item_without_a_deadline_spoils_nobodys_answer(void **state)
{
    struct sched_edf_item lost = {.key = 10, .id = 1, .deadline_ns = SCHED_NEVER, .work = 50};
    struct sched_edf_item next = {.key = 20, .id = 2, .deadline_ns = 200, .work = 50};
    struct sched_edf q = {.stretch = 1};

    (void)state;
    sched_edf_insert(&q, &lost);
    sched_edf_insert(&q, &next);
    assert_null(sched_edf_first_late(&q, 100)); /* 100 + 50 + 50 = 200: just in time */
    assert_ptr_equal(sched_edf_first_late(&q, 101), &next);
    sched_edf_change(&q, &lost, 149, 50, 0);
    assert_ptr_equal(sched_edf_first_late(&q, 100), &lost);
}

static void removing_what_is_not_there_changes_nothing(void **state)
{
    struct sched_edf_item a = {.key = 1, .id = 1, .work = 3, .deadline_ns = 9}, b = {.key = 2};
    struct sched_edf q = {.stretch = 1};

    (void)state;
    sched_edf_insert(&q, &a);
    sched_edf_remove(&q, &b);
    assert_int_equal(sched_edf_count(&q), 1);
    sched_edf_remove(&q, &a);
    sched_edf_remove(&q, &a);
    assert_int_equal(sched_edf_count(&q), 0);
    assert_null(sched_edf_first(&q));
    assert_null(sched_edf_densest(&q, NULL));
    assert_true(sched_edf_work(&q) < 1e-9);
}

static void another_stretch_counts_for_all_that_wait(void **state)
{
    struct sched_edf_item v[40];
    struct sched_edf q = {.stretch = 1};

    (void)state;
    for (uint64_t k = 0; k < 40; k++) {
        v[k] = (struct sched_edf_item){.key = k, .id = k + 1, .work = 10};
        v[k].deadline_ns = 1000 + 11 * (k + 1);
        sched_edf_insert(&q, &v[k]);
    }
    assert_null(sched_edf_first_late(&q, 1000));
    sched_edf_stretch(&q, 1.2);
    assert_true(sched_edf_valid(&q));
    assert_ptr_equal(sched_edf_first_late(&q, 1000), &v[0]);
    sched_edf_stretch(&q, 1);
    assert_null(sched_edf_first_late(&q, 1000));
}

/* At the scale of real clocks: a month of uptime in ns is far from the grain of a double. */
static void large_clocks_do_not_blur_a_millisecond(void **state)
{
    const uint64_t now = 30u * 86400u * UINT64_C(1000000000);
    struct sched_edf_item a = {.key = now, .id = 1, .work = 1e6, .deadline_ns = now + 2000000};
    struct sched_edf_item c = {.key = now + 1, .id = 2, .work = 1e6, .deadline_ns = now + 2000001};
    struct sched_edf q = {.stretch = 1};
    struct sched_edf_answer answer;

    (void)state;
    sched_edf_insert(&q, &a);
    answer = sched_edf_try(&q, &c, (double)now);
    assert_true(answer.self);
    assert_true(answer.others);
    answer = sched_edf_try(&q, &c, (double)(now + 3));
    assert_false(answer.self);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(it_answers_as_a_sorted_list_does),
        cmocka_unit_test(it_walks_in_order_of_key_then_id),
        cmocka_unit_test(an_item_without_a_deadline_spoils_nobodys_answer),
        cmocka_unit_test(removing_what_is_not_there_changes_nothing),
        cmocka_unit_test(another_stretch_counts_for_all_that_wait),
        cmocka_unit_test(large_clocks_do_not_blur_a_millisecond),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
