/* bench/http_load.c - epoll, one buffer per connection, and just enough HTTP to know where an answer ends. */
#include "bench/http_load.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/mem.h"

enum { READ_BYTES = 256 * 1024, TAIL_BYTES = 16, EVENTS_MAX = 64, HEAD_MAX = 4096 };

struct conn {
    int fd;
    bool busy, head_done, chunked, got_first, ok;
    uint64_t due_ns;
    size_t sent;
    char head[HEAD_MAX]; /* until the blank line */
    size_t head_len;
    size_t body_left;      /* of a Content-Length body */
    char tail[TAIL_BYTES]; /* the last bytes seen, across reads */
    size_t tail_len;
};

struct load {
    const struct http_load *l;
    struct http_load_result *r;
    struct conn *conns;
    int epoll;
    uint32_t started, ended;
    uint64_t begin_ns;
    char *space;
};

static int open_socket(uint16_t port)
{
    struct sockaddr_in to = {
        .sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), one = 1;

    if (fd < 0)
        return -1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
    if (connect(fd, (struct sockaddr *)&to, sizeof(to)) != 0) {
        close(fd);
        return -1;
    }
    return fd;
}

static void finish(struct load *t, struct conn *c, bool ok)
{
    c->busy = false;
    t->ended++;
    if (ok && c->ok)
        t->r->answered++;
    else
        t->r->failed++;
    t->r->seconds = (double)(clock_now_ns() - t->begin_ns) / 1e9;
}

static void push(struct load *t, struct conn *c)
{
    while (c->busy && c->sent < t->l->request_len) {
        ssize_t n = send(c->fd, t->l->request + c->sent, t->l->request_len - c->sent,
                         MSG_DONTWAIT | MSG_NOSIGNAL);

        if (n <= 0) {
            if (n < 0 && (errno == EAGAIN || errno == EINTR))
                return;
            finish(t, c, false);
            return;
        }
        c->sent += (size_t)n;
    }
}

static void start(struct load *t, struct conn *c, uint64_t due_ns)
{
    *c = (struct conn){.fd = c->fd, .busy = true, .due_ns = due_ns};
    t->started++;
    push(t, c);
}

static void note_first(struct load *t, struct conn *c)
{
    if (c->got_first)
        return;
    c->got_first = true;
    t->r->first_ms[t->r->n_first++] = (double)(clock_now_ns() - c->due_ns) / 1e6;
}

static size_t count_events(const char *p, size_t len)
{
    size_t n = 0;
    const char *at = p, *end = p + len;

    while ((at = memmem(at, (size_t)(end - at), "data: {", 7)) != NULL) {
        n++;
        at += 7;
    }
    return n;
}

/* Body bytes; returns true when the answer is complete. */
static bool take_body(struct load *t, struct conn *c, const char *p, size_t len)
{
    char joined[2 * TAIL_BYTES];
    size_t keep;

    if (len == 0)
        return !c->chunked && c->body_left == 0;
    note_first(t, c);
    if (!c->chunked) {
        c->body_left -= len < c->body_left ? len : c->body_left;
        return c->body_left == 0;
    }
    t->r->events += count_events(p, len);
    keep = len < TAIL_BYTES ? len : TAIL_BYTES;
    memcpy(joined, c->tail, c->tail_len);
    memcpy(joined + c->tail_len, p + len - keep, keep);
    keep += c->tail_len;
    c->tail_len = keep < TAIL_BYTES ? keep : TAIL_BYTES;
    memcpy(c->tail, joined + keep - c->tail_len, c->tail_len);
    return c->tail_len >= 7 && memcmp(c->tail + c->tail_len - 7, "\r\n0\r\n\r\n", 7) == 0;
}

/* Header bytes; returns how many of p were header, and sets head_done at the blank line. */
static size_t take_head(struct conn *c, const char *p, size_t len)
{
    size_t old = c->head_len, n = len < HEAD_MAX - 1 - old ? len : HEAD_MAX - 1 - old;
    char *blank, *length;

    memcpy(c->head + old, p, n);
    c->head_len += n;
    c->head[c->head_len] = '\0';
    blank = strstr(c->head, "\r\n\r\n");
    if (blank == NULL)
        return n;
    c->head_done = true;
    c->ok = strncmp(c->head, "HTTP/1.1 200", 12) == 0;
    c->chunked = strcasestr(c->head, "transfer-encoding: chunked") != NULL;
    length = strcasestr(c->head, "content-length:");
    c->body_left = length != NULL ? strtoul(length + 15, NULL, 10) : 0;
    return (size_t)(blank + 4 - c->head) - old;
}

