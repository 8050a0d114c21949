/* Every event in every state of scheduler/sched.h: one table, one row per event, one column per situation.
 *
 *   .  taken in, state as before, nothing said     i  counted as ignored, nothing changes
 *   H D  moves to HANDOVER, DECODING               F  moves to DECODING, decode worker told to let go
 *   R  back to QUEUED with the next epoch, front end told to resume, workers that hold claims told
 *   E  gone, workers that hold claims told */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "tests/sim/sched_rig.h"

enum { P = 1, D = 2, REQ = 100, STALE = 7, MAX_NEW = 10 };

enum situation { FRESH, BACKOFF, PREFILL, VERIFIED, HANDOVER, DECODE, FINISHED, CANCELED, UNKNOWN };

static void enter(struct rig *r, enum situation at)
{
    rig_open(r, NULL);
    rig_join(r, P, SCHED_ROLE_PREFILL, 64, 8);
    rig_join(r, D, SCHED_ROLE_DECODE, 64, 8);
    if (at == FRESH) { /* nothing is placed on draining workers */
        rig_drain(r, P);
        rig_drain(r, D);
    }
    if (at != UNKNOWN)
        rig_arrive(r, REQ, 1, 40, MAX_NEW);
    if (at == BACKOFF)
        rig_handover(r, REQ, 1, D, true, ERR_CORRUPT);
    if (at == CANCELED)
        rig_cancel(r, REQ);
    if (at == VERIFIED || at == DECODE)
        rig_handover(r, REQ, 1, D, true, ERR_OK);
    if (at == HANDOVER || at == DECODE)
        rig_prefilled(r, REQ, 1, P, false);
    if (at == FINISHED)
        rig_prefilled(r, REQ, 1, P, true);
}

struct row {
    const char *name;
    const char *want; /* one letter per situation */
    struct sched_event e;
};

#define FROM(k, w, ep) .kind = SCHED_EV_##k, .request = REQ, .worker = (w), .epoch = (ep)
#define ABOUT(k) .kind = SCHED_EV_##k, .request = REQ
#define HAND(failure, decode) .u.handover = {.err = (failure), .from_decode = (decode)}

/* clang-format off */
static const struct row rows[] = {
    /*                              F B P V H D F C U */
    {"cancel",                     "E E E E E E E i i", {ABOUT(CANCEL)}},
    {"finish",                     "E E E E E E E i i", {ABOUT(FINISH)}},
    {"tokens",                     ". . . . . . . i i", {ABOUT(TOKENS), .u.tokens = {1}}},
    {"more tokens than allowed",   "i i i i i i i i i", {ABOUT(TOKENS), .u.tokens = {MAX_NEW + 1}}},
    {"granted",                    "i i . i . i i i i", {FROM(GRANTED, D, 1), .u.granted = {true}}},
    {"refused",                    "i i R i R i i i i", {FROM(GRANTED, D, 1)}},
    {"refused, old epoch",         "i i i i i i i i i", {FROM(GRANTED, D, STALE)}},
    {"refused by a stranger",      "i i i i i i i i i", {FROM(GRANTED, P, 1)}},
    {"progress",                   "i i . . i i i i i", {FROM(PREFILL_PROGRESS, P, 1), .u.progress = {16, 1, 16}}},
    {"progress, old epoch",        "i i i i i i i i i", {FROM(PREFILL_PROGRESS, P, STALE), .u.progress = {16, 1, 16}}},
    {"prefilled",                  "i i H D i i i i i", {FROM(PREFILL_DONE, P, 1)}},
    {"prefilled, old epoch",       "i i i i i i i i i", {FROM(PREFILL_DONE, P, STALE)}},
    {"prefilled by a stranger",    "i i i i i i i i i", {FROM(PREFILL_DONE, D, 1)}},
    {"prefilled and finished",     "i i F F i i i i i", {FROM(PREFILL_DONE, P, 1), .u.prefilled = {true}}},
    {"verified",                   "i i . i D i i i i", {FROM(HANDOVER_DONE, D, 1), HAND(ERR_OK, true)}},
    {"verified, old epoch",        "i i i i i i i i i", {FROM(HANDOVER_DONE, D, STALE), HAND(ERR_OK, true)}},
    {"verified, said by prefill",  "i i i i i i i i i", {FROM(HANDOVER_DONE, P, 1), HAND(ERR_OK, true)}},
    {"digest wrong",               "i i R i R i i i i", {FROM(HANDOVER_DONE, D, 1), HAND(ERR_CORRUPT, true)}},
    {"digest wrong, old epoch",    "i i i i i i i i i", {FROM(HANDOVER_DONE, D, STALE), HAND(ERR_CORRUPT, true)}},
    {"sent",                       "i i . i . i i i i", {FROM(HANDOVER_DONE, P, 1), HAND(ERR_OK, false)}},
    {"sending failed",             "i i R i R i i i i", {FROM(HANDOVER_DONE, P, 1), HAND(ERR_PEER_LOST, false)}},
    {"sending failed, old epoch",  "i i i i i i i i i", {FROM(HANDOVER_DONE, P, STALE), HAND(ERR_PEER_LOST, false)}},
    {"prefill let go",             "i . R R . . . . i", {FROM(RELEASED, P, 1)}},
    {"prefill gave up",            "i . R R R . . . i", {FROM(RELEASED, P, 1), .u.released = {ERR_NOMEM}}},
    {"prefill let go, old epoch",  "i i i i i i i i i", {FROM(RELEASED, P, STALE)}},
    {"decode let go",              "i . R . R . . . i", {FROM(RELEASED, D, 1)}},
    {"decode gave up",             "i . R R R R . . i", {FROM(RELEASED, D, 1), .u.released = {ERR_NOMEM}}},
    {"decode gave up, old epoch",  "i i i i i i i i i", {FROM(RELEASED, D, STALE), .u.released = {ERR_NOMEM}}},
    {"released by nobody known",   "i i i i i i i i i", {FROM(RELEASED, 77, 1)}},
    {"prefill worker vanishes",    ". . R R R . . . .", {.kind = SCHED_EV_WORKER_LEAVE, .worker = P}},
    {"decode worker vanishes",     ". . R R R R . . .", {.kind = SCHED_EV_WORKER_LEAVE, .worker = D}},
    {"unknown worker vanishes",    "i i i i i i i i i", {.kind = SCHED_EV_WORKER_LEAVE, .worker = 77}},
    {"prefill worker drains",      ". . . . . . . . .", {.kind = SCHED_EV_WORKER_DRAIN, .worker = P}},
    {"decode worker drains",       ". . . . . . . . .", {.kind = SCHED_EV_WORKER_DRAIN, .worker = D}},
    {"unknown worker drains",      "i i i i i i i i i", {.kind = SCHED_EV_WORKER_DRAIN, .worker = 77}},
    {"worker reports",             ". . . . . . . . .", {.kind = SCHED_EV_WORKER_REPORT, .worker = P}},
    {"nothing is due",             ". . . . . . . . .", {.kind = SCHED_EV_TIMER}},
    {"the process drains",         ". . . . . . . . .", {.kind = SCHED_EV_STOP}},
};
/* clang-format on */

