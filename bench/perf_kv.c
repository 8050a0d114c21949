/* bench/perf_kv.c - see the header for the contract.
 *
 * Every cell runs in two forked children, a sender and a receiver on cores of their own, because UCX
 * does not survive a fork; the parent only collects.  Our side is the real thing: kvt nodes on libuv
 * loops that sleep in epoll.  The pieces walk over a pool of 64 MiB, so that neither side measures its
 * cache. */
#include "bench/perf_kv.h"

#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>
#include <uv.h>

#include "base/clock.h"
#include "base/mem.h"
#include "bench/perf_kv_bare.h"
#include "bench/perf_report.h"
#include "kvtransfer/kvt.h"

enum {
    POOL_BYTES = 64 << 20,
    SENDER = 1,
    RECEIVER = 2,
    ONES = 200, /* hand-overs of one piece */
    CHILD_MS = 60000,
    POOLS = 5 /* passes over the pool per round */
};

/* What one cell measured; goes through a pipe. */
struct outcome {
    enum err err;
    double wire_gbs, verified_gbs, latency_us, minus_wire_us;
    struct perf_kv_bare bare;
};

/* A question to the receiving child and its answer. */
struct grant_ask {
    uint64_t transfer;
    uint32_t n;
};

struct side {
    uv_loop_t loop;
    uv_pipe_t pipe;
    struct kvt_node *node;
    struct wire_kv_layout layout;
    uint32_t n_blocks;
    uint32_t *slots;
    int fd;
    int done, linked, ended; /* events seen */
    struct kvt_send_result result;
    struct grant_ask ask;
    size_t ask_len;
};

static const uint8_t token[KVT_TOKEN_BYTES] = "perf kv";

/* A block of exactly `size` bytes in one layer; size is a power of two from 8. */
static struct wire_kv_layout layout_of(size_t size)
{
    struct wire_kv_layout l = {.n_layers = 1,
                               .n_kv_heads = 1,
                               .head_dim = 1,
                               .block_tokens = 1,
                               .dtype = WIRE_KV_F16,
                               .model_id = 1,
                               .parts = 1};
    size_t left = size / wire_kv_block_bytes(&l);

    l.head_dim = left > 128 ? 128 : (uint32_t)left;
    left /= l.head_dim;
    l.block_tokens = left > 16 ? 16 : (uint32_t)left;
    left /= l.block_tokens;
    l.n_kv_heads = (uint32_t)left;
    return l;
}

/* A block of `size` bytes as a model of 8 kv heads has it, in one of several parts; size is at least 64 KiB. */
static struct wire_kv_layout parted_layout(size_t size, uint32_t parts)
{
    struct wire_kv_layout l = {.n_layers = 4,
                               .n_kv_heads = 8,
                               .head_dim = 128,
                               .block_tokens = 1,
                               .dtype = WIRE_KV_F16,
                               .model_id = 1,
                               .parts = parts};

    l.block_tokens = (uint32_t)(size / wire_kv_block_bytes(&l));
    return l;
}

static void on_link(void *arg, const struct kvt_link *link)
{
    struct side *s = arg;

    (void)link;
    s->linked++;
}

static enum err side_open(struct side *s, const struct perf_kv_cell *cell, bool sender, int fd)
{
    struct kvt_node_config config = {.loop = &s->loop,
                                     .host = "127.0.0.1",
                                     .arg = s,
                                     .transports = cell->tcp ? "tcp" : NULL,
                                     .on_link = on_link};
    struct err_msg msg;
    enum err err;

