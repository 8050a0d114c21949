/* engine/gpu_trouble.c - the first failure of this process's devices: kept, and logged once.
 *
 * What fails after it fails because of it: the first text is the one that a person needs. */
#include "engine/gpu.h"

#include <stdatomic.h>
#include <stdio.h>

#include "base/log.h"

enum { NONE, WRITING, WRITTEN };

static char trouble[320];
static atomic_int state;

const char *gpu_trouble(void)
{
    return atomic_load_explicit(&state, memory_order_acquire) == WRITTEN ? trouble : "";
}

enum err gpu_fail(const char *call, const char *text)
{
    int none = NONE;

    if (atomic_compare_exchange_strong(&state, &none, WRITING)) {
        snprintf(trouble, sizeof(trouble), "%s: %s", call, text);
        atomic_store_explicit(&state, WRITTEN, memory_order_release);
        LOG_ERROR("gpu", "device call failed", "call=\"%s\" text=\"%s\"", call, text);
    }
    return ERR_DEVICE;
}
