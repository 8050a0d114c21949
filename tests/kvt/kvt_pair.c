/* tests/kvt/kvt_pair.c - see the header. */
#include "tests/kvt/kvt_pair.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#include "base/clock.h"
#include "base/mem.h"

struct wire_kv_layout pair_layout(uint32_t heads)
{
    struct wire_kv_layout l = {.n_layers = 4,
                               .n_kv_heads = heads,
                               .head_dim = 32,
                               .block_tokens = 16,
                               .dtype = WIRE_KV_F16,
                               .model_id = 77,
                               .parts = 1};

    return l;
}

static int index_of(struct pair *p, void *arg)
{
    return arg == (void *)&p->node[0] ? 0 : 1;
}

static struct pair *pair_now;

static void on_link(void *arg, const struct kvt_link *link)
{
    int i = index_of(pair_now, arg);

    pair_now->links[i]++;
    pair_now->link[i] = *link;
}

static void on_lost(void *arg, uint32_t peer, enum err err)
{
    int i = index_of(pair_now, arg);

    (void)peer;
    pair_now->losts[i]++;
    pair_now->lost_err[i] = err;
}

void pair_introduce(struct pair *p)
{
    assert_int_equal(ERR_OK, kvt_node_introduce(p->node[0], PAIR_SENDER, PAIR_RECEIVER, p->token,
                                                "127.0.0.1", kvt_node_port(p->node[1])));
    assert_int_equal(ERR_OK,
                     kvt_node_introduce(p->node[1], PAIR_RECEIVER, PAIR_SENDER, p->token, NULL, 0));
}

void pair_open(struct pair *p, const char *transports, const struct wire_kv_layout *layout)
{
    pair_open_parts(p, transports, layout, layout->parts, layout->parts);
}

void pair_open_parts(struct pair *p, const char *transports, const struct wire_kv_layout *layout,
                     uint32_t sender_parts, uint32_t receiver_parts)
{
    const struct pair_side sides[2] = {{.parts = sender_parts}, {.parts = receiver_parts}};

    pair_open_sides(p, transports, layout, sides);
}

void pair_open_sides(struct pair *p, const char *transports, const struct wire_kv_layout *layout,
                     const struct pair_side sides[2])
{
    struct err_msg msg = {{0}};

    memset(p, 0, sizeof(*p));
    pair_now = p;
    memset(p->token, 0x5a, sizeof(p->token));
    assert_int_equal(0, uv_loop_init(&p->loop));
    for (int i = 0; i < 2; i++) {
        struct kvt_node_config config = {.loop = &p->loop,
                                         .host = "127.0.0.1",
                                         .transports = transports,
                                         .layout = *layout,
                                         .n_blocks = PAIR_BLOCKS,
                                         .transfer_timeout_ns = 3000 * CLOCK_NS_PER_MS,
                                         .connect_timeout_ns = 3000 * CLOCK_NS_PER_MS,
                                         .arg = &p->node[i],
                                         .on_link = on_link,
                                         .on_peer_lost = on_lost};
        enum err err;

        config.layout.parts = sides[i].parts;
        config.staging_bytes = sides[i].staging;
        if (sides[i].device) {
            p->device[i] = device_open(&config.layout, PAIR_BLOCKS, sides[i].delay_us);
            if (sides[i].coherent)
                device_open_up(p->device[i]);
            config.memory = device_memory(p->device[i]);
        }
        err = kvt_node_create(&config, &msg, &p->node[i]);
        if (err != ERR_OK)
            print_message("%s\n", msg.text);
        assert_int_equal(ERR_OK, err);
        p->config[i] = config;
    }
    pair_introduce(p);
}

static uint64_t still_open(const struct pair *p)
{
    uint64_t open = 0;

    for (int i = 0; i < 2; i++) {
        const struct kvt_counters *c = kvt_node_counters(p->node[i]);

        open += c->sends_open + c->grants_open + c->slots_quarantined;
    }
    return open;
}

