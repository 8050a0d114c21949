/* tests/engine_ref/engine_run.c - run the CPU engine over given token ids and print what it says, for
 * the comparison with reference.py.
 *
 *   engine_run DIR [--isa best|portable|avx2|avx512|avx512bf16] [--threads N] [--tp N]
 *              [--block-tokens N] [--chunk N] [--generate N] [--logits FILE] --ids 1,2,3 [--ids 4,5 ...]
 *
 * All sequences run in the same steps.  Prints one line of greedy tokens for each.  FILE gets a record
 * for each sampled token: u32 sequence, u32 index, float logits[vocab].  Blocks are handed out in a
 * scattered order from a pool full of NaN. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "engine/cpu/cpu_engine.h"

enum { SEQS_MAX = 64, TOKENS_MAX = 8192 };

struct seq {
    int32_t tokens[TOKENS_MAX];
    uint32_t n_prompt, n, done; /* done: tokens whose KV is stored */
    uint32_t *blocks;
};

struct options {
    const char *dir, *logits;
    enum cpu_isa isa;
    bool best;
    uint32_t threads, tp, block_tokens, chunk, generate, n_seqs;
};

static struct seq seqs[SEQS_MAX];

static bool parse_ids(const char *text, struct seq *s)
{
    char *end;

    for (s->n = 0; *text != '\0' && s->n < TOKENS_MAX / 2; text = *end == ',' ? end + 1 : end) {
        long id = strtol(text, &end, 10);

        if (end == text)
            return false;
        s->tokens[s->n++] = (int32_t)id;
    }
    s->n_prompt = s->n;
    return s->n > 0;
}

static bool parse_isa(const char *name, struct options *o)
{
    static const char *const names[CPU_ISA_COUNT] = {"portable", "avx2", "avx512", "avx512bf16"};

    o->best = strcmp(name, "best") == 0;
    for (int i = 0; i < CPU_ISA_COUNT; i++) {
        if (strcmp(names[i], name) == 0) {
            o->isa = (enum cpu_isa)i;
            return true;
        }
    }
    return o->best;
}

static bool parse_args(int argc, char **argv, struct options *o)
{
    *o = (struct options){.best = true, .threads = 1, .chunk = 512, .generate = 1};
    if (argc < 2)
        return false;
    o->dir = argv[1];
    for (int i = 2; i + 1 < argc; i += 2) {
        const char *key = argv[i], *value = argv[i + 1];
        uint32_t number = (uint32_t)strtoul(value, NULL, 10);

        if (strcmp(key, "--isa") == 0 && parse_isa(value, o))
            continue;
        if (strcmp(key, "--threads") == 0)
            o->threads = number;
        else if (strcmp(key, "--tp") == 0)
            o->tp = number;
        else if (strcmp(key, "--block-tokens") == 0)
            o->block_tokens = number;
        else if (strcmp(key, "--chunk") == 0 && number > 0)
            o->chunk = number;
        else if (strcmp(key, "--generate") == 0)
            o->generate = number;
        else if (strcmp(key, "--logits") == 0)
            o->logits = value;
        else if (strcmp(key, "--ids") != 0 || o->n_seqs == SEQS_MAX ||
                 !parse_ids(value, &seqs[o->n_seqs++]))
            return false;
    }
    return o->n_seqs > 0;
}

/* Every sequence gets blocks for its whole life, scattered over the pool. */
static void *make_pool(struct engine *e, const struct options *o)
{
    const struct wire_kv_layout *kv = &engine_info(e)->kv;
    uint32_t total = 0, at = 0;
    void *pool;

    for (uint32_t i = 0; i < o->n_seqs; i++)
        total += (seqs[i].n_prompt + o->generate) / kv->block_tokens + 1;
    pool = mem_try_aligned(64, engine_pool_bytes(e, total));
    if (pool == NULL || engine_attach_pool(e, pool, total) != ERR_OK)
        exit(1);
    memset(pool, 0xff, engine_pool_bytes(e, total));
    for (uint32_t i = 0; i < o->n_seqs; i++) {
        uint32_t n = (seqs[i].n_prompt + o->generate) / kv->block_tokens + 1;

        seqs[i].blocks = mem_try_calloc(n, sizeof(uint32_t));
        for (uint32_t k = 0; k < n; k++, at++)
            seqs[i].blocks[k] = at % 2 == 0 ? at / 2 : total - 1 - at / 2;
    }
    return pool;
}

