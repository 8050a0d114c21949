/* daemon/link.c - see the header for the contract.
 *
 * A link is one stream, one timer and one idle handle.  Sends collect in `out`; the idle handle, which
 * runs before the loop sleeps, writes what one turn collected.  While it is active the loop does not sleep:
 * so a send from a prepare callback, which comes too late for this turn, is written in the next one at once
 * (a prepare handle would leave it lying until something else wakes the loop).  link_fail() is the only
 * way down: it closes the handles, and the last close callback reports and frees.
 *
 * Silence is counted in turns of the timer, not in clock time: when this process itself was held up, the
 * first turn after it must not take for silence what lies unread in the socket.
 */
#include "daemon/link.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>
#include <uv.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "daemon/link_addr.h"

enum {
    HANDSHAKE_TIMEOUT_MS = 5000,
    CLOSE_FLUSH_MS = 1000,
    READ_CHUNK = 64 * 1024,
    UNPROVEN_MAX = 64,
    QUIET_TURNS = 8, /* the timer looks so often in one peer timeout */
    BACKLOG = 256
};

enum link_state {
    LINK_RESOLVING = 0, /* client: waits for the name */
    LINK_CONNECTING,    /* client: waits for the connection */
    LINK_CHALLENGE,     /* client: sent HELLO, waits for CHALLENGE */
    LINK_HELLO,         /* server: waits for HELLO */
    LINK_PROOF,         /* server: waits for PROOF */
    LINK_READY,         /* frames */
    LINK_FLUSHING,      /* close asked: waits for the last write, at most CLOSE_FLUSH_MS */
    LINK_CLOSING,       /* waits for the handles to close */
    LINK_STATE_COUNT
};

/* clang-format off */
static const bool may_move[LINK_STATE_COUNT][LINK_STATE_COUNT] = {
    /* from               RESOLV CONNEC CHALLE HELLO  PROOF  READY  FLUSH  CLOSING */
    [LINK_RESOLVING]  = { false, true,  false, false, false, false, false, true  },
    [LINK_CONNECTING] = { false, false, true,  false, false, false, false, true  },
    [LINK_CHALLENGE]  = { false, false, false, false, false, true,  false, true  },
    [LINK_HELLO]      = { false, false, false, false, true,  false, false, true  },
    [LINK_PROOF]      = { false, false, false, false, false, true,  false, true  },
    [LINK_READY]      = { false, false, false, false, false, false, true,  true  },
    [LINK_FLUSHING]   = { false, false, false, false, false, false, false, true  },
    [LINK_CLOSING]    = { false, false, false, false, false, false, false, false },
};
/* clang-format on */

struct daemon_link {
    union {
        uv_handle_t handle;
        uv_stream_t stream;
        uv_tcp_t tcp;
        uv_pipe_t pipe;
    } io;
    uv_timer_t timer;
    uv_idle_t flush;
    uv_connect_t connecting;
    uv_getaddrinfo_t resolving;
    uv_write_t writing;
    enum link_state state;
    unsigned open_handles; /* whose close callback has not run */
    bool op_pending;       /* connect or resolve callback outstanding */
    bool write_pending;
    struct daemon_listener *listener; /* server, until proven */
    struct daemon_link *next_unproven;
    struct daemon_link_options options;
    struct wire_secret secret;
    struct wire_auth auth;
    const struct daemon_link_hooks *hooks; /* NULL: nobody to tell */
    void *arg;
    struct daemon_addr addr;
    char peer[DAEMON_ADDR_MAX + 16];
    struct buf in, out, in_flight;
    unsigned quiet; /* turns of the timer since something was heard */
    enum err why;
    char detail[160];
};

struct daemon_listener {
    union {
        uv_handle_t handle;
        uv_stream_t stream;
        uv_tcp_t tcp;
        uv_pipe_t pipe;
    } io;
    struct daemon_link_options options;
    struct wire_secret secret;
    daemon_accept_fn on_accept;
    void *arg;
    struct daemon_addr addr;
    char bound[DAEMON_LINK_ADDRESS_MAX];
    struct daemon_link *unproven;
    unsigned n_unproven;
};

