/* engine/engine_tok_bpe.c - byte-pair merging of one piece.
 *
 * The rule: of all adjacent pairs that have a merge, take the one of lowest rank, leftmost first, until
 * none is left.  Short pieces are done just so, by looking at every pair each time.
 *
 * Long pieces keep, for each rank that occurs, a list of the positions whose pair has that rank, and a
 * heap of those ranks.  Each position is in at most one list, so memory is fixed by the piece, and a
 * piece of one repeated character needs few lists that are walked in order, where one heap of all
 * positions would jump about in memory.
 *
 * The first of a list is also its leftmost, though entries are only ever added at the end: two places
 * where the same pair comes about go through the same merges, and of equal merges the left one is done
 * first, so the left place is never behind.  Taking a pair costs O(log n) at most. */
#include "engine/engine_tok_impl.h"

#include <string.h>

#include "base/mem.h"
#include "engine/engine_tok_utf8.h"

enum { SHORT_MAX = 64 };

struct tok_bpe_node {
    uint32_t id;
    uint32_t prev, next;   /* neighbours in the piece */
    uint32_t rank;         /* of the pair with next; TOK_NONE: no merge */
    uint32_t bprev, bnext; /* neighbours in the list of that rank */
};

struct tok_bpe_bucket {
    uint32_t rank; /* TOK_NONE: unused */
    uint32_t head, tail;
    bool in_heap;
};

void tok_bpe_free(struct tok_bpe *b)
{
    mem_free(b->ids);
    mem_free(b->nodes);
    mem_free(b->buckets);
    mem_free(b->heap);
    *b = (struct tok_bpe){0};
}

static enum err ids_reserve(struct engine_ids *ids, size_t n)
{
    if (ids->cap - ids->n < n) {
        size_t cap = ids->cap < 64 ? 64 : ids->cap, need, bytes;
        int32_t *grown;

        if (!mem_add(ids->n, n, &need))
            return ERR_NOMEM;
        while (cap < need)
            if (!mem_mul(cap, 2, &cap))
                return ERR_NOMEM;
        if (!mem_mul(cap, sizeof(*grown), &bytes))
            return ERR_NOMEM;
        grown = mem_try_realloc(ids->ids, bytes);
        if (grown == NULL)
            return ERR_NOMEM;
        ids->ids = grown;
        ids->cap = cap;
    }
    return ERR_OK;
}

enum err tok_ids_push(struct engine_ids *ids, const uint32_t *more, size_t n)
{
    if (ids_reserve(ids, n) != ERR_OK)
        return ERR_NOMEM;
    for (size_t i = 0; i < n; i++)
        ids->ids[ids->n + i] = (int32_t)more[i];
    ids->n += n;
    return ERR_OK;
}

/* Merge sym[n], n <= SHORT_MAX, in place; returns how many are left. */
static size_t merge_short(const struct engine_tok *t, uint32_t *sym, size_t n)
{
    uint32_t rank[SHORT_MAX], product[SHORT_MAX];

    for (size_t i = 0; i + 1 < n; i++) {
        const struct tok_merge *m = tok_merge_find(t, sym[i], sym[i + 1]);

        rank[i] = m != NULL ? m->rank : TOK_NONE;
        product[i] = m != NULL ? m->product : 0;
    }
    while (n > 1) {
        size_t best = 0, first;

        for (size_t i = 1; i + 1 < n; i++)
            if (rank[i] < rank[best])
                best = i;
        if (rank[best] == TOK_NONE)
            break;
        sym[best] = product[best];
        n--;
        memmove(sym + best + 1, sym + best + 2, (n - best - 1) * sizeof(*sym));
        if (best + 1 < n) {
            memmove(rank + best + 1, rank + best + 2, (n - best - 2) * sizeof(*rank));
            memmove(product + best + 1, product + best + 2, (n - best - 2) * sizeof(*product));
        }
        first = best > 0 ? best - 1 : 0;
        for (size_t i = first; i <= best && i + 1 < n; i++) {
            const struct tok_merge *m = tok_merge_find(t, sym[i], sym[i + 1]);

            rank[i] = m != NULL ? m->rank : TOK_NONE;
            product[i] = m != NULL ? m->product : 0;
        }
    }
    return n;
}

