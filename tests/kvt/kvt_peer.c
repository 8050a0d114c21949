/* tests/kvt/kvt_peer.c - one kvt node in a process of its own, for tests that kill, stop and cut off
 * peers.  It takes commands as lines on standard input and says what happens as JSON lines.
 *
 *   kvt_peer HOST PORT TRANSPORTS|- BLOCKS HEADS[/PARTS][d] TRANSFER_TIMEOUT_MS
 *
 *   introduce SELF PEER TOKEN_HEX HOST|- PORT    connect PEER        forget PEER GONE(0|1)
 *   grant ID EPOCH PEER DEADLINE_MS SLOTS        ungrant ID
 *   send ID EPOCH PEER DEADLINE_MS REMOTE LOCAL  unsend ID
 *   piece ID FIRST N LAYER N_LAYERS              finish ID META
 *   fill SLOTS SEED     check SLOTS SEED         counters            quit
 *
 * SLOTS is a list of ranges: 0-15,20.  A block has 4 layers and HEADS * 8 KiB. */
#include <inttypes.h>
#include <stdarg.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/map.h"
#include "base/mem.h"
#include "kvtransfer/kvt.h"
#include "tests/kvt/kvt_device.h"

#include <uv.h>

enum { WORDS_MAX = 8, SLOTS_MAX = 4096, LINE_MAX_BYTES = 65536, DEVICE_DELAY_US = 300 };

struct transfer {
    uint64_t id;
    struct kvt_grant *grant;
    struct kvt_send *send;
};

struct slots {
    uint32_t n;
    uint32_t slot[SLOTS_MAX];
};

static uv_loop_t loop;
static uv_pipe_t input;
static struct kvt_node *node;
static struct device *device; /* NULL: the pool is host memory */
static struct wire_kv_layout layout = {.n_layers = 4,
                                       .head_dim = 32,
                                       .block_tokens = 16,
                                       .dtype = WIRE_KV_F16,
                                       .model_id = 77,
                                       .parts = 1};
static struct map grants, sends;
static char line[LINE_MAX_BYTES];
static size_t line_len;

static void say(const char *format, ...) __attribute__((format(printf, 1, 2)));
static void say(const char *format, ...)
{
    va_list args;

    va_start(args, format);
    vprintf(format, args);
    va_end(args);
    printf("\n");
    fflush(stdout);
}

static double ms_now(void)
{
    return (double)clock_now_ns() / 1e6;
}

static void on_link(void *arg, const struct kvt_link *l)
{
    (void)arg;
    say("{\"event\":\"link\",\"peer\":%u,\"path\":\"%s\",\"one_sided\":%s,\"lanes\":\"%s\","
        "\"gb_per_s\":%.3f,\"round_trip_us\":%.1f}",
        l->peer, kvt_path_name(l->path), l->one_sided ? "true" : "false", l->lanes,
        l->bytes_per_s / 1e9, (double)l->round_trip_ns / 1e3);
}

static void on_lost(void *arg, uint32_t peer, enum err err)
{
    (void)arg;
    say("{\"event\":\"lost\",\"peer\":%u,\"err\":\"%s\",\"ms\":%.1f}", peer, err_name(err),
        ms_now());
}

static void on_arrival(void *arg, const struct kvt_arrival *a)
{
    struct transfer *t = arg;

    say("{\"event\":\"arrival\",\"id\":%" PRIu64 ",\"err\":\"%s\",\"bytes\":%" PRIu64
        ",\"meta\":\"%.*s\",\"path\":\"%s\",\"ms\":%.1f}",
        t->id, err_name(a->err), a->bytes, (int)a->meta_len, (const char *)a->meta,
        kvt_path_name(a->path), ms_now());
}

static void on_safe(void *arg)
{
    struct transfer *t = arg;

    say("{\"event\":\"safe\",\"id\":%" PRIu64 ",\"ms\":%.1f}", t->id, ms_now());
    (void)map_del(&grants, t->id);
    mem_free(t);
}

