/* daemon/http_server.c - listeners, the hooks into the loop, and the life of the whole server. */
#include <arpa/inet.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

#include "base/clock.h"
#include "base/mem.h"
#include "daemon/http_internal.h"

enum { BACKLOG = 1024 };

/* ---- turns ---- */
static void on_idle(uv_idle_t *handle)
{
    (void)handle; /* being active is all it is for */
}

/* Every connection with something to do gets one turn; what wakes meanwhile comes round next time. */
static void run_turns(struct http_server *s)
{
    for (uint32_t n = s->n_turn; n > 0 && s->turn.turn_next != &s->turn; n--)
        http_conn_turn(s->turn.turn_next);
    if (s->closing)
        return;
    if (s->n_turn > 0)
        uv_idle_start(&s->idle, on_idle);
    else
        uv_idle_stop(&s->idle);
}

static void on_prepare(uv_prepare_t *handle)
{
    run_turns(handle->data);
}

static void on_check(uv_check_t *handle)
{
    run_turns(handle->data);
}

static void on_tick(uv_timer_t *handle)
{
    struct http_server *s = handle->data;
    uv_stream_t *stalled = s->stalled;

    s->stalled = NULL;
    if (stalled != NULL)
        http_conn_open(s, stalled);
    http_wheel_advance(&s->wheel, uv_now(s->config.loop), http_conn_timer, s);
    if (s->conns == NULL && s->stalled == NULL) {
        uv_timer_stop(&s->timer);
        s->ticking = false;
    }
}

void http_server_tick(struct http_server *s)
{
    if (s->ticking || s->closing)
        return;
    s->ticking = true;
    http_wheel_advance(&s->wheel, uv_now(s->config.loop), http_conn_timer, s);
    uv_timer_start(&s->timer, on_tick, HTTP_WHEEL_SLOT_MS, HTTP_WHEEL_SLOT_MS);
}

/* ---- small services ---- */
const char *http_server_date(struct http_server *s)
{
    uint64_t now = clock_wall_ns() / CLOCK_NS_PER_S;
    time_t seconds = (time_t)now;
    struct tm tm;

    if (now != s->date_s && gmtime_r(&seconds, &tm) != NULL) {
        s->date_s = now;
        strftime(s->date, sizeof(s->date), "%a, %d %b %Y %H:%M:%S GMT", &tm);
    }
    return s->date;
}

/* xorshift128+: for names of requests, which are no secrets. */
uint64_t http_server_random(struct http_server *s)
{
    uint64_t a = s->random[0], b = s->random[1];

    s->random[0] = b;
    a ^= a << 23;
    s->random[1] = a ^ b ^ (a >> 17) ^ (b >> 26);
    return s->random[1] + b;
}

const struct http_stats *http_server_stats(const struct http_server *s)
{
    return &s->stats;
}

uint64_t http_server_unsent(const struct http_server *s)
{
    uint64_t sum = 0;

    for (const struct http_conn *c = s->conns; c != NULL; c = c->next) {
        if (c->state != CONN_CLOSED)
            sum += http_conn_waiting(c);
    }
    return sum;
}

/* ---- life ---- */
void http_server_handle_closed(struct http_server *s)
{
    void (*closed)(void *arg) = s->closed;
    void *arg = s->closed_arg;

    if (--s->handles > 0 || !s->closing)
        return;
    map_free(&s->by_ip);
    mem_free(s);
    if (closed != NULL)
        closed(arg);
}

static void on_handle_closed(uv_handle_t *handle)
{
    http_server_handle_closed(handle->data);
}

static void add_handle(struct http_server *s, uv_handle_t *handle)
{
    handle->data = s;
    uv_unref(handle); /* the loop lives as long as its listeners and connections */
    s->handles++;
}

enum err http_server_create(const struct http_config *config, struct http_server **out)
{
    struct http_server *s;

    if (config->loop == NULL || config->routes == NULL)
        return ERR_INVALID;
    s = mem_try_calloc(1, sizeof(*s));
    if (s == NULL)
        return ERR_NOMEM;
    s->config = *config;
    s->limits = config->limits;
    http_limits_fill(&s->limits);
    s->turn.turn_next = s->turn.turn_prev = &s->turn;
    if (getrandom(s->random, sizeof(s->random), 0) != (ssize_t)sizeof(s->random))
        s->random[0] = clock_wall_ns();
    s->random[1] |= 1;
    http_wheel_init(&s->wheel, uv_now(config->loop));
    /* These four only link the handle into the loop: they cannot fail. */
    uv_prepare_init(config->loop, &s->prepare);
    uv_check_init(config->loop, &s->check);
    uv_idle_init(config->loop, &s->idle);
    uv_timer_init(config->loop, &s->timer);
    add_handle(s, (uv_handle_t *)&s->prepare);
    add_handle(s, (uv_handle_t *)&s->check);
    add_handle(s, (uv_handle_t *)&s->idle);
    add_handle(s, (uv_handle_t *)&s->timer);
    uv_prepare_start(&s->prepare, on_prepare);
    uv_check_start(&s->check, on_check);
    *out = s;
    return ERR_OK;
}