static void link_set_state(struct daemon_link *l, enum link_state next)
{
    if (!may_move[l->state][next]) /* a bug here, not the peer's doing: said, and survived */
        LOG_ERROR("link", "illegal state change", "peer=%s from=%d to=%d", l->peer, (int)l->state,
                  (int)next);
    l->state = next;
}

/* ---- the way down ---- */

static void unproven_remove(struct daemon_link *l)
{
    struct daemon_listener *s = l->listener;

    if (s == NULL)
        return;
    for (struct daemon_link **at = &s->unproven; *at != NULL; at = &(*at)->next_unproven) {
        if (*at == l) {
            *at = l->next_unproven;
            s->n_unproven--;
            break;
        }
    }
    l->listener = NULL;
}

static void link_maybe_free(struct daemon_link *l)
{
    if (l->open_handles > 0 || l->op_pending)
        return;
    if (l->hooks != NULL)
        l->hooks->on_closed(l, l->arg, l->why, l->detail);
    buf_free(&l->in);
    buf_free(&l->out);
    buf_free(&l->in_flight);
    explicit_bzero(&l->secret, sizeof(l->secret));
    mem_free(l);
}

static void on_handle_closed(uv_handle_t *h)
{
    struct daemon_link *l = h->data;

    l->open_handles--;
    link_maybe_free(l);
}

static void link_fail(struct daemon_link *l, enum err why, const char *detail)
{
    if (l->state == LINK_CLOSING)
        return;
    l->why = why;
    snprintf(l->detail, sizeof(l->detail), "%s", detail);
    unproven_remove(l);
    link_set_state(l, LINK_CLOSING);
    if (l->op_pending)
        uv_cancel((uv_req_t *)&l->resolving);
    uv_close(&l->io.handle, on_handle_closed);
    uv_close((uv_handle_t *)&l->timer, on_handle_closed);
    uv_close((uv_handle_t *)&l->flush, on_handle_closed);
}

/* ---- writing ---- */

static void on_written(uv_write_t *req, int status);

static void link_write(struct daemon_link *l)
{
    uv_buf_t piece;
    int n;

    if (l->write_pending || l->out.len == 0)
        return;
    piece = uv_buf_init(buf_bytes(&l->out), (unsigned)l->out.len);
    n = uv_try_write(&l->io.stream, &piece, 1);
    if (n >= 0)
        buf_consume(&l->out, (size_t)n);
    else if (n != UV_EAGAIN) {
        link_fail(l, ERR_PEER_LOST, uv_strerror(n));
        return;
    }
    if (l->out.len == 0)
        return;
    buf_clear(&l->in_flight);
    { /* what the kernel did not take now moves aside, so that new frames can collect */
        struct buf spare = l->in_flight;

        l->in_flight = l->out;
        l->out = spare;
    }
    piece = uv_buf_init(buf_bytes(&l->in_flight), (unsigned)l->in_flight.len);
    n = uv_write(&l->writing, &l->io.stream, &piece, 1, on_written);
    if (n != 0)
        link_fail(l, ERR_PEER_LOST, uv_strerror(n));
    else
        l->write_pending = true;
}

static void on_written(uv_write_t *req, int status)
{
    struct daemon_link *l = req->data;

    l->write_pending = false;
    if (l->state == LINK_CLOSING)
        return;
    buf_clear(&l->in_flight);
    if (status != 0) {
        link_fail(l, ERR_PEER_LOST, uv_strerror(status));
        return;
    }
    link_write(l);
    if (l->state == LINK_FLUSHING && !l->write_pending)
        link_fail(l, ERR_CANCELED, "closed here");
}

static void on_flush(uv_idle_t *h)
{
    struct daemon_link *l = h->data;

    uv_idle_stop(h);
    if (l->state != LINK_CLOSING)
        link_write(l);
}

