/* bench/perf_profile.c - see the header.
 *
 * One prompt is computed from position 0 on; its blocks are kept in host memory and copied into the pool for as many
 * sequences as a batch needs, which the sim backend accepts too (its KV is a function of the tokens).  Contexts go
 * from long to short, since a decode step overwrites the position behind its context. */
#include "bench/perf_profile.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/mem.h"
#include "bench/law_fit.h"
#include "bench/perf_report.h"
#include "bench/profile_file.h"
#include "engine/engine.h"
#include "proto/kv_memory.h"

enum {
    BLOCK_TOKENS = 16,
    STEP_DEFAULT = 512,
    BATCH_DEFAULT = 64,
    CONTEXT_MAX = 8192, /* of one sequence */
    POINTS_MAX = 64,
    REPEATS_MAX = 61,
    COPY_ROUNDS = 5
};
static const double SECONDS_DEFAULT = 20;
static const size_t POOL_BYTES = (size_t)256 << 20; /* at most; large models get fewer sequences */

struct point {
    struct bench_law_point p;
    uint32_t size, past; /* new tokens or sequences; tokens before each */
    double ns[REPEATS_MAX];
    uint32_t n;
};

struct profile {
    const struct bench_perf_profile_options *o;
    struct engine *engine;
    const struct engine_info *info;
    size_t block_bytes;
    uint32_t n_blocks;       /* of the pool */
    uint32_t context, built; /* positions of the prompt: room; computed */
    void *pool;
    unsigned char *kept; /* the prompt's blocks in host memory */
    int32_t *tokens;     /* of the prompt */
    uint32_t *blocks;    /* 0, 1, 2, ... */
    struct engine_slot *slots;
    struct engine_sampling greedy;
    struct point prefill[POINTS_MAX], decode[POINTS_MAX];
    size_t n_prefill, n_decode;
    struct bench_law_fit fit[2]; /* decode, prefill */
    double copy_bytes_per_s, park_bytes_per_s;
    uint64_t begin_ns;
};

/* ---- steps ---- */

static double seconds_since(uint64_t start_ns)
{
    return (double)(clock_now_ns() - start_ns) / 1e9;
}

static enum err timed_step(struct profile *p, uint32_t n, double *ns)
{
    uint64_t start = clock_now_ns();
    enum err err = engine_step(p->engine, p->slots, n, 0, NULL, NULL);

    *ns = fmax(1, (double)(clock_now_ns() - start));
    for (uint32_t i = 0; err == ERR_OK && i < n; i++)
        err = p->slots[i].result;
    return err == ERR_OK ? ERR_OK : ERR_DEVICE;
}

/* Sequence `i` of a batch: n tokens at `past`, in blocks of its own. */
static void fill_slot(struct profile *p, uint32_t i, uint32_t per, uint32_t past, uint32_t n)
{
    p->slots[i] = (struct engine_slot){.tokens = p->tokens + past,
                                       .n_tokens = n,
                                       .position = past,
                                       .blocks = p->blocks + (size_t)i * per,
                                       .n_blocks = per,
                                       .sample = true,
                                       .sampling = &p->greedy};
}

static enum err step_prefill(struct profile *p, uint32_t n, uint32_t past, double *ns)
{
    fill_slot(p, 0, p->context / BLOCK_TOKENS, past, n);
    return timed_step(p, 1, ns);
}

static uint32_t blocks_for(uint32_t tokens)
{
    return (tokens + BLOCK_TOKENS - 1) / BLOCK_TOKENS;
}

static enum err step_decode(struct profile *p, uint32_t n, uint32_t past, double *ns)
{
    for (uint32_t i = 0; i < n; i++)
        fill_slot(p, i, blocks_for(past + 1), past, 1);
    return timed_step(p, n, ns);
}

/* ---- the prompt ---- */

/* Compute as much of it as `seconds` allow, at least the first chunk. */
static enum err build_prompt(struct profile *p, double seconds)
{
    uint64_t start = clock_now_ns();
    uint32_t chunk = p->info->max_step_tokens;
    double ns, longest = 0;
    enum err err = ERR_OK;