static bool holds(const struct rig *r, uint32_t worker)
{
    struct sched_worker_view v;

    return sched_get_worker(r->s, worker, &v) == ERR_OK && v.requests > 0;
}

/* Who still holds a claim of an attempt that is over is told, save on FINISH: then the workers stop by
 * themselves, but for a decode worker that waits for a hand-over. */
static void check_told(const struct rig *r, const struct row *row, enum situation at)
{
    bool finish = row->e.kind == SCHED_EV_FINISH, before = at == BACKOFF;
    bool waits = at == PREFILL || at == VERIFIED;

    assert_int_equal(rig_told(r, P, REQ, 1), holds(r, P) && !finish && !before);
    assert_int_equal(rig_told(r, D, REQ, 1), holds(r, D) && !before && (!finish || waits));
}

static void check_cell(const struct row *row, enum situation at)
{
    char want = row->want[2 * at];
    uint64_t ignored;
    struct rig r;
    int state;
    uint32_t epoch;

    enter(&r, at);
    state = rig_state(&r, REQ);
    epoch = rig_epoch(&r, REQ);
    ignored = rig_stats(&r).ignored_events;
    print_message("%s in %d: %c\n", row->name, (int)at, want);
    rig_apply(&r, &row->e);
    assert_int_equal(rig_stats(&r).ignored_events - ignored, want == 'i');
    if (want == 'R') {
        assert_int_equal(rig_state(&r, REQ), SCHED_STATE_QUEUED);
        assert_int_equal(rig_epoch(&r, REQ), epoch + 1);
        assert_int_equal(rig_count(&r, SCHED_ACT_RESUME), 1);
        check_told(&r, row, at);
    } else if (want == 'E') {
        assert_int_equal(rig_state(&r, REQ), 0);
        assert_int_equal(rig_count(&r, SCHED_ACT_CANCEL), r.act.n);
        check_told(&r, row, at);
    } else if (want == 'F') {
        assert_int_equal(rig_state(&r, REQ), SCHED_STATE_DECODING);
        assert_int_equal(r.act.n, 1);
        assert_true(rig_told(&r, D, REQ, 1));
    } else {
        if (want == 'H' || want == 'D')
            state = want == 'H' ? SCHED_STATE_HANDOVER : SCHED_STATE_DECODING;
        assert_int_equal(rig_state(&r, REQ), state);
        assert_int_equal(rig_epoch(&r, REQ), epoch);
        assert_int_equal(r.act.n, 0);
    }
    rig_close(&r);
}

