/* engine/tp/tp_shard.c - see the header. */
#include "engine/tp/tp_shard.h"

#include <stdio.h>

/* Vocabulary rows of every rank but the last. */
static uint64_t vocab_share(const struct engine_model_config *m, struct tp_grain g, uint32_t tp)
{
    uint64_t each = ((uint64_t)m->vocab + tp - 1) / tp;

    return (each + g.vocab - 1) / g.vocab * g.vocab;
}

/* The first number that stands in the way, in words; false: tp fits. */
static bool misfit(const struct engine_model_config *m, struct tp_grain g, uint32_t tp, char *what,
                   size_t size)
{
    if (m->n_kv_heads % tp != 0)
        snprintf(what, size, "does not divide the model's %u key/value heads", m->n_kv_heads);
    else if (m->n_heads % tp != 0)
        snprintf(what, size, "does not divide the model's %u attention heads", m->n_heads);
    else if (m->ffn % tp != 0)
        snprintf(what, size, "does not divide the model's feed-forward width of %u", m->ffn);
    else if (m->ffn / tp % g.ffn != 0)
        snprintf(what, size,
                 "leaves each rank %u of the feed-forward width of %u, no multiple of %u",
                 m->ffn / tp, m->ffn, g.ffn);
    else if (vocab_share(m, g, tp) * (tp - 1) >= m->vocab)
        snprintf(what, size,
                 "leaves the last rank nothing of the vocabulary of %u, dealt out by %u", m->vocab,
                 g.vocab);
    else
        return false;
    return true;
}

static enum err refuse(const struct engine_model_config *m, struct tp_grain g, uint32_t tp,
                       const char *what, struct err_msg *msg)
{
    char unused[160], list[256] = "";
    size_t len = 0;

    for (uint32_t n = 1; n <= TP_MAX && len + 8 < sizeof(list); n++) {
        if (n == 1 || !misfit(m, g, n, unused, sizeof(unused)))
            len += (size_t)snprintf(list + len, sizeof(list) - len, "%s%u", n > 1 ? ", " : "", n);
    }
    return err_set(msg, ERR_INVALID, "engine: tp %u %s; possible with this model: %s", tp, what,
                   list);
}

static struct tp_range deal(uint32_t total, uint32_t rank, uint32_t tp)
{
    return (struct tp_range){total / tp * rank, total / tp};
}

enum err tp_shard_of(const struct engine_model_config *m, struct tp_grain grain, uint32_t rank,
                     uint32_t tp, struct tp_shard *out, struct err_msg *msg)
{
    struct tp_grain g = {grain.ffn != 0 ? grain.ffn : 1, grain.vocab != 0 ? grain.vocab : 1};
    uint32_t share;
    char what[160];

    if (tp < 1 || tp > TP_MAX || rank >= tp)
        return err_set(msg, ERR_INVALID, "engine: tp is %u, allowed are 1 .. %d", tp, TP_MAX);
    if (tp > 1 && misfit(m, g, tp, what, sizeof(what)))
        return refuse(m, g, tp, what, msg);
    share = tp > 1 ? (uint32_t)vocab_share(m, g, tp) : m->vocab;
    *out = (struct tp_shard){.rank = rank,
                             .tp = tp,
                             .heads = deal(m->n_heads, rank, tp),
                             .kv_heads = deal(m->n_kv_heads, rank, tp),
                             .ffn = deal(m->ffn, rank, tp),
                             .vocab = {share * rank, share}};
    if (rank == tp - 1)
        out->vocab.n = m->vocab - out->vocab.first;
    return ERR_OK;
}

static struct tp_range times(struct tp_range r, uint32_t by)
{
    return (struct tp_range){r.first * by, r.n * by};
}

struct tp_slice tp_slice_of(const struct tp_shard *s, const struct engine_model_config *m,
                            enum tp_tensor tensor)
{
    const struct tp_range hidden = {0, m->hidden};

    switch (tensor) {
    case TP_EMBEDDING:
        return (struct tp_slice){{0, m->vocab}, hidden};
    case TP_NORM:
        break;
    case TP_Q:
        return (struct tp_slice){times(s->heads, m->head_dim), hidden};
    case TP_K:
    case TP_V:
        return (struct tp_slice){times(s->kv_heads, m->head_dim), hidden};
    case TP_O:
        return (struct tp_slice){hidden, times(s->heads, m->head_dim)};
    case TP_GATE:
    case TP_UP:
        return (struct tp_slice){s->ffn, hidden};
    case TP_DOWN:
        return (struct tp_slice){hidden, s->ffn};
    case TP_HEAD:
        return (struct tp_slice){s->vocab, hidden};
    }
    return (struct tp_slice){hidden, {0, 1}};
}

bool tp_adds_bias(const struct tp_shard *s, enum tp_tensor tensor)
{
    return s->rank == 0 || (tensor != TP_O && tensor != TP_DOWN);
}
