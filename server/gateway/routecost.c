/* routecost.c -- predictions from step-time fits (engine/core/stepmodel.h), or from what there is.
 */
#include "server/gateway/routecost.h"

#include "engine/base/check.h"

enum {
    SPEED_UNKNOWN = 1000,   /* tokens a second, until any worker has told */
    STEP_UNKNOWN_US = 20000 /* likewise */
};

static int64_t bounded(double us) {
    return us < (double)ROUTECOST_US_MAX ? (int64_t)us : ROUTECOST_US_MAX;
}

routecost_reference routecost_refer(const routecost_view *views, uint32_t views_count) {
    routecost_reference r = {0};
    for (uint32_t i = 0; i < views_count; i++) {
        const routecost_view *v = &views[i];
        if (!v->up) {
            continue;
        }
        if (!stepmodel_known(&r.prefill_fit) && stepmodel_known(&v->prefill_fit)) {
            r.prefill_fit = v->prefill_fit;
            r.chunk_tokens = v->chunk_tokens;
        }
        if (!stepmodel_known(&r.decode_fit) && stepmodel_known(&v->decode_fit)) {
            r.decode_fit = v->decode_fit;
        }
        r.tokens_per_second = r.tokens_per_second ? r.tokens_per_second : v->tokens_per_second;
        r.step_us = r.step_us ? r.step_us : v->step_us;
    }
    return r;
}

static int64_t by_speed(uint64_t tokens, uint32_t speed) {
    return bounded((double)tokens * 1e6 / (speed ? speed : SPEED_UNKNOWN));
}

int64_t routecost_prefill_us(const routecost_view *v, const routecost_reference *r, int64_t tokens,
                             int64_t before) {
    CHECK(tokens >= 0 && before >= 0);
    bool own = stepmodel_known(&v->prefill_fit);
    if (!own && v->tokens_per_second) {
        return by_speed((uint64_t)tokens, v->tokens_per_second);
    }
    const stepmodel_fit *f = own ? &v->prefill_fit : &r->prefill_fit;
    if (!stepmodel_known(f)) {
        return by_speed((uint64_t)tokens, r->tokens_per_second);
    }
    uint32_t chunk = v->chunk_tokens ? v->chunk_tokens : r->chunk_tokens;
    return bounded(
        stepmodel_prefill_us(f, tokens, stepmodel_pairs(tokens, before), (int32_t)chunk));
}

int64_t routecost_queue_us(const routecost_view *v, const routecost_reference *r, int64_t now_us) {
    int64_t us = v->queued_us;
    if (!stepmodel_known(&v->prefill_fit)) {
        uint64_t most = LIMIT_CONTEXT_TOKENS * 64ull;
        us = routecost_prefill_us(v, r,
                                  (int64_t)(v->queued_tokens < most ? v->queued_tokens : most), 0);
    }
    int64_t done = now_us > v->told_us ? now_us - v->told_us : 0;
    return us > done ? us - done : 0;
}

int64_t routecost_token_us(const routecost_view *v, const routecost_reference *r, int64_t context,
                           uint32_t page_tokens) {
    int64_t batch = (int64_t)v->running + (int64_t)v->waiting + 1;
    bool own = stepmodel_known(&v->decode_fit);
    const stepmodel_fit *f = own ? &v->decode_fit : &r->decode_fit;
    if (stepmodel_known(f)) {
        uint32_t held = v->pages_total > v->pages_free ? v->pages_total - v->pages_free : 0;
        return bounded(stepmodel_step_us(f, batch, (int64_t)held * page_tokens + context));
    }
    int64_t step = v->step_us ? v->step_us : r->step_us ? r->step_us : STEP_UNKNOWN_US;
    return bounded((double)step * (double)(batch + v->waiting));
}

void routecost_told(routecost_view *v, const message_heartbeat *h, int64_t now_us) {
    v->pages_free = h->pages_free;
    v->pages_total = h->pages_total;
    v->running = h->running;
    v->waiting = h->waiting;
    v->queued_tokens = h->queued_tokens;
    v->tokens_per_second = h->tokens_per_second;
    v->step_us = h->step_us;
    v->chunk_tokens = h->chunk_tokens;
    v->queued_us =
        h->queued_us < (uint64_t)ROUTECOST_US_MAX ? (int64_t)h->queued_us : ROUTECOST_US_MAX;
    v->told_us = now_us;
    v->prefill_fit = h->prefill_fit;
    v->decode_fit = h->decode_fit;
}

void routecost_sent_prompt(routecost_view *v, uint64_t tokens, int64_t us, int64_t now_us) {
    const routecost_reference none = {.step_us = 0};
    if (stepmodel_known(&v->prefill_fit)) {
        int64_t before = routecost_queue_us(v, &none, now_us);
        v->queued_us = before + us < ROUTECOST_US_MAX ? before + us : ROUTECOST_US_MAX;
        v->told_us = now_us;
    }
    v->queued_tokens += tokens;
    v->waiting++;
}

void routecost_sent_decode(routecost_view *v, uint64_t pages) {
    v->pages_free -= pages < v->pages_free ? (uint32_t)pages : v->pages_free;
    v->running++;
}
