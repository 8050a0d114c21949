/* tests/unit/roles_park_test.c - the text that a decode worker writes with the CPU backend does not depend on
 * whether its KV was moved out of the pool and back on the way. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>
#include <uv.h>

#include "base/clock.h"
#include "base/mem.h"
#include "decode/decode.h"
#include "tests/unit/engine_fixture.h"

enum { STREAMS = 8, PROMPT = 40, NEW = 60, SELF = 1, END_S = 60 };

static const struct fixture_shape shape = {.hidden = 64,
                                           .layers = 2,
                                           .heads = 4,
                                           .kv_heads = 2,
                                           .head_dim = 16,
                                           .ffn = 128,
                                           .vocab = 300,
                                           .positions = 256,
                                           .dtype = ENGINE_F32};

struct run {
    uv_loop_t loop;
    uv_timer_t alive;
    uint32_t released, n[STREAMS];
    uint32_t text[STREAMS][NEW];
    uint64_t parks, gave_up;
};

static void to_scheduler(void *arg, enum wire_type t, const ProtobufCMessage *m)
{
    struct run *r = arg;

    if (t != WIRE_RELEASED)
        return;
    assert_int_equal(((const Baton__Released *)m)->err, ERR_OK);
    r->released++;
}

static void to_frontend(void *arg, uint32_t frontend, const Baton__Tokens *m)
{
    struct run *r = arg;

    (void)frontend;
    for (size_t i = 0; i < m->n_request; i++) {
        uint64_t k = m->request[i] - 1;

        assert_int_equal(m->index[i], r->n[k]);
        r->text[k][r->n[k]++] = m->token[i];
    }
}

static void on_alive(uv_timer_t *t)
{
    (void)t;
}

static void give(struct decode *d, uint32_t k)
{
    Baton__Prefill m = BATON__PREFILL__INIT;
    Baton__Sampling s = BATON__SAMPLING__INIT;
    Baton__Terms t = BATON__TERMS__INIT;
    uint8_t tokens[4 * PROMPT] = {0};

    for (uint32_t i = 0; i < PROMPT; i++)
        tokens[4 * i] = (uint8_t)(1 + (i * 7 + k * 31) % 200);
    s.top_p = s.repetition_penalty = 1;
    t.tier = k % 3;
    t.tbt_ns = CLOCK_NS_PER_MS;
    m.request = k + 1;
    m.epoch = 1;
    m.frontend = 1;
    m.n_prompt = PROMPT;
    m.max_new = NEW;
    m.decode_worker = SELF;
    m.tokens = (ProtobufCBinaryData){sizeof(tokens), tokens};
    m.sampling = &s;
    m.terms = &t;
    m.deadline_ns = END_S * CLOCK_NS_PER_S;
    decode_on_prefill(d, SELF, &m);
}

static void serve(struct run *r, const char *dir, uint32_t n_blocks)
{
    struct engine_config e = {.backend = "cpu",
                              .model_dir = dir,
                              .threads = 1,
                              .block_tokens = 16,
                              .max_batch = STREAMS,
                              .max_step_tokens = 64};
    struct decode_config c = {.loop = &r->loop,
                              .n_blocks = n_blocks,
                              .arg = r,
                              .to_scheduler = to_scheduler,
                              .to_frontend = to_frontend};
    Baton__Report m = BATON__REPORT__INIT;
    struct err_msg msg = {""};
    struct decode *d;
    size_t bytes;
    void *pool;
    uint64_t until = clock_now_ns() + END_S * CLOCK_NS_PER_S;

    if (engine_open(&e, &msg, &c.engine) != ERR_OK)
        fail_msg("%s", msg.text);
    bytes = wire_kv_block_bytes(&engine_info(c.engine)->kv);
    pool = mem_try_aligned(64, n_blocks * bytes);
    assert_non_null(pool);
    assert_int_equal(engine_attach_kv(c.engine, (void *[]){pool}, n_blocks), ERR_OK);
    c.park_bytes = 1000 * bytes;
    assert_int_equal(decode_create(&c, &d), ERR_OK);
    for (uint32_t k = 0; k < STREAMS; k++)
        give(d, k);
    while (r->released < STREAMS && clock_now_ns() < until)
        uv_run(&r->loop, UV_RUN_ONCE);
    decode_report(d, &m);
    r->parks = m.parks;
    r->gave_up = m.gave_up;
    assert_int_equal(r->released, STREAMS);
    assert_int_equal(m.free_blocks, n_blocks);
    decode_destroy(d);
    engine_close(c.engine);
    mem_free(pool);
}

static struct run *run(const char *dir, uint32_t n_blocks)
{
    struct run *r = mem_try_calloc(1, sizeof(*r));

    assert_non_null(r);
    uv_loop_init(&r->loop);
    uv_timer_init(&r->loop, &r->alive);
    uv_timer_start(&r->alive, on_alive, 10, 10);
    serve(r, dir, n_blocks);
    uv_close((uv_handle_t *)&r->alive, NULL);
    uv_run(&r->loop, UV_RUN_DEFAULT);
    assert_int_equal(uv_loop_close(&r->loop), 0);
    return r;
}

static void greedy_text_is_the_same_with_and_without_parks(void **state)
{
    char dir[FIXTURE_PATH];
    struct run *roomy, *tight;

    (void)state;
    fixture_model(&shape, dir);
    roomy = run(dir, 200);
    tight = run(dir, 16); /* of 56 that they need together */
    print_message("parked %u times in a pool of 16 blocks\n", (unsigned)tight->parks);
    assert_int_equal(roomy->parks, 0);
    assert_true(tight->parks > 0);
    assert_int_equal(tight->gave_up, 0);
    for (uint32_t k = 0; k < STREAMS; k++) {
        assert_int_equal(roomy->n[k], NEW);
        assert_int_equal(tight->n[k], NEW);
        assert_memory_equal(roomy->text[k], tight->text[k], sizeof(roomy->text[k]));
    }
    mem_free(roomy);
    mem_free(tight);
    fixture_remove(dir);
    assert_int_equal(mem_live(), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(greedy_text_is_the_same_with_and_without_parks),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