    /* The first step pages in what all others find there. */
    err = step_prefill(p, chunk < 16 ? chunk : 16, 0, &ns);
    while (err == ERR_OK && p->built < p->context &&
           (p->built == 0 || seconds_since(start) + 1.5e-9 * longest < seconds)) {
        uint32_t n = p->context - p->built < chunk ? p->context - p->built : chunk;

        err = step_prefill(p, n, p->built, &ns);
        longest = fmax(longest, ns);
        if (err == ERR_OK)
            p->built += n;
    }
    for (uint32_t b = 0; err == ERR_OK && b < blocks_for(p->built); b++)
        err = engine_kv_copy(p->engine, b, p->kept + b * p->block_bytes, ENGINE_KV_OUT);
    return err;
}

/* The prompt's first `tokens` positions for sequences 0 .. n - 1, each in `per` blocks. */
static enum err lay_out(struct profile *p, uint32_t n, uint32_t tokens, uint32_t per)
{
    enum err err = ERR_OK;

    for (uint32_t i = 0; i < n; i++) {
        for (uint32_t b = 0; err == ERR_OK && b < blocks_for(tokens); b++)
            err =
                engine_kv_copy(p->engine, i * per + b, p->kept + b * p->block_bytes, ENGINE_KV_IN);
    }
    return err;
}

/* ---- the grid ---- */

static void add_point(struct point *v, size_t *n, uint32_t size, uint32_t past)
{
    if (*n < POINTS_MAX)
        v[(*n)++] = (struct point){.size = size, .past = past};
}

static void plan_prefill(struct profile *p)
{
    uint32_t step = p->info->max_step_tokens < p->built ? p->info->max_step_tokens : p->built;
    uint32_t pasts[] = {0, p->built / 8, p->built / 2, p->built - step};
    uint32_t sizes[16], n = 0;

    for (uint32_t s = 16; s < step && n < 15; s = s < 64 ? s * 2 : s + s / 2)
        sizes[n++] = s;
    sizes[n++] = step;
    for (size_t k = 0; k < sizeof(pasts) / sizeof(pasts[0]); k++) {
        if (k > 0 && pasts[k] <= pasts[k - 1])
            continue;
        /* The law is smooth in what lies before: every second size is enough there. */
        for (uint32_t i = k == 0 ? 0 : (n - 1) % 2; i < n; i += k == 0 ? 1 : 2) {
            if (pasts[k] + sizes[i] <= p->built)
                add_point(p->prefill, &p->n_prefill, sizes[i], pasts[k]);
        }
    }
}

/* Contexts from long to short. */
static void plan_decode(struct profile *p)
{
    static const uint32_t contexts[] = {4096, 1600, 512, 128, 16};
    static const uint32_t sizes[] = {1, 2, 4, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256};

    for (size_t k = 0; k < sizeof(contexts) / sizeof(contexts[0]); k++) {
        uint32_t past = contexts[k];

        if (past + 1 > p->built)
            continue;
        for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
            if (sizes[i] <= p->info->max_batch &&
                (uint64_t)sizes[i] * blocks_for(past + 1) <= p->n_blocks)
                add_point(p->decode, &p->n_decode, sizes[i], past);
        }
    }
}

/* ---- measuring ---- */

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return x < y ? -1 : x > y;
}

/* The lower quartile: another program's turn on a core is no property of the engine, and half of the steps may have
 * met one. */
static double typical(struct point *t)
{
    qsort(t->ns, t->n, sizeof(t->ns[0]), by_value);
    return t->ns[t->n / 4];
}

typedef enum err (*step_fn)(struct profile *p, uint32_t size, uint32_t past, double *ns);

/* Rounds over the points, until each has its repeats or the time is up; slow points get fewer.  One step that would
 * run far past the time is not begun. */
static enum err measure(struct profile *p, struct point *v, size_t n, step_fn step, double seconds)
{
    uint64_t start = clock_now_ns();
    double last = 0;