    memset(s, 0, sizeof(*s));
    s->fd = fd;
    s->layout = cell->from == 0 ? layout_of(cell->size)
                                : parted_layout(cell->size, sender ? cell->from : cell->to);
    s->n_blocks = (uint32_t)(cell->pool / cell->size);
    s->slots = mem_try_alloc(s->n_blocks * sizeof(uint32_t));
    if (s->slots == NULL)
        return ERR_NOMEM;
    for (uint32_t i = 0; i < s->n_blocks; i++)
        s->slots[i] = i;
    uv_loop_init(&s->loop);
    config.layout = s->layout;
    config.n_blocks = s->n_blocks;
    err = kvt_node_create(&config, &msg, &s->node);
    if (err != ERR_OK)
        fprintf(stderr, "perf kv: %s\n", msg.text);
    for (uint32_t i = 0; err == ERR_OK && i < s->layout.parts; i++)
        memset(kvt_node_pool(s->node, i), 1, cell->pool / s->layout.parts);
    return err;
}

/* Run the loop until *flag is at least value. */
static bool run_until(struct side *s, const int *flag, int value)
{
    uint64_t until = clock_now_ns() + 20 * CLOCK_NS_PER_S;

    while (*flag < value && clock_now_ns() < until)
        uv_run(&s->loop, UV_RUN_ONCE);
    return *flag >= value;
}

/* ---- the receiving child ---- */

static void on_safe(void *arg)
{
    (void)arg;
}

static void answer_ask(struct side *s)
{
    struct kvt_grant_config config = {.transfer = s->ask.transfer,
                                      .epoch = 1,
                                      .peer = SENDER,
                                      .slots = s->slots,
                                      .n_slots = s->ask.n,
                                      .deadline_ns = clock_now_ns() + 60 * CLOCK_NS_PER_S,
                                      .arg = s,
                                      .on_safe = on_safe};
    struct kvt_grant *grant;
    char ok = kvt_grant_open(s->node, &config, &grant) == ERR_OK;

    if (write(s->fd, &ok, 1) != 1)
        s->ended = 1;
}

static void on_alloc(uv_handle_t *h, size_t hint, uv_buf_t *buf)
{
    struct side *s = h->data;

    (void)hint;
    *buf = uv_buf_init((char *)&s->ask + s->ask_len, (unsigned)(sizeof(s->ask) - s->ask_len));
}

static void on_ask(uv_stream_t *stream, ssize_t n, const uv_buf_t *buf)
{
    struct side *s = stream->data;

    (void)buf;
    if (n < 0) {
        s->ended = 1;
        return;
    }
    s->ask_len += (size_t)n;
    if (s->ask_len < sizeof(s->ask))
        return;
    s->ask_len = 0;
    answer_ask(s);
}

static enum err ours_receive(const struct perf_kv_cell *cell, int fd)
{
    static struct side s;
    enum err err = side_open(&s, cell, false, fd);
    uint16_t port;

    if (err != ERR_OK)
        return err;
    err = kvt_node_introduce(s.node, RECEIVER, SENDER, token, NULL, 0);
    if (err != ERR_OK)
        return err;
    port = kvt_node_port(s.node);
    if (write(fd, &port, sizeof(port)) != (ssize_t)sizeof(port))
        return ERR_IO;
    uv_pipe_init(&s.loop, &s.pipe, 0);
    s.pipe.data = &s;
    uv_pipe_open(&s.pipe, fd);
    uv_read_start((uv_stream_t *)&s.pipe, on_alloc, on_ask);
    while (s.ended == 0)
        uv_run(&s.loop, UV_RUN_ONCE);
    return ERR_OK;
}

/* ---- the sending child ---- */

static void on_done(void *arg, const struct kvt_send_result *r)
{
    struct side *s = arg;

    s->result = *r;
    s->done++;
}

static void on_pause_over(uv_timer_t *t)
{
    *(int *)t->data = 1;
}

static void pause_ms(struct side *s, unsigned ms)
{
    uv_timer_t t;
    int over = 0;

    uv_timer_init(&s->loop, &t);
    t.data = &over;
    uv_timer_start(&t, on_pause_over, ms, 0);
    (void)run_until(s, &over, 1);
    uv_close((uv_handle_t *)&t, NULL);
    uv_run(&s->loop, UV_RUN_NOWAIT);
}

/* Grant and claim n pieces starting at `first`, let the claim settle, then hand over as one.  *took is
 * from the first piece to the acknowledgement. */