static void record(FILE *f, uint32_t seq, uint32_t index, const float *logits, uint32_t vocab)
{
    uint32_t head[2] = {seq, index};

    if (f == NULL)
        return;
    fwrite(head, sizeof(head), 1, f);
    fwrite(logits, sizeof(float), vocab, f);
}

/* One step over all unfinished sequences.  false: nothing was left to do. */
static bool step(struct engine *e, const struct options *o, FILE *f, float *logits)
{
    const struct engine_info *info = engine_info(e);
    struct engine_slot slots[SEQS_MAX];
    uint32_t who[SEQS_MAX], n = 0, budget = info->max_step_tokens;
    struct engine_sampling greedy;

    engine_sampling_defaults(&greedy);
    for (uint32_t i = 0; i < o->n_seqs; i++) {
        struct seq *s = &seqs[i];
        uint32_t left = s->n - s->done, take = left < o->chunk ? left : o->chunk;

        if (s->n - s->n_prompt >= o->generate || budget == 0)
            continue;
        take = take < budget ? take : budget;
        budget -= take;
        slots[n] =
            (struct engine_slot){.tokens = s->tokens + s->done,
                                 .n_tokens = take,
                                 .position = s->done,
                                 .blocks = s->blocks,
                                 .n_blocks = (s->done + take - 1) / info->kv.block_tokens + 1,
                                 .sample = take == left,
                                 .sampling = &greedy,
                                 .sample_index = s->n - s->n_prompt};
        who[n++] = i;
    }
    if (n == 0)
        return false;
    if (engine_step(e, slots, n, 0, NULL, NULL) != ERR_OK)
        exit(1);
    for (uint32_t k = 0; k < n; k++) {
        struct seq *s = &seqs[who[k]];

        if (slots[k].result != ERR_OK) {
            fprintf(stderr, "slot %u: %s\n", who[k], err_name(slots[k].result));
            exit(1);
        }
        s->done += slots[k].n_tokens;
        if (!slots[k].sample)
            continue;
        record(f, who[k], s->n - s->n_prompt, logits + (size_t)k * info->vocab, info->vocab);
        s->tokens[s->n++] = slots[k].out.token;
    }
    return true;
}

int main(int argc, char **argv)
{
    struct options o;
    struct engine_config config = {.backend = "cpu", .max_batch = SEQS_MAX};
    struct err_msg msg = {""};
    struct engine *e = NULL;
    float *logits;
    void *pool;
    FILE *f = NULL;
    enum err err;

    if (!parse_args(argc, argv, &o)) {
        fprintf(stderr, "see the head of tests/engine_ref/engine_run.c\n");
        return 2;
    }
    config.model_dir = o.dir;
    config.threads = o.threads;
    config.tp = o.tp;
    config.block_tokens = o.block_tokens;
    err = o.best ? engine_open(&config, &msg, &e) : cpu_engine_open_isa(&config, o.isa, &msg, &e);
    if (err != ERR_OK) {
        fprintf(stderr, "%s: %s\n", err_name(err), msg.text);
        return err == ERR_UNSUPPORTED ? 77 : 1;
    }
    pool = make_pool(e, &o);
    logits = mem_try_calloc((size_t)SEQS_MAX * engine_info(e)->vocab, sizeof(float));
    cpu_engine_watch_logits(e, logits);
    if (o.logits != NULL)
        f = fopen(o.logits, "wb");
    while (step(e, &o, f, logits))
        ;
    if (f != NULL)
        fclose(f);
    for (uint32_t i = 0; i < o.n_seqs; i++) {
        for (uint32_t k = seqs[i].n_prompt; k < seqs[i].n; k++)
            printf("%s%d", k > seqs[i].n_prompt ? " " : "", seqs[i].tokens[k]);
        printf("\n");
        mem_free(seqs[i].blocks);
    }
    engine_close(e);
    mem_free(logits);
    mem_free(pool);
    return 0;
}
