/* bench/trace_draw.c - arrivals and lengths drawn from a seed. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "bench/trace_impl.h"

static enum err check(const struct bench_draw *d, struct err_msg *msg)
{
    if (!(d->rate > 0 && d->rate < 1e7))
        return err_set(msg, ERR_INVALID, "rate must be between 0 and 10^7 per second");
    if (!(d->seconds > 0 && d->seconds < 1e9))
        return err_set(msg, ERR_INVALID, "the length must be between 0 and 10^9 s");
    if (d->rate * d->seconds > TRACE_ROWS_MAX)
        return err_set(msg, ERR_LIMIT, "%.0f requests are over the limit of %d",
                       d->rate * d->seconds, TRACE_ROWS_MAX);
    if (d->arrival == BENCH_ARRIVE_GAMMA && !(d->burstiness > 0))
        return err_set(msg, ERR_INVALID, "burstiness must be above 0");
    if (d->arrival == BENCH_ARRIVE_NHPP && d->n_pieces == 0)
        return err_set(msg, ERR_INVALID, "a changing rate needs its pieces");
    return ERR_OK;
}

/* Relative rate at a time; its mean over the whole is 1. */
static double shape_at(const struct bench_draw *d, double mean, double at)
{
    double x = at / d->seconds;
    size_t i;

    if (d->arrival == BENCH_ARRIVE_RAMP)
        return 0.1 + 1.8 * x;
    if (d->arrival != BENCH_ARRIVE_NHPP)
        return 1;
    i = (size_t)(x * d->n_pieces);
    return d->piece[i < d->n_pieces ? i : d->n_pieces - 1] / mean;
}

/* A process of rate 1 in its own time, whose time runs as fast as the rate asks for: pieces of 1/1000 of
 * the whole are fine enough for every shape here. */
static enum err draw_times(const struct bench_draw *d, struct trace_rows *r, struct err_msg *msg)
{
    struct bench_rng rng = {d->seed ^ 0x61727269u};
    double mean = 0, left = -1, slice = d->seconds / 1000;

    for (uint32_t i = 0; i < d->n_pieces && d->arrival == BENCH_ARRIVE_NHPP; i++)
        mean += d->piece[i] / d->n_pieces;
    if (d->arrival == BENCH_ARRIVE_NHPP && !(mean > 0))
        return err_set(msg, ERR_INVALID, "a changing rate must be above 0 somewhere");
    for (int i = 0; i < 1000; i++) {
        double rate = d->rate * shape_at(d, mean, ((double)i + 0.5) * slice), at = 0;

        while (rate > 0) {
            struct bench_trace_row row = {.n_prompt = 1, .n_out = 1};
            enum err err;

            if (left < 0 && d->arrival == BENCH_ARRIVE_CONSTANT)
                left = 1;
            else if (left < 0 && d->arrival == BENCH_ARRIVE_GAMMA)
                left = bench_rng_gamma(&rng, d->burstiness) / d->burstiness;
            else if (left < 0)
                left = bench_rng_exp(&rng);
            if (left > (slice - at) * rate) {
                left -= (slice - at) * rate;
                break;
            }
            at += left / rate;
            left = -1;
            row.at_s = (double)i * slice + at;
            err = trace_rows_add(r, &row, msg);
            if (err != ERR_OK)
                return err;
        }
    }
    return ERR_OK;
}

static uint32_t draw_length(struct bench_rng *rng, double mean, double sigma, double pareto,
                            uint32_t max)
{
    double x = mean;

    if (pareto > 1)
        x = mean * (pareto - 1) / pareto * pow(1 - bench_rng_unit(rng), -1 / pareto);
    else if (sigma > 0)
        x = mean * exp(sigma * bench_rng_normal(rng) - sigma * sigma / 2);
    x = floor(x + 0.5);
    return !(x >= 1) ? 1 : x > max ? max : (uint32_t)x;
}

