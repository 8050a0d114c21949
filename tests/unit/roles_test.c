/* tests/unit/roles_test.c - both worker roles in one process, over the sim engine and real KV nodes with
 * shared memory between them.  What comes out is held against the closed form of the sim, in which one lost,
 * doubled or foreign token or block shows. */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>
#include <uv.h>

#include "base/clock.h"
#include "base/mem.h"
#include "decode/decode.h"
#include "engine/sim/engine_sim.h"
#include "prefill/prefill.h"

enum {
    PREFILL_ID = 1,
    DECODE_ID = 2,
    BLOCKS = 4096,
    BLOCK_TOKENS = 16,
    MAX_CONTEXT = 2048,
    MAX_BATCH = 64,
    REQUESTS = 512,
    TOKENS_MAX = 2048,
    END_S = 30
};

struct stream {
    uint32_t n_prompt, n_tokens, max_new, epoch;
    int32_t tokens[TOKENS_MAX]; /* prompt, then what came out */
    uint32_t released[2];       /* by role, of the current epoch */
    enum err end[2];
    uint32_t n_new;        /* tokens that came out */
    uint32_t tier, tbt_ms; /* terms; none where tbt_ms is 0 */
    bool local;            /* the decode worker computes the prompt too */
    bool finished;
};

static uv_loop_t loop;
static uv_timer_t alive;
static struct engine *engines[2];
static struct kvt_node *nodes[2];
static struct prefill *prefill;
static struct decode *decode;
static struct stream *streams; /* request id is index + 1 */
static uint32_t n_granted, n_released, n_links, n_verified, n_local;
static struct engine_sim_range range;
static bool no_decode;         /* one token is all that is wanted */
static uint32_t decode_blocks; /* of the decode worker's pool */

static void from_decode(void *arg, enum wire_type t, const ProtobufCMessage *m);
static void from_prefill(void *arg, enum wire_type t, const ProtobufCMessage *m);

static struct stream *stream_of(uint64_t request)
{
    assert_in_range(request, 1, REQUESTS);
    return &streams[request - 1];
}

/* The scheduler of this test: passes grants on, and counts what ended. */
static void on_released(int role, const Baton__Released *m)
{
    struct stream *s = stream_of(m->request);

    n_released++;
    if (m->epoch != s->epoch)
        return;
    s->released[role]++;
    s->end[role] = (enum err)m->err;
}

static void from_decode(void *arg, enum wire_type t, const ProtobufCMessage *m)
{
    (void)arg;
    if (t == WIRE_GRANTED) {
        const Baton__Granted *g = (const Baton__Granted *)m;
        Baton__Grant grant = BATON__GRANT__INIT;

        n_granted++;
        if (!g->ok)
            return;
        grant.request = g->request;
        grant.epoch = g->epoch;
        grant.decode_worker = DECODE_ID;
        grant.transfer = g->transfer;
        grant.blocks = g->blocks;
        prefill_on_grant(prefill, &grant);
    } else if (t == WIRE_PREFILL_DONE) {
        n_local++;
    } else if (t == WIRE_HANDOVER_DONE) {
        n_verified += ((const Baton__HandoverDone *)m)->err == ERR_OK;
    } else if (t == WIRE_RELEASED) {
        on_released(1, (const Baton__Released *)m);
    }
}

static void from_prefill(void *arg, enum wire_type t, const ProtobufCMessage *m)
{
    (void)arg;
    if (t == WIRE_RELEASED)
        on_released(0, (const Baton__Released *)m);
}

/* The front end of this test: tokens in order, none twice, none after the last. */
static void on_tokens(void *arg, uint32_t frontend, const Baton__Tokens *m)
{
    (void)arg;
    assert_int_equal(frontend, 1);
    for (size_t i = 0; i < m->n_request; i++) {
        struct stream *s = stream_of(m->request[i]);

        if (m->epoch[i] != s->epoch)
            continue;
        assert_false(s->finished);
        assert_int_equal(m->index[i], s->n_tokens + s->n_new - s->n_prompt);
        s->tokens[s->n_tokens + s->n_new++] = (int32_t)m->token[i];
        s->finished = m->finish[i] != 0;
    }
}

