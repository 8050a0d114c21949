/* bench/perf_report.h - what every measuring command prints: a table for people, or one JSON object for
 * programs, from the same rows.
 *
 *   bench_report_init -> bench_report_add ... -> bench_report_print -> bench_report_free
 *
 * Thread: the caller's.  Ownership: strings are copied.  Names are stable: programs compare by them. */
#ifndef BENCH_PERF_REPORT_H
#define BENCH_PERF_REPORT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

enum bench_better { BENCH_HIGHER = 0, BENCH_LOWER };

struct bench_result {
    char name[96];
    double value;
    char unit[16];
    enum bench_better better;
    char reference_what[120]; /* "": there is none */
    double reference;         /* a limit or a peer, measured in the same run, same unit */
    uint32_t repeats;         /* that value is the mean of; 0: measured once */
    double ci95;              /* half width of the 95 % confidence interval of the mean; 0: once */
};

struct bench_report {
    char command[64];
    struct bench_result *v;
    size_t n, cap;
    enum err err;        /* the first ERR_NOMEM */
    const char *members; /* more members of the JSON object, with commas between; NULL: none */
};

void bench_report_init(struct bench_report *r, const char *command);
void bench_report_add(struct bench_report *r, const char *name, double value, const char *unit,
                      enum bench_better better);
/* A reference for the row added last. */
void bench_report_reference(struct bench_report *r, const char *what, double value);
/* value / reference when higher is better, reference / value when lower is; 0 without one. */
double bench_report_ratio(const struct bench_result *row);
/* Rows from `from` on that have one name become one, with their mean and its confidence interval (Student's t). */
void bench_report_fold(struct bench_report *r, size_t from);
/* Mean, and the half width of its 95 % confidence interval: 0 for fewer than two values. */
double bench_mean_ci95(const double *v, size_t n, double *half);
double bench_median(double *v, uint32_t n); /* n > 0; sorts v */
/* To standard output.  ERR_NOMEM if a row had been lost. */
MUST_USE enum err bench_report_print(const struct bench_report *r, bool json);
void bench_report_free(struct bench_report *r);

#endif
