/* engine/sim/engine_sim_profile.c - the profile table, its parser, and the closed forms. */
#include "engine/sim/engine_sim_profile.h"

#include <errno.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "engine/sim/engine_sim.h"

enum { FILE_CAP = 64 * 1024, VALUE_CAP = 40, STEP_MS_MAX = 3600 * 1000 };

/* clang-format off */
/*    key                   min  max     whole numbers only */
#define PROFILE_KEYS(X)                    \
    X(prefill_base_ms,        0, 1e6,  false) \
    X(prefill_token_ms,       0, 1e3,  false) \
    X(prefill_square_ms,      0, 1,    false) \
    X(prefill_short_ms,       0, 1e3,  false) \
    X(prefill_short_tokens,   0, 1e6,  true)  \
    X(decode_base_ms,         0, 1e6,  false) \
    X(decode_slot_ms,         0, 1e3,  false) \
    X(decode_context_ms,      0, 1e3,  false) \
    X(decode_wide_ms,         0, 1e3,  false) \
    X(decode_wide_slots,      0, 1e6,  true)  \
    X(mixed_overlap_ms,       0, 1e6,  false) \
    X(jitter,                 0, 0.9,  false) \
    X(jitter_seed,            0, 1e15, true)  \
    X(time_scale,             0, 1e3,  false) \
    X(load_ms,                0, 6e5,  false) \
    X(kv_layers,              1, 1024, true)  \
    X(kv_heads,               1, 1024, true)  \
    X(kv_head_dim,            1, 1024, true)  \
    X(vocab,                 16, 1e6,  true)  \
    X(max_context,           16, 16e6, true)  \
    X(mean_output_tokens,     0, 1e9,  true)  \
    X(verify_all,             0, 1,    true)
/* clang-format on */