static enum err grow(void **p, size_t *cap, size_t need, size_t size)
{
    size_t want = *cap < 256 ? 256 : *cap, bytes;
    void *grown;

    if (*cap >= need)
        return ERR_OK;
    while (want < need)
        if (!mem_mul(want, 2, &want))
            return ERR_NOMEM;
    if (!mem_mul(want, size, &bytes))
        return ERR_NOMEM;
    grown = mem_try_realloc(*p, bytes);
    if (grown == NULL)
        return ERR_NOMEM;
    *p = grown;
    *cap = want;
    return ERR_OK;
}

/* Room for a piece of n symbols.  It can meet 3n ranks at most: one for each pair at the start and two
 * for each merge. */
static enum err long_prepare(const struct engine_tok *t, struct tok_bpe *b, size_t n)
{
    size_t ranks, size = 64;
    enum err err;

    if (n >= TOK_NONE / 4)
        return ERR_NOMEM;
    ranks = n * 3 < t->n_merges ? n * 3 : t->n_merges;
    while (size < ranks * 2)
        size *= 2;
    err = grow((void **)&b->nodes, &b->cap_nodes, n, sizeof(*b->nodes));
    if (err == ERR_OK)
        err = grow((void **)&b->buckets, &b->cap_buckets, size, sizeof(*b->buckets));
    if (err == ERR_OK)
        err = grow((void **)&b->heap, &b->cap_heap, ranks + 1, sizeof(*b->heap));
    if (err != ERR_OK)
        return err;
    memset(b->buckets, 0xff, size * sizeof(*b->buckets));
    b->mask = size - 1;
    b->n_heap = 0;
    return ERR_OK;
}

static struct tok_bpe_bucket *bucket_of(const struct engine_tok *t, struct tok_bpe *b,
                                        uint32_t rank)
{
    size_t at = (size_t)tok_mix(rank ^ t->seed) & b->mask;

    while (b->buckets[at].rank != rank) {
        if (b->buckets[at].rank == TOK_NONE) {
            b->buckets[at] = (struct tok_bpe_bucket){rank, TOK_NONE, TOK_NONE, false};
            break;
        }
        at = (at + 1) & b->mask;
    }
    return &b->buckets[at];
}

static void heap_push(struct tok_bpe *b, uint64_t key)
{
    size_t at = b->n_heap++;

    while (at > 0 && b->heap[(at - 1) / 2] > key) {
        b->heap[at] = b->heap[(at - 1) / 2];
        at = (at - 1) / 2;
    }
    b->heap[at] = key;
}

static void heap_pop(struct tok_bpe *b)
{
    uint64_t key = b->heap[--b->n_heap];
    size_t at = 0, child;

    while ((child = 2 * at + 1) < b->n_heap) {
        if (child + 1 < b->n_heap && b->heap[child + 1] < b->heap[child])
            child++;
        if (b->heap[child] >= key)
            break;
        b->heap[at] = b->heap[child];
        at = child;
    }
    b->heap[at] = key;
}

/* Put position p, whose pair has a rank, at the end of the list of that rank. */
static void list_enter(const struct engine_tok *t, struct tok_bpe *b, uint32_t p)
{
    struct tok_bpe_node *node = &b->nodes[p];
    struct tok_bpe_bucket *k = bucket_of(t, b, node->rank);

    node->bnext = TOK_NONE;
    node->bprev = k->tail;
    if (k->tail != TOK_NONE)
        b->nodes[k->tail].bnext = p;
    else
        k->head = p;
    k->tail = p;
    if (!k->in_heap) {
        k->in_heap = true;
        heap_push(b, (uint64_t)k->rank << 32 | (uint32_t)(k - b->buckets));
    }
}