static void on_connection(uv_stream_t *listener, int status)
{
    struct http_server *s = listener->data;

    if (status == 0 && !s->draining && !s->closing)
        http_conn_open(s, listener);
}

static bool parse_host(const char *host, uint16_t port, struct sockaddr_storage *addr)
{
    char bare[64];
    size_t n = strlen(host);

    if (strcmp(host, "localhost") == 0)
        host = "127.0.0.1";
    if (n > 2 && n < sizeof(bare) && host[0] == '[' && host[n - 1] == ']') {
        memcpy(bare, host + 1, n - 2);
        bare[n - 2] = '\0';
        host = bare;
    }
    memset(addr, 0, sizeof(*addr));
    return uv_ip4_addr(host, port, (struct sockaddr_in *)(void *)addr) == 0 ||
           uv_ip6_addr(host, port, (struct sockaddr_in6 *)(void *)addr) == 0;
}

static enum err listen_error(int e, const char *host, uint16_t port, struct err_msg *msg)
{
    switch (e) {
    case UV_EADDRINUSE:
        return err_set(msg, ERR_IO,
                       "port %u on %s: port in use by another process; stop that one or choose "
                       "another port",
                       port, host);
    case UV_EACCES:
        return err_set(msg, ERR_IO, "port %u on %s: not permitted; choose a port above 1023", port,
                       host);
    case UV_EADDRNOTAVAIL:
        return err_set(msg, ERR_INVALID, "address %s: this machine does not have it", host);
    default:
        return err_set(msg, ERR_IO, "port %u on %s: %s", port, host, uv_strerror(e));
    }
}

static int open_listener(uv_tcp_t *tcp, const struct sockaddr_storage *addr, uint16_t *bound)
{
    struct sockaddr_storage got;
    int len = sizeof(got);
    int e = uv_tcp_bind(tcp, (const struct sockaddr *)addr, 0);

    if (e == 0)
        e = uv_listen((uv_stream_t *)tcp, BACKLOG, on_connection);
    if (e == 0)
        e = uv_tcp_getsockname(tcp, (struct sockaddr *)&got, &len);
    if (e == 0 && bound != NULL)
        *bound = ntohs(got.ss_family == AF_INET6
                           ? ((const struct sockaddr_in6 *)(const void *)&got)->sin6_port
                           : ((const struct sockaddr_in *)(const void *)&got)->sin_port);
    return e;
}

enum err http_server_listen(struct http_server *s, const char *host, uint16_t port, uint16_t *bound,
                            struct err_msg *msg)
{
    struct sockaddr_storage addr;
    uv_tcp_t *tcp;
    int e;

    if (s->draining || s->closing)
        return err_set(msg, ERR_BAD_STATE, "the server is shutting down");
    if (s->n_listeners == HTTP_LISTENERS_MAX)
        return err_set(msg, ERR_LIMIT, "at most %d addresses can be listened on",
                       HTTP_LISTENERS_MAX);
    if (!parse_host(host, port, &addr))
        return err_set(msg, ERR_INVALID, "address '%s': give an IPv4 or IPv6 address, or localhost",
                       host);
    tcp = &s->listeners[s->n_listeners];
    e = uv_tcp_init(s->config.loop, tcp);
    if (e != 0)
        return err_set(msg, ERR_IO, "cannot make a socket: %s", uv_strerror(e));
    s->n_listeners++;
    s->handles++;
    tcp->data = s;
    e = open_listener(tcp, &addr, bound);
    if (e == 0)
        return ERR_OK;
    uv_close((uv_handle_t *)tcp,
             on_handle_closed); /* its place stays taken until the server is gone */
    return listen_error(e, host, port, msg);
}

static void close_listeners(struct http_server *s)
{
    for (uint32_t i = 0; i < s->n_listeners; i++) {
        if (!uv_is_closing((uv_handle_t *)&s->listeners[i]))
            uv_close((uv_handle_t *)&s->listeners[i], on_handle_closed);
    }
    s->stalled = NULL;
}

void http_server_drain(struct http_server *s)
{
    if (s->draining || s->closing)
        return;
    s->draining = true;
    close_listeners(s);
    for (struct http_conn *c = s->conns, *next; c != NULL; c = next) {
        next = c->next;
        http_conn_drain(c);
    }
}

void http_server_close(struct http_server *s, void (*closed)(void *arg), void *arg)
{
    if (s->closing)
        return;
    s->closing = true;
    s->closed = closed;
    s->closed_arg = arg;
    close_listeners(s);
    for (struct http_conn *c = s->conns, *next; c != NULL; c = next) {
        next = c->next;
        http_conn_kill(c);
    }
    uv_close((uv_handle_t *)&s->prepare, on_handle_closed);
    uv_close((uv_handle_t *)&s->check, on_handle_closed);
    uv_close((uv_handle_t *)&s->idle, on_handle_closed);
    uv_close((uv_handle_t *)&s->timer, on_handle_closed);
}
