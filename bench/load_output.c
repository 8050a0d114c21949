/* bench/load_output.c - tables and lines. */
#include "bench/load_output.h"

#include <math.h>
#include <stdbool.h>
#include <string.h>

static const char *fate_name(enum bench_fate f)
{
    static const char *const names[] = {"?", "done", "refused", "failed", "timeout", "canceled"};

    return f >= BENCH_DONE && f <= BENCH_CANCELED ? names[f] : names[0];
}

static void put_escaped(FILE *f, const char *s)
{
    for (; *s != '\0'; s++) {
        if (*s == '"' || *s == '\\')
            fputc('\\', f);
        if ((unsigned char)*s >= 0x20 && (unsigned char)*s < 0x7f)
            fputc(*s, f);
        else
            fputc('?', f);
    }
}

/* A number, or null where nobody could know it. */
static void put_seconds(FILE *f, const char *name, double s, bool known)
{
    if (known)
        fprintf(f, "\"%s\":%.6f,", name, s);
    else
        fprintf(f, "\"%s\":null,", name);
}

void load_output_record(FILE *f, const struct load_options *o, const struct load_record *r)
{
    const struct bench_outcome *x = &r->outcome;

    fprintf(
        f,
        "{\"index\":%zu,\"tier\":\"%s\",\"fate\":\"%s\",\"kept\":%s,\"measured\":%s,\"status\":%d,"
        "\"prompt_tokens\":%u,\"output_tokens\":%u,\"asked_tokens\":%u,\"cached_tokens\":%u,"
        "\"chunks\":%u,\"intended_s\":%.6f,\"queue_s\":%.6f,\"lag_s\":%.6f,",
        r->index, o->tier[x->tier].name, fate_name(x->fate),
        bench_outcome_kept(x) ? "true" : "false", x->measured ? "true" : "false", r->status,
        x->n_prompt, x->n_out, r->item->n_out, r->n_cached, r->n_chunks, x->intended_s, r->queue_s,
        x->sent_s - x->intended_s);
    put_seconds(f, "ttft_s", x->ttft_s, !x->whole);
    put_seconds(f, "tbt_s", r->mean_gap_s, !x->whole);
    put_seconds(f, "max_gap_s", x->max_gap_s, !x->whole);
    fprintf(f,
            "\"e2e_s\":%.6f,\"late_s\":%.6f,\"ttft_target_s\":%.6f,\"tbt_target_s\":%.6f,"
            "\"retry_after_s\":%.3f,\"error\":\"",
            x->e2e_s, x->late_s, x->ttft_target_s, x->tbt_target_s, x->retry_after_s);
    put_escaped(f, r->error);
    fputs("\"}\n", f);
}

static void duration(char out[16], double s)
{
    if (s <= 0)
        snprintf(out, 16, "-");
    else if (s < 0.0995)
        snprintf(out, 16, "%.3g ms", s * 1e3);
    else if (s < 0.9995)
        snprintf(out, 16, "%.0f ms", s * 1e3);
    else
        snprintf(out, 16, s < 99.5 ? "%.3g s" : "%.0f s", s);
}

static void print_quantiles(const struct bench_hist *h)
{
    static const double q[] = {0.5, 0.9, 0.99};
    char text[16];

    for (size_t i = 0; i < 3; i++) {
        duration(text, bench_hist_quantile(h, q[i]));
        printf(" %8s", text);
    }
}

static void print_tier(const struct bench_run *run, const struct bench_tier_figures *t)
{
    double n = t->n > 0 ? (double)t->n : 1;
    char target[32] = "-";

    if (t->ttft_s > 0)
        snprintf(target, sizeof(target), "%.6g/%.6g", t->ttft_s * 1e3, t->tbt_s * 1e3);
    printf("%-12.12s %11s %8llu %6.1f%% %8.4g %7.1f%% %6.1f%% %7.1f%% %6.1f%%", t->name, target,
           (unsigned long long)t->n, 100 * (double)t->kept / n,
           run->window_s > 0 ? (double)t->kept / run->window_s : 0, 100 * (double)t->refused / n,
           100 * (double)t->failed / n, 100 * (double)t->timeout / n,
           100 * bench_broken_share(t->kept, t->broken));
    print_quantiles(run->whole ? &t->e2e : &t->ttft);
    if (!run->whole)
        print_quantiles(&t->tbt);
    printf("\n");
}

