/* bench/load_run.c - the clock of a run: what is due is sent, what takes too long is stopped, and what happens is shown.
 *
 * Sends are timed by a timerfd, since libuv's own timers know milliseconds only and would add as much lag. */
#include "bench/load_impl.h"

#include <math.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/mem.h"
#include "bench/interrupt.h"

enum { TICK_MS = 100, BATCH = 64, TIMER_SLACK_NS = 1000, SAMPLES_MIN = 8, CROWD_MIN = 32 };
static const double Z95 = 1.96;
static const double SATURATED_SHARE =
    0.05; /* of the offered rate, by which requests in flight grow */
static const double SATURATED_AFTER_S = 20;
static const double SATURATED_SILENCE_S = 60; /* when nothing at all has ended */
static const double SATURATED_TIMES =
    2; /* as many in flight as answers of the present length need */

/* ---- sending ---- */

static uint64_t due_ns(const struct load_runner *r, size_t i)
{
    return r->begin_ns + (uint64_t)(r->plan->v[i].at_s * 1e9);
}

static bool slot_free(const struct load_runner *r)
{
    return r->o->concurrency == 0 || r->in_flight < r->o->concurrency;
}

static void arm(struct load_runner *r, uint64_t at_ns)
{
    struct itimerspec when = {.it_value = {.tv_sec = (time_t)(at_ns / CLOCK_NS_PER_S),
                                           .tv_nsec = (long)(at_ns % CLOCK_NS_PER_S)}};

    if (timerfd_settime(r->timer_fd, TFD_TIMER_ABSTIME, &when, NULL) != 0)
        r->err = ERR_IO;
}

static void send_due(struct load_runner *r)
{
    for (int sent = 0; r->sending && r->next < r->plan->n; sent++) {
        uint64_t now = clock_now_ns(), due = r->job->closed ? now : due_ns(r, r->next);
        uint64_t ready = due > r->slot_free_ns ? due : r->slot_free_ns;

        if (r->job->closed && (double)(now - r->begin_ns) / 1e9 >= r->plan->duration_s) {
            r->sending = false;
            break;
        }
        if (due > now || sent == BATCH) {
            arm(r, due > now ? due : now + 1); /* after a batch: let answers be read first */
            return;
        }
        if (!slot_free(r))
            return; /* load_runner_ended comes back */
        load_request_start(r, r->next++, due, ready);
        if (r->in_flight > r->stats->peak_in_flight)
            r->stats->peak_in_flight = r->in_flight;
    }
    if (r->next >= r->plan->n)
        r->sending = false;
}

static void on_due(uv_poll_t *h, int status, int events)
{
    struct load_runner *r = h->data;
    uint64_t expired;

    (void)status, (void)events;
    if (read(r->timer_fd, &expired, sizeof(expired)) < 0)
        return; /* armed anew in between */
    send_due(r);
}

void load_runner_ended(struct load_runner *r)
{
    bool was_full = !slot_free(r);

    r->in_flight--;
    if (!was_full)
        return;
    r->slot_free_ns = clock_now_ns();
    if (r->sending)
        arm(r, 1); /* in the past: at once, but from the loop, not from inside a callback */
}

/* ---- watching ---- */

double load_slope(const double *x, const double *y, size_t n, double *half)
{
    double mx = 0, my = 0, sxx = 0, sxy = 0, rest = 0, slope;

    *half = 0;
    if (n < SAMPLES_MIN)
        return 0;
    for (size_t i = 0; i < n; i++) {
        mx += x[i] / (double)n;
        my += y[i] / (double)n;
    }
    for (size_t i = 0; i < n; i++) {
        sxx += (x[i] - mx) * (x[i] - mx);
        sxy += (x[i] - mx) * (y[i] - my);
    }
    if (sxx <= 0)
        return 0;
    slope = sxy / sxx;
    for (size_t i = 0; i < n; i++) {
        double e = y[i] - my - slope * (x[i] - mx);

        rest += e * e;
    }
    *half = Z95 * sqrt(rest / (double)(n - 2) / sxx);
    return slope;
}