static void link_put(struct daemon_link *l, const void *bytes, size_t len)
{
    if (buf_append(&l->out, bytes, len) != ERR_OK) {
        link_fail(l, ERR_NOMEM, "no memory to send");
        return;
    }
    uv_idle_start(&l->flush, on_flush);
}

void daemon_link_send(struct daemon_link *l, enum wire_type t, const ProtobufCMessage *m)
{
    size_t limit = l->options.max_queued > 0 ? l->options.max_queued : (size_t)64 << 20;
    enum err err;

    if (l->state != LINK_READY)
        return;
    err = wire_pack(t, m, &l->out);
    if (err == ERR_OK && l->out.len + l->in_flight.len > limit)
        err = ERR_LIMIT;
    if (err != ERR_OK) {
        LOG_WARN("link", "cannot send", "peer=%s frame=%s err=%s", l->peer, wire_type_name(t),
                 err_name(err));
        link_fail(l, err, err == ERR_LIMIT ? "the peer does not read" : "cannot build a frame");
        return;
    }
    uv_idle_start(&l->flush, on_flush);
}

/* ---- reading ---- */

static void link_ready(struct daemon_link *l)
{
    unproven_remove(l);
    link_set_state(l, LINK_READY);
    uv_timer_stop(&l->timer);
    daemon_link_set_timeout(l, l->options.peer_timeout_ns);
}

static void client_prove(struct daemon_link *l)
{
    uint8_t proof[WIRE_PROOF_LEN];
    enum err err = wire_auth_prove(&l->auth, &l->secret, (const uint8_t *)buf_bytes(&l->in), proof);

    buf_consume(&l->in, WIRE_CHALLENGE_LEN);
    if (err != ERR_OK) {
        link_fail(l, err,
                  err == ERR_AUTH          ? "the server does not hold our secret"
                  : err == ERR_UNSUPPORTED ? "no protocol version in common"
                                           : "not a Baton control port");
        return;
    }
    link_put(l, proof, sizeof(proof));
    if (l->state == LINK_CLOSING)
        return;
    link_ready(l);
    l->hooks->on_ready(l, l->arg);
}

static void server_challenge(struct daemon_link *l)
{
    uint8_t challenge[WIRE_CHALLENGE_LEN];
    enum err err =
        wire_auth_challenge(&l->auth, &l->secret, (const uint8_t *)buf_bytes(&l->in), challenge);

    buf_consume(&l->in, WIRE_HELLO_LEN);
    if (err == ERR_OK || err == ERR_UNSUPPORTED)
        link_put(l, challenge, sizeof(challenge));
    if (err == ERR_UNSUPPORTED)
        link_write(l);
    if (err != ERR_OK)
        link_fail(l, err, "handshake: bad hello");
    else if (l->state != LINK_CLOSING)
        link_set_state(l, LINK_PROOF);
}

static void server_check(struct daemon_link *l)
{
    struct daemon_listener *s = l->listener;
    enum err err = wire_auth_check(&l->auth, &l->secret, (const uint8_t *)buf_bytes(&l->in));

    buf_consume(&l->in, WIRE_PROOF_LEN);
    if (err != ERR_OK) {
        link_fail(l, ERR_AUTH, "handshake: the peer does not hold the secret");
        return;
    }
    link_ready(l);
    if (!s->on_accept(s->arg, l, l->auth.role, &l->hooks, &l->arg)) {
        l->hooks = NULL;
        link_fail(l, ERR_CANCELED, "refused");
    }
}

/* false: more bytes are needed. */
static bool read_frame(struct daemon_link *l)
{
    struct wire_header h;
    ProtobufCMessage *m;
    struct err_msg msg = {""};
    int used = wire_header_decode((const uint8_t *)buf_bytes(&l->in), l->in.len, &h);
    enum err err;

    if (used == 0)
        return false;
    if (used < 0) {
        link_fail(l, ERR_BAD_FRAME, "frame header out of range");
        return false;
    }
    if (l->in.len < (size_t)used + h.len)
        return false;
    err = wire_unpack((enum wire_type)h.type, (const uint8_t *)buf_bytes(&l->in) + used, h.len, &m,
                      &msg);
    buf_consume(&l->in, (size_t)used + h.len);
    if (err != ERR_OK) {
        link_fail(l, err, msg.text);
        return false;
    }
    l->hooks->on_frame(l, l->arg, (enum wire_type)h.type, m);
    wire_free(m);
    return true;
}

