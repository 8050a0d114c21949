/* bench/load_options.c - options of `baton bench`, from a table. */
#include "bench/load_options.h"

#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#include "bench/environment.h"

enum kind {
    FLAG,
    WORD,
    NUMBER,
    COUNT32,
    COUNT64,
    TIERS,
    SLO,
    KEY,
    WEIGHT,
    FACTOR,
    ARRIVAL,
    RATES,
    FIND,
    COMPARE,
    LAW,
    MODE
};

struct option {
    const char *name;
    enum kind kind;
    size_t offset;
    double min, max;
};

#define AT(field) offsetof(struct load_options, field)

static const struct option options[] = {
    {"trace", WORD, AT(trace_path), 0, 0},
    {"arrival", ARRIVAL, 0, 0, 0},
    {"arrivals", ARRIVAL, 0, 0, 0}, /* as `baton simulate` has it */
    {"rate", RATES, 0, 1e-3, 1e6},
    {"speedup", NUMBER, AT(speedup), 1e-6, 1e6},
    {"burstiness", NUMBER, AT(burstiness), 1e-2, 1e3},
    {"duration", NUMBER, AT(duration_s), 0.1, 86400},
    {"max-requests", COUNT64, AT(max_requests), 1, 5e7},
    {"concurrency", COUNT32, AT(concurrency), 1, 1e5},
    {"seed", COUNT64, AT(seed), 0, 9e15},
    {"endpoint", MODE, AT(chat), 0, 0},
    {"prompts", MODE, AT(text), 0, 0},
    {"input-tokens", NUMBER, AT(in_mean), 1, 1e6},
    {"input-sigma", NUMBER, AT(in_sigma), 0, 4},
    {"input-max", COUNT32, AT(in_max), 1, 1e7},
    {"output-tokens", NUMBER, AT(out_mean), 1, 1e6},
    {"output-sigma", NUMBER, AT(out_sigma), 0, 4},
    {"output-max", COUNT32, AT(out_max), 1, 1e6},
    {"length-scale", NUMBER, AT(length_scale), 1e-4, 100},
    {"prefix-tokens", COUNT32, AT(prefix_tokens), 0, 1e6},
    {"prefixes", COUNT32, AT(n_prefixes), 1, 1e6},
    {"vocab", COUNT32, AT(vocab), 2, 1e7},
    {"model", WORD, AT(model), 0, 0},
    {"no-stream", FLAG, AT(no_stream), 0, 0},
    {"stop-early", FLAG, AT(stop_early), 0, 0},
    {"extra-body", WORD, AT(extra_body), 0, 0},
    {"tiers", TIERS, 0, 0, 0},
    {"slo", SLO, 0, 0, 0},
    {"weight", WEIGHT, 0, 0, 1e6},
    {"key", KEY, 0, 0, 0},
    {"ttft-factor", FACTOR, 0, 0, 1000},
    {"isolated-ms", LAW, 0, 0, 0},
    {"send-slo", FLAG, AT(send_slo), 0, 0},
    {"warmup", NUMBER, AT(warmup_s), 0, 86400},
    {"cooldown", NUMBER, AT(cooldown_s), 0, 86400},
    {"timeout", NUMBER, AT(timeout_s), 0.1, 86400},
    {"cancel-rate", NUMBER, AT(cancel_rate), 0, 1},
    {"max-lag-ms", NUMBER, AT(lag_bound_s), 0.01, 60000},
    {"repeats", COUNT32, AT(repeats), 1, LOAD_REPEATS_MAX},
    {"find-rate", FIND, 0, 0, 0},
    {"tolerance", NUMBER, AT(tolerance), 0.005, 1},
    {"json", FLAG, AT(json), 0, 0},
    {"quiet", FLAG, AT(quiet), 0, 0},
    {"label", WORD, AT(label), 0, 0},
    {"out-summary", WORD, AT(out_summary), 0, 0},
    {"out-requests", WORD, AT(out_requests), 0, 0},
    {"out-run", WORD, AT(out_run), 0, 0},
    {"report", WORD, AT(report), 0, 0},
    {"compare", COMPARE, 0, 0, 0},
};

