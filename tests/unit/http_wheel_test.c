/* tests/unit/http_wheel_test.c - the timer wheel against a list of plain deadlines. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>

#include <stdint.h>
#include <string.h>

#include "daemon/http_wheel.h"

enum { TIMERS = 200 };

struct world {
    struct http_wheel wheel;
    struct http_timer timers[TIMERS];
    uint64_t due[TIMERS]; /* what the wheel was told; 0: nothing */
    uint64_t now;
    unsigned fired;
};

static void on_fire(struct http_timer *t, void *arg)
{
    struct world *w = arg;
    size_t i = (size_t)(t - w->timers);

    assert_true(w->due[i] != 0);
    assert_true(w->due[i] <= w->now);                          /* never early */
    assert_true(w->now - w->due[i] <= 2 * HTTP_WHEEL_SLOT_MS); /* and not late */
    w->due[i] = 0;
    w->fired++;
}

static uint32_t rng_state = 7;

static uint32_t rng(uint32_t n)
{
    rng_state = rng_state * 1664525u + 1013904223u;
    return (rng_state >> 8) % n;
}

static void timers_fire_once_never_early_and_hardly_late(void **state)
{
    static struct world w;

    (void)state;
    memset(&w, 0, sizeof(w));
    w.now = 123456789;
    http_wheel_init(&w.wheel, w.now);
    for (unsigned step = 0; step < 20000; step++) {
        size_t i = rng(TIMERS);

        switch (rng(8)) {
        case 0:
            http_timer_stop(&w.timers[i]);
            w.due[i] = 0;
            break;
        case 1: /* far beyond one round of the wheel */
            w.due[i] = w.now + 10000 + rng(60000);
            http_timer_set(&w.wheel, &w.timers[i], w.due[i]);
            break;
        default: /* sooner or later than before */
            w.due[i] = w.now + 1 + rng(3000);
            http_timer_set(&w.wheel, &w.timers[i], w.due[i]);
            break;
        }
        w.now += rng(HTTP_WHEEL_SLOT_MS);
        http_wheel_advance(&w.wheel, w.now, on_fire, &w);
        for (size_t k = 0; k < TIMERS; k++)
            assert_true(w.due[k] == 0 || w.due[k] + 2 * HTTP_WHEEL_SLOT_MS > w.now);
    }
    assert_true(w.fired > 1000);
    for (size_t k = 0; k < TIMERS; k++)
        http_timer_stop(&w.timers[k]);
}

static void set_again(struct http_timer *t, void *arg)
{
    struct world *w = arg;

    w->fired++;
    if (w->fired < 10)
        http_timer_set(&w->wheel, t, w->now + 1);
}

static void timer_may_be_set_again_while_it_fires(void **state)
{
    static struct world w;

    (void)state;
    memset(&w, 0, sizeof(w));
    w.now = 1000;
    http_wheel_init(&w.wheel, w.now);
    http_timer_set(&w.wheel, &w.timers[0], w.now + 10);
    for (int i = 0; i < 100; i++) {
        w.now += HTTP_WHEEL_SLOT_MS;
        http_wheel_advance(&w.wheel, w.now, set_again, &w);
    }
    assert_int_equal(w.fired, 10);
}

static void long_sleep_loses_no_timer(void **state)
{
    static struct world w;

    (void)state;
    memset(&w, 0, sizeof(w));
    w.now = 5000;
    http_wheel_init(&w.wheel, w.now);
    for (size_t i = 0; i < TIMERS; i++)
        http_timer_set(&w.wheel, &w.timers[i], w.now + 1 + i * 500);
    w.now += 1000000;
    http_wheel_advance(&w.wheel, w.now, set_again, &w);
    assert_true(w.fired >= TIMERS);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(timers_fire_once_never_early_and_hardly_late),
        cmocka_unit_test(timer_may_be_set_again_while_it_fires),
        cmocka_unit_test(long_sleep_loses_no_timer),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
