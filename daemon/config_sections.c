/* daemon/config_sections.c - the lists in the configuration file: tiers, tenants, keys.  One table says which
 * fields an entry has; the reader's schema, the ranges and the printed reference follow from it. */
#include <ctype.h>
#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "daemon/config_table.h"

enum { TENANTS_MAX = 4096, KEYS_MAX = 4096 };

#define TIER(field) offsetof(struct sched_tier, field)
#define TENANT(field) offsetof(struct sched_tenant, field)

/* clang-format off */
enum { TIER_NAME, TIER_LABEL, TIER_ON_MISS = 9 };
static const struct config_field tier_fields[] = {
    {"name", CONFIG_FIELD_TEXT, 0, NULL, 0, 0, "1 to 31 of A-Z a-z 0-9 _ -", "what requests and keys call it; not auto, default, scale, priority, fast or flex, which mean something to OpenAI clients"},
    {"label", CONFIG_FIELD_TEXT, 0, "its name", 0, 0, "as name", "what metrics call it"},
    {"ttft_ms", CONFIG_FIELD_MS, TIER(ttft_ns), NULL, 1, 86400000, NULL, "time to first token"},
    {"ttft_factor", CONFIG_FIELD_REAL, TIER(ttft_factor), "0", 0, 1000, NULL, "added to it: so many times what the prompt takes alone on an idle worker"},
    {"tbt_ms", CONFIG_FIELD_MS, TIER(tbt_ns), NULL, 1, 86400000, NULL, "time between tokens"},
    {"percentile", CONFIG_FIELD_REAL, TIER(percentile), "0.98", 0.01, 0.9999, NULL, "share of admitted requests that are to keep both; sets the margin of admission"},
    {"weight", CONFIG_FIELD_REAL, TIER(weight), "1", 0.001, 1e6, NULL, "worth of one request that keeps them, when not all can"},
    {"reserved", CONFIG_FIELD_REAL, TIER(reserved), "0", 0, 0.99, NULL, "share of both pools that is its own when it asks; all together below 1"},
    {"starvation_ms", CONFIG_FIELD_MS, TIER(starvation_ns), "10000", 1, 86400000, NULL, "longest time without an admission while some ask"},
    {"on_miss", CONFIG_FIELD_TEXT, 0, "refuse", 0, 0, "refuse, wait, downgrade", "where a target would be missed: 429 at once, wait until it is hopeless, or serve at the next looser tier"},
    {"transfer_class", CONFIG_FIELD_COUNT, TIER(transfer_class), "0", 0, 7, NULL, "KV hand-overs of a smaller class go first"},
};
enum { TENANT_NAME };
static const struct config_field tenant_fields[] = {
    {"name", CONFIG_FIELD_TEXT, 0, NULL, 0, 0, "1 to 63 bytes", "what keys call it"},
    {"weight", CONFIG_FIELD_REAL, TENANT(weight), "1", 0.001, 1e6, NULL, "share inside a tier when tenants compete"},
    {"tokens_per_s", CONFIG_FIELD_REAL, TENANT(tokens_per_s), "0", 0, 1e12, NULL, "quota: prompt tokens and twice the generated ones; 0: none"},
    {"burst_s", CONFIG_FIELD_REAL, TENANT(burst_s), "10", 0.01, 86400, NULL, "so many seconds of the quota may be used at once"},
    {"max_live", CONFIG_FIELD_COUNT, TENANT(max_live), "0", 0, 10000000, NULL, "requests at a time; 0: no limit"},
};
enum { KEY_NAME, KEY_SHA256, KEY_TENANT, KEY_TIER, KEY_ADMIN };
static const struct config_field key_fields[] = {
    {"name", CONFIG_FIELD_TEXT, 0, "", 0, 0, "up to 63 bytes", "for people"},
    {"sha256", CONFIG_FIELD_TEXT, 0, NULL, 0, 0, "64 hex digits", "of the key: `printf %s KEY \\| sha256sum`"},
    {"tenant", CONFIG_FIELD_TEXT, 0, "its name", 0, 0, "up to 63 bytes", "who pays; one that `tenants` does not list has no quota"},
    {"tier", CONFIG_FIELD_TEXT, 0, "the first", 0, 0, "a tier's name", "the best tier it may use"},
    {"admin", CONFIG_FIELD_TEXT, 0, "false", 0, 0, "true, false", "may read /admin"},
};