/* The contracts that `baton serve` ships with. */
static const struct load_tier known[] = {
    {.name = "gold", .weight = 4, .ttft_s = 0.5, .tbt_s = 0.03},
    {.name = "silver", .weight = 2, .ttft_s = 2, .tbt_s = 0.1},
    {.name = "bronze", .weight = 1, .ttft_s = 10, .tbt_s = 0.2},
};

static enum err bad(struct err_msg *msg, const char *name, const char *value, const char *want)
{
    return err_set(msg, ERR_INVALID, "--%s %.100s: %s; see baton bench --help", name, value, want);
}

static bool number(const char *text, double min, double max, double *out)
{
    char *end;
    double v = strtod(text, &end);

    if (end == text || *end != '\0' || !(v >= min && v <= max))
        return false;
    *out = v;
    return true;
}

/* The next piece of a comma list, cut from *rest; NULL at the end.  Writes into copy, not argv. */
static char *next_piece(char **rest)
{
    char *piece = *rest;

    if (piece == NULL)
        return NULL;
    *rest = strchr(piece, ',');
    if (*rest != NULL)
        *(*rest)++ = '\0';
    return piece;
}

static struct load_tier *find_tier(struct load_options *o, const char *name, size_t len)
{
    for (uint32_t i = 0; i < o->n_tiers; i++) {
        if (strlen(o->tier[i].name) == len && memcmp(o->tier[i].name, name, len) == 0)
            return &o->tier[i];
    }
    return NULL;
}

static bool plain_name(const char *name)
{
    size_t len = strlen(name);

    return len > 0 && len < sizeof(known[0].name) &&
           strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-.") == len;
}

/* gold=20,silver=30,bronze=50 */
static enum err take_tiers(struct load_options *o, const char *value, struct err_msg *msg)
{
    char copy[1024], *rest = copy, *piece;

    snprintf(copy, sizeof(copy), "%s", value);
    o->n_tiers = 0;
    while ((piece = next_piece(&rest)) != NULL) {
        char *eq = strchr(piece, '=');
        struct load_tier *t = &o->tier[o->n_tiers];
        double share = 0;

        if (eq != NULL)
            *eq = '\0';
        if (eq == NULL || !plain_name(piece) || !number(eq + 1, 0, 1e9, &share) || share <= 0)
            return bad(msg, "tiers", value,
                       "wants NAME=SHARE,..., as in gold=20,silver=30,bronze=50");
        if (o->n_tiers == BENCH_TIERS_MAX || find_tier(o, piece, strlen(piece)) != NULL)
            return bad(msg, "tiers", value, "a tier is named twice, or there are more than 16");
        *t = (struct load_tier){.weight = 1, .share = share};
        for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++) {
            if (strcmp(known[i].name, piece) == 0)
                *t = known[i];
        }
        t->share = share;
        snprintf(t->name, sizeof(t->name), "%s", piece);
        o->n_tiers++;
    }
    o->names_tiers = true;
    return ERR_OK;
}

/* gold=500/30: first token and time between tokens, ms.  Without a name: for all tiers. */
static enum err take_slo(struct load_options *o, const char *value, struct err_msg *msg)
{
    char copy[1024], *rest = copy, *piece;

    snprintf(copy, sizeof(copy), "%s", value);
    while ((piece = next_piece(&rest)) != NULL) {
        char *eq = strchr(piece, '='), *numbers = eq != NULL ? eq + 1 : piece;
        char *slash = strchr(numbers, '/');
        struct load_tier *t = eq != NULL ? find_tier(o, piece, (size_t)(eq - piece)) : NULL;
        double first, between;

        if (slash != NULL)
            *slash = '\0';
        if (slash == NULL || !number(numbers, 0.001, 1e7, &first) ||
            !number(slash + 1, 0.001, 1e7, &between))
            return bad(msg, "slo", value, "wants TIER=FIRST/BETWEEN in ms, as in gold=500/30");
        if (eq != NULL && t == NULL)
            return bad(msg, "slo", value, "names a tier that --tiers does not");
        for (uint32_t i = 0; i < o->n_tiers; i++) {
            if (t != NULL && t != &o->tier[i])
                continue;
            o->tier[i].ttft_s = first / 1e3;
            o->tier[i].tbt_s = between / 1e3;
        }
    }
    return ERR_OK;
}

