/* bench/sim_study_tenants.c - who sends what: tenants of a simulated load, and what each of them got. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench/sim_study_impl.h"

enum { SURGE_MAX = 1000, FIELDS_MAX = 5 };
static const char NAME_CHARS[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-";

static uint32_t find(const struct study_tenants *t, const char *name, size_t len)
{
    uint32_t i = 0;

    while (i < t->n && (strlen(t->name[i]) != len || memcmp(t->name[i], name, len) != 0))
        i++;
    return i;
}

/* Cuts ITEM[,...] at *rest into its fields; how many, 0 at the end. */
static uint32_t next_item(const char **rest, const char *field[FIELDS_MAX + 1],
                          size_t len[FIELDS_MAX + 1])
{
    const char *p = *rest;
    uint32_t n = 0;

    if (*p == '\0')
        return 0;
    for (;;) {
        if (n <= FIELDS_MAX) {
            field[n] = p;
            len[n] = strcspn(p, ":,");
            n++;
        }
        p += strcspn(p, ":,");
        if (*p != ':')
            break;
        p++;
    }
    *rest = *p == ',' ? p + 1 : p;
    return n;
}

static bool number(const char *text, size_t len, double low, double high, double *out)
{
    char *end;

    *out = strtod(text, &end);
    return len > 0 && end == text + len && *out >= low && *out <= high;
}

static enum err read_tenant(const char *const *field, const size_t *len, uint32_t n,
                            struct study_tenants *t)
{
    struct sched_tenant *row = &t->row[t->n];

    *row = (struct sched_tenant){.id = t->n + 1};
    t->surge[t->n] = 1;
    if (n < 3 || n > FIELDS_MAX || len[0] == 0 || len[0] >= sizeof(t->name[0]) ||
        strspn(field[0], NAME_CHARS) < len[0] || find(t, field[0], len[0]) < t->n ||
        !number(field[1], len[1], 1e-3, 1e6, &row->weight) ||
        !number(field[2], len[2], 1e-6, 1e6, &t->share[t->n]) ||
        (n > 3 && !number(field[3], len[3], 0, 1e12, &row->tokens_per_s)) ||
        (n > 4 && !number(field[4], len[4], 0.01, 1e6, &row->burst_s)))
        return ERR_INVALID;
    snprintf(t->name[t->n], sizeof(t->name[0]), "%.*s", (int)len[0], field[0]);
    t->n++;
    return ERR_OK;
}

static enum err read_surge(const char *text, struct study_tenants *t, struct err_msg *msg)
{
    const char *field[FIELDS_MAX + 1], *rest = text;
    size_t len[FIELDS_MAX + 1];
    uint32_t n;

    while ((n = next_item(&rest, field, len)) > 0) {
        uint32_t i = find(t, field[0], len[0]);
        double times = 0;

        if (n != 2 || i == t->n || !number(field[1], len[1], 1, SURGE_MAX, &times) ||
            times != floor(times))
            return err_set(msg, ERR_INVALID,
                           "--surge '%.60s': expected NAME:TIMES,... of tenants that --tenants "
                           "names, TIMES from 1 to %d",
                           text, SURGE_MAX);
        t->surge[i] = (uint32_t)times;
    }
    return ERR_OK;
}

enum err study_read_tenants(const struct bench_study *o, struct study_tenants *out,
                            struct err_msg *msg)
{
    const char *field[FIELDS_MAX + 1], *rest = o->tenants;
    size_t len[FIELDS_MAX + 1];
    uint32_t n;

    out->n = 0;
    if (o->tenants == NULL)
        return o->surge == NULL
                   ? ERR_OK
                   : err_set(msg, ERR_INVALID, "--surge needs --tenants, which name who surges");
    while ((n = next_item(&rest, field, len)) > 0) {
        if (out->n == BENCH_TENANTS_MAX)
            return err_set(msg, ERR_INVALID, "--tenants: over %d", BENCH_TENANTS_MAX);
        if (read_tenant(field, len, n, out) != ERR_OK)
            return err_set(msg, ERR_INVALID,
                           "--tenants '%.80s': expected "
                           "NAME:WEIGHT:SHARE[:TOKENS_PER_S[:BURST_S]],...; each name once, "
                           "weights and shares above 0",
                           o->tenants);
    }
    if (out->n == 0)
        return err_set(msg, ERR_INVALID, "--tenants names none");
    return o->surge != NULL ? read_surge(o->surge, out, msg) : ERR_OK;
}

static void print_ms(double s)
{
    if (s > 0)
        printf(" %7.0f ms", 1000 * s);
    else /* no token came */
        printf(" %10s", "-");
}

static void print_run(const struct study *s, const struct bench_run *r)
{
    for (uint32_t i = 0; i < r->n_tenants; i++) {
        const struct bench_tenant_figures *t = &r->tenant[i];
        double n = t->n > 0 ? (double)t->n : 1;

        printf("%-22s %-16.16s %9.1f %9llu %7.2f%% %7.2f%% %7.2f%%", r->policy, t->name,
               r->window_s > 0 ? (double)t->n / r->window_s : 0, (unsigned long long)t->n,
               100 * (double)t->kept / n, 100 * bench_broken_share(t->kept, t->broken),
               100 * (double)t->refused / n);
        print_ms(bench_tenant_ttft(r, i, BENCH_TIERS_MAX, 0.99));
        for (uint32_t k = 0; k < s->cluster.n_tiers; k++)
            print_ms(bench_tenant_ttft(r, i, k, 0.99));
        printf("\n");
    }
}

void study_print_tenants(const struct study *s)
{
    printf("\n%-22s %-16s %9s %9s %8s %8s %8s %10s", "policy", "tenant", "req/s", "requests",
           "kept", "broken", "refused", "ttft p99");
    for (uint32_t i = 0; i < s->cluster.n_tiers; i++)
        printf(" %10.10s", s->cluster.tiers[i].name);
    printf("\n");
    for (size_t k = 0; k < s->n_runs; k++)
        print_run(s, s->run[k]);
}