/* More requests in flight than rate times length explains, and still growing beyond noise and bursts. */
static bool is_saturated(const struct load_runner *r, double now_s, double half)
{
    double sent = (double)r->stats->sent / now_s, rate = fmax(r->plan->rate, sent);
    double needed = rate * bench_hist_mean(&r->stats->e2e);

    /* while the first long answers are still under way, growth says nothing; and those that have ended are the
     * shorter ones, hence the large factor */
    if (now_s < SATURATED_AFTER_S || now_s < 4 * bench_hist_quantile(&r->stats->e2e, 0.9) ||
        r->in_flight < CROWD_MIN || (r->stats->e2e.n == 0 && now_s < SATURATED_SILENCE_S))
        return false;
    return r->in_flight > SATURATED_TIMES * needed &&
           r->stats->slope - half > SATURATED_SHARE * rate;
}

/* Requests in flight over the second half of what was sampled so far. */
static void sample(struct load_runner *r, double now_s)
{
    double half;
    size_t from;

    if (!r->sending)
        return;
    if (r->n_samples == r->cap_samples) { /* thin them out: every second one stays */
        for (size_t i = 0; 2 * i < r->n_samples; i++) {
            r->sample_x[i] = r->sample_x[2 * i];
            r->sample_y[i] = r->sample_y[2 * i];
        }
        r->n_samples = (r->n_samples + 1) / 2;
    }
    r->sample_x[r->n_samples] = now_s;
    r->sample_y[r->n_samples++] = r->in_flight;
    from = r->n_samples / 2;
    r->stats->slope =
        load_slope(r->sample_x + from, r->sample_y + from, r->n_samples - from, &half);
    if (r->job->stop_saturated && is_saturated(r, now_s, half)) {
        r->stats->saturated = true;
        r->sending = false;
        while (r->first != NULL)
            load_request_stop(r->first, BENCH_TIMEOUT, "stopped: requests in flight kept growing");
    }
}

static void show(struct load_runner *r, double now_s, bool last)
{
    bool tty = isatty(STDERR_FILENO) == 1;
    uint64_t now = clock_now_ns();
    const struct load_stats *s = r->stats;

    if (!r->job->progress || (!last && now - r->shown_ns < (tty ? 1 : 5) * CLOCK_NS_PER_S))
        return;
    r->shown_ns = now;
    fprintf(stderr,
            "%s%6.1f s of %.0f: sent %llu of %zu, done %llu, refused %llu, failed %llu, in flight "
            "%u, %s p90 %.3g s, lag p99 %.2f ms%s",
            tty ? "\r" : "", now_s, r->plan->duration_s, (unsigned long long)s->sent, r->plan->n,
            (unsigned long long)s->done, (unsigned long long)s->refused,
            (unsigned long long)(s->failed + s->timeout), r->in_flight,
            r->o->no_stream ? "answer" : "first token",
            bench_hist_quantile(r->o->no_stream ? &s->e2e : &r->first_token, 0.9),
            bench_hist_quantile(&r->lag, 0.99) * 1e3, tty && !last ? "\x1b[K" : "\n");
}

static void stop_loop(struct load_runner *r)
{
    if (!uv_is_closing((uv_handle_t *)&r->due))
        uv_close((uv_handle_t *)&r->due, NULL);
    if (!uv_is_closing((uv_handle_t *)&r->tick))
        uv_close((uv_handle_t *)&r->tick, NULL);
    if (r->client != NULL) {
        r->stats->connections = load_client_opened(r->client);
        load_client_close(r->client);
    }
    r->client = NULL;
}

/* Nothing more is sent; what is under way is canceled and does not count. */
static void interrupt(struct load_runner *r)
{
    r->stats->interrupted = true;
    r->sending = false;
    while (r->first != NULL)
        load_request_stop(r->first, BENCH_CANCELED, "interrupted");
}

static void on_tick(uv_timer_t *h)
{
    struct load_runner *r = h->data;
    uint64_t now = clock_now_ns(), limit = (uint64_t)(r->o->timeout_s * 1e9);
    double now_s = now > r->begin_ns ? (double)(now - r->begin_ns) / 1e9 : 0;

    while (r->first != NULL && now - r->first->sent_ns > limit)
        load_request_stop(r->first, r->first->saw_end ? BENCH_DONE : BENCH_TIMEOUT,
                          "no end within --timeout");
    sample(r, now_s);
    if (bench_interrupted() != 0 && !r->stats->interrupted)
        interrupt(r);
    if (r->job->closed && now_s >= r->plan->duration_s)
        r->sending = false;
    show(r, now_s, false);
    if (r->err != ERR_OK || (!r->sending && r->in_flight == 0))
        stop_loop(r);
}