/* gold=3,silver=5, or one number for all tiers. */
static enum err take_factor(struct load_options *o, const char *value, struct err_msg *msg)
{
    char copy[1024], *rest = copy, *piece;

    snprintf(copy, sizeof(copy), "%s", value);
    while ((piece = next_piece(&rest)) != NULL) {
        char *eq = strchr(piece, '=');
        struct load_tier *t = eq != NULL ? find_tier(o, piece, (size_t)(eq - piece)) : NULL;
        double factor;

        if ((eq != NULL && t == NULL) || !number(eq != NULL ? eq + 1 : piece, 0, 1000, &factor))
            return bad(msg, "ttft-factor", value,
                       "wants a number from 0 to 1000, or TIER=NUMBER of tiers that --tiers names");
        for (uint32_t i = 0; i < o->n_tiers; i++) {
            if (t == NULL || t == &o->tier[i])
                o->tier[i].ttft_factor = factor;
        }
    }
    return ERR_OK;
}

static enum err take_weight(struct load_options *o, const char *value, struct err_msg *msg)
{
    char copy[1024], *rest = copy, *piece;

    snprintf(copy, sizeof(copy), "%s", value);
    while ((piece = next_piece(&rest)) != NULL) {
        char *eq = strchr(piece, '=');
        struct load_tier *t = eq != NULL ? find_tier(o, piece, (size_t)(eq - piece)) : NULL;

        if (t == NULL || !number(eq + 1, 0, 1e6, &t->weight))
            return bad(msg, "weight", value, "wants TIER=NUMBER of a tier that --tiers names");
    }
    return ERR_OK;
}

/* A key may come from a file (@FILE), since arguments show in process lists. */
static enum err read_key(const char *text, char *out, struct err_msg *msg)
{
    FILE *f;

    if (text[0] != '@') {
        snprintf(out, LOAD_KEY_MAX, "%s", text);
    } else {
        f = fopen(text + 1, "re");
        if (f == NULL)
            return err_set(msg, ERR_NOT_FOUND, "--key: cannot read the file %.200s", text + 1);
        if (fgets(out, LOAD_KEY_MAX, f) == NULL)
            out[0] = '\0';
        fclose(f);
        out[strcspn(out, "\r\n")] = '\0';
    }
    for (const char *p = out; *p != '\0'; p++) {
        if (*p < 0x21 || *p > 0x7e)
            return err_set(msg, ERR_INVALID, "--key: a key is printable ASCII without spaces");
    }
    return out[0] != '\0' ? ERR_OK : err_set(msg, ERR_INVALID, "--key: the key is empty");
}

static enum err take_key(struct load_options *o, const char *value, struct err_msg *msg)
{
    const char *eq = strchr(value, '=');
    struct load_tier *t = eq != NULL ? find_tier(o, value, (size_t)(eq - value)) : NULL;

    return read_key(t != NULL ? eq + 1 : value, t != NULL ? t->key : o->key, msg);
}

static enum err take_arrival(struct load_options *o, const char *value, struct err_msg *msg)
{
    static const struct {
        const char *name;
        enum bench_arrival arrival;
    } names[] = {{"poisson", BENCH_ARRIVE_POISSON},
                 {"constant", BENCH_ARRIVE_CONSTANT},
                 {"gamma", BENCH_ARRIVE_GAMMA},
                 {"ramp", BENCH_ARRIVE_RAMP}};

    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        if (strcmp(names[i].name, value) == 0) {
            o->arrival = names[i].arrival;
            o->has_arrival = true;
            return ERR_OK;
        }
    }
    if (strcmp(value, "trace") == 0)
        return ERR_OK; /* what --trace does without --arrival */
    return bad(msg, "arrival", value, "is constant, poisson, gamma, ramp or trace");
}