static bool read_some(struct daemon_link *l)
{
    switch (l->state) {
    case LINK_CHALLENGE:
        if (l->in.len < WIRE_CHALLENGE_LEN)
            return false;
        client_prove(l);
        return true;
    case LINK_HELLO:
        if (l->in.len < WIRE_HELLO_LEN)
            return false;
        server_challenge(l);
        return true;
    case LINK_PROOF:
        if (l->in.len < WIRE_PROOF_LEN)
            return false;
        server_check(l);
        return true;
    case LINK_READY:
        return read_frame(l);
    case LINK_RESOLVING:
    case LINK_CONNECTING:
    case LINK_FLUSHING:
    case LINK_CLOSING:
    case LINK_STATE_COUNT:
        return false;
    }
    return false;
}

static void on_alloc(uv_handle_t *h, size_t hint, uv_buf_t *out)
{
    struct daemon_link *l = h->data;

    (void)hint;
    if (buf_reserve(&l->in, READ_CHUNK) != ERR_OK) {
        *out = uv_buf_init(NULL, 0);
        return;
    }
    *out = uv_buf_init(buf_bytes(&l->in) + l->in.len, READ_CHUNK);
}

static void on_read(uv_stream_t *stream, ssize_t n, const uv_buf_t *unused)
{
    struct daemon_link *l = stream->data;

    (void)unused;
    if (l->state == LINK_CLOSING || n == 0)
        return;
    if (n < 0) {
        if (l->state == LINK_FLUSHING)
            link_fail(l, ERR_CANCELED, "closed here");
        else
            link_fail(l, n == UV_ENOBUFS ? ERR_NOMEM : ERR_PEER_LOST,
                      n == UV_EOF ? "the peer closed the connection" : uv_strerror((int)n));
        return;
    }
    buf_added(&l->in, (size_t)n);
    l->quiet = 0;
    while (read_some(l))
        ;
    if (l->state == LINK_FLUSHING)
        buf_clear(&l->in);
}

/* ---- making ---- */

static void on_timer(uv_timer_t *t)
{
    struct daemon_link *l = t->data;

    if (l->state == LINK_READY) {
        if (++l->quiet > QUIET_TURNS)
            link_fail(l, ERR_TIMEOUT, "the peer has fallen silent");
    } else if (l->state == LINK_FLUSHING) {
        link_fail(l, ERR_CANCELED, "closed here");
    } else {
        link_fail(l, ERR_TIMEOUT, "the handshake took too long");
    }
}

void daemon_link_set_timeout(struct daemon_link *l, uint64_t peer_timeout_ns)
{
    uint64_t every_ms;

    if (peer_timeout_ns == 0)
        peer_timeout_ns = 5 * CLOCK_NS_PER_S;
    l->options.peer_timeout_ns = peer_timeout_ns;
    l->quiet = 0;
    every_ms = peer_timeout_ns / QUIET_TURNS / CLOCK_NS_PER_MS;
    if (every_ms == 0)
        every_ms = 1;
    if (l->state == LINK_READY)
        uv_timer_start(&l->timer, on_timer, every_ms, every_ms);
}