static void on_broken(void *arg, const char *why)
{
    (void)arg;
    fail_msg("%s", why);
}

static void on_link(void *arg, const struct kvt_link *link)
{
    (void)arg;
    assert_int_equal(link->path, KVT_PATH_SHM);
    n_links++;
}

static bool run_until(bool (*done)(void))
{
    uint64_t until = clock_now_ns() + END_S * CLOCK_NS_PER_S;

    while (!done() && clock_now_ns() < until)
        uv_run(&loop, UV_RUN_ONCE);
    return done();
}

static void on_alive(uv_timer_t *t)
{
    (void)t;
}

static void open_side(int i, uint32_t n_blocks)
{
    struct engine_config e = {.backend = "sim",
                              .block_tokens = BLOCK_TOKENS,
                              .max_context = MAX_CONTEXT,
                              .max_batch = MAX_BATCH};
    struct kvt_node_config k = {
        .loop = &loop, .host = "127.0.0.1", .n_blocks = n_blocks, .on_link = on_link};
    struct err_msg msg = {""};
    void *pool;

    if (engine_open(&e, &msg, &engines[i]) != ERR_OK)
        fail_msg("%s", msg.text);
    k.layout = engine_info(engines[i])->kv;
    if (kvt_node_create(&k, &msg, &nodes[i]) != ERR_OK)
        fail_msg("%s", msg.text);
    pool = kvt_node_pool(nodes[i], 0);
    assert_int_equal(engine_attach_kv(engines[i], &pool, n_blocks), ERR_OK);
}

static void introduce(void)
{
    static const uint8_t token[KVT_TOKEN_BYTES] = "sixteen letters";

    assert_int_equal(kvt_node_introduce(nodes[1], DECODE_ID, PREFILL_ID, token, "127.0.0.1",
                                        kvt_node_port(nodes[0])),
                     ERR_OK);
    assert_int_equal(kvt_node_introduce(nodes[0], PREFILL_ID, DECODE_ID, token, "127.0.0.1",
                                        kvt_node_port(nodes[1])),
                     ERR_OK);
    assert_int_equal(kvt_node_connect(nodes[0], DECODE_ID), ERR_OK);
}

static bool linked(void)
{
    return n_links >= 2;
}

static int open_all(uint32_t n_blocks, uint64_t park_blocks)
{
    struct prefill_config p = {.loop = &loop,
                               .n_blocks = BLOCKS,
                               .to_scheduler = from_prefill,
                               .to_frontend = on_tokens,
                               .on_broken = on_broken};
    struct decode_config d = {.loop = &loop,
                              .n_blocks = n_blocks,
                              .to_scheduler = from_decode,
                              .to_frontend = on_tokens,
                              .on_broken = on_broken};

    decode_blocks = n_blocks;
    n_granted = n_released = n_links = n_verified = n_local = 0;
    streams = mem_try_calloc(REQUESTS, sizeof(*streams));
    assert_non_null(streams);
    uv_loop_init(&loop);
    uv_timer_init(&loop, &alive);
    uv_timer_start(&alive, on_alive, 10, 10);
    open_side(0, BLOCKS);
    open_side(1, n_blocks);
    d.park_bytes = park_blocks * wire_kv_block_bytes(&engine_info(engines[1])->kv);
    range = engine_sim_range(engine_info(engines[0])->vocab, NULL, 0);
    p.engine = engines[0];
    p.kvt = nodes[0];
    d.engine = engines[1];
    d.kvt = nodes[1];
    assert_int_equal(prefill_create(&p, &prefill), ERR_OK);
    assert_int_equal(decode_create(&d, &decode), ERR_OK);
    introduce();
    assert_true(run_until(linked));
    return 0;
}