static void on_done(void *arg, const struct kvt_send_result *r)
{
    struct transfer *t = arg;

    say("{\"event\":\"done\",\"id\":%" PRIu64 ",\"err\":\"%s\",\"bytes\":%" PRIu64
        ",\"path\":\"%s\",\"ms\":%.1f}",
        t->id, err_name(r->err), r->bytes, kvt_path_name(r->path), ms_now());
    (void)map_del(&sends, t->id);
    mem_free(t);
}

static uint64_t number(const char *word)
{
    return strtoull(word, NULL, 10);
}

static void parse_slots(const char *word, struct slots *out)
{
    out->n = 0;
    while (*word != '\0') {
        char *end;
        unsigned long first = strtoul(word, &end, 10), last = first;

        if (*end == '-')
            last = strtoul(end + 1, &end, 10);
        for (unsigned long i = first; i <= last && out->n < SLOTS_MAX; i++)
            out->slot[out->n++] = (uint32_t)i;
        word = *end == ',' ? end + 1 : end + strlen(end);
    }
}

static void pattern(uint8_t *to, size_t len, uint64_t seed)
{
    uint64_t x = seed * 0x9e3779b97f4a7c15u + 1;

    for (size_t i = 0; i + 8 <= len; i += 8) {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        memcpy(to + i, &x, 8);
    }
}

/* Copy block `slot` out of the pool's parts to where one part would hold it, or in; true: they were equal. */
static bool exchange(uint32_t slot, uint8_t *block, bool in)
{
    size_t head = wire_kv_layer_bytes(&layout) / 2 / layout.n_kv_heads;
    uint32_t heads = layout.n_kv_heads / layout.parts;
    bool same = true;

    device_lock(device);
    for (uint32_t i = 0; i < 2 * layout.n_layers * layout.n_kv_heads; i++) {
        uint32_t row = i / layout.n_kv_heads, h = i % layout.n_kv_heads;
        uint8_t *pool =
            device != NULL ? device_window(device, h / heads) : kvt_node_pool(node, h / heads);
        uint8_t *there = pool + slot * wire_kv_part_block_bytes(&layout) +
                         ((size_t)row * heads + h % heads) * head;

        same &= memcmp(there, block + i * head, head) == 0;
        if (in)
            memcpy(there, block + i * head, head);
    }
    device_unlock(device);
    return same;
}

static void fill_or_check(char **w, bool check)
{
    static struct slots s;
    size_t len = wire_kv_block_bytes(&layout);
    uint8_t *want = mem_try_alloc(len);
    bool same = true;

    parse_slots(w[1], &s);
    for (uint32_t i = 0; want != NULL && i < s.n; i++) {
        pattern(want, len, number(w[2]) + i);
        same &= exchange(s.slot[i], want, !check);
    }
    mem_free(want);
    if (check)
        say("{\"event\":\"check\",\"same\":%s}", same ? "true" : "false");
    else
        say("{\"event\":\"filled\"}");
}

static void introduce(char **w)
{
    uint8_t token[KVT_TOKEN_BYTES] = {0};
    enum err err;

    for (size_t i = 0; i < sizeof(token) && w[3][2 * i] != '\0'; i++) {
        char hex[3] = {w[3][2 * i], w[3][2 * i + 1], '\0'};

        token[i] = (uint8_t)strtoul(hex, NULL, 16);
    }
    err = kvt_node_introduce(node, (uint32_t)number(w[1]), (uint32_t)number(w[2]), token,
                             strcmp(w[4], "-") == 0 ? NULL : w[4], (uint16_t)number(w[5]));
    say("{\"event\":\"introduced\",\"err\":\"%s\"}", err_name(err));
}

