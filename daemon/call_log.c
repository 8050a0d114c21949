/* daemon/call_log.c - one structured line per call, with the time of every stage. */
#include <inttypes.h>

#include "base/clock.h"
#include "base/log.h"
#include "daemon/frontend_metrics.h"

static double ms(uint64_t ns)
{
    return (double)ns / 1e6;
}

static double ms_since(uint64_t from, uint64_t to)
{
    return from != 0 && to > from ? ms(to - from) : 0;
}

void call_record(struct call *call)
{
    const struct gen_times none = {0}, *t = call->n_gens > 0 ? &call->gens[0].times : &none;
    uint64_t now = clock_now_ns(), prompt = 0, generated = 0;
    uint32_t attempts = 0;

    for (size_t i = 0; !call->pool_owns && i < call->n_prompts; i++) /* else they are being made */
        prompt += call->prompts[i].ids.n;
    for (uint32_t i = 0; i < call->n_gens; i++) {
        generated += call->gens[i].g.n_log;
        attempts += call->gens[i].times.attempts;
    }
    frontend_metrics_call(call);
    LOG_EVERY("request", "done",
              "id=%s request_id=%s outcome=%s status=%d tier=%s prompt_tokens=%" PRIu64
              " completion_tokens=%" PRIu64
              " choices=%u attempts=%u queue_ms=%.2f worker_queue_ms=%.2f "
              "prefill_ms=%.2f ttft_ms=%.2f wire_ms=%.2f exposed_ms=%.2f verify_ms=%.2f "
              "handover_bytes=%" PRIu64 " path=%s decode_ms=%.2f total_ms=%.2f prefill_worker=%u "
              "decode_worker=%u",
              call->id, call->request_id, call->outcome != NULL ? call->outcome : "?", call->status,
              call->f->c.config->tiers[call->tier].name, prompt, generated, call->n_gens, attempts,
              ms_since(call->arrived_ns, t->placed_ns != 0 ? t->placed_ns : now),
              ms(t->worker_queue_ns), ms(t->prefill_ns), ms_since(call->arrived_ns, t->first_ns),
              ms(t->wire_ns), ms(t->exposed_ns), ms(t->verify_ns), t->handover_bytes,
              kvt_path_name((enum kvt_path)t->path), ms_since(t->first_ns, t->last_ns),
              ms_since(call->arrived_ns, now), t->prefill_worker, t->decode_worker);
}