static enum err hand_over(struct side *s, uint64_t transfer, uint32_t n, double *took)
{
    struct grant_ask ask = {transfer, n};
    struct kvt_send_config config = {.transfer = transfer,
                                     .epoch = 1,
                                     .peer = RECEIVER,
                                     .remote_slots = s->slots,
                                     .local_slots = s->slots,
                                     .n_slots = n,
                                     .deadline_ns = clock_now_ns() + 60 * CLOCK_NS_PER_S,
                                     .arg = s,
                                     .on_done = on_done};
    struct kvt_send *send;
    uint64_t begin;
    char ok = 0;
    enum err err;

    if (write(s->fd, &ask, sizeof(ask)) != (ssize_t)sizeof(ask) || read(s->fd, &ok, 1) != 1 || !ok)
        return ERR_IO;
    s->done = 0;
    err = kvt_send_open(s->node, &config, &send);
    if (err != ERR_OK)
        return err;
    pause_ms(s, 1);
    begin = clock_now_ns();
    kvt_send_piece(send, 0, n, 0, s->layout.n_layers, 0);
    kvt_send_finish(send, NULL, 0);
    if (!run_until(s, &s->done, 1))
        return ERR_TIMEOUT;
    *took = (double)(clock_now_ns() - begin) / 1e9;
    return s->result.err;
}

static enum err measure_pools(struct side *s, const struct perf_kv_cell *cell, struct outcome *out)
{
    double wire[POOLS], whole[POOLS];

    for (unsigned i = 0; i < POOLS + 1; i++) {
        double took;
        enum err err = hand_over(s, 1000000 + i, s->n_blocks, &took);

        if (err != ERR_OK)
            return err;
        if (i == 0)
            continue; /* touches the pages */
        wire[i - 1] = (double)s->result.wire_ns / 1e9;
        whole[i - 1] = took;
    }
    out->wire_gbs = (double)cell->pool / bench_median(wire, POOLS) / 1e9;
    out->verified_gbs = (double)cell->pool / bench_median(whole, POOLS) / 1e9;
    return ERR_OK;
}

static enum err measure_ones(struct side *s, struct outcome *out)
{
    static double all[ONES], beyond[ONES];

    for (unsigned i = 0; i < ONES; i++) {
        enum err err = hand_over(s, 1 + i, 1, &all[i]);

        if (err != ERR_OK)
            return err;
        beyond[i] = all[i] - (double)s->result.wire_ns / 1e9;
    }
    out->latency_us = bench_median(all, ONES) * 1e6;
    out->minus_wire_us = bench_median(beyond, ONES) * 1e6;
    return ERR_OK;
}

static enum err ours_send(const struct perf_kv_cell *cell, int fd, struct outcome *out)
{
    static struct side s;
    enum err err = side_open(&s, cell, true, fd);
    uint16_t port;

    if (err != ERR_OK)
        return err;
    if (read(fd, &port, sizeof(port)) != (ssize_t)sizeof(port))
        return ERR_IO;
    err = kvt_node_introduce(s.node, SENDER, RECEIVER, token, "127.0.0.1", port);
    if (err != ERR_OK || (err = kvt_node_connect(s.node, RECEIVER)) != ERR_OK)
        return err;
    if (!run_until(&s, &s.linked, 1))
        return ERR_TIMEOUT;
    err = measure_ones(&s, out);
    return err != ERR_OK || cell->size < 65536 ? err : measure_pools(&s, cell, out);
}

/* ---- children ---- */

static void pin(int core)
{
    cpu_set_t set;

    CPU_ZERO(&set);
    CPU_SET((unsigned)core, &set);
    (void)sched_setaffinity(0, sizeof(set), &set);
}