static const char *draw_name(const struct bench_draw *d)
{
    switch (d->arrival) {
    case BENCH_ARRIVE_POISSON:
        return "poisson";
    case BENCH_ARRIVE_CONSTANT:
        return "constant";
    case BENCH_ARRIVE_GAMMA:
        return "gamma";
    case BENCH_ARRIVE_RAMP:
        return "ramp";
    case BENCH_ARRIVE_NHPP:
        return "nhpp";
    }
    return "drawn";
}

static enum err draw_finish(const struct bench_draw *d, enum err err, struct bench_trace *t,
                            struct err_msg *msg, struct bench_trace *out)
{
    if (err == ERR_OK && t->n == 0)
        err = err_set(msg, ERR_INVALID, "no request falls into %.3g s at %.3g per second",
                      d->seconds, d->rate);
    if (err != ERR_OK) {
        bench_trace_free(t);
        return err;
    }
    t->seconds = d->seconds;
    *out = *t;
    return ERR_OK;
}

enum err bench_trace_draw(const struct bench_draw *d, struct err_msg *msg, struct bench_trace *out)
{
    struct bench_trace t = {.n = 0};
    struct trace_rows rows = {.t = &t};
    struct bench_rng rng = {d->seed ^ 0x6c656e67u};
    enum err err = check(d, msg);

    if (err == ERR_OK && !(d->in_mean >= 1 && d->out_mean >= 1))
        err = err_set(msg, ERR_INVALID, "mean lengths must be 1 token at least");
    if (err == ERR_OK)
        err = draw_times(d, &rows, msg);
    for (size_t i = 0; i < t.n; i++) {
        t.v[i].n_prompt = draw_length(&rng, d->in_mean, d->in_sigma, d->in_pareto,
                                      d->in_max == 0 ? 131072 : d->in_max);
        t.v[i].n_out = draw_length(&rng, d->out_mean, d->out_sigma, d->out_pareto,
                                   d->out_max == 0 ? 4096 : d->out_max);
    }
    snprintf(t.name, sizeof(t.name), "%s", draw_name(d));
    return draw_finish(d, err, &t, msg, out);
}

/* Blocks and texts are copied, so that either trace can be freed alone. */
static enum err copy_content(const struct bench_trace *from, struct bench_trace *t,
                             struct err_msg *msg)
{
    size_t text = 0;

    for (size_t i = 0; i < from->n; i++) {
        size_t end = (size_t)from->v[i].text + from->v[i].text_len;

        text = end > text ? end : text;
    }
    if (from->n_blocks > 0) {
        t->blocks = mem_try_alloc(from->n_blocks * sizeof(*t->blocks));
        if (t->blocks == NULL)
            return err_set(msg, ERR_NOMEM, "out of memory for %zu hash_ids", from->n_blocks);
        memcpy(t->blocks, from->blocks, from->n_blocks * sizeof(*t->blocks));
        t->n_blocks = from->n_blocks;
    }
    if (text > 0) {
        t->text = mem_try_alloc(text);
        if (t->text == NULL)
            return err_set(msg, ERR_NOMEM, "out of memory for %zu bytes of prompts", text);
        memcpy(t->text, from->text, text);
    }
    return ERR_OK;
}

enum err bench_trace_redraw(const struct bench_trace *from, const struct bench_draw *d,
                            struct err_msg *msg, struct bench_trace *out)
{
    struct bench_trace t = {.n = 0};
    struct trace_rows rows = {.t = &t};
    enum err err = check(d, msg);

    if (err == ERR_OK && from->n == 0)
        err = err_set(msg, ERR_INVALID, "the trace to take lengths from is empty");
    if (err == ERR_OK)
        err = draw_times(d, &rows, msg);
    for (size_t i = 0; i < t.n; i++) {
        double at = t.v[i].at_s;

        t.v[i] = from->v[i % from->n];
        t.v[i].at_s = at;
    }
    if (err == ERR_OK)
        err = copy_content(from, &t, msg);
    snprintf(t.name, sizeof(t.name), "%.48s-%s", from->name, draw_name(d));
    return draw_finish(d, err, &t, msg, out);
}