/* The handles are open when this returns ERR_OK; then only link_fail ends the link. */
static enum err link_create(const struct daemon_link_options *o, const struct wire_secret *secret,
                            bool is_unix, struct daemon_link **out)
{
    struct daemon_link *l = mem_try_calloc(1, sizeof(*l));
    int bad;

    if (l == NULL)
        return ERR_NOMEM;
    l->options = *o;
    l->secret = *secret;
    l->options.secret = &l->secret;
    bad = is_unix ? uv_pipe_init(o->loop, &l->io.pipe, 0) : uv_tcp_init(o->loop, &l->io.tcp);
    if (bad != 0) {
        mem_free(l);
        return ERR_IO;
    }
    uv_timer_init(o->loop, &l->timer);
    uv_idle_init(o->loop, &l->flush);
    l->io.handle.data = l->timer.data = l->flush.data = l;
    l->writing.data = l->connecting.data = l->resolving.data = l;
    l->open_handles = 3;
    uv_timer_start(&l->timer, on_timer, HANDSHAKE_TIMEOUT_MS, 0);
    *out = l;
    return ERR_OK;
}

static void on_connected(uv_connect_t *req, int status)
{
    struct daemon_link *l = req->data;
    uint8_t hello[WIRE_HELLO_LEN];

    if (l->state == LINK_CLOSING)
        return;
    if (status != 0 || (status = uv_read_start(&l->io.stream, on_alloc, on_read)) != 0) {
        link_fail(l, ERR_PEER_LOST, uv_strerror(status));
        return;
    }
    if (!l->addr.is_unix)
        uv_tcp_nodelay(&l->io.tcp, 1);
    if (wire_auth_hello(&l->auth, l->auth.role, hello) != ERR_OK) {
        link_fail(l, ERR_IO, "no randomness for the handshake");
        return;
    }
    link_set_state(l, LINK_CHALLENGE);
    link_put(l, hello, sizeof(hello));
}

static void connect_tcp(struct daemon_link *l, const struct sockaddr *to)
{
    int bad;

    link_set_state(l, LINK_CONNECTING);
    bad = uv_tcp_connect(&l->connecting, &l->io.tcp, to, on_connected);
    if (bad != 0)
        link_fail(l, ERR_PEER_LOST, uv_strerror(bad));
}

static void on_resolved(uv_getaddrinfo_t *req, int status, struct addrinfo *found)
{
    struct daemon_link *l = req->data;

    l->op_pending = false;
    if (l->state == LINK_CLOSING) {
        uv_freeaddrinfo(found);
        link_maybe_free(l);
        return;
    }
    if (status != 0)
        link_fail(l, ERR_PEER_LOST, uv_strerror(status));
    else
        connect_tcp(l, found->ai_addr);
    uv_freeaddrinfo(found);
}

static void start_connecting(struct daemon_link *l)
{
    struct sockaddr_storage to;
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM};
    char port[8];
    int bad;

    if (l->addr.is_unix) {
        link_set_state(l, LINK_CONNECTING);
        uv_pipe_connect(&l->connecting, &l->io.pipe, l->addr.host, on_connected);
    } else if (uv_ip4_addr(l->addr.host, l->addr.port, (struct sockaddr_in *)&to) == 0 ||
               uv_ip6_addr(l->addr.host, l->addr.port, (struct sockaddr_in6 *)&to) == 0) {
        connect_tcp(l, (struct sockaddr *)&to);
    } else {
        snprintf(port, sizeof(port), "%u", l->addr.port);
        bad =
            uv_getaddrinfo(l->options.loop, &l->resolving, on_resolved, l->addr.host, port, &hints);
        if (bad != 0)
            link_fail(l, ERR_PEER_LOST, uv_strerror(bad));
        else
            l->op_pending = true;
    }
}

enum err daemon_link_connect(const struct daemon_link_options *o, const char *address,
                             enum wire_role role, const struct daemon_link_hooks *hooks, void *arg,
                             struct err_msg *msg, struct daemon_link **out)
{
    struct daemon_addr addr;
    struct daemon_link *l;
    enum err err = daemon_addr_parse(address, &addr, msg);

    if (err != ERR_OK)
        return err;
    err = link_create(o, o->secret, addr.is_unix, &l);
    if (err != ERR_OK)
        return err_set(msg, err, "cannot connect to %.200s: %s", address, err_text(err));
    l->addr = addr;
    l->hooks = hooks;
    l->arg = arg;
    l->auth.role = role;
    snprintf(l->peer, sizeof(l->peer), "%.250s", address);
    start_connecting(l);
    *out = l;
    return ERR_OK;
}