static void open_grant(char **w)
{
    static struct slots s;
    struct transfer *t = mem_try_calloc(1, sizeof(*t));
    struct kvt_grant_config config = {.transfer = number(w[1]),
                                      .epoch = (uint32_t)number(w[2]),
                                      .peer = (uint32_t)number(w[3]),
                                      .deadline_ns =
                                          clock_now_ns() + number(w[4]) * CLOCK_NS_PER_MS,
                                      .arg = t,
                                      .on_arrival = on_arrival,
                                      .on_safe = on_safe};
    enum err err;

    if (t == NULL)
        return;
    parse_slots(w[5], &s);
    config.slots = s.slot;
    config.n_slots = s.n;
    t->id = config.transfer;
    err = kvt_grant_open(node, &config, &t->grant);
    if (err != ERR_OK || map_put(&grants, t->id, t) != ERR_OK)
        mem_free(t);
    say("{\"event\":\"granted\",\"err\":\"%s\"}", err_name(err));
}

static void open_send(char **w)
{
    static struct slots remote, local;
    struct transfer *t = mem_try_calloc(1, sizeof(*t));
    struct kvt_send_config config = {.transfer = number(w[1]),
                                     .epoch = (uint32_t)number(w[2]),
                                     .peer = (uint32_t)number(w[3]),
                                     .deadline_ns = clock_now_ns() + number(w[4]) * CLOCK_NS_PER_MS,
                                     .arg = t,
                                     .on_done = on_done};
    enum err err;

    if (t == NULL)
        return;
    parse_slots(w[5], &remote);
    parse_slots(w[6], &local);
    config.remote_slots = remote.slot;
    config.local_slots = local.slot;
    config.n_slots = local.n;
    t->id = config.transfer;
    err = kvt_send_open(node, &config, &t->send);
    if (err != ERR_OK || map_put(&sends, t->id, t) != ERR_OK)
        mem_free(t);
    say("{\"event\":\"sending\",\"err\":\"%s\"}", err_name(err));
}

static void on_transfer_command(char **w)
{
    struct transfer *g = map_get(&grants, number(w[1])), *s = map_get(&sends, number(w[1]));

    if (strcmp(w[0], "ungrant") == 0 && g != NULL)
        kvt_grant_cancel(g->grant);
    else if (strcmp(w[0], "unsend") == 0 && s != NULL)
        kvt_send_cancel(s->send);
    else if (strcmp(w[0], "piece") == 0 && s != NULL)
        kvt_send_piece(s->send, (uint32_t)number(w[2]), (uint32_t)number(w[3]),
                       (uint32_t)number(w[4]), (uint32_t)number(w[5]), 0);
    else if (strcmp(w[0], "finish") == 0 && s != NULL)
        kvt_send_finish(s->send, w[2], strlen(w[2]));
}

static void say_counters(void)
{
    const struct kvt_counters *c = kvt_node_counters(node);

    say("{\"event\":\"counters\",\"sends_open\":%" PRIu64 ",\"grants_open\":%" PRIu64
        ",\"slots_quarantined\":%" PRIu64 ",\"endpoints\":%" PRIu64 ",\"bad\":%" PRIu64
        ",\"late\":%" PRIu64 ",\"refused\":%" PRIu64 "}",
        c->sends_open, c->grants_open, c->slots_quarantined, c->endpoints, c->bad_messages,
        c->late_messages, c->refused);
}

static void on_node_closed(void *arg)
{
    (void)arg;
    node = NULL;
    say("{\"event\":\"closed\"}");
}

static void quit(void)
{
    uv_close((uv_handle_t *)&input, NULL);
    kvt_node_close(node, on_node_closed, NULL);
}