static enum err take_rates(struct load_options *o, const struct option *opt, const char *value,
                           struct err_msg *msg)
{
    char copy[1024], *rest = copy, *piece;

    snprintf(copy, sizeof(copy), "%s", value);
    o->n_rates = 0;
    while ((piece = next_piece(&rest)) != NULL) {
        if (o->n_rates == LOAD_RATES_MAX ||
            !number(piece, opt->min, opt->max, &o->rate[o->n_rates]))
            return bad(msg, "rate", value,
                       "wants requests per second, or up to 32 of them with commas");
        o->n_rates++;
    }
    return ERR_OK;
}

static enum err take_find(struct load_options *o, const char *value, struct err_msg *msg)
{
    if (strcmp(value, "tier90") == 0)
        o->find = LOAD_FIND_TIER90;
    else if (strcmp(value, "gold99") == 0)
        o->find = LOAD_FIND_GOLD99;
    else if (strcmp(value, "all90") == 0)
        o->find = LOAD_FIND_ALL90;
    else
        return bad(msg, "find-rate", value, "is tier90, gold99 or all90");
    return ERR_OK;
}

/* BASE,PER_TOKEN[,PER_TOKEN_SQUARED] in ms */
static enum err take_law(struct load_options *o, const char *value, struct err_msg *msg)
{
    char copy[256], *rest = copy, *piece;
    uint32_t n = 0;

    snprintf(copy, sizeof(copy), "%s", value);
    while ((piece = next_piece(&rest)) != NULL) {
        double v;

        if (n == 3 || !number(piece, 0, 1e6, &v))
            return bad(msg, "isolated-ms", value, "wants BASE,PER_TOKEN[,PER_TOKEN_SQUARED] in ms");
        o->isolated_s[n++] = v / 1e3;
    }
    return ERR_OK;
}

static enum err take_mode(const struct option *opt, const char *value, bool *out,
                          struct err_msg *msg)
{
    bool endpoint = strcmp(opt->name, "endpoint") == 0;
    const char *no = endpoint ? "completions" : "ids", *yes = endpoint ? "chat" : "text";

    if (strcmp(value, yes) != 0 && strcmp(value, no) != 0)
        return bad(msg, opt->name, value, endpoint ? "is completions or chat" : "is ids or text");
    *out = strcmp(value, yes) == 0;
    return ERR_OK;
}

static enum err take_number(struct load_options *o, const struct option *opt, const char *value,
                            struct err_msg *msg)
{
    char *field = (char *)o + opt->offset;
    double v;

    if (!number(value, opt->min, opt->max, &v) || (opt->kind != NUMBER && v != floor(v)))
        return err_set(msg, ERR_INVALID, "--%s %.100s: wants a %snumber from %.10g to %.10g",
                       opt->name, value, opt->kind == NUMBER ? "" : "whole ", opt->min, opt->max);
    if (opt->kind == NUMBER)
        *(double *)(void *)field = v;
    else if (opt->kind == COUNT32)
        *(uint32_t *)(void *)field = (uint32_t)v;
    else
        *(uint64_t *)(void *)field = (uint64_t)v;
    return ERR_OK;
}

static enum err take(struct load_options *o, const struct option *opt, const char *value,
                     struct err_msg *msg)
{
    char *field = (char *)o + opt->offset;

