/* base/mem.c - thin counters over the C allocator. */
#include "base/mem.h"

#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

static atomic_long fail_in = -1;
static atomic_size_t live;

static bool must_fail(void)
{
    return atomic_load_explicit(&fail_in, memory_order_relaxed) >= 0 &&
           atomic_fetch_sub(&fail_in, 1) == 0;
}

static void *counted(void *p)
{
    if (p != NULL)
        atomic_fetch_add_explicit(&live, 1, memory_order_relaxed);
    return p;
}

void *mem_try_alloc(size_t size)
{
    if (must_fail())
        return NULL;
    return counted(malloc(size > 0 ? size : 1));
}

void *mem_try_calloc(size_t count, size_t size)
{
    size_t total;

    if (must_fail() || !mem_mul(count, size, &total)) /* some allocators abort on it */
        return NULL;
    if (count == 0 || size == 0)
        count = size = 1;
    return counted(calloc(count, size));
}

void *mem_try_realloc(void *p, size_t size)
{
    void *grown;

    if (must_fail())
        return NULL;
    grown = realloc(p, size > 0 ? size : 1);
    return p == NULL ? counted(grown) : grown;
}

void *mem_try_aligned(size_t align, size_t size)
{
    void *p = NULL;

    if (must_fail() || posix_memalign(&p, align, size > 0 ? size : 1) != 0)
        return NULL;
    return counted(p);
}

char *mem_try_strndup(const char *s, size_t len)
{
    char *copy;

    if (len == SIZE_MAX)
        return NULL;
    copy = mem_try_alloc(len + 1);
    if (copy == NULL)
        return NULL;
    memcpy(copy, s, len);
    copy[len] = '\0';
    return copy;
}

char *mem_try_strdup(const char *s)
{
    return mem_try_strndup(s, strlen(s));
}

void mem_free(void *p)
{
    if (p != NULL)
        atomic_fetch_sub_explicit(&live, 1, memory_order_relaxed);
    free(p);
}

void mem_fail_at(long n)
{
    atomic_store(&fail_in, n);
}

size_t mem_live(void)
{
    return atomic_load(&live);
}