    for (uint32_t round = 0; round < REPEATS_MAX; round++) {
        for (size_t i = 0; i < n; i++) {
            double expect = v[i].n > 0 ? v[i].ns[0] : last, left = seconds - seconds_since(start),
                   ns;
            enum err err;

            if (left < expect * 1e-9 && (round > 0 || i > 2))
                continue;
            err = step(p, v[i].size, v[i].past, &ns);
            if (err != ERR_OK)
                return err;
            last = ns;
            v[i].ns[v[i].n++] = ns;
        }
    }
    return ERR_OK;
}

static enum err measure_decode(struct profile *p, double seconds)
{
    size_t groups = 0, first = 0;
    enum err err = ERR_OK;

    for (size_t i = 0; i < p->n_decode; i++)
        groups += i == 0 || p->decode[i].past != p->decode[i - 1].past;
    while (err == ERR_OK && first < p->n_decode) {
        uint32_t past = p->decode[first].past;
        size_t n = 0;
        double ns;

        while (first + n < p->n_decode && p->decode[first + n].past == past)
            n++;
        err = lay_out(p, p->decode[first + n - 1].size, past, blocks_for(past + 1));
        /* Not measured: the first step behind new KV, which sim checks whole. */
        if (err == ERR_OK)
            err = step_decode(p, p->decode[first + n - 1].size, past, &ns);
        if (err == ERR_OK)
            err = measure(p, p->decode + first, n, step_decode, seconds / (double)groups);
        first += n;
    }
    return err;
}

static void measure_copies(struct profile *p)
{
    uint32_t n = blocks_for(p->built), other = p->n_blocks > 2 * n ? n : 0;
    double best[3] = {INFINITY, INFINITY, INFINITY}; /* memory, out, in */
    double bytes = (double)n * (double)p->block_bytes;

    for (int round = 0; round < COPY_ROUNDS; round++) {
        double took[3];
        uint64_t start = clock_now_ns();

        for (uint32_t b = 0; b < n && p->pool != NULL; b++)
            memcpy((unsigned char *)p->pool + (other + b) * p->block_bytes,
                   p->kept + b * p->block_bytes, p->block_bytes);
        took[0] = seconds_since(start);
        for (int dir = 1; dir <= 2; dir++) {
            start = clock_now_ns();
            for (uint32_t b = 0; b < n; b++) {
                if (engine_kv_copy(p->engine, b, p->kept + b * p->block_bytes,
                                   dir == 1 ? ENGINE_KV_OUT : ENGINE_KV_IN) != ERR_OK)
                    return;
            }
            took[dir] = seconds_since(start);
        }
        if (p->pool ==
            NULL) /* a hand-over from device memory goes out and in, block behind block */
            took[0] = fmax(took[1], took[2]);
        for (int i = 0; i < 3; i++)
            best[i] = fmin(best[i], fmax(took[i], 1e-9));
    }
    p->copy_bytes_per_s = bytes / best[0];
    p->park_bytes_per_s = bytes / fmax(best[1], best[2]);
}

/* ---- the law ---- */

static enum err fit(struct profile *p, struct point *v, size_t n, bool prefill, struct err_msg *msg)
{
    struct bench_law_point points[POINTS_MAX];
    size_t m = 0;

    for (size_t i = 0; i < n; i++) {
        double size = v[i].size, past = v[i].past;

        if (v[i].n == 0)
            continue;
        points[m].ns = typical(&v[i]);
        points[m++].did = prefill ? (struct sched_step){.n = size, .n2 = size * (size + 2 * past)}
                                  : (struct sched_step){.b = size, .ctx = size * (past + 1)};
    }
    if (bench_law_fit(points, m, prefill, &p->fit[prefill]) != ERR_OK)
        return err_set(msg, ERR_TIMEOUT,
                       "perf profile: only %zu %s steps could be measured; give more --seconds", m,
                       prefill ? "prefill" : "decode");
    return ERR_OK;
}

/* ---- set-up ---- */

