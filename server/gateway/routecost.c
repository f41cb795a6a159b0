/* routecost.c -- predictions from step-time fits (engine/core/stepmodel.h), or from what there is.
 */
#include "server/gateway/routecost.h"

#include "engine/base/check.h"

enum {
    SPEED_UNKNOWN = 1000,    /* tokens a second, until any worker has told */
    STEP_UNKNOWN_US = 20000, /* likewise */
    TRUST_US = 10000000      /* without work this long a worker's own measures count for half */
};

static int64_t bounded(double us) {
    return us < (double)ROUTECOST_US_MAX ? (int64_t)us : ROUTECOST_US_MAX;
}

routecost_reference routecost_refer(const routecost_view *views, uint32_t views_count,
                                    int64_t now_us) {
    routecost_reference r = {.now_us = now_us};
    int64_t prefill_us = -1, decode_us = -1;
    for (uint32_t i = 0; i < views_count; i++) {
        const routecost_view *v = &views[i];
        if (!v->up) {
            continue;
        }
        if (stepmodel_known(&v->prefill_fit) && v->worked_us > prefill_us) {
            prefill_us = v->worked_us;
            r.prefill_fit = v->prefill_fit;
            r.chunk_tokens = v->chunk_tokens;
        }
        if (stepmodel_known(&v->decode_fit) && v->worked_us > decode_us) {
            decode_us = v->worked_us;
            r.decode_fit = v->decode_fit;
        }
        r.tokens_per_second = r.tokens_per_second ? r.tokens_per_second : v->tokens_per_second;
        r.step_us = r.step_us ? r.step_us : v->step_us;
    }
    return r;
}

/* Of what it would take by the worker's own fit and by the reference's. */
static double believed_us(const routecost_view *v, const routecost_reference *r, double own_us,
                          double reference_us) {
    int64_t idle = v->worked_us && r->now_us > v->worked_us ? r->now_us - v->worked_us : 0;
    double trust = TRUST_US / (double)(TRUST_US + idle);
    return own_us * trust + reference_us * (1 - trust);
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
    bool like = stepmodel_known(&r->prefill_fit);
    if (!own && !like) {
        return by_speed((uint64_t)tokens, r->tokens_per_second);
    }
    int32_t chunk = (int32_t)(v->chunk_tokens ? v->chunk_tokens : r->chunk_tokens);
    int64_t pairs = stepmodel_pairs(tokens, before);
    double own_us = stepmodel_prefill_us(&v->prefill_fit, tokens, pairs, chunk);
    double like_us = stepmodel_prefill_us(&r->prefill_fit, tokens, pairs, chunk);
    return bounded(believed_us(v, r, own ? own_us : like_us, like ? like_us : own_us));
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
    bool own = stepmodel_known(&v->decode_fit), like = stepmodel_known(&r->decode_fit);
    if (own || like) {
        uint32_t held = v->pages_total > v->pages_free ? v->pages_total - v->pages_free : 0;
        int64_t work = (int64_t)held * page_tokens + context;
        double own_us = stepmodel_step_us(&v->decode_fit, batch, work);
        double like_us = stepmodel_step_us(&r->decode_fit, batch, work);
        return bounded(believed_us(v, r, own ? own_us : like_us, like ? like_us : own_us));
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
    bool works = h->running || h->waiting || h->queued_tokens;
    v->worked_us = works || !v->worked_us ? now_us : v->worked_us;
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
    v->worked_us = now_us;
}

void routecost_sent_decode(routecost_view *v, uint64_t pages) {
    v->pages_free -= pages < v->pages_free ? (uint32_t)pages : v->pages_free;
    v->running++;
}
