/* kvtransfer/kvt_fence.c - see the header for the contract.
 *
 * The filter is a classic BPF program that the kernel runs on packets for the listening socket before
 * TCP looks at them.  Connections inherit the program that was there when they came, which passes
 * their own address for ever; so tightening it does not cut them. */
#include "kvtransfer/kvt_fence.h"

#include <dirent.h>
#include <netinet/in.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include <linux/filter.h>
#include <sys/socket.h>

#include "base/log.h"
#include "base/mem.h"

enum { V4_SOURCE = 12, V6_SOURCE = 8, PASS = 0x7fffffff, INSNS_PER_V6 = 9, INSNS_MAX = 4096 };

struct kvt_fence_entry {
    bool v6;
    uint32_t word[4]; /* host order; v4 uses the first */
    uint32_t users;
};

/* Calls found for each listening TCP socket of this process. */
static void each_listener(struct kvt_fence *f, void (*found)(struct kvt_fence *f, int fd))
{
    DIR *d = opendir("/proc/self/fd");

    if (d == NULL)
        return;
    for (struct dirent *e; (e = readdir(d)) != NULL;) {
        int fd = (int)strtol(e->d_name, NULL, 10);
        int listening = 0, domain = 0;
        socklen_t len = sizeof(listening), domain_len = sizeof(domain);

        if (e->d_name[0] == '.' || fd == dirfd(d))
            continue;
        if (getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listening, &len) == 0 && listening != 0 &&
            getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &domain_len) == 0 &&
            (domain == AF_INET || domain == AF_INET6))
            found(f, fd);
    }
    closedir(d);
}

static void remember(struct kvt_fence *f, int fd)
{
    if (f->n_before < sizeof(f->before) / sizeof(f->before[0]))
        f->before[f->n_before++] = fd;
}

static void take_new(struct kvt_fence *f, int fd)
{
    for (size_t i = 0; i < f->n_before; i++) {
        if (f->before[i] == fd)
            return;
    }
    if (f->n_fds < KVT_FENCE_SOCKETS)
        f->fd[f->n_fds++] = fd;
}

static struct sock_filter load(uint16_t size, int32_t offset)
{
    return (struct sock_filter)BPF_STMT((uint16_t)(BPF_LD | size | BPF_ABS),
                                        (uint32_t)(SKF_NET_OFF + offset));
}

static struct sock_filter if_equal(uint32_t value, uint8_t yes, uint8_t no)
{
    return (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, value, yes, no);
}

static struct sock_filter verdict(uint32_t value)
{
    return (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, value);
}

/* version == 4: one load, then (compare, pass) per address; else per address four (load, compare) and
 * pass.  A conditional jump only spans 255 instructions, hence a pass per address. */
static size_t program(const struct kvt_fence *f, struct sock_filter *p)
{
    size_t n = 0, jump;

    p[n++] = load(BPF_B, 0);
    p[n++] = (struct sock_filter)BPF_STMT(BPF_ALU | BPF_RSH | BPF_K, 4);
    p[n++] = if_equal(4, 1, 0);
    jump = n++; /* to the part for IPv6 */
    p[n++] = load(BPF_W, V4_SOURCE);
    for (size_t i = 0; i < f->n_entries; i++) {
        if (f->entries[i].v6)
            continue;
        p[n++] = if_equal(f->entries[i].word[0], 0, 1);
        p[n++] = verdict(PASS);
    }
    p[n++] = verdict(0);
    p[jump] = (struct sock_filter)BPF_STMT(BPF_JMP | BPF_JA, (uint32_t)(n - jump - 1));
    for (size_t i = 0; i < f->n_entries && n + INSNS_PER_V6 + 1 < INSNS_MAX; i++) {
        if (!f->entries[i].v6)
            continue;
        for (uint8_t k = 0; k < 4; k++) {
            p[n++] = load(BPF_W, V6_SOURCE + 4 * k);
            p[n++] = if_equal(f->entries[i].word[k], 0, (uint8_t)(7 - 2 * k));
        }
        p[n++] = verdict(PASS);
    }
    p[n++] = verdict(0);
    return n;
}

