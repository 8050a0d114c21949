/* bench/perf_report.c - rows to a table or to JSON. */
#include "bench/perf_report.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/mem.h"

void bench_report_init(struct bench_report *r, const char *command)
{
    *r = (struct bench_report){0};
    snprintf(r->command, sizeof(r->command), "%s", command);
}

void bench_report_add(struct bench_report *r, const char *name, double value, const char *unit,
                      enum bench_better better)
{
    struct bench_result *row;

    if (r->n == r->cap) {
        size_t cap = r->cap == 0 ? 16 : r->cap * 2;
        struct bench_result *grown = mem_try_realloc(r->v, cap * sizeof(*grown));

        if (grown == NULL) {
            r->err = ERR_NOMEM;
            return;
        }
        r->v = grown;
        r->cap = cap;
    }
    row = &r->v[r->n++];
    *row = (struct bench_result){.value = value, .better = better};
    snprintf(row->name, sizeof(row->name), "%s", name);
    snprintf(row->unit, sizeof(row->unit), "%s", unit);
}

void bench_report_reference(struct bench_report *r, const char *what, double value)
{
    if (r->n == 0)
        return;
    snprintf(r->v[r->n - 1].reference_what, sizeof(r->v->reference_what), "%s", what);
    r->v[r->n - 1].reference = value;
}

double bench_report_ratio(const struct bench_result *row)
{
    double above = row->better == BENCH_HIGHER ? row->value : row->reference;
    double below = row->better == BENCH_HIGHER ? row->reference : row->value;

    return row->reference_what[0] != '\0' && below > 0 ? above / below : 0;
}

/* Two-sided 95 % quantile of Student's t. */
static double student(size_t freedom)
{
    static const double t[] = {12.706, 4.303, 3.182, 2.776, 2.571,
                               2.447,  2.365, 2.306, 2.262, 2.228};
    double f = (double)freedom;

    if (freedom <= sizeof(t) / sizeof(t[0]))
        return t[freedom - 1];
    return 1.95996 + 2.3723 / f + 2.8225 / (f * f) + 2.5559 / (f * f * f); /* Cornish-Fisher */
}

double bench_mean_ci95(const double *v, size_t n, double *half)
{
    double sum = 0, square = 0, mean;

    *half = 0;
    for (size_t i = 0; i < n; i++)
        sum += v[i];
    mean = n > 0 ? sum / (double)n : 0;
    for (size_t i = 0; i < n; i++)
        square += (v[i] - mean) * (v[i] - mean);
    if (n > 1)
        *half = student(n - 1) * sqrt(square / (double)(n - 1) / (double)n);
    return mean;
}

enum { FOLD_MAX = 1024 };

void bench_report_fold(struct bench_report *r, size_t from)
{
    size_t kept = from;

    for (size_t i = from; i < r->n; i++) {
        struct bench_result *row = &r->v[i];
        double v[FOLD_MAX];
        size_t n = 0;
        bool seen = false;

        for (size_t k = from; k < kept && !seen; k++)
            seen = strcmp(r->v[k].name, row->name) == 0;
        if (seen)
            continue;
        for (size_t k = i; k < r->n && n < FOLD_MAX; k++) {
            if (strcmp(r->v[k].name, row->name) == 0)
                v[n++] = r->v[k].value;
        }
        row->value = bench_mean_ci95(v, n, &row->ci95);
        row->repeats = (uint32_t)n;
        r->v[kept++] = *row;
    }
    r->n = kept;
}

static void cpu_name(char *out, size_t room)
{
    FILE *f = fopen("/proc/cpuinfo", "r");
    char line[256];

    snprintf(out, room, "unknown");
    while (f != NULL && fgets(line, sizeof(line), f) != NULL) {
        char *colon = strchr(line, ':');

        if (strncmp(line, "model name", 10) == 0 && colon != NULL) {
            snprintf(out, room, "%.*s", (int)strcspn(colon + 2, "\n\"\\"), colon + 2);
            break;
        }
    }
    if (f != NULL)
        fclose(f);
}

static void print_json(const struct bench_report *r)
{
    char cpu[128];

    cpu_name(cpu, sizeof(cpu));
    printf("{\"command\": \"%s\", \"machine\": {\"cpu\": \"%s\", \"cores\": %ld, \"gpu\": null}, "
           "\"build\": \"" BATON_BUILD "\", %s%s\"results\": [",
           r->command, cpu, sysconf(_SC_NPROCESSORS_ONLN), r->members != NULL ? r->members : "",
           r->members != NULL ? ", " : "");
    for (size_t i = 0; i < r->n; i++) {
        const struct bench_result *row = &r->v[i];

        printf("%s\n  {\"name\": \"%s\", \"value\": %.6g, \"unit\": \"%s\", \"better\": \"%s\"",
               i == 0 ? "" : ",", row->name, row->value, row->unit,
               row->better == BENCH_HIGHER ? "higher" : "lower");
        if (row->reference_what[0] != '\0')
            printf(", \"reference\": {\"what\": \"%s\", \"value\": %.6g}, \"ratio\": %.3f",
                   row->reference_what, row->reference, bench_report_ratio(row));
        if (row->repeats > 1)
            printf(", \"repeats\": %u, \"ci95\": %.6g", row->repeats, row->ci95);
        printf("}");
    }
    printf("]}\n");
}

static void print_table(const struct bench_report *r)
{
    printf("baton %s\n%-44s %12s %-9s %6s  %s\n", r->command, "name", "value", "unit", "ratio",
           "of");
    for (size_t i = 0; i < r->n; i++) {
        const struct bench_result *row = &r->v[i];

        printf("%-44s %12.5g %-9s", row->name, row->value, row->unit);
        if (row->reference_what[0] != '\0')
            printf(" %6.3f  %.5g: %s", bench_report_ratio(row), row->reference,
                   row->reference_what);
        printf("\n");
    }
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return x < y ? -1 : x > y;
}

double bench_median(double *v, uint32_t n)
{
    qsort(v, n, sizeof(v[0]), by_value);
    return v[n / 2];
}

enum err bench_report_print(const struct bench_report *r, bool json)
{
    if (json)
        print_json(r);
    else
        print_table(r);
    fflush(stdout);
    return r->err;
}

void bench_report_free(struct bench_report *r)
{
    mem_free(r->v);
    *r = (struct bench_report){0};
}