/* ---- the server side ---- */

static void name_peer(struct daemon_link *l)
{
    struct sockaddr_storage from;
    int len = sizeof(from);
    char ip[64] = "?";

    if (l->addr.is_unix) {
        snprintf(l->peer, sizeof(l->peer), "unix");
        return;
    }
    if (uv_tcp_getpeername(&l->io.tcp, (struct sockaddr *)&from, &len) == 0)
        uv_ip_name((struct sockaddr *)&from, ip, sizeof(ip));
    snprintf(l->peer, sizeof(l->peer), "%s", ip);
}

static void on_connection(uv_stream_t *stream, int status)
{
    struct daemon_listener *s = stream->data;
    struct daemon_link *l;

    if (status != 0 || link_create(&s->options, &s->secret, s->addr.is_unix, &l) != ERR_OK)
        return;
    l->state = LINK_HELLO;
    l->addr = s->addr;
    l->listener = s;
    l->next_unproven = s->unproven;
    s->unproven = l;
    s->n_unproven++;
    if (uv_accept(stream, &l->io.stream) != 0 || s->n_unproven > UNPROVEN_MAX ||
        uv_read_start(&l->io.stream, on_alloc, on_read) != 0) {
        link_fail(l, ERR_LIMIT, "too many connections that have not proved the secret");
        return;
    }
    if (!l->addr.is_unix)
        uv_tcp_nodelay(&l->io.tcp, 1);
    name_peer(l);
}

/* What a server that ended badly left behind is removed; a socket that answers, or a file that is none,
 * is not ours to remove. */
static int clear_path(const char *path)
{
    struct sockaddr_un at = {.sun_family = AF_UNIX};
    struct stat st;
    int fd, bad = 0;

    if (lstat(path, &st) != 0)
        return errno == ENOENT ? 0 : uv_translate_sys_error(errno);
    if (!S_ISSOCK(st.st_mode))
        return UV_EEXIST;
    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return uv_translate_sys_error(errno);
    memcpy(at.sun_path, path, strnlen(path, sizeof(at.sun_path) - 1)); /* its length was checked */
    if (connect(fd, (struct sockaddr *)&at, sizeof(at)) == 0 || errno == EAGAIN)
        bad = UV_EADDRINUSE;
    close(fd);
    if (bad == 0 && unlink(path) != 0)
        bad = uv_translate_sys_error(errno);
    return bad;
}

static int bind_unix(struct daemon_listener *s)
{
    mode_t before;
    int bad = clear_path(s->addr.host);

    if (bad != 0)
        return bad;
    before = umask(0177);
    bad = uv_pipe_bind(&s->io.pipe, s->addr.host);
    umask(before);
    snprintf(s->bound, sizeof(s->bound), "unix:%s", s->addr.host);
    return bad;
}

static void address_text(const struct sockaddr *at, char out[DAEMON_LINK_ADDRESS_MAX])
{
    char ip[64] = "?";
    bool v6 = at->sa_family == AF_INET6;

    uv_ip_name(at, ip, sizeof(ip));
    snprintf(out, DAEMON_LINK_ADDRESS_MAX, v6 ? "[%s]:%u" : "%s:%u", ip,
             ntohs(v6 ? ((const struct sockaddr_in6 *)at)->sin6_port
                      : ((const struct sockaddr_in *)at)->sin_port));
}

static int bind_tcp(struct daemon_listener *s)
{
    struct sockaddr_storage at;
    int bad, len = sizeof(at);

    bad = uv_ip4_addr(strcmp(s->addr.host, "localhost") == 0 ? "127.0.0.1" : s->addr.host,
                      s->addr.port, (struct sockaddr_in *)&at);
    if (bad != 0)
        bad = uv_ip6_addr(s->addr.host, s->addr.port, (struct sockaddr_in6 *)&at);
    if (bad == 0)
        bad = uv_tcp_bind(&s->io.tcp, (struct sockaddr *)&at, 0);
    if (bad == 0)
        bad = uv_tcp_getsockname(&s->io.tcp, (struct sockaddr *)&at, &len);
    if (bad == 0)
        address_text((struct sockaddr *)&at, s->bound);
    return bad;
}

