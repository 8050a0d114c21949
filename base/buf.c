/* base/buf.c - see the header for the contract. */
#include "base/buf.h"

#include <assert.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/mem.h"

enum { BUF_MIN_CAP = 256 };

static void move_to_front(struct buf *b)
{
    if (b->head > 0)
        memmove(b->data, b->data + b->head, b->len);
    b->head = 0;
}

/* The content moves to the front only when at least as much was consumed as is left.  Otherwise the
 * buffer grows, even if the bytes would just fit after a move: a nearly full buffer that is eaten and
 * filled in small pieces would else be moved whole for each of them. */
enum err buf_reserve(struct buf *b, size_t extra)
{
    size_t need, cap;
    char *grown;

    if (b->data != NULL && b->cap - b->head - b->len >= extra)
        return ERR_OK;
    if (!mem_add(b->len, extra, &need))
        return ERR_NOMEM;
    if (b->data != NULL && need <= b->cap && b->head >= b->len) {
        move_to_front(b);
        return ERR_OK;
    }
    cap = b->cap < BUF_MIN_CAP ? BUF_MIN_CAP : b->cap * 2;
    while (cap < need) {
        if (!mem_mul(cap, 2, &cap))
            return ERR_NOMEM;
    }
    grown = mem_try_realloc(b->data, cap);
    if (grown == NULL && need > b->cap)
        return ERR_NOMEM;
    if (grown != NULL) {
        b->data = grown;
        b->cap = cap;
    }
    move_to_front(b);
    return ERR_OK;
}

void buf_added(struct buf *b, size_t n)
{
    assert(n <= b->cap - b->head - b->len);
    b->len += n;
}

enum err buf_append(struct buf *b, const void *bytes, size_t len)
{
    enum err err = buf_reserve(b, len);

    if (err != ERR_OK)
        return err;
    if (len > 0)
        memcpy(b->data + b->head + b->len, bytes, len);
    b->len += len;
    return ERR_OK;
}

enum err buf_puts(struct buf *b, const char *s)
{
    return buf_append(b, s, strlen(s));
}

enum err buf_printf(struct buf *b, const char *format, ...)
{
    va_list args, again;
    size_t room;
    int n;
    enum err err;

    err = buf_reserve(b, 64);
    if (err != ERR_OK)
        return err;
    room = b->cap - b->head - b->len;
    va_start(args, format);
    va_copy(again, args);
    n = vsnprintf(b->data + b->head + b->len, room, format, args);
    va_end(args);
    if (n >= 0 && (size_t)n >= room) {
        err = buf_reserve(b, (size_t)n + 1);
        if (err == ERR_OK)
            n = vsnprintf(b->data + b->head + b->len, (size_t)n + 1, format, again);
    }
    va_end(again);
    if (err != ERR_OK)
        return err;
    if (n < 0)
        return ERR_INVALID;
    b->len += (size_t)n;
    return ERR_OK;
}

void buf_consume(struct buf *b, size_t n)
{
    assert(n <= b->len);
    b->len -= n;
    b->head = b->len == 0 ? 0 : b->head + n;
}

void buf_clear(struct buf *b)
{
    b->head = b->len = 0;
}

void buf_free(struct buf *b)
{
    mem_free(b->data);
    *b = (struct buf)BUF_INIT;
}