    switch (opt->kind) {
    case FLAG:
        *(bool *)(void *)field = true;
        return ERR_OK;
    case WORD:
        *(const char **)(void *)field = value;
        return ERR_OK;
    case NUMBER:
    case COUNT32:
    case COUNT64:
        return take_number(o, opt, value, msg);
    case TIERS:
        return take_tiers(o, value, msg);
    case SLO:
        return take_slo(o, value, msg);
    case KEY:
        return take_key(o, value, msg);
    case FACTOR:
        return take_factor(o, value, msg);
    case WEIGHT:
        return take_weight(o, value, msg);
    case ARRIVAL:
        return take_arrival(o, value, msg);
    case RATES:
        return take_rates(o, opt, value, msg);
    case FIND:
        return take_find(o, value, msg);
    case LAW:
        return take_law(o, value, msg);
    case MODE:
        return take_mode(opt, value, (bool *)(void *)field, msg);
    case COMPARE:
        if (o->n_compare == LOAD_REPORT_RUNS_MAX)
            return bad(msg, "compare", value, "is given too often");
        o->compare[o->n_compare++] = value;
        return ERR_OK;
    }
    return ERR_INVALID;
}

static const struct option *find_option(const char *arg, size_t len)
{
    for (size_t i = 0; i < sizeof(options) / sizeof(options[0]); i++) {
        if (strlen(options[i].name) == len && memcmp(options[i].name, arg, len) == 0)
            return &options[i];
    }
    return NULL;
}

/* --name value, or --name=value.  *i stands on the last argument used. */
static enum err take_argument(struct load_options *o, int argc, char **argv, int *i,
                              bool tiers_only, struct err_msg *msg)
{
    const char *arg = argv[*i] + 2, *eq = strchr(arg, '='), *value = eq != NULL ? eq + 1 : NULL;
    const struct option *opt = find_option(arg, eq != NULL ? (size_t)(eq - arg) : strlen(arg));

    if (opt == NULL)
        return err_set(msg, ERR_INVALID, "there is no option %.80s; see baton bench --help",
                       argv[*i]);
    if (opt->kind == FLAG && value != NULL)
        return err_set(msg, ERR_INVALID, "--%s takes no value", opt->name);
    if (opt->kind != FLAG && value == NULL) {
        if (*i + 1 >= argc)
            return err_set(msg, ERR_INVALID, "--%s wants a value; see baton bench --help",
                           opt->name);
        value = argv[++*i];
    }
    return (opt->kind == TIERS) == tiers_only ? take(o, opt, value, msg) : ERR_OK;
}

/* --tiers first, wherever it stands: other options name its tiers. */
static enum err take_all(struct load_options *o, int argc, char **argv, bool tiers_only,
                         const char **url, struct err_msg *msg)
{
    enum err err = ERR_OK;

    for (int i = 0; i < argc && err == ERR_OK; i++) {
        if (strncmp(argv[i], "--", 2) == 0)
            err = take_argument(o, argc, argv, &i, tiers_only, msg);
        else if (tiers_only && *url != NULL)
            err = err_set(msg, ERR_INVALID, "one URL at a time: %.80s and %.80s", *url, argv[i]);
        else
            *url = argv[i];
    }
    return err;
}

/* Its members are copied into each body, so that it must begin and end with its braces. */
static enum err check_extra(const char *text, struct err_msg *msg)
{
    json_t *o = json_loads(text, JSON_REJECT_DUPLICATES, NULL);
    size_t len = strlen(text);
    bool good =
        json_is_object(o) && json_object_size(o) > 0 && text[0] == '{' && text[len - 1] == '}';

    json_decref(o);
    return good ? ERR_OK
                : bad(msg, "extra-body", text,
                      "wants a JSON object with members, as in '{\"top_k\":1}'");
}

