/* daemon/status_get.c - see the header. */
#include "daemon/status_get.h"

#include <errno.h>
#include <netdb.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { LIMIT_S = 5, ANSWER_MAX = 64 << 20 };

struct place {
    char host[256], port[8];
};

static enum err parse_url(const char *url, struct place *p, struct err_msg *msg)
{
    const char *at = strncmp(url, "http://", 7) == 0 ? url + 7 : url, *port;
    size_t len;

    if (at == url && strstr(url, "://") != NULL && strncmp(url, "https://", 8) != 0)
        return err_set(msg, ERR_INVALID, "%.200s: the address is http://HOST:PORT", url);
    if (strncmp(url, "https://", 8) == 0)
        return err_set(msg, ERR_INVALID, "%.200s: TLS is not built; ask over http", url);
    if (at[0] == '[') {
        len = strcspn(++at, "]");
        if (at[len] != ']')
            len = 0;
        port = at + len + 1;
    } else {
        len = strcspn(at, ":/");
        port = at + len;
    }
    if (len == 0 || len >= sizeof(p->host) || (port[0] != ':' && port[0] != '/' && port[0] != '\0'))
        return err_set(msg, ERR_INVALID, "%.200s: the address is http://HOST:PORT", url);
    snprintf(p->host, sizeof(p->host), "%.*s", (int)len, at);
    snprintf(p->port, sizeof(p->port), "%s", "8000");
    if (port[0] == ':') {
        len = strcspn(port + 1, "/");
        if (len == 0 || len > 5 || strspn(port + 1, "0123456789") < len)
            return err_set(msg, ERR_INVALID, "%.200s: the port is a number", url);
        snprintf(p->port, sizeof(p->port), "%.*s", (int)len, port + 1);
    }
    return ERR_OK;
}

enum err status_check_url(const char *url, struct err_msg *msg)
{
    struct place p;

    return parse_url(url, &p, msg);
}

/* -1 with msg. */
static int connect_to(const struct place *p, struct err_msg *msg)
{
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *list = NULL;
    struct timeval limit = {.tv_sec = LIMIT_S};
    int bad = getaddrinfo(p->host, p->port, &hints, &list), why = ENOENT, fd = -1;

    if (bad != 0) {
        err_set(msg, ERR_IO, "the address of %s cannot be found: %s", p->host,
                bad == EAI_SYSTEM ? strerror(errno) : gai_strerror(bad));
        return -1;
    }
    for (const struct addrinfo *a = list; a != NULL && fd < 0; a = a->ai_next) {
        fd = socket(a->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
        why = errno;
        if (fd < 0)
            continue;
        setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit)); /* holds for connect too */
        setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
        if (connect(fd, a->ai_addr, a->ai_addrlen) != 0) {
            why = errno;
            close(fd);
            fd = -1;
        }
    }
    freeaddrinfo(list);
    if (fd < 0)
        err_set(msg, ERR_IO, "no server answers at %s:%s: %s", p->host, p->port,
                why == EINPROGRESS || why == EAGAIN ? "no connection within 5 s" : strerror(why));
    return fd;
}

static bool send_all(int fd, const char *bytes, size_t len)
{
    while (len > 0) {
        ssize_t n = send(fd, bytes, len, MSG_NOSIGNAL);

        if (n <= 0)
            return false;
        bytes += n;
        len -= (size_t)n;
    }
    return true;
}

/* All of the answer: the server closes behind it. */
static enum err receive(int fd, struct buf *all)
{
    for (;;) {
        enum err err = buf_reserve(all, 65536);
        ssize_t n;

        if (err != ERR_OK)
            return err;
        n = recv(fd, buf_bytes(all) + all->len, 65536, 0);
        if (n < 0)
            return ERR_IO;
        if (n == 0)
            return ERR_OK;
        buf_added(all, (size_t)n);
        if (all->len > ANSWER_MAX)
            return ERR_LIMIT;
    }
}

static enum err split(const struct buf *all, int *status, struct buf *out)
{
    static const char start[] = "HTTP/1.1 ";
    const char *text = buf_bytes(all), *body;

    if (all->len < sizeof(start) + 3 || strncmp(text, start, sizeof(start) - 1) != 0)
        return ERR_BAD_FRAME;
    body = memmem(text, all->len, "\r\n\r\n", 4);
    if (body == NULL)
        return ERR_BAD_FRAME;
    body += 4;
    *status = (int)strtol(text + sizeof(start) - 1, NULL, 10);
    return buf_append(out, body, all->len - (size_t)(body - text));
}

static enum err exchange(int fd, const struct place *p, const char *path, const char *key,
                         int *status, struct buf *out)
{
    struct buf text = BUF_INIT;
    enum err err = buf_printf(&text, "GET %s HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n", path,
                              strchr(p->host, ':') == NULL ? p->host : "localhost");

    if (err == ERR_OK && key != NULL)
        err = buf_printf(&text, "Authorization: Bearer %s\r\n", key);
    if (err == ERR_OK)
        err = buf_puts(&text, "\r\n");
    if (err == ERR_OK && !send_all(fd, buf_bytes(&text), text.len))
        err = ERR_IO;
    if (text.len > 0)
        explicit_bzero(buf_bytes(&text), text.len);
    buf_clear(&text);
    if (err == ERR_OK)
        err = receive(fd, &text);
    if (err == ERR_OK)
        err = split(&text, status, out);
    buf_free(&text);
    return err;
}

enum err status_get(const char *url, const char *path, const char *key, int *status,
                    struct buf *out, struct err_msg *msg)
{
    struct place p;
    enum err err = parse_url(url, &p, msg);
    int fd;

    if (err != ERR_OK)
        return err;
    fd = connect_to(&p, msg);
    if (fd < 0)
        return ERR_IO;
    err = exchange(fd, &p, path, key, status, out);
    close(fd);
    if (err == ERR_OK)
        return ERR_OK;
    return err_set(msg, err, "%s:%s: %s", p.host, p.port,
                   err == ERR_BAD_FRAME ? "what answers there is no HTTP server"
                   : err == ERR_IO      ? "the answer did not come"
                                        : err_text(err));
}
