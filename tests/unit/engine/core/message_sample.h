/* message_sample.h -- messages of every type with everything in them drawn at random.
 *
 * Purpose    What message_test.c encodes and decodes.
 * Ownership  A sample holds what its message points to.
 * Threads    One.
 * Limits     TOKENS_MOST entries of each list.
 */
#ifndef TESTS_UNIT_ENGINE_CORE_MESSAGE_SAMPLE_H
#define TESTS_UNIT_ENGINE_CORE_MESSAGE_SAMPLE_H

#include "engine/base/rng.h"
#include "engine/core/message.h"

enum { TOKENS_MOST = 40 };

typedef struct {
    message m;
    request_params params;
    int32_t ids[TOKENS_MOST];
    request_token tokens[TOKENS_MOST];
    message_lease leases[TOKENS_MOST];
    uint64_t pages[TOKENS_MOST];
    message_member members[TOKENS_MOST];
    message_latency latencies[MESSAGE_LATENCIES_MAX];
    char text[MESSAGE_NUMERICS_BYTES];
} sample;

static uint64_t state;

static uint32_t below(uint32_t bound) {
    return (uint32_t)rng_below(&state, bound);
}

static float random_real(float min, float max) {
    return min + (max - min) * (float)rng_unit(rng_next(&state));
}

static void random_params(request_params *p) {
    *p = (request_params){
        .temperature = random_real(0, 2),
        .top_k = (int32_t)below(100),
        .top_p = random_real(0.1f, 1),
        .min_p = random_real(0, 1),
        .repetition_penalty = random_real(0.5f, 2),
        .presence_penalty = random_real(-2, 2),
        .frequency_penalty = random_real(-2, 2),
        .seed = rng_next(&state),
        .max_tokens = (int32_t)below(5000),
        .min_tokens = (int32_t)below(50),
        .ignore_eos = below(2),
        .top_logprobs = (int32_t)below(LIMIT_TOP_LOGPROBS + 2) - 1,
        .prompt_logprobs = below(2),
        .choices = (int32_t)below(LIMIT_CHOICES) + 1,
        .stop_ids_count = (int32_t)below(LIMIT_STOP_IDS + 1),
        .biases_count = (int32_t)below(8),
    };
    p->choice_first = (int32_t)below((uint32_t)(LIMIT_CHOICES - p->choices + 1));
    for (int i = 0; i < p->stop_ids_count; i++) {
        p->stop_ids[i] = (int32_t)below(100000);
    }
    for (int i = 0; i < p->biases_count; i++) {
        p->biases[i] = (request_bias){(int32_t)below(100000), random_real(-100, 100)};
    }
}

static int32_t random_tokens(sample *s, uint32_t most) {
    int32_t count = (int32_t)below(most + 1);
    for (int i = 0; i < count; i++) {
        request_token *t = &s->tokens[i];
        *t = (request_token){
            .choice = (int32_t)below(LIMIT_CHOICES),
            .index = (int32_t)below(100000),
            .token = (int32_t)below(200000),
            .end = (request_end)below(REQUEST_FAILED + 1),
            .logprob = -random_real(0, 20),
            .top_count = (int32_t)below(LIMIT_TOP_LOGPROBS + 1),
        };
        for (int k = 0; k < t->top_count; k++) {
            t->top[k] = (request_logprob){(int32_t)below(1000), -random_real(0, 9)};
        }
    }
    return count;
}

static str random_text(sample *s, uint32_t most) {
    uint32_t bytes = below(most + 1);
    for (uint32_t i = 0; i < bytes; i++) {
        s->text[i] = (char)(' ' + below(95));
    }
    return str_of(s->text, bytes);
}

static uint32_t random_worker(void) {
    return below(4) == 0 ? MESSAGE_NO_WORKER : below(LIMIT_WORKERS);
}

