/* bench/sim_cluster.c - reads the cluster file. */
#include "bench/sim_cluster.h"

#include <stdio.h>
#include <string.h>

#include "bench/profile_file.h"
#include "bench/yaml_tree.h"

static enum err count_of(const struct bench_yaml *y, int node, const char *key, bool must,
                         double low, double high, uint32_t *out, struct err_msg *msg)
{
    double v = *out;
    enum err err = bench_yaml_number(y, node, key, must, low, high, &v, msg);

    if (err == ERR_OK)
        *out = (uint32_t)v;
    return err;
}

/* ---- classes ---- */

static const char *const class_keys[] = {"profile",     "kv_tokens", "block_tokens",
                                         "max_batch",   "layers",    "max_step_tokens",
                                         "max_context", "noise",     NULL};

static enum err read_profile(const struct bench_yaml *y, int node, struct sched_class *out,
                             struct err_msg *msg)
{
    static const char *const with_name[] = {"name", NULL};
    char file[256] = "", path[600];
    const char *slash = strrchr(y->path, '/');
    enum err err = bench_yaml_text(y, node, "profile", true, file, sizeof(file), msg);
    char name[SCHED_CLASS_NAME_MAX] = "";

    if (err == ERR_OK)
        err = bench_yaml_keys(y, node, "a class with a profile", class_keys, with_name, msg);
    if (err == ERR_OK)
        err = bench_yaml_text(y, node, "name", false, name, sizeof(name), msg);
    if (err != ERR_OK)
        return err;
    if (file[0] == '/' || slash == NULL)
        snprintf(path, sizeof(path), "%s", file);
    else
        snprintf(path, sizeof(path), "%.*s/%s", (int)(slash - y->path), y->path, file);
    err = bench_profile_read(path, out, msg);
    if (err == ERR_OK && name[0] != '\0')
        snprintf(out->name, sizeof(out->name), "%s", name);
    return err;
}

static enum err read_class(const struct bench_yaml *y, int node, struct bench_sim_class *c,
                           struct err_msg *msg)
{
    enum err err;

    *c = (struct bench_sim_class){.block_tokens = 16,
                                  .max_batch = 256,
                                  .max_step_tokens = 2048,
                                  .max_context = 131072,
                                  .layers = 32};
    if (bench_yaml_get(y, node, "profile") != 0)
        err = read_profile(y, node, &c->sched, msg);
    else
        err = bench_profile_class(y, node, class_keys, &c->sched, msg);
    if (err == ERR_OK)
        err = count_of(y, node, "kv_tokens", true, 1024, 1e9, &c->kv_tokens, msg);
    if (err == ERR_OK)
        err = count_of(y, node, "block_tokens", false, 1, 1024, &c->block_tokens, msg);
    if (err == ERR_OK)
        err = count_of(y, node, "max_batch", false, 1, 65536, &c->max_batch, msg);
    if (err == ERR_OK)
        err = count_of(y, node, "max_step_tokens", false, 16, 1 << 20, &c->max_step_tokens, msg);
    if (err == ERR_OK)
        err = count_of(y, node, "max_context", false, 1024, 1 << 24, &c->max_context, msg);
    if (err == ERR_OK)
        err = count_of(y, node, "layers", false, 1, 10000, &c->layers, msg);
    if (err == ERR_OK)
        err = bench_yaml_number(y, node, "noise", false, 0, 2, &c->noise, msg);
    if (err == ERR_OK &&
        (!sched_law_known(&c->sched.prefill) || !sched_law_known(&c->sched.decode)))
        err =
            err_set(msg, ERR_INVALID,
                    "%s: line %zu: class '%s' needs the laws of prefill and decode to be simulated",
                    y->path, bench_yaml_line(y, node), c->sched.name);
    return err;
}

static enum err read_classes(const struct bench_yaml *y, struct bench_cluster *c,
                             struct err_msg *msg)
{
    int list = bench_yaml_get(y, bench_yaml_root(y), "classes");
    size_t n = 0;
    enum err err = bench_yaml_list(y, list, "classes", 1, SCHED_CLASSES_MAX, &n, msg);

    for (size_t i = 0; i < n && err == ERR_OK; i++)
        err = read_class(y, bench_yaml_item(y, list, i), &c->klass[i], msg);
    c->n_classes = (uint32_t)n;
    return err;
}

/* ---- workers ---- */

static enum err read_pool(const struct bench_yaml *y, int node, struct bench_cluster *c,
                          struct bench_sim_pool *p, struct err_msg *msg)
{
    static const char *const keys[] = {"role", "class", "count", NULL};
    char role[16] = "", name[SCHED_CLASS_NAME_MAX] = "";
    enum err err = bench_yaml_keys(y, node, "a group of workers", keys, NULL, msg);