static const struct key {
    const char *name;
    size_t offset;
    double min, max;
    bool whole;
} keys[] = {
#define X(key, min, max, whole) \
    {#key, offsetof(struct engine_sim_profile, key), (min), (max), (whole)},
    PROFILE_KEYS(X)
#undef X
};

enum { N_KEYS = sizeof(keys) / sizeof(keys[0]) };

void engine_sim_profile_defaults(struct engine_sim_profile *p)
{
    *p = (struct engine_sim_profile){
        .time_scale = 1, .kv_layers = 4, .kv_heads = 1, .kv_head_dim = 1};
}

struct reader {
    const char *name;
    unsigned line;
    bool given[N_KEYS];
    struct engine_sim_profile *profile;
    struct err_msg *msg;
};

/* s[len] without white space at both ends. */
static const char *trim(const char *s, size_t *len)
{
    while (*len > 0 && strchr(" \t\r", s[0]) != NULL && s[0] != '\0') {
        s++;
        (*len)--;
    }
    while (*len > 0 && s[*len - 1] != '\0' && strchr(" \t\r", s[*len - 1]) != NULL)
        (*len)--;
    return s;
}

static enum err set_key(struct reader *r, size_t index, const char *value, size_t len)
{
    const struct key *k = &keys[index];
    char text[VALUE_CAP], *end = text;
    double v = NAN;

    if (r->given[index])
        return err_set(r->msg, ERR_INVALID, "%s:%u: %s was given before", r->name, r->line,
                       k->name);
    r->given[index] = true;
    if (len > 0 && len < sizeof(text)) {
        memcpy(text, value, len);
        text[len] = '\0';
        v = strtod(text, &end);
    }
    if (end == text || *end != '\0' || !(v >= k->min && v <= k->max) || (k->whole && floor(v) != v))
        return err_set(r->msg, ERR_INVALID, "%s:%u: %s must be a %snumber from %g to %g", r->name,
                       r->line, k->name, k->whole ? "whole " : "", k->min, k->max);
    memcpy((char *)r->profile + k->offset, &v, sizeof(v));
    return ERR_OK;
}

static enum err read_line(struct reader *r, const char *s, size_t len)
{
    const char *hash = memchr(s, '#', len), *colon, *value;
    size_t key_len, value_len;

    if (hash != NULL)
        len = (size_t)(hash - s);
    s = trim(s, &len);
    if (len == 0)
        return ERR_OK;
    colon = memchr(s, ':', len);
    if (colon == NULL)
        return err_set(r->msg, ERR_INVALID, "%s:%u: expected 'key: value'", r->name, r->line);
    key_len = (size_t)(colon - s);
    value_len = len - key_len - 1;
    value = trim(colon + 1, &value_len);
    s = trim(s, &key_len);
    for (size_t i = 0; i < N_KEYS; i++) {
        if (strlen(keys[i].name) == key_len && memcmp(keys[i].name, s, key_len) == 0)
            return set_key(r, i, value, value_len);
    }
    return err_set(r->msg, ERR_INVALID,
                   "%s:%u: unknown key '%.*s'; engine/sim/engine_sim_profile.h lists the keys",
                   r->name, r->line, key_len < 60 ? (int)key_len : 60, s);
}

enum err engine_sim_profile_parse(const char *name, const char *text, size_t len,
                                  struct engine_sim_profile *out, struct err_msg *msg)
{
    struct engine_sim_profile profile;
    struct reader r = {.name = name, .profile = &profile, .msg = msg};
    enum err err = ERR_OK;

    engine_sim_profile_defaults(&profile);
    for (size_t at = 0; at < len && err == ERR_OK;) {
        const char *newline = memchr(text + at, '\n', len - at);
        size_t line_len = newline != NULL ? (size_t)(newline - text) - at : len - at;

        r.line++;
        err = read_line(&r, text + at, line_len);
        at += line_len + 1;
    }
    if (err == ERR_OK)
        *out = profile;
    return err;
}

enum err engine_sim_profile_read(const char *path, struct engine_sim_profile *out,
                                 struct err_msg *msg)
{
    FILE *f = fopen(path, "rb");
    char *text;
    size_t n;
    enum err err;

    if (f == NULL)
        return err_set(msg, errno == ENOENT ? ERR_NOT_FOUND : ERR_IO,
                       "cannot open the sim profile %s: %s", path, strerror(errno));
    text = mem_try_alloc(FILE_CAP + 1);
    if (text == NULL) {
        fclose(f);
        return ERR_NOMEM;
    }
    n = fread(text, 1, FILE_CAP + 1, f);
    if (ferror(f))
        err = err_set(msg, ERR_IO, "cannot read the sim profile %s: %s", path, strerror(errno));
    else if (n > FILE_CAP)
        err = err_set(msg, ERR_INVALID, "%s: a sim profile has at most %d bytes", path, FILE_CAP);
    else
        err = engine_sim_profile_parse(path, text, n, out, msg);
    fclose(f);
    mem_free(text);
    return err;
}

static double over(double value, double limit)
{
    return value > limit ? value - limit : 0;
}

uint64_t engine_sim_profile_time(const struct engine_sim_profile *p,
                                 const struct engine_sim_load *load, uint64_t step)
{
    double n = load->prefill_tokens, b = load->decode_slots, ms = 0;
    double work = p->prefill_token_ms * n + p->prefill_square_ms * load->prefill_square;

    if (n > 0)
        work += p->prefill_short_ms * over(p->prefill_short_tokens, n);

    if (b > 0)
        ms = p->decode_base_ms + p->decode_slot_ms * b +
             p->decode_context_ms * load->decode_context +
             p->decode_wide_ms * over(b, p->decode_wide_slots) + over(work, p->mixed_overlap_ms);
    else if (n > 0)
        ms = p->prefill_base_ms + work;
    if (p->jitter > 0) {
        uint64_t h = engine_sim_mix((uint64_t)p->jitter_seed * ENGINE_SIM_STEP + step);

        ms *= 1 + p->jitter * ((double)(h >> 11) * 0x1p-52 - 1);
    }
    ms *= p->time_scale;
    return (uint64_t)((ms < STEP_MS_MAX ? ms : STEP_MS_MAX) * 1e6);
}