static void list_leave(const struct engine_tok *t, struct tok_bpe *b, uint32_t p)
{
    struct tok_bpe_node *node = &b->nodes[p];
    struct tok_bpe_bucket *k;

    if (node->bprev != TOK_NONE && node->bnext != TOK_NONE) {
        b->nodes[node->bprev].bnext = node->bnext;
        b->nodes[node->bnext].bprev = node->bprev;
        return;
    }
    k = bucket_of(t, b, node->rank);
    if (node->bprev != TOK_NONE)
        b->nodes[node->bprev].bnext = node->bnext;
    else
        k->head = node->bnext;
    if (node->bnext != TOK_NONE)
        b->nodes[node->bnext].bprev = node->bprev;
    else
        k->tail = node->bprev;
}

static uint32_t rank_of(const struct engine_tok *t, const struct tok_bpe *b, uint32_t p)
{
    uint32_t next = b->nodes[p].next;
    const struct tok_merge *m;

    if (next == TOK_NONE)
        return TOK_NONE;
    m = tok_merge_find(t, b->nodes[p].id, b->nodes[next].id);
    return m != NULL ? m->rank : TOK_NONE;
}

/* The pair at p changed: move p to the list of its new rank. */
static void re_rank(const struct engine_tok *t, struct tok_bpe *b, uint32_t p)
{
    struct tok_bpe_node *node = &b->nodes[p];

    if (node->rank != TOK_NONE)
        list_leave(t, b, p);
    node->rank = rank_of(t, b, p);
    if (node->rank != TOK_NONE)
        list_enter(t, b, p);
}

static void merge_at(const struct engine_tok *t, struct tok_bpe *b, uint32_t p)
{
    struct tok_bpe_node *node = &b->nodes[p];
    struct tok_bpe_node *right = &b->nodes[node->next];

    if (right->rank != TOK_NONE)
        list_leave(t, b, node->next);
    node->id = t->products[node->rank];
    node->next = right->next;
    if (node->next != TOK_NONE)
        b->nodes[node->next].prev = p;
    if (node->prev != TOK_NONE)
        re_rank(t, b, node->prev);
    re_rank(t, b, p);
}

static enum err merge_long(const struct engine_tok *t, struct tok_bpe *b)
{
    size_t n = b->n_ids, kept = 0;
    enum err err = long_prepare(t, b, n);

    if (err != ERR_OK)
        return err;
    for (uint32_t i = 0; i < n; i++) {
        struct tok_bpe_node *node = &b->nodes[i];

        node->id = b->ids[i];
        node->prev = i > 0 ? i - 1 : TOK_NONE;
        node->next = i + 1 < n ? i + 1 : TOK_NONE;
    }
    for (uint32_t i = 0; i < n; i++) {
        b->nodes[i].rank = rank_of(t, b, i);
        if (b->nodes[i].rank != TOK_NONE)
            list_enter(t, b, i);
    }
    while (b->n_heap > 0) {
        struct tok_bpe_bucket *k = &b->buckets[(uint32_t)b->heap[0]];

        if (k->head == TOK_NONE) {
            k->in_heap = false;
            heap_pop(b);
            continue;
        }
        merge_at(t, b, k->head);
    }
    for (uint32_t p = 0; p != TOK_NONE; p = b->nodes[p].next)
        b->ids[kept++] = b->nodes[p].id;
    b->n_ids = kept;
    return ERR_OK;
}

/* ---- one symbol repeated -------------------------------------------------------------------------- */

struct run {
    uint32_t id;
    size_t count;
};
enum { RUNS_MAX = 64 };

static uint32_t pair_rank(const struct engine_tok *t, uint32_t left, uint32_t right)
{
    const struct tok_merge *m = tok_merge_find(t, left, right);

    return m != NULL ? m->rank : TOK_NONE;
}