static enum err check(const struct load_options *o, struct err_msg *msg)
{
    for (uint32_t i = 0; i < o->n_tiers; i++) {
        if (o->tier[i].ttft_s <= 0)
            return err_set(msg, ERR_INVALID,
                           "tier %s has no known targets; add --slo %s=FIRST/BETWEEN (ms)",
                           o->tier[i].name, o->tier[i].name);
    }
    if (o->has_arrival && o->n_rates == 0)
        return err_set(msg, ERR_INVALID, "--arrival needs --rate");
    if (o->trace_path == NULL && o->n_rates == 0 && o->concurrency == 0 &&
        o->find == LOAD_FIND_NONE)
        return err_set(
            msg, ERR_INVALID,
            "say how fast: --rate R (requests per second), --trace FILE, --concurrency N "
            "(closed loop) or --find-rate tier90");
    if (o->find != LOAD_FIND_NONE && o->n_rates > 1)
        return err_set(msg, ERR_INVALID, "--find-rate starts from one --rate, not from a list");
    if (o->find != LOAD_FIND_NONE && o->repeats > 1)
        return err_set(msg, ERR_INVALID,
                       "--repeats goes with rates; repeat the rate that --find-rate finds");
    if ((o->n_rates > 1 ? o->n_rates : 1) * o->repeats > LOAD_RUNS_MAX)
        return err_set(msg, ERR_INVALID, "rates x --repeats are %u runs; %d are possible",
                       (o->n_rates > 1 ? o->n_rates : 1) * o->repeats, LOAD_RUNS_MAX);
    if (o->no_stream && o->cancel_rate > 0)
        return err_set(msg, ERR_INVALID,
                       "--cancel-rate breaks off streams; it cannot go with --no-stream");
    if (o->chat && !o->text)
        return err_set(msg, ERR_INVALID,
                       "the chat endpoint takes text: add --prompts text, or leave --endpoint out");
    if (o->duration_s > 0 && o->warmup_s + o->cooldown_s >= o->duration_s)
        return err_set(msg, ERR_INVALID, "--warmup and --cooldown leave nothing of --duration");
    for (uint32_t i = 0; i < o->n_tiers; i++) {
        if (o->send_slo && o->tier[i].ttft_factor > 0)
            return err_set(msg, ERR_INVALID,
                           "--send-slo states fixed targets; it cannot go with --ttft-factor");
    }
    return o->extra_body != NULL ? check_extra(o->extra_body, msg) : ERR_OK;
}

double load_ttft_target(const struct load_options *o, const struct load_tier *t, uint32_t n_prompt)
{
    double n = n_prompt;

    return t->ttft_s +
           t->ttft_factor * (o->isolated_s[0] + o->isolated_s[1] * n + o->isolated_s[2] * n * n);
}

void load_options_line(int argc, char **argv, char *out, size_t room)
{
    static const char *const files[] = {"--trace",  "--out-summary", "--out-run", "--out-requests",
                                        "--report", "--compare",     NULL};
    static const char *const secrets[] = {"--key", NULL};

    bench_command_line("baton bench", argc, argv, files, secrets, out, room);
}

enum err load_options_parse(int argc, char **argv, struct err_msg *msg, struct load_options *o)
{
    const char *url = NULL;
    enum err err;

    *o = (struct load_options){
        .speedup = 1,
        .burstiness = 1,
        .seed = 1,
        .in_mean = 512,
        .out_mean = 128,
        .length_scale = 1,
        .n_prefixes = 1,
        .repeats = 1,
        .timeout_s = 600,
        .lag_bound_s = 5, /* ms until the end of this function */
        .tolerance = 0.05,
        .n_tiers = 1,
        .tier[0] = {.name = "default", .share = 1, .weight = 1, .ttft_s = 2, .tbt_s = 0.1}};
    for (int i = 0; i < argc; i++) {
        if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0) {
            load_options_help(stdout);
            return ERR_CANCELED;
        }
    }
    err = take_all(o, argc, argv, true, &url, msg);
    if (err == ERR_OK)
        err = take_all(o, argc, argv, false, &url, msg);
    if (err == ERR_OK && url == NULL)
        err = err_set(
            msg, ERR_INVALID,
            "name a server: baton bench http://127.0.0.1:8000 --rate 10; see baton bench --help");
    if (err == ERR_OK)
        err = load_url_parse(url, &o->url, msg);
    o->lag_bound_s /= 1e3;
    return err == ERR_OK ? check(o, msg) : err;
}