static int setup(void **state)
{
    (void)state;
    return open_all(BLOCKS, 0);
}

/* Room for a few requests only, and for many to be parked. */
static int setup_tight(void **state)
{
    (void)state;
    return open_all(80, 4000);
}

static int teardown(void **state)
{
    (void)state;
    prefill_destroy(prefill);
    decode_destroy(decode);
    for (int i = 0; i < 2; i++) {
        engine_close(engines[i]);
        kvt_node_close(nodes[i], NULL, NULL);
    }
    uv_close((uv_handle_t *)&alive, NULL);
    uv_run(&loop, UV_RUN_DEFAULT);
    assert_int_equal(uv_loop_close(&loop), 0);
    mem_free(streams);
    assert_int_equal(mem_live(), 0);
    return 0;
}

static void greedy(Baton__Sampling *s)
{
    baton__sampling__init(s);
    s->top_p = 1;
    s->repetition_penalty = 1;
}

static void submit(uint64_t request)
{
    struct stream *s = stream_of(request);
    Baton__Reserve r = BATON__RESERVE__INIT;
    Baton__Prefill p = BATON__PREFILL__INIT;
    Baton__Sampling sampling;
    Baton__Terms terms = BATON__TERMS__INIT;
    static uint8_t tokens[TOKENS_MAX * 4];

    terms.tier = s->tier;
    terms.tbt_ns = s->tbt_ms * CLOCK_NS_PER_MS;
    terms.first_deadline_ns = CLOCK_NS_PER_S;
    p.terms = r.terms = s->tbt_ms > 0 ? &terms : NULL;
    greedy(&sampling);
    for (uint32_t i = 0; i < s->n_tokens; i++) {
        for (int k = 0; k < 4; k++)
            tokens[4 * i + (uint32_t)k] = (uint8_t)((uint32_t)s->tokens[i] >> (8 * k));
    }
    p.request = r.request = request;
    p.epoch = r.epoch = s->epoch;
    p.frontend = r.frontend = 1;
    p.n_prompt = r.n_prompt = s->n_prompt;
    p.max_new = r.max_new = s->max_new;
    p.sampling = r.sampling = &sampling;
    p.deadline_ns = r.deadline_ns = 20 * CLOCK_NS_PER_S;
    p.decode_worker = no_decode ? 0 : DECODE_ID;
    r.prefill_worker = PREFILL_ID;
    r.n_tokens = s->n_tokens;
    p.tokens.data = tokens;
    p.tokens.len = (size_t)s->n_tokens * 4;
    if (s->local) {
        decode_on_prefill(decode, DECODE_ID, &p);
        return;
    }
    /* PREFILL first: a grant for a request that prefill does not know would be dropped. */
    prefill_on_prefill(prefill, &p);
    if (!no_decode)
        decode_on_reserve(decode, &r);
}

static void begin_as(uint64_t request, uint32_t n_prompt, uint32_t max_new, struct stream like)
{
    struct stream *s = stream_of(request);

    memset(s, 0, sizeof(*s));
    s->tier = like.tier;
    s->tbt_ms = like.tbt_ms;
    s->local = like.local;
    s->n_prompt = s->n_tokens = n_prompt;
    s->max_new = max_new;
    s->epoch = 1;
    for (uint32_t i = 0; i < n_prompt; i++)
        s->tokens[i] = (int32_t)((i * 7919 + request * 104729) % 30000);
    submit(request);
}

static void begin(uint64_t request, uint32_t n_prompt, uint32_t max_new)
{
    static const struct stream plain;

    begin_as(request, n_prompt, max_new, plain);
}

/* Place it again, with what came out as part of the prompt. */
static void resume(uint64_t request)
{
    struct stream *s = stream_of(request);

    s->n_tokens += s->n_new;
    s->n_new = 0;
    s->epoch++;
    memset(s->released, 0, sizeof(s->released));
    submit(request);
}