/* Drop empty runs and join neighbours of the same symbol. */
static size_t runs_tidy(struct run *runs, size_t n)
{
    size_t kept = 0;

    for (size_t i = 0; i < n; i++) {
        if (runs[i].count == 0)
            continue;
        if (kept > 0 && runs[kept - 1].id == runs[i].id)
            runs[kept - 1].count += runs[i].count;
        else
            runs[kept++] = runs[i];
    }
    return kept;
}

/* The pair of lowest rank, leftmost first: inside a run (*self) or between it and the next. */
static uint32_t runs_best(const struct engine_tok *t, const struct run *runs, size_t n, size_t *at,
                          bool *self)
{
    uint32_t best = TOK_NONE, rank;

    for (size_t i = 0; i < n; i++) {
        rank = runs[i].count > 1 ? pair_rank(t, runs[i].id, runs[i].id) : TOK_NONE;
        if (rank < best) {
            best = rank;
            *at = i;
            *self = true;
        }
        rank = i + 1 < n ? pair_rank(t, runs[i].id, runs[i + 1].id) : TOK_NONE;
        if (rank < best) {
            best = rank;
            *at = i;
            *self = false;
        }
    }
    return best;
}

/* Merging a whole run at once is right if no pair that comes about half-way would go first. */
static bool run_is_plain(const struct engine_tok *t, const struct run *runs, size_t at,
                         uint32_t rank)
{
    uint32_t id = runs[at].id, product = t->products[rank];

    return pair_rank(t, product, id) > rank && pair_rank(t, product, product) > rank &&
           (at == 0 || pair_rank(t, runs[at - 1].id, product) > rank);
}

/* The general way needs 24 bytes of memory for each symbol and walks all of it several times; a piece
 * that is one symbol repeated, as attackers send, is done on run lengths instead.  runs holds one run at
 * the call; returns how many there are after merging, 0 if the general way must be taken. */
static size_t merge_runs(const struct engine_tok *t, struct run *runs)
{
    size_t n = 1, at = 0;
    bool self = false;
    uint32_t rank;

    while ((rank = runs_best(t, runs, n, &at, &self)) != TOK_NONE) {
        struct run made = {t->products[rank], 1};

        if (n + 2 > RUNS_MAX || (self && !run_is_plain(t, runs, at, rank)))
            return 0;
        if (self) {
            made.count = runs[at].count / 2;
            runs[at].count %= 2;
        } else {
            runs[at].count--;
            at++;
            runs[at].count--;
        }
        memmove(runs + at + 1, runs + at, (n - at) * sizeof(*runs));
        runs[at] = made;
        n = runs_tidy(runs, n + 1);
    }
    return n;
}

/* *done: the piece was one symbol repeated and its ids are in out. */
static enum err merge_repeated(const struct engine_tok *t, const struct tok_bpe *b,
                               struct engine_ids *out, bool *done)
{
    struct run runs[RUNS_MAX + 1] = {{b->ids[0], b->n_ids}};
    size_t n, total = 0;

    *done = false;
    for (size_t i = 1; i < b->n_ids; i++)
        if (b->ids[i] != b->ids[0])
            return ERR_OK;
    n = merge_runs(t, runs);
    if (n == 0)
        return ERR_OK;
    *done = true;
    for (size_t i = 0; i < n; i++)
        total += runs[i].count;
    if (ids_reserve(out, total) != ERR_OK)
        return ERR_NOMEM;
    for (size_t i = 0; i < n; i++)
        for (size_t k = 0; k < runs[i].count; k++)
            out->ids[out->n++] = (int32_t)runs[i].id;
    return ERR_OK;
}

static enum err symbols_bytes(const struct engine_tok *t, struct tok_bpe *b, const char *s,
                              size_t len)
{
    enum err err = grow((void **)&b->ids, &b->cap_ids, len, sizeof(*b->ids));

    if (err != ERR_OK)
        return err;
    for (size_t i = 0; i < len; i++)
        b->ids[i] = t->byte_ids[(unsigned char)s[i]];
    b->n_ids = len;
    return ERR_OK;
}

static uint32_t char_id(const struct engine_tok *t, const char *s, size_t n)
{
    return n == 1 ? t->ascii_ids[(unsigned char)s[0]] : tok_find_model(t, s, n);
}