static void on_closed(void *arg)
{
    (*(int *)arg)++;
}

void pair_close(struct pair *p)
{
    uint64_t until = clock_now_ns() + 5 * CLOCK_NS_PER_S;

    while (still_open(p) > 0 && clock_now_ns() < until)
        pair_run_for(p, 5);
    assert_int_equal(0, still_open(p));
    kvt_node_close(p->node[0], on_closed, &p->closed);
    kvt_node_close(p->node[1], on_closed, &p->closed);
    assert_true(pair_run(p, &p->closed, 2, 5000));
    uv_run(&p->loop, UV_RUN_DEFAULT);
    assert_int_equal(0, uv_loop_close(&p->loop));
    device_close(p->device[0]);
    device_close(p->device[1]);
}

static void on_tick(uv_timer_t *t)
{
    (void)t;
}

bool pair_run(struct pair *p, const int *flag, int value, unsigned ms)
{
    uint64_t until = clock_now_ns() + ms * CLOCK_NS_PER_MS * (flag != NULL ? PAIR_PATIENCE : 1);
    uv_timer_t tick;

    uv_timer_init(&p->loop, &tick);
    uv_timer_start(&tick, on_tick, 5, 5);
    while ((flag == NULL || *flag < value) && clock_now_ns() < until)
        uv_run(&p->loop, UV_RUN_ONCE);
    uv_close((uv_handle_t *)&tick, NULL);
    uv_run(&p->loop, UV_RUN_NOWAIT);
    return flag != NULL && *flag >= value;
}

void pair_run_for(struct pair *p, unsigned ms)
{
    (void)pair_run(p, NULL, 0, ms);
}

/* Claims are answered in the order in which they were made: when this one is over, all are answered. */
void pair_settle(struct pair *p)
{
    static uint64_t transfer = (uint64_t)1 << 40;
    const uint32_t slot = PAIR_BLOCKS - 1;
    struct pair_grant g;
    struct pair_send s;

    assert_int_equal(ERR_OK, kvt_node_connect(p->node[0], PAIR_RECEIVER));
    assert_true(pair_run(p, &p->links[0], 1, 2000));
    transfer++;
    assert_int_equal(ERR_OK, pair_grant(p, &g, transfer, 1, &slot, 1, 20000));
    assert_int_equal(ERR_OK, pair_send(p, &s, transfer, 1, &slot, &slot, 1, 20000));
    pair_pieces(&s, 1, p->config[0].layout.n_layers);
    kvt_send_finish(s.send, NULL, 0);
    assert_true(pair_run(p, &s.dones, 1, 4000));
    assert_true(pair_run(p, &g.safes, 1, 4000));
    assert_int_equal(ERR_OK, s.result.err);
}

size_t pair_block_bytes(const struct pair *p)
{
    return wire_kv_block_bytes(&p->config[0].layout);
}

uint8_t *pair_block(const struct pair *p, int node, uint32_t slot)
{
    return (uint8_t *)kvt_node_pool(p->node[node], 0) + slot * pair_block_bytes(p);
}

static uint8_t *test_block(const struct pair *p)
{
    uint8_t *b = mem_try_alloc(pair_block_bytes(p));

    assert_non_null(b);
    return b;
}

/* By the definition in wire_kv.h, head by head, and not by what kvtransfer uses. */
static void copy_parts(const struct pair *p, int node, uint32_t slot, uint8_t *block, bool in)
{
    const struct wire_kv_layout *l = &p->config[node].layout;
    size_t head = wire_kv_layer_bytes(l) / 2 / l->n_kv_heads;
    uint32_t heads = l->n_kv_heads / l->parts;

    device_lock(p->device[node]);
    for (uint32_t row = 0; row < 2 * l->n_layers; row++) {
        for (uint32_t h = 0; h < l->n_kv_heads; h++) {
            uint8_t *pool = p->device[node] != NULL ? device_window(p->device[node], h / heads)
                                                    : kvt_node_pool(p->node[node], h / heads);
            uint8_t *there = pool + slot * wire_kv_part_block_bytes(l) +
                             ((size_t)row * heads + h % heads) * head;
            uint8_t *here = block + ((size_t)row * l->n_kv_heads + h) * head;

            memcpy(in ? there : here, in ? here : there, head);
        }
    }
    device_unlock(p->device[node]);
}