static void cancel(uint64_t request)
{
    Baton__Cancel m = BATON__CANCEL__INIT;

    m.request = request;
    m.epoch = stream_of(request)->epoch;
    prefill_on_cancel(prefill, &m);
    decode_on_cancel(decode, &m);
}

static void check_closed_form(uint64_t request)
{
    const struct stream *s = stream_of(request);
    uint64_t chain = ENGINE_SIM_START;

    for (uint32_t i = 0; i < s->n_tokens + s->n_new; i++) {
        if (i >= s->n_prompt)
            assert_int_equal(s->tokens[i], engine_sim_next(chain, range));
        chain = engine_sim_push(chain, s->tokens[i]);
    }
}

static void check_at_rest(void)
{
    Baton__Report a = BATON__REPORT__INIT, b = BATON__REPORT__INIT;

    for (int i = 0; i < 20; i++)
        uv_run(&loop, UV_RUN_ONCE);
    prefill_report(prefill, &a);
    decode_report(decode, &b);
    assert_int_equal(a.free_blocks, BLOCKS);
    assert_int_equal(b.free_blocks, decode_blocks);
    assert_int_equal(b.parked + b.blocks_parked, 0);
    assert_int_equal(a.live_requests + a.live_sends, 0);
    assert_int_equal(b.live_requests + b.live_grants, 0);
    for (int i = 0; i < 2; i++) {
        const struct kvt_counters *c = kvt_node_counters(nodes[i]);

        assert_int_equal(c->sends_open + c->grants_open + c->slots_quarantined, 0);
        assert_int_equal(c->bad_messages, 0);
    }
}

static uint32_t expected_releases;

static bool all_released(void)
{
    return n_released >= expected_releases;
}

static void streams_of_all_sizes_equal_the_closed_form(void **state)
{
    static const struct {
        uint32_t n_prompt, max_new;
    } sizes[] = {{1, 2},    {15, 17}, {16, 16},  {17, 15},    {31, 33}, {100, 200},
                 {511, 50}, {512, 5}, {513, 50}, {1500, 500}, {4, 1},   {2000, 48}};
    uint32_t n = sizeof(sizes) / sizeof(sizes[0]);

    (void)state;
    for (uint32_t i = 0; i < n; i++)
        begin(i + 1, sizes[i].n_prompt, sizes[i].max_new);
    expected_releases = 2 * n - 1; /* the one of length 1 waits for a cancel on the decode side */
    assert_true(run_until(all_released));
    cancel(11);
    expected_releases = 2 * n;
    assert_true(run_until(all_released));
    for (uint32_t i = 0; i < n; i++) {
        struct stream *s = stream_of(i + 1);

        assert_int_equal(s->n_new, sizes[i].max_new);
        assert_true(s->finished);
        assert_int_equal(s->released[0], 1);
        assert_int_equal(s->released[1], 1);
        assert_int_equal(s->end[0], ERR_OK);
        check_closed_form(i + 1);
    }
    check_at_rest();
}

static bool some_tokens(void)
{
    return stream_of(1)->n_new >= 40;
}

static void stream_that_was_cut_goes_on_from_its_tokens(void **state)
{
    struct stream *s = stream_of(1);

    (void)state;
    begin(1, 100, 300);
    assert_true(run_until(some_tokens));
    cancel(1);
    resume(1);
    expected_releases = 4;
    assert_true(run_until(all_released));
    assert_true(s->finished);
    assert_int_equal(s->n_tokens + s->n_new, 400);
    check_closed_form(1);
    check_at_rest();
}