static enum err open_engine(struct profile *p, struct err_msg *msg)
{
    const struct bench_perf_profile_options *o = p->o;
    struct engine_config config = {.backend = o->backend != NULL ? o->backend : "cpu",
                                   .model_dir = o->model_dir,
                                   .sim_profile = o->sim_profile,
                                   .threads = o->threads,
                                   .tp = o->tp,
                                   .block_tokens = BLOCK_TOKENS,
                                   .max_batch = o->max_batch > 0 ? o->max_batch : BATCH_DEFAULT,
                                   .max_step_tokens =
                                       o->max_step_tokens > 0 ? o->max_step_tokens : STEP_DEFAULT};
    enum err err = engine_open(&config, msg, &p->engine);

    if (err == ERR_OK)
        p->info = engine_info(p->engine);
    return err;
}

static enum err attach(struct profile *p, struct err_msg *msg)
{
    uint32_t longest = p->info->max_context < CONTEXT_MAX ? p->info->max_context : CONTEXT_MAX;
    const struct kv_memory *memory = engine_kv_memory(p->engine);
    size_t room;
    enum err err;

    p->block_bytes = wire_kv_block_bytes(&p->info->kv);
    room = p->block_bytes > 0 ? POOL_BYTES / p->block_bytes : 0;
    room = room > 65536 ? 65536 : room < 64 ? 64 : room;
    if (memory != NULL) /* the engine has a pool of its own */
        room = memory->n_blocks;
    p->context = longest / BLOCK_TOKENS * BLOCK_TOKENS;
    if (p->context / BLOCK_TOKENS > room)
        p->context = (uint32_t)room * BLOCK_TOKENS;
    if (p->context < 64)
        return err_set(msg, ERR_INVALID, "perf profile: the model's context of %u is too short",
                       p->info->max_context);
    p->n_blocks = (uint32_t)room;
    if (memory == NULL)
        p->pool = mem_try_aligned(64, engine_pool_bytes(p->engine, p->n_blocks));
    p->kept = mem_try_calloc(p->context / BLOCK_TOKENS, p->block_bytes);
    p->tokens = mem_try_calloc(p->context, sizeof(p->tokens[0]));
    p->blocks = mem_try_calloc(room, sizeof(p->blocks[0]));
    p->slots = mem_try_calloc(p->info->max_batch, sizeof(p->slots[0]));
    if ((p->pool == NULL && memory == NULL) || p->kept == NULL || p->tokens == NULL ||
        p->blocks == NULL || p->slots == NULL)
        return err_set(msg, ERR_NOMEM, "perf profile: no memory for %zu KV blocks", room);
    if (p->pool != NULL)
        memset(p->pool, 0, engine_pool_bytes(p->engine, p->n_blocks));
    for (uint32_t i = 0; i < room; i++)
        p->blocks[i] = i;
    /* Ordinary ones: special tokens stand at the ends of a vocabulary. */
    for (uint32_t i = 0; i < p->context; i++)
        p->tokens[i] = (int32_t)(p->info->vocab / 4 + i * 7919u % (p->info->vocab / 2));
    err = memory != NULL ? ERR_OK : engine_attach_pool(p->engine, p->pool, p->n_blocks);
    return err == ERR_OK ? ERR_OK : err_set(msg, err, "perf profile: the engine takes no KV pool");
}

static enum err measure_all(struct profile *p, struct err_msg *msg)
{
    double seconds = p->o->seconds > 0 ? p->o->seconds : SECONDS_DEFAULT;
    enum err err = build_prompt(p, 0.25 * seconds);

    if (err == ERR_OK) {
        plan_prefill(p);
        plan_decode(p);
        err = measure(p, p->prefill, p->n_prefill, step_prefill, 0.35 * seconds);
    }
    if (err == ERR_OK)
        err = measure_decode(p, 0.4 * seconds);
    if (err != ERR_OK)
        return err_set(msg, err, "perf profile: a step of the engine failed (%s)", err_text(err));
    measure_copies(p);
    err = fit(p, p->prefill, p->n_prefill, true, msg);
    return err == ERR_OK ? fit(p, p->decode, p->n_decode, false, msg) : err;
}

/* ---- what comes out ---- */

static void add(struct bench_report *r, const char *stage, const char *name, double value,
                const char *unit)
{
    char full[96];

    snprintf(full, sizeof(full), "profile.%s%s%s", stage, stage[0] != '\0' ? "." : "", name);
    bench_report_add(r, full, value, unit,
                     strcmp(name, "copy") == 0 || strcmp(name, "park") == 0 ||
                             strcmp(name, "points") == 0
                         ? BENCH_HIGHER
                         : BENCH_LOWER);
}