static void print_client(const struct load_options *o, const struct load_stats *s,
                         const struct bench_run *run)
{
    char half[16], most[16], end[16];

    duration(half, bench_hist_quantile(&run->lag, 0.5));
    duration(most, bench_hist_quantile(&run->lag, 0.99));
    duration(end, run->lag.max);
    printf("client: lag p50 %s, p99 %s, max %s (bound %.3g ms); %llu connections\n", half, most,
           end, o->lag_bound_s * 1e3, (unsigned long long)s->connections);
    if (o->concurrency > 0) {
        duration(half, bench_hist_quantile(&s->queue, 0.5));
        duration(most, bench_hist_quantile(&s->queue, 0.99));
        printf("client queue (counted in all times): p50 %s, p99 %s\n", half, most);
    }
}

void load_output_table(const struct load_options *o, const struct load_plan *p,
                       const struct load_stats *s, const struct bench_run *run)
{
    double seconds = s->seconds > 0 ? s->seconds : 1;

    char part[48] = "";

    if (o->trace_path != NULL && !o->has_arrival && p->n_windows == 1 && p->share < 0.995)
        snprintf(part, sizeof(part), " (the first %.2g %% of the trace)", 100 * p->share);
    printf("\n%s x%.4g: %.4g requests/s offered for %.4g s%s, %llu sent, seed %llu\n", run->trace,
           run->speedup, run->rate, fmin(p->duration_s, s->seconds), part,
           (unsigned long long)s->sent, (unsigned long long)o->seed);
    printf("%-12s %11s %8s %7s %8s %8s %7s %8s %7s %26s %26s\n", "", "target ms", "", "", "", "",
           "", "timed", "prom.",
           run->whole ? "whole answer p50/p90/p99" : "first token p50/p90/p99",
           run->whole ? "" : "between p50/p90/p99");
    printf("%-12s %11s %8s %7s %8s %8s %7s %8s %7s\n", "tier", "first/next", "requests", "kept",
           "kept/s", "refused", "failed", "out", "broken");
    for (uint32_t i = 0; i < run->n_tiers; i++)
        print_tier(run, &run->tier[i]);
    if (run->n_tiers > 1)
        print_tier(run, &run->all);
    printf(
        "kept weight %.4g/s; output %.5g tokens/s; in flight at most %u, %+.2f per second in the "
        "second half\n",
        bench_run_goodput(run), (double)s->tokens_out / seconds, s->peak_in_flight, s->slope + 0.0);
    printf("largest tenth of prompts kept %.1f%%, others %.1f%%\n", 100 * run->large_kept,
           100 * run->rest_kept);
    if (s->canceled > 0)
        printf("canceled by this client (not counted): %llu\n", (unsigned long long)s->canceled);
    if (s->cut_short > 0)
        printf(
            "answers shorter than asked for, though ignore_eos was sent: %llu of %llu finished\n",
            (unsigned long long)s->cut_short, (unsigned long long)s->done);
    if (s->retry_after_s > 0)
        printf("longest Retry-After: %.3g s\n", s->retry_after_s);
    if (s->first_error[0] != '\0')
        printf("first failure: %s\n", s->first_error);
    print_client(o, s, run);
    if (run->note[0] != '\0')
        printf("note: %s\n", run->note);
    fflush(stdout);
}

static void add(struct bench_report *r, const char *prefix, const char *what, double v,
                const char *unit, enum bench_better better)
{
    char name[96];

    snprintf(name, sizeof(name), "%s.%s", prefix, what);
    bench_report_add(r, name, v, unit, better);
}