static void lost_peer_releases_both_sides_and_the_next_introduction_works(void **state)
{
    (void)state;
    for (uint32_t i = 1; i <= 20; i++)
        begin(i, 1000, 40);
    uv_run(&loop, UV_RUN_ONCE);
    kvt_node_forget(nodes[0], DECODE_ID, false);
    kvt_node_forget(nodes[1], PREFILL_ID, false);
    for (uint32_t i = 1; i <= 20; i++)
        cancel(i);
    expected_releases = 40;
    assert_true(run_until(all_released));
    check_at_rest();
    n_links = 0;
    introduce();
    assert_true(run_until(linked));
    begin(21, 1000, 40);
    expected_releases = 42;
    assert_true(run_until(all_released));
    assert_true(stream_of(21)->finished);
    check_closed_form(21);
    check_at_rest();
}

/* Cancels at any moment, among streams that must not notice. */
static void cancels_at_any_moment_leave_the_others_and_the_pools_whole(void **state)
{
    uint32_t seed = 99;
    uint64_t next = 0, canceled = 0;

    (void)state;
    while (next < 300) {
        seed = seed * 1664525u + 1013904223u;
        if (decode_live(decode) < 40)
            begin(++next, 1 + (seed >> 16) % 400, 2 + (seed >> 20) % 60);
        if ((seed >> 12) % 4 == 0 && next > 0 && stream_of(next)->released[1] == 0) {
            cancel(next - (seed >> 24) % (next < 8 ? next : 8));
            canceled++;
        }
        if ((seed >> 8) % 2 == 0)
            uv_run(&loop, UV_RUN_NOWAIT);
        else if (decode_live(decode) >= 40)
            uv_run(&loop, UV_RUN_ONCE);
    }
    expected_releases = 600;
    assert_true(run_until(all_released));
    assert_true(canceled > 20);
    assert_int_equal(n_released, 600);
    assert_true(n_verified > 100);
    for (uint64_t r = 1; r <= 300; r++) {
        struct stream *s = stream_of(r);

        assert_int_equal(s->released[0], 1);
        assert_int_equal(s->released[1], 1);
        assert_true(s->finished || s->end[0] == ERR_CANCELED || s->end[1] == ERR_CANCELED);
        check_closed_form(r);
    }
    check_at_rest();
}

/* Three times as much KV as the pool holds, tiers mixed, every third prompt computed on the decode worker:
 * the sim engine would name any block that came back wrong. */
static void parked_streams_equal_the_closed_form(void **state)
{
    enum { N = 24 };
    Baton__Report m = BATON__REPORT__INIT;

    (void)state;
    for (uint32_t i = 0; i < N; i++)
        begin_as(i + 1, 40 + i * 5, 120,
                 (struct stream){.tier = i % 3, .tbt_ms = 1 + i % 3 * 20, .local = i % 3 == 1});
    expected_releases = 2 * N - N / 3;
    assert_true(run_until(all_released));
    for (uint32_t i = 1; i <= N; i++) {
        assert_int_equal(stream_of(i)->end[1], ERR_OK);
        assert_int_equal(stream_of(i)->n_new, 120);
        assert_int_equal(stream_of(i)->released[1], 1);
        check_closed_form(i);
    }
    decode_report(decode, &m);
    print_message("%d streams in a pool of 80 blocks: parked %u times\n", N, (unsigned)m.parks);
    assert_true(m.parks > 0);
    assert_int_equal(m.parks, m.resumes);
    assert_int_equal(m.gave_up, 0);
    assert_int_equal(n_local, N / 3);
    check_at_rest();
}

static bool is_free(uint64_t request)
{
    return stream_of(request)->released[0] + stream_of(request)->local > 0 &&
           stream_of(request)->released[1] > 0;
}