static void child(const struct perf_kv_cell *cell, bool bare, bool sender, int fd, int result)
{
    struct outcome out = {0};
    long cores = sysconf(_SC_NPROCESSORS_ONLN);

    if (cores > 1)
        pin(sender ? 0 : 1);
    if (sender)
        out.err = bare ? perf_kv_bare_send(cell, fd, &out.bare) : ours_send(cell, fd, &out);
    else
        out.err = bare ? perf_kv_bare_receive(cell, fd) : ours_receive(cell, fd);
    if (sender && write(result, &out, sizeof(out)) != (ssize_t)sizeof(out))
        _exit(1);
    _exit(0);
}

static pid_t start_child(const struct perf_kv_cell *cell, bool bare, bool sender, const int pair[2],
                         const int result[2])
{
    pid_t pid;

    fflush(stdout);
    pid = fork();
    if (pid == 0) {
        close(pair[sender ? 1 : 0]);
        close(result[0]);
        child(cell, bare, sender, pair[sender ? 0 : 1], result[1]);
    }
    return pid;
}

static void end_child(pid_t pid)
{
    if (pid <= 0)
        return;
    (void)kill(pid, SIGKILL);
    (void)waitpid(pid, NULL, 0);
}

static enum err run_cell(const struct perf_kv_cell *cell, bool bare, struct outcome *out)
{
    int pair[2], result[2];
    pid_t receiver, sender;
    struct pollfd p;
    enum err err = ERR_TIMEOUT;

    if (socketpair(AF_UNIX, SOCK_STREAM, 0, pair) != 0)
        return ERR_IO;
    if (pipe(result) != 0) {
        close(pair[0]);
        close(pair[1]);
        return ERR_IO;
    }
    receiver = start_child(cell, bare, false, pair, result);
    sender = start_child(cell, bare, true, pair, result);
    close(pair[0]);
    close(pair[1]);
    close(result[1]);
    p = (struct pollfd){.fd = result[0], .events = POLLIN};
    if (poll(&p, 1, CHILD_MS) == 1)
        err = read(result[0], out, sizeof(*out)) == (ssize_t)sizeof(*out) ? out->err : ERR_IO;
    close(result[0]);
    end_child(sender);
    end_child(receiver);
    return err;
}

/* ---- the report ---- */

static void add(struct bench_report *r, const struct perf_kv_cell *cell, const char *what,
                double value, const char *unit, enum bench_better better)
{
    char name[96];

    snprintf(name, sizeof(name), "kv.%s.%zu.%s", cell->tcp ? "am.tcp" : "put.shm", cell->size,
             what);
    bench_report_add(r, name, value, unit, better);
}

static void report_cell(struct bench_report *r, const struct perf_kv_cell *cell,
                        const struct outcome *ours, const struct perf_kv_bare *bare)
{
    const char *moved = cell->tcp ? "bare UCX active messages, same run" : "bare UCX put, same run";
    double bare_gbs = bare->pool_s > 0 ? (double)cell->pool / bare->pool_s / 1e9 : 0;

    if (cell->size >= 65536) {
        add(r, cell, "bandwidth", ours->wire_gbs, "GB/s", BENCH_HIGHER);
        bench_report_reference(r, moved, bare_gbs);
        add(r, cell, "verified", ours->verified_gbs, "GB/s", BENCH_HIGHER);
        bench_report_reference(r, moved, bare_gbs);
        add(r, cell, "minus_wire", ours->minus_wire_us, "us", BENCH_LOWER);
    }
    add(r, cell, "latency", ours->latency_us, "us", BENCH_LOWER);
    bench_report_reference(r, "bare UCX with an answer, busy polling, same run",
                           bare->answer_s * 1e6);
}

static void report_parted(struct bench_report *r, const struct perf_kv_cell *cell,
                          const struct outcome *best)
{
    char what[48];

    snprintf(what, sizeof(what), "%u_to_%u.verified", cell->from, cell->to);
    add(r, cell, what, best->verified_gbs, "GB/s", BENCH_HIGHER);
    bench_report_reference(r, "bare UCX, same run", (double)cell->pool / best->bare.pool_s / 1e9);
}

static void keep_lower(double *best, double value)
{
    if (value > 0 && (*best == 0 || value < *best))
        *best = value;
}

static void keep_higher(double *best, double value)
{
    if (value > *best)
        *best = value;
}

