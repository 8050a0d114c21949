/* bench/sim_record.c - a JSON line per request of a simulated run: what became of it, and what the scheduler had
 * foreseen of it, under the names that the records of `baton serve` have.
 *
 * A client has its end before the scheduler has made its record, so that lines wait for the end of the events that
 * belong to the moment. */
#include <inttypes.h>

#include "bench/sim_impl.h"

static void keep(struct sim *m, enum err err)
{
    if (err != ERR_OK)
        sim_fail(m, err, "out of memory for the records");
}

static enum err put_late(struct buf *b, const struct sim_req *r, const struct bench_outcome *o)
{
    if (r->late_ns == INT64_MIN) /* no token came, so that none was late */
        return buf_printf(b, ", \"late_s\": null");
    return buf_printf(b, ", \"late_s\": %.6f", o->late_s);
}

void sim_record_over(struct sim *m, const struct sim_req *r, uint64_t number,
                     const struct bench_outcome *o)
{
    static const char *const fates[] = {"", "done", "refused", "failed", "timeout", "canceled"};
    struct buf *b = &m->lines;
    void *p = m->line;
    enum err err = buf_printf(b, "{\"request\": %" PRIu64, number);

    if (err == ERR_OK && r->tenant > 0)
        err = buf_printf(b, ", \"tenant\": \"%s\"", m->run->tenant[r->tenant - 1].name);
    if (err == ERR_OK)
        err = buf_printf(
            b,
            ", \"tier\": \"%s\", \"arrived_s\": %.6f, \"prompt\": %u, "
            "\"cached\": %u, \"tokens\": %u, \"fate\": \"%s\", \"kept\": %s, \"admitted\": %s, "
            "\"ttft_s\": %.6f, \"ttft_target_s\": %.6f, \"e2e_s\": %.6f, "
            "\"gap_s\": %.6f, \"attempts\": %u, \"prefill_worker\": %u, \"decode_worker\": %u",
            m->cluster->tiers[r->tier].name, o->intended_s, r->n_prompt, r->n_hit, o->n_out,
            fates[o->fate], bench_outcome_kept(o) ? "true" : "false",
            o->admitted ? "true" : "false", o->ttft_s, o->ttft_target_s, o->e2e_s, o->max_gap_s,
            r->epoch, r->p_worker, r->d_worker);
    if (err == ERR_OK)
        err = put_late(b, r, o);
    if (err == ERR_OK && r->reason != SCHED_REASON_NONE)
        err = buf_printf(b, ", \"reason\": \"%s\"", sched_reason_name(r->reason));
    keep(m, err);
    if (err != ERR_OK || !sim_grow(m, &p, m->n_line + 1, &m->cap_line, sizeof(*m->line)))
        return;
    m->line = p;
    m->line[m->n_line++] = (struct sim_line){.request = r->id, .end = b->len};
}

/* What did not happen is left out. */
static void put_times(FILE *f, const char *key, const struct sched_times *t)
{
    const struct {
        const char *key;
        uint64_t ns;
    } v[] = {{"queue_ms", t->queue},       {"prefill_ms", t->prefill},
             {"handover_ms", t->handover}, {"decode_wait_ms", t->decode_wait},
             {"ttft_ms", t->ttft},         {"step_ms", t->step},
             {"total_ms", t->total}};
    const char *comma = "";

    fprintf(f, ", \"%s\": {", key);
    for (size_t i = 0; i < sizeof(v) / sizeof(v[0]); i++) {
        if (v[i].ns == 0)
            continue;
        fprintf(f, "%s\"%s\": %.3f", comma, v[i].key, (double)v[i].ns / 1e6);
        comma = ", ";
    }
    fputs("}", f);
}

static void put_pick(FILE *f, const char *key, const struct sched_pick *p)
{
    if (p->prefill != 0 || p->decode != 0)
        fprintf(f, ", \"%s\": {\"score_ms\": %.3f, \"prefill\": %u, \"decode\": %u}", key,
                p->score / 1e6, p->prefill, p->decode);
}

static void put_forecast(FILE *f, const struct sched_record *s)
{
    fprintf(f, ", \"predicted_tokens\": %u", s->predicted_tokens);
    if (s->refusal.resource != SCHED_RES_NONE)
        fprintf(f,
                ", \"refusal\": {\"stage\": \"%s\", \"resource\": \"%s\", \"predicted_ms\": %.3f, "
                "\"target_ms\": %.3f}",
                sched_resource_stage(s->refusal.resource), sched_resource_name(s->refusal.resource),
                (double)s->refusal.predicted_ns / 1e6, (double)s->refusal.target_ns / 1e6);
    if (s->cause != SCHED_CAUSE_NONE)
        fprintf(f, ", \"cause\": \"%s\"", sched_cause_name(s->cause));
    put_times(f, "predicted", &s->predicted);
    put_times(f, "high", &s->high);
    put_times(f, "actual", &s->actual);
    put_pick(f, "chosen", &s->chosen);
    put_pick(f, "runner_up", &s->runner_up);
}

void sim_record_write(struct sim *m)
{
    uint64_t next = sched_record_next(m->sched);
    size_t from = 0;

    for (uint32_t i = 0; i < m->n_line; i++) {
        const struct sim_line *l = &m->line[i];
        struct sched_record s;

        (void)fwrite(buf_bytes(&m->lines) + from, 1, l->end - from, m->setup->records);
        from = l->end;
        for (uint64_t k = m->record; k < next; k++) {
            if (sched_record_get(m->sched, k, &s) == ERR_OK && s.request == l->request) {
                put_forecast(m->setup->records, &s);
                break;
            }
        }
        fputs("}\n", m->setup->records);
    }
    m->record = next;
    m->n_line = 0;
    buf_clear(&m->lines);
}
