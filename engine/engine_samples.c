/* engine/engine_samples.c - see the header.
 *
 * Every stride-th step is kept; when all places are taken every second one is dropped and the stride
 * doubles.  So what is left is evenly spaced, however many steps there were. */
#include "engine/engine_samples.h"

#include <stdbool.h>

static const uint64_t hour_ns = UINT64_C(3600) * 1000000000;

static bool worth_telling(uint64_t n, uint64_t n2, uint64_t b, uint64_t ctx, uint64_t ns)
{
    return (n > 0 || b > 0) && n <= 1u << 24 && n2 <= UINT64_C(1) << 50 && b <= WIRE_ITEMS_MAX &&
           ctx <= UINT64_C(1) << 40 && ns <= hour_ns;
}

static void thin_out(struct engine_samples *s)
{
    for (uint32_t i = 0; i < s->n / 2; i++)
        s->kept[i] = s->kept[2 * i];
    s->n /= 2;
    s->stride *= 2;
}

void engine_samples_add(struct engine_samples *s, uint64_t n, uint64_t n2, uint64_t b, uint64_t ctx,
                        uint64_t ns)
{
    Baton__StepSample *slot;

    if (!worth_telling(n, n2, b, ctx, ns))
        return;
    if (s->stride == 0)
        s->stride = 1;
    if (s->skip > 0) {
        s->skip--;
        return;
    }
    if (s->n == WIRE_SAMPLES_MAX)
        thin_out(s);
    s->skip = s->stride - 1;
    slot = &s->kept[s->n++];
    baton__step_sample__init(slot);
    slot->n = n;
    slot->n2 = n2;
    slot->b = b;
    slot->ctx = ctx;
    slot->ns = ns > 0 ? ns : 1;
}

void engine_samples_take(struct engine_samples *s, Baton__Report *m)
{
    for (uint32_t i = 0; i < s->n; i++) {
        s->out[i] = s->kept[i];
        s->list[i] = &s->out[i];
    }
    m->n_sample = s->n;
    m->sample = s->list;
    s->n = s->stride = s->skip = 0;
}