    if (err == ERR_OK)
        err = bench_yaml_text(y, node, "role", true, role, sizeof(role), msg);
    if (err == ERR_OK)
        err = bench_yaml_text(y, node, "class", c->n_classes > 1, name, sizeof(name), msg);
    if (err == ERR_OK)
        err = count_of(y, node, "count", true, 1, BENCH_WORKERS_MAX, &p->count, msg);
    if (err != ERR_OK)
        return err;
    if (strcmp(role, "prefill") == 0)
        p->role = SCHED_ROLE_PREFILL;
    else if (strcmp(role, "decode") == 0)
        p->role = SCHED_ROLE_DECODE;
    else
        return err_set(msg, ERR_INVALID, "%s: line %zu: role is '%s', not prefill or decode",
                       y->path, bench_yaml_line(y, node), role);
    for (p->klass = 0; name[0] != '\0' && p->klass < c->n_classes; p->klass++) {
        if (strcmp(c->klass[p->klass].sched.name, name) == 0)
            return ERR_OK;
    }
    if (name[0] == '\0')
        return ERR_OK;
    return err_set(msg, ERR_INVALID, "%s: line %zu: there is no class '%s'", y->path,
                   bench_yaml_line(y, node), name);
}

static enum err read_pools(const struct bench_yaml *y, struct bench_cluster *c, struct err_msg *msg)
{
    int list = bench_yaml_get(y, bench_yaml_root(y), "workers");
    size_t n = 0;
    enum err err = bench_yaml_list(y, list, "workers", 1, BENCH_POOLS_MAX, &n, msg);

    for (size_t i = 0; i < n && err == ERR_OK; i++)
        err = read_pool(y, bench_yaml_item(y, list, i), c, &c->pool[i], msg);
    c->n_pools = (uint32_t)n;
    return err == ERR_OK ? bench_cluster_resize(c, 0, 0, msg) : err;
}

/* ---- tiers ---- */

static enum err read_tier(const struct bench_yaml *y, int node, struct sched_tier *t, double *share,
                          struct err_msg *msg)
{
    static const char *const keys[] = {"name",       "ttft_ms", "ttft_factor",   "tbt_ms",
                                       "percentile", "weight",  "share",         "transfer_class",
                                       "reserved",   "on_miss", "starvation_ms", NULL};
    double ttft = 0, tbt = 0, starvation = 10000;
    char miss[16] = "refuse";
    enum err err = bench_yaml_keys(y, node, "a tier", keys, NULL, msg);

    *t = (struct sched_tier){.weight = 1};
    *share = 1;
    if (err == ERR_OK)
        err = bench_yaml_text(y, node, "name", true, t->name, sizeof(t->name), msg);
    if (err == ERR_OK)
        err = bench_yaml_number(y, node, "ttft_ms", true, 1, 86400000, &ttft, msg);
    if (err == ERR_OK)
        err = bench_yaml_number(y, node, "tbt_ms", true, 1, 86400000, &tbt, msg);
    if (err == ERR_OK)
        err = bench_yaml_number(y, node, "ttft_factor", false, 0, 1000, &t->ttft_factor, msg);
    if (err == ERR_OK)
        err = bench_yaml_number(y, node, "percentile", false, 0.01, 0.9999, &t->percentile, msg);
    if (err == ERR_OK)
        err = bench_yaml_number(y, node, "weight", false, 1e-3, 1e6, &t->weight, msg);
    if (err == ERR_OK)
        err = bench_yaml_number(y, node, "reserved", false, 0, 0.99, &t->reserved, msg);
    if (err == ERR_OK)
        err = bench_yaml_number(y, node, "starvation_ms", false, 1, 86400000, &starvation, msg);
    if (err == ERR_OK)
        err = bench_yaml_number(y, node, "share", false, 0, 1e6, share, msg);
    if (err == ERR_OK)
        err = count_of(y, node, "transfer_class", false, 0, 7, &t->transfer_class, msg);
    if (err == ERR_OK)
        err = bench_yaml_text(y, node, "on_miss", false, miss, sizeof(miss), msg);
    if (err != ERR_OK)
        return err;
    t->ttft_ns = (uint64_t)(ttft * 1e6);
    t->tbt_ns = (uint64_t)(tbt * 1e6);
    t->starvation_ns = (uint64_t)(starvation * 1e6);
    if (strcmp(miss, "refuse") == 0)
        t->on_miss = SCHED_MISS_REFUSE;
    else if (strcmp(miss, "wait") == 0)
        t->on_miss = SCHED_MISS_WAIT;
    else if (strcmp(miss, "downgrade") == 0)
        t->on_miss = SCHED_MISS_DOWNGRADE;
    else
        return err_set(msg, ERR_INVALID,
                       "%s: line %zu: on_miss is '%s', not refuse, wait or downgrade", y->path,
                       bench_yaml_line(y, node), miss);
    return ERR_OK;
}