/* Whatever is canceled while it waits, computes, decodes or is parked: the rest does not notice. */
static void cancels_under_pressure_leave_the_others_and_the_pools_whole(void **state)
{
    enum { N = 200 };
    Baton__Report m = BATON__REPORT__INIT;
    uint32_t seed = 7, local = 0;
    uint64_t next = 0;

    (void)state;
    while (next < N) {
        seed = seed * 1664525u + 1013904223u;
        if (decode_live(decode) < 20) {
            bool here = (seed >> 9) % 4 == 0;

            local += here;
            begin_as(
                ++next, 1 + (seed >> 16) % 300, 2 + (seed >> 20) % 200,
                (struct stream){.tier = seed >> 13 & 3, .tbt_ms = seed >> 15 & 31, .local = here});
        }
        if ((seed >> 12) % 8 == 0 && next > 0) {
            uint64_t r = next - (seed >> 24) % (next < 16 ? next : 16);

            if (!is_free(r))
                cancel(r);
        }
        uv_run(&loop, (seed >> 8) % 2 == 0 ? UV_RUN_NOWAIT : UV_RUN_ONCE);
    }
    expected_releases = 2 * N - local;
    assert_true(run_until(all_released));
    for (uint64_t r = 1; r <= N; r++) {
        struct stream *s = stream_of(r);

        assert_int_equal(s->released[1], 1);
        assert_true(s->finished || s->end[0] == ERR_CANCELED || s->end[1] == ERR_CANCELED);
        check_closed_form(r);
    }
    decode_report(decode, &m);
    assert_true(m.parks > 0);
    check_at_rest();
}

static void many_streams_at_no_modelled_time(void **state)
{
    enum { N = 64, NEW = 960 };
    uint64_t began;
    double seconds;

    (void)state;
    began = clock_now_ns();
    for (uint32_t i = 1; i <= N; i++)
        begin(i, 32, NEW);
    expected_releases = 2 * N;
    assert_true(run_until(all_released));
    seconds = (double)(clock_now_ns() - began) / 1e9;
    print_message("%d streams of %d tokens: %.0f tokens/s through one pair of workers\n", N, NEW,
                  N * (double)NEW / seconds);
    for (uint32_t i = 1; i <= N; i++) {
        assert_int_equal(stream_of(i)->n_new, NEW);
        check_closed_form(i);
    }
    check_at_rest();
}

static void short_completions_at_no_modelled_time(void **state)
{
    enum { N = 500, PROMPT = 1000, AT_ONCE = 50 };
    uint64_t began = clock_now_ns();
    double seconds;

    (void)state;
    no_decode = true;
    for (uint32_t i = 1; i <= N; i++) {
        begin(i, PROMPT, 1);
        expected_releases = i < AT_ONCE ? 0 : i - AT_ONCE;
        assert_true(run_until(all_released));
    }
    expected_releases = N;
    assert_true(run_until(all_released));
    no_decode = false;
    seconds = (double)(clock_now_ns() - began) / 1e9;
    print_message("%d prompts of %d tokens: %.0f requests/s through one prefill worker\n", N,
                  PROMPT, N / seconds);
    for (uint32_t i = 1; i <= N; i++) {
        assert_int_equal(stream_of(i)->n_new, 1);
        assert_true(stream_of(i)->finished);
        check_closed_form(i);
    }
    check_at_rest();
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(streams_of_all_sizes_equal_the_closed_form),
        TEST(stream_that_was_cut_goes_on_from_its_tokens),
        TEST(lost_peer_releases_both_sides_and_the_next_introduction_works),
        TEST(cancels_at_any_moment_leave_the_others_and_the_pools_whole),
        cmocka_unit_test_setup_teardown(parked_streams_equal_the_closed_form, setup_tight,
                                        teardown),
        cmocka_unit_test_setup_teardown(cancels_under_pressure_leave_the_others_and_the_pools_whole,
                                        setup_tight, teardown),
        TEST(many_streams_at_no_modelled_time),
        TEST(short_completions_at_no_modelled_time),
    };

    signal(SIGPIPE, SIG_IGN); /* as daemon/main.c does */
    return cmocka_run_group_tests(tests, NULL, NULL);
}