static message_heartbeat random_heartbeat(void) {
    return (message_heartbeat){.steps = rng_next(&state),
                               .pages_total = 1000 + below(1000),
                               .pages_free = below(1000),
                               .running = below(99),
                               .waiting = below(99),
                               .queued_tokens = below(1 << 30),
                               .step_us = below(1 << 20),
                               .tokens_per_second = below(1 << 20),
                               .chunk_tokens = below(4096),
                               .queued_us = rng_next(&state) / 2,
                               .prefill_fit = {1.5f, 0, 0.25f, below(99)},
                               .decode_fit = {0, 3e9f, 1e-9f, below(99)},
                               .waste = {.unit = WASTE_CORE,
                                         .share_milli = below(9000),
                                         .us = {[WASTE_POOL_DECODE][WASTE_BUSY] = below(1 << 30),
                                                [WASTE_POOL_BOTH][WASTE_START] = below(999)}},
                               .cached_sequence = rng_next(&state)};
}

/* What the controller and its hub say and hear. */
static void random_controller_body(sample *s) {
    message *m = &s->m;
    switch (m->type) {
        case MESSAGE_ROLE:
            m->role = (message_role){1 + below(3), rng_next(&state)};
            break;
        case MESSAGE_DRAIN:
            m->drain = (message_drain){rng_next(&state), below(1 << 20)};
            break;
        case MESSAGE_LOAD:
            m->load = (message_load){rng_next(&state),
                                     rng_next(&state),
                                     rng_next(&state),
                                     rng_next(&state),
                                     rng_next(&state),
                                     below(99),
                                     below(MESSAGE_LATENCIES_MAX + 1),
                                     s->latencies};
            for (uint32_t i = 0; i < m->load.latencies_count; i++) {
                s->latencies[i] = (message_latency){below(1 << 20), below(1 << 20)};
            }
            break;
        default:
            break;
    }
}

static void random_link_body(sample *s) {
    message *m = &s->m;
    switch (m->type) {
        case MESSAGE_HELLO:
            m->hello = (message_hello){below(9),
                                       random_worker(),
                                       rng_next(&state),
                                       below(4),
                                       below(99999),
                                       rng_next(&state),
                                       below(LIMIT_LAYERS + 1),
                                       below(LIMIT_PAGE_TOKENS + 1),
                                       rng_next(&state),
                                       below(1 << 20),
                                       below(LIMIT_CONTEXT_TOKENS + 1),
                                       below(1 << 20),
                                       random_text(s, MESSAGE_NUMERICS_BYTES),
                                       {0},
                                       {0},
                                       below(16),
                                       rng_next(&state)};
            m->hello.kv_layout = str_of(s->text, m->hello.numerics.bytes / 2);
            m->hello.address = str_of(s->text, m->hello.numerics.bytes / 3);
            break;
        case MESSAGE_PEER:
            m->peer = (message_peer){below(LIMIT_WORKERS),
                                     rng_next(&state),
                                     below(4),
                                     (message_peer_how)below(3),
                                     below(2),
                                     random_text(s, MESSAGE_ADDRESS_BYTES)};
            break;
        case MESSAGE_HEARTBEAT:
            m->heartbeat = random_heartbeat();
            break;
        case MESSAGE_CACHED:
            m->cached = (message_cached){1 + rng_next(&state) / 2, below(2), below(TOKENS_MOST + 1),
                                         s->pages};
            for (uint32_t i = 0; i < m->cached.count; i++) {
                s->pages[i] = rng_next(&state);
            }
            break;
        case MESSAGE_LEASES:
            m->leases.count = below(TOKENS_MOST + 1);
            m->leases.list = s->leases;
            for (uint32_t i = 0; i < m->leases.count; i++) {
                s->leases[i] = (message_lease){1 + rng_next(&state) / 2, 1 + below(1000)};
            }
            break;
        case MESSAGE_METRICS:
            m->metrics = random_text(s, sizeof(s->text));
            break;
        case MESSAGE_GOODBYE:
            m->goodbye = random_text(s, sizeof(s->text));
            break;
        case MESSAGE_ROSTER:
            m->roster.holds = below(2);
            m->roster.count = below(TOKENS_MOST + 1);
            m->roster.list = s->members;
            for (uint32_t i = 0; i < m->roster.count; i++) {
                s->members[i] = (message_member){below(LIMIT_WORKERS), rng_next(&state), below(4),
                                                 random_text(s, MESSAGE_ADDRESS_BYTES)};
            }
            break;
        default:
            random_controller_body(s);
            break;
    }
}

