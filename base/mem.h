/* base/mem.h - host allocation with a live count and a failure switch for tests, checked size
 * arithmetic, and nothing else.  The allocator behind it is jemalloc where it is linked.
 *
 * Thread: any.  No function here ends the process: every allocation may return NULL. */
#ifndef BASE_MEM_H
#define BASE_MEM_H

#include <stdbool.h>
#include <stddef.h>

void *mem_try_alloc(size_t size);                 /* uninitialised, or NULL; size 0 gives 1 byte */
void *mem_try_calloc(size_t count, size_t size);  /* zeroed, or NULL; count*size may not overflow */
void *mem_try_realloc(void *p, size_t size);      /* NULL leaves p as it was; p may be NULL */
void *mem_try_aligned(size_t align, size_t size); /* align: a power of two >= sizeof(void *) */
char *mem_try_strdup(const char *s);
char *mem_try_strndup(const char *s, size_t len); /* copies exactly len bytes and adds a NUL */
void mem_free(void *p);                           /* NULL is fine */

/* false on overflow; *out is then untouched.  For every size that comes from outside. */
static inline bool mem_mul(size_t a, size_t b, size_t *out)
{
    size_t r;

    if (__builtin_mul_overflow(a, b, &r))
        return false;
    *out = r;
    return true;
}
static inline bool mem_add(size_t a, size_t b, size_t *out)
{
    size_t r;

    if (__builtin_add_overflow(a, b, &r))
        return false;
    *out = r;
    return true;
}

/* Tests only.  Fail the n-th allocation from now (0 = the next one); a negative n turns it off. */
void mem_fail_at(long n);
size_t mem_live(void); /* blocks handed out and not yet freed */

#endif