static void pull(struct load *t, struct conn *c)
{
    ssize_t n = recv(c->fd, t->space, READ_BYTES, MSG_DONTWAIT);
    size_t used = 0;

    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (!c->busy)
        return;
    if (n <= 0) {
        finish(t, c, false);
        return;
    }
    if (!c->head_done)
        used = take_head(c, t->space, (size_t)n);
    if (c->head_done && take_body(t, c, t->space + used, (size_t)n - used))
        finish(t, c, true);
}

static uint64_t due_at(const struct load *t, uint32_t i)
{
    return t->begin_ns + (uint64_t)((double)i / t->l->rate * 1e9);
}

/* Send what is due; returns how long the loop may sleep, in ns.  It must sleep: workers share this core. */
static uint64_t send_due(struct load *t)
{
    uint64_t now = clock_now_ns();

    for (uint32_t i = 0; i < t->l->connections && t->started < t->l->requests; i++) {
        struct conn *c = &t->conns[i];

        if (c->busy || c->fd < 0)
            continue;
        if (t->l->rate > 0 && due_at(t, t->started) > now)
            return due_at(t, t->started) - now;
        start(t, c, t->l->rate > 0 ? due_at(t, t->started) : now);
    }
    return t->started < t->l->requests && t->l->rate > 0 ? CLOCK_NS_PER_MS : 100 * CLOCK_NS_PER_MS;
}

static enum err run(struct load *t)
{
    struct epoll_event events[EVENTS_MAX];
    uint64_t limit_ns = t->begin_ns + (uint64_t)(t->l->limit_s * 1e9);

    while (t->ended < t->l->requests) {
        uint64_t wait = send_due(t);
        struct timespec sleep = {.tv_nsec = (long)wait};
        int n;

        if (clock_now_ns() > limit_ns)
            return ERR_TIMEOUT;
        n = epoll_pwait2(t->epoll, events, EVENTS_MAX, &sleep, NULL);
        for (int i = 0; i < n; i++) {
            struct conn *c = &t->conns[events[i].data.u32];

            pull(t, c);
            push(t, c);
        }
    }
    return ERR_OK;
}

static enum err connect_all(struct load *t, struct err_msg *msg)
{
    for (uint32_t i = 0; i < t->l->connections; i++) {
        struct epoll_event e = {.events = EPOLLIN, .data.u32 = i};

        t->conns[i].fd = open_socket(t->l->port);
        if (t->conns[i].fd < 0 || epoll_ctl(t->epoll, EPOLL_CTL_ADD, t->conns[i].fd, &e) != 0)
            return err_set(msg, ERR_IO, "cannot connect to 127.0.0.1:%u: %s", t->l->port,
                           strerror(errno));
    }
    return ERR_OK;
}

enum err http_load_run(const struct http_load *l, struct http_load_result *out, struct err_msg *msg)
{
    struct load t = {.l = l, .r = out, .epoll = epoll_create1(EPOLL_CLOEXEC)};
    enum err err = ERR_NOMEM;

    *out = (struct http_load_result){0};
    prctl(PR_SET_TIMERSLACK, 1000); /* or every send would be up to 50 us late */
    t.conns = mem_try_calloc(l->connections, sizeof(*t.conns));
    t.space = mem_try_alloc(READ_BYTES);
    out->first_ms = mem_try_calloc((size_t)l->requests + 1, sizeof(*out->first_ms));
    if (t.conns != NULL && t.space != NULL && out->first_ms != NULL && t.epoll >= 0) {
        for (uint32_t i = 0; i < l->connections; i++)
            t.conns[i].fd = -1;
        err = connect_all(&t, msg);
        t.begin_ns = clock_now_ns();
        if (err == ERR_OK)
            err = run(&t);
        if (err == ERR_TIMEOUT)
            (void)err_set(msg, err, "%u of %u requests answered after %.0f s", t.ended, l->requests,
                          l->limit_s);
    }
    for (uint32_t i = 0; t.conns != NULL && i < l->connections; i++) {
        if (t.conns[i].fd >= 0)
            close(t.conns[i].fd);
    }
    if (t.epoll >= 0)
        close(t.epoll);
    mem_free(t.conns);
    mem_free(t.space);
    return err;
}

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return x < y ? -1 : x > y;
}

double http_load_percentile(double *v, size_t n, double p)
{
    size_t i = (size_t)(p * (double)n);

    if (n == 0)
        return 0;
    qsort(v, n, sizeof(*v), compare);
    return v[i < n ? i : n - 1];
}
