/* base/buf.h - a growable run of bytes: appended at the end, consumed at the front.
 *
 *   BUF_INIT (or all zero) -> append / consume -> buf_free, after which it is empty and usable again
 *
 * Thread: the owner's.  Growth doubles; a failed append leaves the content as it was. */
#ifndef BASE_BUF_H
#define BASE_BUF_H

#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

struct buf {
    /* read-only */
    char *data; /* start of the unconsumed bytes is data + head */
    size_t head;
    size_t len; /* unconsumed bytes */
    /* private */
    size_t cap;
};
#define BUF_INIT      \
    {                 \
        NULL, 0, 0, 0 \
    }

static inline char *buf_bytes(const struct buf *b)
{
    return b->data + b->head;
}

/* Room for extra more bytes after the content.  ERR_NOMEM: unchanged. */
MUST_USE enum err buf_reserve(struct buf *b, size_t extra);
MUST_USE enum err buf_append(struct buf *b, const void *bytes, size_t len);
MUST_USE enum err buf_puts(struct buf *b, const char *s);
MUST_USE enum err buf_printf(struct buf *b, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
/* After buf_reserve: n bytes were written directly behind the content. */
void buf_added(struct buf *b, size_t n);
/* Drop n <= len bytes from the front. */
void buf_consume(struct buf *b, size_t n);
void buf_clear(struct buf *b); /* empty, memory kept */
void buf_free(struct buf *b);

#endif