void load_output_rows(const char *prefix, const struct load_stats *s, const struct bench_run *run,
                      struct bench_report *report)
{
    double seconds = s->seconds > 0 ? s->seconds : 1;

    bench_run_rows(run, prefix, report);
    add(report, prefix, "rate", run->rate, "req/s", BENCH_HIGHER);
    add(report, prefix, "throughput.output", (double)s->tokens_out / seconds, "tokens/s",
        BENCH_HIGHER);
    add(report, prefix, "throughput.requests", (double)s->done / seconds, "req/s", BENCH_HIGHER);
    add(report, prefix, "canceled", (double)s->canceled, "1", BENCH_LOWER);
    add(report, prefix, "cut_short", (double)s->cut_short, "1", BENCH_LOWER);
    add(report, prefix, "in_flight.max", s->peak_in_flight, "1", BENCH_LOWER);
    add(report, prefix, "lag.p99", bench_hist_quantile(&run->lag, 0.99), "s", BENCH_LOWER);
}

static const struct bench_result *find_row(const struct bench_report *r, size_t from,
                                           const char *prefix, const char *what, const char *tier)
{
    char name[sizeof(r->v->name)];

    snprintf(name, sizeof(name), "%s.%s%s%s", prefix, what, tier[0] != '\0' ? "." : "", tier);
    for (size_t i = from; i < r->n; i++) {
        if (strcmp(r->v[i].name, name) == 0)
            return &r->v[i];
    }
    return NULL;
}

static void print_mean(const struct bench_result *row, double scale, const char *unit)
{
    char text[48] = "-";

    if (row != NULL && row->repeats > 1)
        snprintf(text, sizeof(text), "%.4g +- %.2g%s", row->value * scale, row->ci95 * scale, unit);
    else if (row != NULL)
        snprintf(text, sizeof(text), "%.4g%s", row->value * scale, unit);
    printf(" %20s", text);
}

void load_output_repeats(const struct load_options *o, const char *prefix,
                         const struct bench_report *report, size_t from)
{
    const char *first = o->no_stream ? "e2e" : "ttft";
    char p90[16], p99[16];

    snprintf(p90, sizeof(p90), "%s.p90", first);
    snprintf(p99, sizeof(p99), "%s.p99", first);
    printf("\nmeans of %u runs, seeds %llu to %llu, and half of their 95 %% confidence intervals\n",
           report->v[from].repeats, (unsigned long long)o->seed,
           (unsigned long long)o->seed + report->v[from].repeats - 1);
    printf("%-12s %20s %20s %20s %20s %20s %20s\n", "tier", "kept", "kept/s", "refused",
           o->no_stream ? "whole answer p90" : "first token p90",
           o->no_stream ? "whole answer p99" : "first token p99",
           o->no_stream ? "" : "between p99");
    for (uint32_t i = 0; i < o->n_tiers; i++) {
        const char *tier = o->tier[i].name;

        printf("%-12.12s", tier);
        print_mean(find_row(report, from, prefix, "attainment", tier), 100, " %");
        print_mean(find_row(report, from, prefix, "goodput", tier), 1, "");
        print_mean(find_row(report, from, prefix, "rejected", tier), 100, " %");
        print_mean(find_row(report, from, prefix, p90, tier), 1e3, " ms");
        print_mean(find_row(report, from, prefix, p99, tier), 1e3, " ms");
        if (!o->no_stream)
            print_mean(find_row(report, from, prefix, "tbt.p99", tier), 1e3, " ms");
        printf("\n");
    }
    printf("all:        ");
    print_mean(find_row(report, from, prefix, "attainment", "all"), 100, " %");
    printf("; kept weight per second");
    print_mean(find_row(report, from, prefix, "goodput.weighted", ""), 1, "");
    printf("\n");
    fflush(stdout);
}