static enum err attach(struct kvt_fence *f)
{
    struct sock_filter *p;
    struct sock_fprog prog;
    enum err err = ERR_OK;

    if (f->n_fds == 0)
        return ERR_OK;
    p = mem_try_calloc(INSNS_MAX, sizeof(*p));
    if (p == NULL)
        return ERR_NOMEM;
    prog.len = (unsigned short)program(f, p);
    prog.filter = p;
    for (size_t i = 0; i < f->n_fds; i++) {
        if (setsockopt(f->fd[i], SOL_SOCKET, SO_ATTACH_FILTER, &prog, sizeof(prog)) != 0)
            err = ERR_IO;
    }
    mem_free(p);
    return err;
}

void kvt_fence_before(struct kvt_fence *f)
{
    memset(f, 0, sizeof(*f));
    each_listener(f, remember);
}

enum err kvt_fence_close_all(struct kvt_fence *f, struct err_msg *msg)
{
    each_listener(f, take_new);
    if (attach(f) != ERR_OK)
        return err_set(
            msg, ERR_IO,
            "KV transfer: the kernel refuses a socket filter for UCX's TCP port, which would "
            "be open to anyone without it");
    return ERR_OK;
}

static bool entry_of(const struct sockaddr_storage *addr, struct kvt_fence_entry *out)
{
    memset(out, 0, sizeof(*out));
    if (addr->ss_family == AF_INET) {
        out->word[0] = ntohl(((const struct sockaddr_in *)addr)->sin_addr.s_addr);
        return true;
    }
    if (addr->ss_family != AF_INET6)
        return false;
    out->v6 = true;
    for (size_t k = 0; k < 4; k++) {
        const uint8_t *b = ((const struct sockaddr_in6 *)addr)->sin6_addr.s6_addr + 4 * k;

        out->word[k] = (uint32_t)b[0] << 24 | (uint32_t)b[1] << 16 | (uint32_t)b[2] << 8 | b[3];
    }
    return true;
}

static struct kvt_fence_entry *find(struct kvt_fence *f, const struct kvt_fence_entry *e)
{
    for (size_t i = 0; i < f->n_entries; i++) {
        if (f->entries[i].v6 == e->v6 && memcmp(f->entries[i].word, e->word, sizeof(e->word)) == 0)
            return &f->entries[i];
    }
    return NULL;
}

enum err kvt_fence_allow(struct kvt_fence *f, const struct sockaddr_storage *addr)
{
    struct kvt_fence_entry e, *known;
    enum err err;

    if (!entry_of(addr, &e))
        return ERR_INVALID;
    known = find(f, &e);
    if (known != NULL) {
        known->users++;
        return ERR_OK;
    }
    if (f->n_entries == KVT_FENCE_PEERS)
        return ERR_LIMIT;
    if (f->entries == NULL)
        f->entries = mem_try_calloc(KVT_FENCE_PEERS, sizeof(*f->entries));
    if (f->entries == NULL)
        return ERR_NOMEM;
    e.users = 1;
    f->entries[f->n_entries++] = e;
    err = attach(f);
    if (err != ERR_OK)
        f->n_entries--;
    return err;
}

void kvt_fence_disallow(struct kvt_fence *f, const struct sockaddr_storage *addr)
{
    struct kvt_fence_entry e, *known;

    if (!entry_of(addr, &e) || (known = find(f, &e)) == NULL || --known->users > 0)
        return;
    *known = f->entries[--f->n_entries];
    if (attach(f) != ERR_OK)
        LOG_WARN("kvt", "cannot tighten the filter of UCX's TCP port", "addresses=%zu",
                 f->n_entries);
}

void kvt_fence_fini(struct kvt_fence *f)
{
    mem_free(f->entries);
    f->entries = NULL;
    f->n_entries = 0;
}