static void every_event_in_every_state_does_what_the_table_says(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        for (int at = FRESH; at <= UNKNOWN; at++)
            check_cell(&rows[i], (enum situation)at);
    }
}

static void fields_out_of_range_are_refused_and_change_nothing(void **state)
{
    static const struct sched_event bad[] = {
        {.kind = (enum sched_event_kind)99},
        {ABOUT(ARRIVE), .u.arrive = {.tier = 3, .n_prompt = 1, .max_new = 1}},
        {ABOUT(ARRIVE), .u.arrive = {.n_prompt = 0, .max_new = 1}},
        {ABOUT(ARRIVE), .u.arrive = {.n_prompt = 1, .max_new = 0}},
        {ABOUT(ARRIVE), .u.arrive = {.n_prompt = 1, .max_new = 1, .arrived_ns = UINT64_MAX}},
        {ABOUT(ARRIVE), .u.arrive = {.n_prompt = 1, .max_new = 1}}, /* the id is taken */
        {.kind = SCHED_EV_ARRIVE, .u.arrive = {.n_prompt = 1, .max_new = 1}},
        {.kind = SCHED_EV_WORKER_JOIN, .worker = P, .u.join = {SCHED_ROLE_DECODE, 1, 1, 1, 1}},
        {.kind = SCHED_EV_WORKER_JOIN, .worker = 9, .u.join = {(enum sched_role)3, 1, 1, 1, 1}},
        {.kind = SCHED_EV_WORKER_JOIN, .worker = 9, .u.join = {SCHED_ROLE_DECODE, 0, 1, 1, 1}},
        {.kind = SCHED_EV_WORKER_JOIN, .worker = 9, .u.join = {SCHED_ROLE_DECODE, 1, 0, 1, 1}},
        {.kind = SCHED_EV_WORKER_JOIN, .worker = 9, .u.join = {SCHED_ROLE_DECODE, 1, 1, 0, 1}},
        {.kind = SCHED_EV_WORKER_JOIN, .worker = 9, .u.join = {SCHED_ROLE_DECODE, 1, 1, 1, 0}},
        {.kind = SCHED_EV_WORKER_LEAVE},
        {.kind = SCHED_EV_CANCEL},
        {FROM(GRANTED, 0, 1)},
        {FROM(PREFILL_DONE, P, 0)},
        {.kind = SCHED_EV_RELEASED, .worker = P, .epoch = 1},
    };
    struct sched_stats before, after;
    struct rig r;

    (void)state;
    enter(&r, PREFILL);
    before = rig_stats(&r);
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        r.act.n = 0;
        assert_int_equal(sched_apply(r.s, &bad[i], r.now, &r.act), ERR_INVALID);
        assert_int_equal(r.act.n, 0);
    }
    assert_int_equal(
        sched_apply(r.s, &(struct sched_event){.kind = SCHED_EV_TIMER}, r.now - 1, &r.act),
        ERR_INVALID);
    after = rig_stats(&r);
    assert_memory_equal(&before, &after, sizeof(before));
    assert_int_equal(rig_state(&r, REQ), SCHED_STATE_PREFILLING);
    rig_close(&r);
}

static void config_out_of_range_is_refused_by_name(void **state)
{
    static const char *const fields[] = {"tiers",        "max_queued",    "prefill_window_tokens",
                                         "max_attempts", "queue_timeout", "release_timeout"};
    struct sched *s = NULL;

    (void)state;
    for (size_t i = 0; i < sizeof(fields) / sizeof(fields[0]); i++) {
        struct sched_config c;
        struct err_msg msg;

        sched_config_defaults(&c);
        switch (i) {
        case 0:
            c.n_tiers = 0;
            break;
        case 1:
            c.max_queued = 0;
            break;
        case 2:
            c.prefill_window_tokens = 0;
            break;
        case 3:
            c.max_attempts = 0;
            break;
        case 4:
            c.queue_timeout_ns = 1;
            break;
        default:
            c.release_timeout_ns = UINT64_MAX;
            break;
        }
        assert_int_equal(sched_create(&c, &msg, &s), ERR_INVALID);
        assert_non_null(strstr(msg.text, fields[i]));
    }
    assert_null(s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_event_in_every_state_does_what_the_table_says),
        cmocka_unit_test(fields_out_of_range_are_refused_and_change_nothing),
        cmocka_unit_test(config_out_of_range_is_refused_by_name),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