static void on_listener_closed(uv_handle_t *h)
{
    struct daemon_listener *s = h->data;

    explicit_bzero(&s->secret, sizeof(s->secret));
    mem_free(s);
}

enum err daemon_link_listen(const struct daemon_link_options *o, const char *address,
                            daemon_accept_fn on_accept, void *arg, struct err_msg *msg,
                            struct daemon_listener **out)
{
    struct daemon_listener *s = mem_try_calloc(1, sizeof(*s));
    enum err err;
    int bad;

    if (s == NULL)
        return err_set(msg, ERR_NOMEM, "no memory for a listener");
    err = daemon_addr_parse(address, &s->addr, msg);
    if (err != ERR_OK) {
        mem_free(s);
        return err;
    }
    s->options = *o;
    s->secret = *o->secret;
    s->options.secret = &s->secret;
    s->on_accept = on_accept;
    s->arg = arg;
    bad =
        s->addr.is_unix ? uv_pipe_init(o->loop, &s->io.pipe, 0) : uv_tcp_init(o->loop, &s->io.tcp);
    if (bad != 0) {
        mem_free(s);
        return err_set(msg, ERR_IO, "cannot listen on %.200s: %s", address, uv_strerror(bad));
    }
    s->io.handle.data = s;
    bad = s->addr.is_unix ? bind_unix(s) : bind_tcp(s);
    if (bad == 0)
        bad = uv_listen(&s->io.stream, BACKLOG, on_connection);
    if (bad != 0) {
        uv_close(&s->io.handle, on_listener_closed);
        return err_set(msg, bad == UV_EINVAL ? ERR_INVALID : ERR_IO,
                       "cannot listen for workers on %.200s: %s", address, uv_strerror(bad));
    }
    *out = s;
    return ERR_OK;
}

const char *daemon_listener_address(const struct daemon_listener *l)
{
    return l->bound;
}

void daemon_listener_close(struct daemon_listener *s)
{
    while (s->unproven != NULL)
        link_fail(s->unproven, ERR_CANCELED, "the listener closed");
    uv_close(&s->io.handle, on_listener_closed);
}

/* ---- the rest ---- */

void daemon_link_set_arg(struct daemon_link *l, void *arg)
{
    l->arg = arg;
}

uint32_t daemon_link_peer_pid(const struct daemon_link *l)
{
    struct ucred peer = {0};
    socklen_t len = sizeof(peer);
    uv_os_fd_t fd;

    if (!l->addr.is_unix || uv_fileno(&l->io.handle, &fd) != 0 ||
        getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &len) != 0 || peer.pid <= 0)
        return 0;
    return (uint32_t)peer.pid;
}

const char *daemon_link_peer(const struct daemon_link *l)
{
    return l->peer;
}

void daemon_link_local(const struct daemon_link *l, char out[DAEMON_LINK_ADDRESS_MAX])
{
    struct sockaddr_storage at = {0};
    int len = sizeof(at);

    if (l->addr.is_unix) {
        snprintf(out, DAEMON_LINK_ADDRESS_MAX, "unix:%s", l->addr.host);
    } else {
        uv_tcp_getsockname(&l->io.tcp, (struct sockaddr *)&at, &len);
        address_text((struct sockaddr *)&at, out);
    }
}

void daemon_link_close(struct daemon_link *l)
{
    if (l->state == LINK_CLOSING || l->state == LINK_FLUSHING)
        return;
    if (l->state == LINK_READY) {
        link_write(l);
        if (l->state == LINK_READY && l->write_pending) {
            link_set_state(l, LINK_FLUSHING);
            uv_timer_start(&l->timer, on_timer, CLOSE_FLUSH_MS, 0);
            return;
        }
    }
    link_fail(l, ERR_CANCELED, "closed here");
}