#define FIELDS(f) f, sizeof(f) / sizeof((f)[0])
const struct config_section config_sections[CONFIG_N_SECTIONS] = {
    [CONFIG_SECTION_TIERS] = {"tiers", "contracts, the strictest first: no target may be tighter than in the tier before", 1, SCHED_TIERS_MAX, FIELDS(tier_fields)},
    [CONFIG_SECTION_TENANTS] = {"tenants", "fair shares and quotas", 0, TENANTS_MAX, FIELDS(tenant_fields)},
    [CONFIG_SECTION_KEYS] = {"keys", "with at least one, every request needs one", 0, KEYS_MAX, FIELDS(key_fields)},
};
/* clang-format on */

_Static_assert(sizeof(tier_fields) / sizeof(tier_fields[0]) <= CONFIG_FIELDS_MAX, "tier_fields");

static const char *const miss_rules[] = {[SCHED_MISS_REFUSE] = "refuse",
                                         [SCHED_MISS_WAIT] = "wait",
                                         [SCHED_MISS_DOWNGRADE] = "downgrade"};
enum { N_MISS_RULES = sizeof(miss_rules) / sizeof(miss_rules[0]) };

/* ---- reading ---- */

static bool parse_number(const char *text, double *out)
{
    char *end = NULL;

    if (!isdigit((unsigned char)text[0]) && text[0] != '.')
        return false;
    if (strspn(text, "0123456789.eE+-") != strlen(text)) /* no hexadecimal, no names */
        return false;
    *out = strtod(text, &end);
    return *end == '\0' && isfinite(*out);
}

static void store(const struct config_field *f, double v, void *target)
{
    char *at = (char *)target + f->offset;

    if (f->type == CONFIG_FIELD_MS)
        *(uint64_t *)(void *)at = (uint64_t)llround(v * 1e6);
    else if (f->type == CONFIG_FIELD_REAL)
        *(double *)(void *)at = v;
    else
        *(uint32_t *)(void *)at = (uint32_t)v;
}

/* All fields of an entry that are numbers; absent ones get their default. */
static enum err take_numbers(const struct config_source *s, const struct config_section *section,
                             int item, const struct config_entry *e, void *target,
                             struct err_msg *msg)
{
    for (unsigned i = 0; i < section->n_fields; i++) {
        const struct config_field *f = &section->fields[i];
        const char *text = e->v[i] != NULL && e->v[i][0] != '\0' ? e->v[i] : f->fallback;
        bool whole = f->type == CONFIG_FIELD_COUNT, ok;
        char where[300];
        double v = 0;

        if (f->type == CONFIG_FIELD_TEXT)
            continue;
        ok = text != NULL && parse_number(text, &v);
        if (ok && v >= f->min && v <= f->max && (!whole || v == floor(v))) {
            store(f, v, target);
            continue;
        }
        config_place(s, section->name, item, f->name, where, sizeof(where));
        return err_set(msg, ERR_INVALID,
                       "%s: %s is '%.60s'; allowed are %snumbers from %.10g to %.10g", where,
                       f->name, text != NULL ? text : "", whole ? "whole " : "", f->min, f->max);
    }
    return ERR_OK;
}