/* ---- a run ---- */

/* Thousands of connections need as many descriptors. */
static void raise_descriptors(void)
{
    struct rlimit l;

    if (getrlimit(RLIMIT_NOFILE, &l) == 0 && l.rlim_cur < l.rlim_max) {
        l.rlim_cur = l.rlim_max;
        (void)!setrlimit(RLIMIT_NOFILE, &l);
    }
}

static enum err start(struct load_runner *r, struct err_msg *msg)
{
    enum err err;

    r->timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    if (r->timer_fd < 0)
        return err_set(msg, ERR_IO, "no timer for the run: too many open files");
    r->n_seconds = (size_t)(r->plan->duration_s + r->o->timeout_s) + 2;
    r->cap_samples = 2048;
    r->per_second = mem_try_calloc(r->n_seconds, sizeof(*r->per_second));
    r->sample_x = mem_try_calloc(r->cap_samples, sizeof(*r->sample_x));
    r->sample_y = mem_try_calloc(r->cap_samples, sizeof(*r->sample_y));
    if (r->per_second == NULL || r->sample_x == NULL || r->sample_y == NULL)
        return err_set(msg, ERR_NOMEM, "no memory for the run");
    err = load_client_create(&r->loop, &r->o->url, msg, &r->client);
    if (err != ERR_OK)
        return err;
    r->due.data = r->tick.data = r;
    uv_poll_init(&r->loop, &r->due, r->timer_fd);
    uv_poll_start(&r->due, UV_READABLE, on_due);
    uv_timer_init(&r->loop, &r->tick);
    uv_timer_start(&r->tick, on_tick, TICK_MS, TICK_MS);
    return ERR_OK;
}

static void finish_run(struct load_runner *r)
{
    double window = r->plan->duration_s - r->o->warmup_s - r->o->cooldown_s;
    double elapsed = r->last_ns > r->begin_ns ? (double)(r->last_ns - r->begin_ns) / 1e9 : 0;

    if (r->job->closed || r->stats->saturated || r->stats->interrupted)
        window = fmin(window, elapsed - r->o->warmup_s);
    for (size_t i = 0; i < r->n_seconds; i++)
        r->stats->peak_tokens = fmax(r->stats->peak_tokens, r->per_second[i]);
    r->stats->seconds = elapsed;
    bench_run_finish(r->run, fmax(window, 0));
    show(r, elapsed, true);
}

enum err load_run(const struct load_job *job, struct bench_run *run, struct load_stats *stats,
                  struct err_msg *msg)
{
    struct load_runner *r = mem_try_calloc(1, sizeof(*r));
    enum err err;

    memset(stats, 0, sizeof(*stats));
    if (r == NULL)
        return err_set(msg, ERR_NOMEM, "no memory for the run");
    *r = (struct load_runner){.job = job,
                              .plan = job->plan,
                              .o = job->plan->o,
                              .run = run,
                              .stats = stats,
                              .timer_fd = -1,
                              .sending = true};
    raise_descriptors();
    prctl(PR_SET_TIMERSLACK, TIMER_SLACK_NS); /* or every send would be up to 50 us late */
    if (uv_loop_init(&r->loop) != 0) {
        mem_free(r);
        return err_set(msg, ERR_IO, "no event loop: too many open files");
    }
    err = start(r, msg);
    if (err == ERR_OK) {
        r->begin_ns = r->shown_ns = clock_now_ns() + 10 * CLOCK_NS_PER_MS;
        arm(r, r->begin_ns);
        uv_run(&r->loop, UV_RUN_DEFAULT);
        err = r->err;
        finish_run(r);
    }
    if (err != ERR_OK && r->err != ERR_OK)
        (void)err_set(msg, err, "the run ended early: %s", err_text(err));
    if (r->timer_fd >= 0)
        close(r->timer_fd);
    (void)uv_loop_close(&r->loop);
    mem_free(r->per_second);
    mem_free(r->sample_x);
    mem_free(r->sample_y);
    mem_free(r);
    return err;
}