/* Bare and ours by turns, so that both see the same machine; the best of each counts, because what
 * disturbs a machine only ever slows it down. */
static enum err best_of(const struct perf_kv_cell *cell, unsigned rounds, struct outcome *best,
                        bool *was_bare)
{
    for (unsigned i = 0; i < rounds; i++) {
        struct outcome ours = {0}, bare = {0};
        enum err err = run_cell(cell, true, &bare);

        *was_bare = err != ERR_OK;
        if (err == ERR_OK)
            err = run_cell(cell, false, &ours);
        if (err != ERR_OK)
            return err;
        keep_lower(&best->bare.pool_s, bare.bare.pool_s);
        keep_lower(&best->bare.answer_s, bare.bare.answer_s);
        keep_lower(&best->latency_us, ours.latency_us);
        keep_lower(&best->minus_wire_us, ours.minus_wire_us);
        keep_higher(&best->wire_gbs, ours.wire_gbs);
        keep_higher(&best->verified_gbs, ours.verified_gbs);
    }
    return ERR_OK;
}

/* What it costs that the two sides have other parts, beside the same blocks where they have not. */
static enum err measure_parted(struct bench_report *r, bool tcp, unsigned rounds,
                               struct err_msg *msg)
{
    static const unsigned parts[][2] = {{1, 1}, {2, 2}, {2, 1}, {2, 4}};

    for (size_t i = 0; i < sizeof(parts) / sizeof(parts[0]); i++) {
        struct perf_kv_cell cell = {.tcp = tcp,
                                    .size = 262144,
                                    .rounds = POOLS,
                                    .pool = POOL_BYTES,
                                    .from = parts[i][0],
                                    .to = parts[i][1]};
        struct outcome best = {0};
        bool was_bare = false;
        enum err err = best_of(&cell, rounds, &best, &was_bare);

        if (err != ERR_OK)
            return err_set(msg, err, "perf kv: %s, %u parts to %u: %s", tcp ? "tcp" : "shm",
                           cell.from, cell.to, err_text(err));
        report_parted(r, &cell, &best);
    }
    return ERR_OK;
}

static enum err measure(struct bench_report *r, bool tcp, unsigned rounds, struct err_msg *msg)
{
    static const size_t sizes[] = {8, 65536, 262144, 1048576, 4194304};

    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        struct perf_kv_cell cell = {.tcp = tcp,
                                    .size = sizes[i],
                                    .rounds = POOLS,
                                    .pool = sizes[i] < 65536 ? sizes[i] * 1024 : POOL_BYTES};
        struct outcome best = {0};
        bool was_bare = false;
        enum err err = best_of(&cell, rounds, &best, &was_bare);

        if (err != ERR_OK)
            return err_set(msg, err, "perf kv: %s, %zu bytes, %s: %s", tcp ? "tcp" : "shm",
                           cell.size, was_bare ? "bare UCX loop" : "hand-over", err_text(err));
        report_cell(r, &cell, &best, &best.bare);
    }
    return measure_parted(r, tcp, rounds, msg);
}

enum err bench_perf_kv(const struct bench_perf_kv_options *options, bool json, struct err_msg *msg)
{
    unsigned rounds = options->rounds == 0 ? 3 : options->rounds;
    const char *t = options->transport;
    struct bench_report report;
    enum err err = ERR_OK;

    if (t != NULL && strcmp(t, "shm") != 0 && strcmp(t, "tcp") != 0)
        return err_set(msg, ERR_INVALID, "perf kv: transport '%s'; allowed are shm and tcp", t);
    bench_report_init(&report, "perf kv");
    if (t == NULL || strcmp(t, "shm") == 0)
        err = measure(&report, false, rounds, msg);
    if (err == ERR_OK && (t == NULL || strcmp(t, "tcp") == 0))
        err = measure(&report, true, rounds, msg);
    if (err == ERR_OK)
        err = bench_report_print(&report, json);
    bench_report_free(&report);
    return err;
}