static bool is_name(const char *text, size_t room)
{
    return text[0] != '\0' && strlen(text) < room &&
           strspn(text, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-") ==
               strlen(text);
}

/* service_tier has values of its own: a tier with such a name could never be asked for. */
static enum err check_tier_word(const char *name, const char *where, struct err_msg *msg)
{
    static const struct {
        const char *word, *means;
    } taken[] = {{"auto", "the key's own tier"},  {"default", "the key's own tier"},
                 {"scale", "the key's own tier"}, {"priority", "the first tier"},
                 {"fast", "the first tier"},      {"flex", "the last tier"}};

    for (size_t i = 0; i < sizeof(taken) / sizeof(taken[0]); i++) {
        if (strcmp(name, taken[i].word) == 0)
            return err_set(msg, ERR_INVALID,
                           "%s: a tier cannot be named '%s': to OpenAI clients this value of "
                           "service_tier means %s; choose another name ('%s' may be its label)",
                           where, name, taken[i].means, name);
    }
    return ERR_OK;
}

/* A tier's place is its rank: whoever may use it may use all behind it, and what is served at the next one
 * was promised less.  So no target may get tighter down the list. */
static enum err check_tier_order(const struct config_source *s, int i,
                                 const struct daemon_config *c, struct err_msg *msg)
{
    const struct sched_tier *t = &c->tiers[i], *before = t - 1;
    char where[300];
    const struct {
        const char *name;
        double now, before;
    } targets[] = {{"ttft_ms", (double)t->ttft_ns / 1e6, (double)before->ttft_ns / 1e6},
                   {"ttft_factor", t->ttft_factor, before->ttft_factor},
                   {"tbt_ms", (double)t->tbt_ns / 1e6, (double)before->tbt_ns / 1e6}};

    for (size_t k = 0; k < sizeof(targets) / sizeof(targets[0]); k++) {
        if (targets[k].now >= targets[k].before)
            continue;
        config_place(s, "tiers", i, targets[k].name, where, sizeof(where));
        return err_set(msg, ERR_INVALID,
                       "%s: tier '%s' has %s %.10g, tighter than the %.10g of '%s' before it; the "
                       "strictest tier comes first: move it up, or give it at least %.10g",
                       where, t->name, targets[k].name, targets[k].now, targets[k].before,
                       before->name, targets[k].before);
    }
    return ERR_OK;
}

static enum err take_tier_names(const struct config_source *s, int i, const struct config_entry *e,
                                struct daemon_config *c, struct err_msg *msg)
{
    struct sched_tier *t = &c->tiers[i];
    const char *label = e->v[TIER_LABEL] != NULL ? e->v[TIER_LABEL] : e->v[TIER_NAME];
    char where[300];

    config_place(s, "tiers", i, "name", where, sizeof(where));
    if (!is_name(e->v[TIER_NAME], sizeof(t->name)))
        return err_set(msg, ERR_INVALID,
                       "%s: a tier's name has 1 to %zu letters, digits, '_' or '-'", where,
                       sizeof(t->name) - 1);
    if (check_tier_word(e->v[TIER_NAME], where, msg) != ERR_OK)
        return ERR_INVALID;
    snprintf(t->name, sizeof(t->name), "%s", e->v[TIER_NAME]);
    for (int k = 0; k < i; k++) {
        if (strcmp(c->tiers[k].name, t->name) == 0)
            return err_set(msg, ERR_INVALID, "%s: there are two tiers named '%s'", where, t->name);
    }
    if (e->v[TIER_LABEL] != NULL)
        config_place(s, "tiers", i, "label", where, sizeof(where));
    if (!is_name(label, SCHED_NAME_MAX))
        return err_set(msg, ERR_INVALID, "%s: a label has 1 to %d letters, digits, '_' or '-'",
                       where, SCHED_NAME_MAX - 1);
    snprintf(c->tier_labels[i], SCHED_NAME_MAX, "%s", label);
    for (int k = 0; k < i; k++) {
        if (strcmp(c->tier_labels[k], label) == 0)
            return err_set(msg, ERR_INVALID, "%s: there are two tiers with the label '%s'", where,
                           label);
    }
    return ERR_OK;
}

static enum err take_miss_rule(const struct config_source *s, int i, const struct config_entry *e,
                               struct sched_tier *t, struct err_msg *msg)
{
    const char *word = e->v[TIER_ON_MISS];
    char where[300];

    t->on_miss = SCHED_MISS_REFUSE;
    if (word == NULL || word[0] == '\0')
        return ERR_OK;
    for (int k = 0; k < N_MISS_RULES; k++) {
        if (strcmp(word, miss_rules[k]) == 0) {
            t->on_miss = (enum sched_miss_rule)k;
            return ERR_OK;
        }
    }
    config_place(s, "tiers", i, "on_miss", where, sizeof(where));
    return err_set(msg, ERR_INVALID,
                   "%s: on_miss is '%.60s'; allowed are refuse, wait and downgrade", where, word);
}

enum err config_take_tiers(const struct config_source *s, const struct config_entry *v, unsigned n,
                           struct daemon_config *c, struct err_msg *msg)
{
    const struct config_section *section = &config_sections[CONFIG_SECTION_TIERS];
    double reserved = 0;
    char where[300];

    if (n == 0)
        return ERR_OK;
    memset(c->tiers, 0, sizeof(c->tiers));
    c->n_tiers = n;
    for (unsigned i = 0; i < n; i++) {
        enum err err = take_tier_names(s, (int)i, &v[i], c, msg);

        if (err == ERR_OK)
            err = take_numbers(s, section, (int)i, &v[i], &c->tiers[i], msg);
        if (err == ERR_OK)
            err = take_miss_rule(s, (int)i, &v[i], &c->tiers[i], msg);
        if (err == ERR_OK && i > 0)
            err = check_tier_order(s, (int)i, c, msg);
        if (err != ERR_OK)
            return err;
        reserved += c->tiers[i].reserved;
        if (reserved < 1)
            continue;
        config_place(s, "tiers", (int)i, "reserved", where, sizeof(where));
        return err_set(msg, ERR_INVALID,
                       "%s: reserved: the tiers up to here reserve %.10g of the pools in all; "
                       "allowed is less than 1",
                       where, reserved);
    }
    return ERR_OK;
}

/* The tenant of this name, made if it is new.  NULL: no memory. */
static struct daemon_tenant *tenant_named(struct daemon_config *c, const char *name)
{
    struct daemon_tenant *t;

    for (uint32_t i = 0; i < c->n_tenants; i++) {
        if (strcmp(c->tenants[i].name, name) == 0)
            return &c->tenants[i];
    }
    t = mem_try_realloc(c->tenants, (c->n_tenants + 1) * sizeof(*t));
    if (t == NULL)
        return NULL;
    c->tenants = t;
    t = &c->tenants[c->n_tenants];
    memset(t, 0, sizeof(*t));
    snprintf(t->name, sizeof(t->name), "%.63s", name);
    t->t.id = ++c->n_tenants;
    return t;
}

enum err config_take_tenants(const struct config_source *s, const struct config_entry *v,
                             unsigned n, struct daemon_config *c, struct err_msg *msg)
{
    const struct config_section *section = &config_sections[CONFIG_SECTION_TENANTS];
    char where[300];

    for (unsigned i = 0; i < n; i++) {
        const char *name = v[i].v[TENANT_NAME];
        struct daemon_tenant *t;
        enum err err;

        if (name[0] == '\0' || strlen(name) >= sizeof(t->name)) {
            config_place(s, "tenants", (int)i, "name", where, sizeof(where));
            return err_set(msg, ERR_INVALID, "%s: a tenant's name has 1 to %zu bytes", where,
                           sizeof(t->name) - 1);
        }
        t = tenant_named(c, name);
        if (t == NULL)
            return err_set(msg, ERR_NOMEM, "no memory for %u tenants", n);
        if (t->t.id != i + 1) {
            config_place(s, "tenants", (int)i, "name", where, sizeof(where));
            return err_set(msg, ERR_INVALID, "%s: there are two tenants named '%s'", where, name);
        }
        err = take_numbers(s, section, (int)i, &v[i], &t->t, msg);
        if (err != ERR_OK)
            return err;
    }
    return ERR_OK;
}

static int hex_digit(char c)
{
    const char *at = strchr("0123456789abcdef", tolower((unsigned char)c));

    return c != '\0' && at != NULL ? (int)(at - "0123456789abcdef") : -1;
}

static bool parse_sha256(const char *text, uint8_t out[32])
{
    if (strlen(text) != 64)
        return false;
    for (size_t i = 0; i < 32; i++) {
        int high = hex_digit(text[2 * i]), low = hex_digit(text[2 * i + 1]);

        if (high < 0 || low < 0)
            return false;
        out[i] = (uint8_t)(high << 4 | low);
    }
    return true;
}

static enum err take_key_tier(const struct config_source *s, int i, const char *tier,
                              const struct daemon_config *c, struct daemon_key *k,
                              struct err_msg *msg)
{
    char where[300];

    for (k->tier = 0; tier != NULL && k->tier < c->n_tiers; k->tier++) {
        if (strcmp(tier, c->tiers[k->tier].name) == 0)
            break;
    }
    if (k->tier < c->n_tiers)
        return ERR_OK;
    config_place(s, "keys", i, "tier", where, sizeof(where));
    return err_set(msg, ERR_INVALID, "%s: tier '%.60s' is no configured tier", where, tier);
}

static enum err take_key_rights(const struct config_source *s, int i, const char *admin,
                                struct daemon_key *k, struct err_msg *msg)
{
    char where[300];

    k->admin = admin != NULL && strcmp(admin, "true") == 0;
    if (admin == NULL || k->admin || strcmp(admin, "false") == 0)
        return ERR_OK;
    config_place(s, "keys", i, "admin", where, sizeof(where));
    return err_set(msg, ERR_INVALID, "%s: admin is '%.60s'; allowed are true and false", where,
                   admin);
}

static enum err take_key(const struct config_source *s, int i, const struct config_entry *e,
                         struct daemon_config *c, struct daemon_key *k, struct err_msg *msg)
{
    struct daemon_tenant *tenant;
    char where[300];
    enum err err;

    if (!parse_sha256(e->v[KEY_SHA256], k->sha256)) {
        config_place(s, "keys", i, "sha256", where, sizeof(where));
        return err_set(
            msg, ERR_INVALID,
            "%s: sha256 needs the 64 hex digits of the key's SHA-256 (printf %%s KEY | sha256sum)",
            where);
    }
    for (int before = 0; before < i; before++) {
        if (memcmp(c->keys[before].sha256, k->sha256, sizeof(k->sha256)) != 0)
            continue;
        config_place(s, "keys", i, "sha256", where, sizeof(where));
        return err_set(msg, ERR_INVALID, "%s: this key was given before", where);
    }
    snprintf(k->name, sizeof(k->name), "%.63s", e->v[KEY_NAME] != NULL ? e->v[KEY_NAME] : "");
    snprintf(k->tenant, sizeof(k->tenant), "%.63s",
             e->v[KEY_TENANT] != NULL ? e->v[KEY_TENANT] : k->name);
    err = take_key_tier(s, i, e->v[KEY_TIER], c, k, msg);
    if (err == ERR_OK)
        err = take_key_rights(s, i, e->v[KEY_ADMIN], k, msg);
    if (err != ERR_OK || k->tenant[0] == '\0')
        return err;
    tenant = tenant_named(c, k->tenant);
    if (tenant == NULL)
        return err_set(msg, ERR_NOMEM, "no memory for the tenants");
    k->tenant_id = tenant->t.id;
    return ERR_OK;
}

enum err config_take_keys(const struct config_source *s, const struct config_entry *v, unsigned n,
                          struct daemon_config *c, struct err_msg *msg)
{
    enum err err = ERR_OK;

    if (n == 0)
        return ERR_OK;
    c->keys = mem_try_calloc(n, sizeof(*c->keys));
    if (c->keys == NULL)
        return err_set(msg, ERR_NOMEM, "no memory for %u keys", n);
    for (unsigned i = 0; err == ERR_OK && i < n; i++) {
        err = take_key(s, (int)i, &v[i], c, &c->keys[i], msg);
        c->n_keys++;
    }
    return err;
}

/* ---- printing ---- */

static void print_numbers(const struct config_section *section, const void *from, FILE *to)
{
    for (unsigned i = 0; i < section->n_fields; i++) {
        const struct config_field *f = &section->fields[i];
        const void *at = (const char *)from + f->offset;
        double v = 0;

        if (f->type == CONFIG_FIELD_TEXT)
            continue;
        if (f->type == CONFIG_FIELD_MS)
            v = (double)*(const uint64_t *)at / 1e6;
        else if (f->type == CONFIG_FIELD_REAL)
            v = *(const double *)at;
        else
            v = *(const uint32_t *)at;
        if (v >= f->min) /* else it was never said, and the default holds */
            fprintf(to, "    %s: %.10g\n", f->name, v);
    }
}

void config_print_sections(const struct daemon_config *c, FILE *to)
{
    fprintf(to, "tiers:\n");
    for (uint32_t i = 0; i < c->n_tiers; i++) {
        fprintf(to, "  - name: %s\n    label: %s\n", c->tiers[i].name, c->tier_labels[i]);
        print_numbers(&config_sections[CONFIG_SECTION_TIERS], &c->tiers[i], to);
        fprintf(to, "    on_miss: %s\n", miss_rules[c->tiers[i].on_miss]);
    }
    if (c->n_tenants > 0)
        fprintf(to, "tenants:\n");
    for (uint32_t i = 0; i < c->n_tenants; i++) {
        fprintf(to, "  - name: '");
        for (const char *p = c->tenants[i].name; *p != '\0'; p++)
            fprintf(to, *p == '\'' ? "''" : "%c", *p);
        fprintf(to, "'\n");
        print_numbers(&config_sections[CONFIG_SECTION_TENANTS], &c->tenants[i].t, to);
    }
    fprintf(to, "# %u API keys (not shown)\n", c->n_keys);
}

void config_reference_sections(FILE *to)
{
    for (int k = 0; k < CONFIG_N_SECTIONS; k++) {
        const struct config_section *s = &config_sections[k];

        fprintf(to,
                "\n**`%s:`** in the file alone, at most %u: %s\n\n| key | default | range | what "
                "|\n|---|---|---|---|\n",
                s->name, s->max, s->help);
        for (unsigned i = 0; i < s->n_fields; i++) {
            const struct config_field *f = &s->fields[i];

            fprintf(to, "| `%s` | %s | ", f->name,
                    f->fallback == NULL      ? "required"
                    : f->fallback[0] == '\0' ? "-"
                                             : f->fallback);
            if (f->type == CONFIG_FIELD_TEXT)
                fprintf(to, "%s", f->range);
            else
                fprintf(to, "%.10g to %.10g%s", f->min, f->max,
                        f->type == CONFIG_FIELD_MS ? " ms" : "");
            fprintf(to, " | %s |\n", f->help);
        }
    }
}