static void add_law(struct bench_report *r, const struct profile *p, bool prefill)
{
    static const char *const names[2][4] = {{"step", "sequence", "context_token", "above_knee"},
                                            {"step", "token", "token_pair", "below_knee"}};
    const char *stage = prefill ? "prefill" : "decode";
    const struct bench_law_fit *f = &p->fit[prefill];
    const struct point *v = prefill ? p->prefill : p->decode;
    size_t n = prefill ? p->n_prefill : p->n_decode, measured = 0;

    for (size_t i = 0; i < n; i++)
        measured += v[i].n > 0;
    add(r, stage, "mape", f->mape, "1");
    add(r, stage, "max_error", f->max_error, "1");
    add(r, stage, "points", (double)measured, "1");
    for (int i = 0; i < 4; i++)
        add(r, stage, names[prefill][i], f->law.c[i] / 1e3, "us");
    add(r, stage, "knee", f->law.knee, prefill ? "tokens" : "sequences");
}

static enum err report(const struct profile *p, bool json)
{
    struct bench_report r;
    enum err err;

    bench_report_init(&r, "perf profile");
    add_law(&r, p, true);
    add_law(&r, p, false);
    add(&r, "kv", "bytes_per_token", (double)p->block_bytes / BLOCK_TOKENS, "B");
    add(&r, "kv", "copy", p->copy_bytes_per_s / 1e9, "GB/s");
    if (p->park_bytes_per_s > 0)
        add(&r, "", "park", p->park_bytes_per_s / 1e9, "GB/s");
    add(&r, "", "seconds", seconds_since(p->begin_ns), "s");
    err = bench_report_print(&r, json);
    bench_report_free(&r);
    return err;
}

static enum err write_class(const struct profile *p, struct err_msg *msg)
{
    struct sched_class c = {.prefill = p->fit[1].law,
                            .decode = p->fit[0].law,
                            .kv_bytes_per_token = (double)p->block_bytes / BLOCK_TOKENS,
                            .link_bytes_per_s = p->copy_bytes_per_s,
                            .park_bytes_per_s = p->park_bytes_per_s};
    char comment[400];

    snprintf(c.name, sizeof(c.name), "%.63s", p->o->name != NULL ? p->o->name : p->info->backend);
    snprintf(
        comment, sizeof(comment),
        "A class of workers, measured by `baton perf profile`: prefill within %.1f %% (at most "
        "%.1f %%),\ndecode within %.1f %% (at most %.1f %%) of the measured steps.\n"
        "link: copying within this machine's memory; a network is slower, and is learned in "
        "service.",
        100 * p->fit[1].mape, 100 * p->fit[1].max_error, 100 * p->fit[0].mape,
        100 * p->fit[0].max_error);
    return bench_profile_write(p->o->out, &c, comment, msg);
}

enum err bench_perf_profile(const struct bench_perf_profile_options *options, bool json,
                            struct err_msg *msg)
{
    struct profile *p = mem_try_calloc(1, sizeof(*p));
    enum err err;

    if (p == NULL)
        return err_set(msg, ERR_NOMEM, "perf profile: no memory");
    p->o = options;
    p->begin_ns = clock_now_ns();
    engine_sampling_defaults(&p->greedy);
    err = options->out != NULL ? bench_profile_writable(options->out, msg) : ERR_OK;
    if (err == ERR_OK)
        err = open_engine(p, msg);
    if (err == ERR_OK)
        err = attach(p, msg);
    if (err == ERR_OK)
        err = measure_all(p, msg);
    if (err == ERR_OK && options->out != NULL)
        err = write_class(p, msg);
    if (err == ERR_OK)
        err = report(p, json);
    engine_close(p->engine);
    mem_free(p->pool);
    mem_free(p->kept);
    mem_free(p->tokens);
    mem_free(p->blocks);
    mem_free(p->slots);
    mem_free(p);
    return err;
}
