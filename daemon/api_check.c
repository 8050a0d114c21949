/* daemon/api_check.c - every promise of api_request.h as code: what a request that was accepted must
 * satisfy, whatever the client sent.  Written without the table on purpose, so that a wrong row in it
 * is seen. */
#include <math.h>
#include <string.h>

#include "daemon/api_request.h"
#include "daemon/api_utf8.h"

static bool text_ok(const char *s, size_t len)
{
    const uint8_t *p = (const uint8_t *)s, *end = p + len;

    if (s == NULL || s[len] != '\0' || memchr(s, '\0', len) != NULL)
        return false;
    while (p < end) {
        unsigned n = api_utf8_step(p, end);

        if (n == 0)
            return false;
        p += n;
    }
    return true;
}

static bool id_ok(int32_t id, const struct api_limits *limits)
{
    return id >= 0 && (limits->vocab == 0 || (uint32_t)id < limits->vocab);
}

static bool within(float v, float min, float max)
{
    return isfinite(v) && v >= min && v <= max;
}

static bool sampling_ok(const struct engine_sampling *s, const struct api_limits *limits)
{
    if (!within(s->temperature, 0, 100) || !within(s->top_p, 0, 1) || s->top_p <= 0 ||
        !within(s->min_p, 0, 1) || s->top_k < -1 || !within(s->repetition_penalty, 0, 100) ||
        s->repetition_penalty <= 0 || !within(s->presence_penalty, -2, 2) ||
        !within(s->frequency_penalty, -2, 2))
        return false;
    if (s->n_top > ENGINE_TOP_LOGPROBS_MAX || (s->n_top > 0 && !s->want_logprobs) ||
        s->n_stop_ids > API_STOP_IDS_MAX || s->n_bias > ENGINE_BIAS_MAX)
        return false;
    for (uint32_t i = 0; i < s->n_stop_ids; i++) {
        if (!id_ok(s->stop_ids[i], limits))
            return false;
    }
    for (uint32_t i = 0; i < s->n_bias; i++) {
        if (!id_ok(s->bias[i].token, limits) || !within(s->bias[i].bias, -100, 100))
            return false;
    }
    return true;
}

static bool messages_ok(const struct api_request *r)
{
    static const char *const roles[] = {"system", "user", "assistant", "tool"};

    if (r->n_messages > API_MESSAGES_MAX)
        return false;
    for (size_t i = 0; i < r->n_messages; i++) {
        bool known = false;

        for (size_t k = 0; k < sizeof(roles) / sizeof(roles[0]); k++)
            known = known || strcmp(roles[k], r->messages[i].role) == 0;
        if (!known || !text_ok(r->messages[i].content, r->messages[i].content_len))
            return false;
    }
    return true;
}

static bool prompts_ok(const struct api_request *r, const struct api_limits *limits)
{
    if (r->n_prompts > API_PROMPTS_MAX)
        return false;
    for (size_t i = 0; i < r->n_prompts; i++) {
        const struct api_prompt *p = &r->prompts[i];

        if (p->text != NULL ? !text_ok(p->text, p->text_len) : p->ids == NULL)
            return false;
        for (size_t k = 0; p->text == NULL && k < p->n_ids; k++) {
            if (!id_ok(p->ids[k], limits))
                return false;
        }
    }
    return true;
}

static bool generation_ok(const struct api_request *r, const struct api_limits *limits)
{
    uint32_t n_max =
        limits->n_max > 0 && limits->n_max < API_N_MAX ? limits->n_max : (uint32_t)API_N_MAX;

    if (r->n < 1 || r->n > n_max || r->n_prompts * r->n > API_CHOICES_MAX ||
        r->n_stop > API_STOP_MAX || r->model[0] == '\0')
        return false;
    if (r->has_max_tokens && (r->min_tokens > r->max_tokens || r->max_tokens > INT32_MAX))
        return false;
    if (r->sampling.min_tokens != r->min_tokens || r->sampling.n_top != r->top_logprobs ||
        r->sampling.want_logprobs != r->logprobs || (r->logprobs && r->echo))
        return false;
    if (!r->stream && (r->include_usage || r->continuous_usage))
        return false;
    for (uint32_t i = 0; i < r->n_stop; i++) {
        if (r->stop_len[i] == 0 || r->stop_len[i] > API_STOP_BYTES_MAX ||
            !text_ok(r->stop[i], r->stop_len[i]))
            return false;
    }
    return sampling_ok(&r->sampling, limits);
}

bool api_request_check(const struct api_request *r, const struct api_limits *limits)
{
    static const struct api_limits no_limits;

    if (limits == NULL)
        limits = &no_limits;
    if (strnlen(r->model, sizeof(r->model)) == sizeof(r->model) ||
        strnlen(r->user, sizeof(r->user)) == sizeof(r->user) ||
        strnlen(r->service_tier, sizeof(r->service_tier)) == sizeof(r->service_tier) ||
        !text_ok(r->model, strlen(r->model)) || !messages_ok(r) || !prompts_ok(r, limits) ||
        (r->continue_final_message && r->add_generation_prompt))
        return false;
    switch (r->kind) {
    case API_CHAT:
        return r->n_messages > 0 && r->n_prompts == 0 && generation_ok(r, limits) &&
               (!r->has_max_tokens || r->max_tokens > 0);
    case API_COMPLETION:
        return r->n_messages == 0 && r->n_prompts > 0 && r->has_max_tokens &&
               generation_ok(r, limits);
    case API_TOKENIZE:
        return (r->n_messages > 0) != (r->n_prompts == 1);
    case API_DETOKENIZE:
        return r->n_messages == 0 && r->n_prompts == 1 && r->prompts[0].text == NULL;
    }
    return false;
}