/* Push the <0xXX> tokens of one character; false if one of them is missing. */
static bool push_bytes(const struct engine_tok *t, struct tok_bpe *b, const char *s, size_t n)
{
    if (!t->byte_fallback)
        return false;
    for (size_t i = 0; i < n; i++) {
        uint32_t id = t->byte_ids[(unsigned char)s[i]];

        if (id == TOK_NONE)
            return false;
        b->ids[b->n_ids + i] = id;
    }
    b->n_ids += n;
    return true;
}

/* One symbol per character; what has no token becomes bytes, or the unknown token.  An unknown one is
 * held until the next known character, as the library that defines these files does. */
static enum err symbols_chars(const struct engine_tok *t, struct tok_bpe *b, const char *s,
                              size_t len)
{
    const char *p = s, *end = s + len;
    bool unk_held = false;
    enum err err = grow((void **)&b->ids, &b->cap_ids, len + 1, sizeof(*b->ids));

    if (err != ERR_OK)
        return err;
    b->n_ids = 0;
    while (p < end) {
        uint32_t cp, id;
        size_t n = tok_utf8_get(p, end, &cp);

        if (n == 0)
            return ERR_INVALID;
        id = char_id(t, p, n);
        if (id != TOK_NONE) {
            if (unk_held)
                b->ids[b->n_ids++] = t->unk;
            unk_held = false;
            b->ids[b->n_ids++] = id;
        } else if (!push_bytes(t, b, p, n) && t->unk != TOK_NONE) {
            if (unk_held && !t->fuse_unk)
                b->ids[b->n_ids++] = t->unk;
            unk_held = true;
        }
        p += n;
    }
    if (unk_held)
        b->ids[b->n_ids++] = t->unk;
    return ERR_OK;
}

static enum err make_symbols(const struct engine_tok *t, struct tok_bpe *b, const char *s,
                             size_t len)
{
    return t->byte_level ? symbols_bytes(t, b, s, len) : symbols_chars(t, b, s, len);
}

enum err tok_bpe_piece(const struct engine_tok *t, struct tok_bpe *b, const char *s, size_t len,
                       struct engine_ids *out)
{
    bool done;
    enum err err;

    if (len <= SHORT_MAX || t->ignore_merges) {
        uint32_t id = tok_find_raw(t, s, len);

        if (id != TOK_NONE && (t->tokens[id].flags & TOK_WHOLE) != 0)
            return tok_ids_push(out, &id, 1);
    }
    err = make_symbols(t, b, s, len);
    if (err != ERR_OK)
        return err;
    if (b->n_ids <= SHORT_MAX) {
        b->n_ids = merge_short(t, b->ids, b->n_ids);
    } else {
        err = merge_repeated(t, b, out, &done);
        if (err == ERR_OK && done)
            return ERR_OK;
        if (err == ERR_OK)
            err = merge_long(t, b);
    }
    return err == ERR_OK ? tok_ids_push(out, b->ids, b->n_ids) : err;
}

enum err tok_bpe_mark_whole(struct engine_tok *t)
{
    struct tok_bpe b = {0};
    enum err err = ERR_OK;

    for (uint32_t id = 0; id < t->n_tokens && err == ERR_OK; id++) {
        struct tok_token *token = &t->tokens[id];

        if (token->raw_len == 0)
            continue;
        if (t->ignore_merges) {
            /* A special token is never plain text, not even when it is a whole piece. */
            if ((token->flags & TOK_SPECIAL) == 0)
                token->flags |= TOK_WHOLE;
        } else if (token->raw_len <= SHORT_MAX) {
            err = make_symbols(t, &b, t->arena + token->raw_off, token->raw_len);
            if (err == ERR_OK && merge_short(t, b.ids, b.n_ids) == 1 && b.ids[0] == id)
                token->flags |= TOK_WHOLE;
        }
    }
    tok_bpe_free(&b);
    return err;
}