static void on_command(char *text)
{
    static char none[] = "";
    char *w[WORDS_MAX];
    size_t n = 0;

    for (size_t i = 0; i < WORDS_MAX; i++)
        w[i] = none;
    while (*text != '\0' && n < WORDS_MAX) {
        w[n++] = text;
        text += strcspn(text, " ");
        if (*text != '\0')
            *text++ = '\0';
    }
    if (strcmp(w[0], "introduce") == 0)
        introduce(w);
    else if (strcmp(w[0], "connect") == 0)
        (void)!kvt_node_connect(node, (uint32_t)number(w[1]));
    else if (strcmp(w[0], "forget") == 0)
        kvt_node_forget(node, (uint32_t)number(w[1]), number(w[2]) != 0);
    else if (strcmp(w[0], "grant") == 0)
        open_grant(w);
    else if (strcmp(w[0], "send") == 0)
        open_send(w);
    else if (strcmp(w[0], "fill") == 0 || strcmp(w[0], "check") == 0)
        fill_or_check(w, w[0][0] == 'c');
    else if (strcmp(w[0], "counters") == 0)
        say_counters();
    else if (strcmp(w[0], "quit") == 0)
        quit();
    else
        on_transfer_command(w);
}

static void on_alloc(uv_handle_t *h, size_t hint, uv_buf_t *buf)
{
    (void)h;
    (void)hint;
    *buf = uv_buf_init(line + line_len, (unsigned)(sizeof(line) - line_len));
}

static void on_read(uv_stream_t *s, ssize_t n, const uv_buf_t *buf)
{
    char *end;

    (void)s;
    (void)buf;
    if (n < 0) {
        if (node != NULL)
            quit();
        return;
    }
    line_len += (size_t)n;
    while ((end = memchr(line, '\n', line_len)) != NULL) {
        size_t used = (size_t)(end - line) + 1;

        *end = '\0';
        on_command(line);
        memmove(line, line + used, line_len - used);
        line_len -= used;
    }
}

int main(int argc, char **argv)
{
    struct kvt_node_config config = {.loop = &loop, .on_link = on_link, .on_peer_lost = on_lost};
    struct err_msg msg = {{0}};

    signal(SIGPIPE, SIG_IGN); /* as daemon/main.c does */
    if (argc != 7) {
        fprintf(
            stderr,
            "usage: kvt_peer HOST PORT TRANSPORTS|- BLOCKS HEADS[/PARTS][d] TRANSFER_TIMEOUT_MS\n");
        return 2;
    }
    log_setup(LOG_LEVEL_INFO, LOG_FORMAT_TEXT, "kvt_peer");
    uv_loop_init(&loop);
    layout.n_kv_heads = (uint32_t)number(argv[5]);
    if (strchr(argv[5], '/') != NULL)
        layout.parts = (uint32_t)number(strchr(argv[5], '/') + 1);
    if (strchr(argv[5], 'd') != NULL) {
        device = device_open(&layout, (uint32_t)number(argv[4]), DEVICE_DELAY_US);
        config.memory = device_memory(device);
    }
    config.host = argv[1];
    config.port = (uint16_t)number(argv[2]);
    config.transports = strcmp(argv[3], "-") == 0 ? NULL : argv[3];
    config.n_blocks = (uint32_t)number(argv[4]);
    config.layout = layout;
    config.transfer_timeout_ns = number(argv[6]) * CLOCK_NS_PER_MS;
    config.connect_timeout_ns = 2 * CLOCK_NS_PER_S;
    if (kvt_node_create(&config, &msg, &node) != ERR_OK) {
        fprintf(stderr, "%s\n", msg.text);
        return 1;
    }
    say("{\"event\":\"ready\",\"port\":%u,\"block_bytes\":%zu}", kvt_node_port(node),
        wire_kv_block_bytes(&layout));
    uv_pipe_init(&loop, &input, 0);
    uv_pipe_open(&input, 0);
    uv_read_start((uv_stream_t *)&input, on_alloc, on_read);
    uv_run(&loop, UV_RUN_DEFAULT);
    device_close(device);
    map_free(&grants);
    map_free(&sends);
    return uv_loop_close(&loop) == 0 && mem_live() == 0 ? 0 : 3;
}