static message_announce random_announce(void) {
    message_announce a = {.sequence = below(UINT32_MAX), .group = below(INT32_MAX)};
    a.layer_first = below(LIMIT_LAYERS);
    a.layers = 1 + below(LIMIT_LAYERS - a.layer_first);
    a.page_first = below(LIMIT_SEQ_PAGES);
    a.pages = 1 + below(LIMIT_SEQ_PAGES - a.page_first);
    return a;
}

static void random_submit(sample *s) {
    message_submit *b = &s->m.submit;
    random_params(&s->params);
    *b = (message_submit){.peer_worker = random_worker(),
                          .peer_epoch = rng_next(&state),
                          .salt = rng_next(&state),
                          .trace = {rng_next(&state), rng_next(&state)},
                          .tokens_count = 1 + (int32_t)below(TOKENS_MOST),
                          .tokens = s->ids,
                          .params = &s->params};
    b->prompt_count = 1 + (int32_t)below((uint32_t)b->tokens_count);
    b->local = s->m.type == MESSAGE_RESERVE && b->peer_worker == MESSAGE_NO_WORKER;
    for (int i = 0; i < b->tokens_count; i++) {
        s->ids[i] = (int32_t)below(INT32_MAX);
    }
}

static void random_body(sample *s) {
    message *m = &s->m;
    switch (m->type) {
        case MESSAGE_SUBMIT:
        case MESSAGE_RESERVE:
            random_submit(s);
            break;
        case MESSAGE_GRANT:
            m->pages = below(LIMIT_SEQ_PAGES + 1);
            m->prefix_pages = below(m->pages + 1);
            break;
        case MESSAGE_QUEUED:
            m->deadline_ms = below(100000);
            break;
        case MESSAGE_ANNOUNCE:
            m->announce = random_announce();
            break;
        case MESSAGE_POSTED:
            m->posted = (message_posted){below(UINT32_MAX), below(INT32_MAX)};
            break;
        case MESSAGE_ADOPTED:
            m->adopted = (message_adopted){below(UINT32_MAX), below(UINT32_MAX)};
            break;
        case MESSAGE_HANDOFF:
            m->handoff.groups = below(INT32_MAX);
            m->handoff.tokens_count = random_tokens(s, LIMIT_CHOICES);
            m->handoff.tokens = s->tokens;
            break;
        case MESSAGE_TOKENS:
            m->tokens = (message_tokens){
                (int32_t)below(1000),          below(2), below(UINT32_MAX), below(UINT32_MAX),
                random_tokens(s, TOKENS_MOST), s->tokens};
            break;
        case MESSAGE_SCORES:
            m->scores = (message_scores){1 + (int32_t)below(1000), random_tokens(s, TOKENS_MOST),
                                         s->tokens};
            break;
        case MESSAGE_LINK_LOST:
            m->worker = below(LIMIT_WORKERS);
            break;
        case MESSAGE_REJECT:
            m->about = MESSAGE_HELLO + below(MESSAGE_REJECT);
            if (m->about == MESSAGE_ANNOUNCE) {
                m->announce = random_announce();
            }
            /* fall through */
        case MESSAGE_REFUSED:
        case MESSAGE_PREEMPTED:
            m->reason = (message_reason)below(MESSAGE_REASON_ROLE + 1);
            break;
        default:
            break;
    }
}

static void random_message(sample *s, message_type type) {
    memset(s, 0, sizeof(*s));
    s->m.type = type;
    if (message_of_link(type)) {
        random_link_body(s);
        return;
    }
    s->m.request = 1 + rng_next(&state) / 2;
    s->m.attempt = 1 + below(1000);
    random_body(s);
}

#endif
