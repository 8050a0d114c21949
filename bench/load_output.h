/* bench/load_output.h - what `baton bench` prints of a run, and its lines per request.
 *
 * Thread: the caller's. */
#ifndef BENCH_LOAD_OUTPUT_H
#define BENCH_LOAD_OUTPUT_H

#include <stdio.h>

#include "bench/load_run.h"
#include "bench/perf_report.h"

/* One JSON line; times in s.  For load_job.on_record with a FILE. */
void load_output_record(FILE *f, const struct load_options *o, const struct load_record *r);
/* A table for people. */
void load_output_table(const struct load_options *o, const struct load_plan *p,
                       const struct load_stats *s, const struct bench_run *run);
/* Rows for programs. */
void load_output_rows(const char *prefix, const struct load_stats *s, const struct bench_run *run,
                      struct bench_report *report);

/* Means and confidence intervals of the rows from `from` on. */
void load_output_repeats(const struct load_options *o, const char *prefix,
                         const struct bench_report *report, size_t from);

#endif