static enum err read_tiers(const struct bench_yaml *y, struct bench_cluster *c, struct err_msg *msg)
{
    static const double usual[] = {20, 30, 50};
    int list = bench_yaml_get(y, bench_yaml_root(y), "tiers");
    struct sched_config defaults;
    size_t n = 0;
    enum err err;

    sched_config_defaults(&defaults);
    if (list == 0) {
        memcpy(c->tiers, defaults.tiers, sizeof(c->tiers));
        c->n_tiers = defaults.n_tiers;
        for (uint32_t i = 0; i < c->n_tiers; i++)
            c->share[i] = i < 3 ? usual[i] : 1;
        return ERR_OK;
    }
    err = bench_yaml_list(y, list, "tiers", 1, SCHED_TIERS_MAX, &n, msg);
    for (size_t i = 0; i < n && err == ERR_OK; i++)
        err = read_tier(y, bench_yaml_item(y, list, i), &c->tiers[i], &c->share[i], msg);
    c->n_tiers = (uint32_t)n;
    return err;
}

/* ---- the whole ---- */

static enum err read_prefix(const struct bench_yaml *y, struct bench_cluster *c,
                            struct err_msg *msg)
{
    static const char *const keys[] = {"tokens", "fetch_bytes_per_s", NULL};
    int node = bench_yaml_get(y, bench_yaml_root(y), "prefix_pool");
    enum err err;

    if (node == 0)
        return ERR_OK;
    err = bench_yaml_keys(y, node, "prefix_pool", keys, NULL, msg);
    if (err == ERR_OK)
        err = bench_yaml_number(y, node, "tokens", true, 0, 1e12, &c->prefix_tokens, msg);
    if (err == ERR_OK)
        err = bench_yaml_number(y, node, "fetch_bytes_per_s", false, 1e6, 1e15,
                                &c->prefix_bytes_per_s, msg);
    return err;
}

static enum err read_all(const struct bench_yaml *y, struct bench_cluster *c, struct err_msg *msg)
{
    static const char *const keys[] = {"name",  "classes", "workers", "prefix_pool",
                                       "tiers", "flip_s",  NULL};
    int root = bench_yaml_root(y);
    enum err err = bench_yaml_keys(y, root, "a cluster file", keys, NULL, msg);

    *c = (struct bench_cluster){.prefix_bytes_per_s = 46e9, .flip_s = 1};
    if (err == ERR_OK)
        err = bench_yaml_text(y, root, "name", true, c->name, sizeof(c->name), msg);
    if (err == ERR_OK)
        err = bench_yaml_number(y, root, "flip_s", false, 0, 3600, &c->flip_s, msg);
    if (err == ERR_OK)
        err = read_classes(y, c, msg);
    if (err == ERR_OK)
        err = read_pools(y, c, msg);
    if (err == ERR_OK)
        err = read_prefix(y, c, msg);
    return err == ERR_OK ? read_tiers(y, c, msg) : err;
}

enum err bench_cluster_read(const char *path, struct bench_cluster *out, struct err_msg *msg)
{
    struct bench_yaml y = {.tree = NULL};
    struct bench_cluster c;
    enum err err = bench_yaml_open(path, &y, msg);

    if (err == ERR_OK)
        err = read_all(&y, &c, msg);
    bench_yaml_close(&y);
    if (err == ERR_OK)
        *out = c;
    return err;
}

uint32_t bench_cluster_count(const struct bench_cluster *c, enum sched_role role)
{
    uint32_t n = 0;

    for (uint32_t i = 0; i < c->n_pools; i++)
        n += c->pool[i].role == role ? c->pool[i].count : 0;
    return n;
}

/* The first pool of the role takes what is asked for, later ones are emptied. */
static bool resize_role(struct bench_cluster *c, enum sched_role role, uint32_t want)
{
    for (uint32_t i = 0; i < c->n_pools; i++) {
        if (c->pool[i].role != role)
            continue;
        c->pool[i].count = want;
        want = 0;
    }
    return want == 0;
}

enum err bench_cluster_resize(struct bench_cluster *c, uint32_t prefill, uint32_t decode,
                              struct err_msg *msg)
{
    uint64_t p, d;

    if ((prefill > 0 && !resize_role(c, SCHED_ROLE_PREFILL, prefill)) ||
        (decode > 0 && !resize_role(c, SCHED_ROLE_DECODE, decode)))
        return err_set(msg, ERR_INVALID, "the cluster file has no workers of that role to change");
    p = bench_cluster_count(c, SCHED_ROLE_PREFILL);
    d = bench_cluster_count(c, SCHED_ROLE_DECODE);
    if (d == 0 || p + d > BENCH_WORKERS_MAX)
        return err_set(msg, ERR_INVALID,
                       "a cluster needs a decode worker, and has %d workers at most",
                       BENCH_WORKERS_MAX);
    return ERR_OK;
}