void pair_store(const struct pair *p, int node, uint32_t slot, const uint8_t *block)
{
    copy_parts(p, node, slot, (uint8_t *)(uintptr_t)block, true);
}

void pair_load(const struct pair *p, int node, uint32_t slot, uint8_t *block)
{
    copy_parts(p, node, slot, block, false);
}

void pair_fill(const struct pair *p, int node, uint32_t slot, uint64_t seed)
{
    uint8_t *b = test_block(p);
    uint64_t x = seed * 0x9e3779b97f4a7c15u + 1;

    for (size_t i = 0; i < pair_block_bytes(p); i++) {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        b[i] = (uint8_t)x;
    }
    pair_store(p, node, slot, b);
    mem_free(b);
}

bool pair_same(const struct pair *p, uint32_t sender_slot, uint32_t receiver_slot)
{
    uint8_t *here = test_block(p), *there = test_block(p);
    bool same;

    pair_load(p, 0, sender_slot, here);
    pair_load(p, 1, receiver_slot, there);
    same = memcmp(here, there, pair_block_bytes(p)) == 0;
    mem_free(here);
    mem_free(there);
    return same;
}

static void on_arrival(void *arg, const struct kvt_arrival *a)
{
    struct pair_grant *g = arg;

    g->arrivals++;
    g->arrival = *a;
}

static void on_safe(void *arg)
{
    struct pair_grant *g = arg;

    g->safe_before_arrival |= g->arrivals == 0;
    g->safes++;
}

static void on_done(void *arg, const struct kvt_send_result *r)
{
    struct pair_send *s = arg;

    s->dones++;
    s->result = *r;
}

enum err pair_grant(struct pair *p, struct pair_grant *g, uint64_t transfer, uint32_t epoch,
                    const uint32_t *slots, uint32_t n, unsigned deadline_ms)
{
    struct kvt_grant_config config = {.transfer = transfer,
                                      .epoch = epoch,
                                      .peer = PAIR_SENDER,
                                      .slots = slots,
                                      .n_slots = n,
                                      .deadline_ns = clock_now_ns() + deadline_ms * CLOCK_NS_PER_MS,
                                      .arg = g,
                                      .on_arrival = on_arrival,
                                      .on_safe = on_safe};

    memset(g, 0, sizeof(*g));
    return kvt_grant_open(p->node[1], &config, &g->grant);
}

enum err pair_send(struct pair *p, struct pair_send *s, uint64_t transfer, uint32_t epoch,
                   const uint32_t *remote, const uint32_t *local, uint32_t n, unsigned deadline_ms)
{
    struct kvt_send_config config = {.transfer = transfer,
                                     .epoch = epoch,
                                     .peer = PAIR_RECEIVER,
                                     .remote_slots = remote,
                                     .local_slots = local,
                                     .n_slots = n,
                                     .deadline_ns = clock_now_ns() + deadline_ms * CLOCK_NS_PER_MS,
                                     .transfer_class = p->transfer_class,
                                     .arg = s,
                                     .on_done = on_done};

    memset(s, 0, sizeof(*s));
    return kvt_send_open(p->node[0], &config, &s->send);
}

void pair_pieces(struct pair_send *s, uint32_t n, uint32_t n_layers)
{
    for (uint32_t layer = 0; layer < n_layers; layer++)
        kvt_send_piece(s->send, 0, n, layer, 1, 0);
}
