/* fuzz_say.c -- messages of the request protocol made from choices. */
#include "tests/fuzz/fuzz_say.h"

void fuzz_say_open(fuzz_say *s) {
    memset(s, 0, sizeof *s);
    s->bytes = strbuf_make(LIMIT_MESSAGE_BYTES);
    CHECK_EQ(message_scratch_open(&s->scratch), STATUS_OK);
}

void fuzz_say_close(fuzz_say *s) {
    strbuf_close(&s->bytes);
    message_scratch_close(s->scratch);
}

void fuzz_say_params(fuzz_input *in, request_params *p) {
    uint32_t bits = fuzz_below(in, 256);
    *p = (request_params){.temperature = bits & 1 ? 1.0f : 0.0f,
                          .top_p = 1,
                          .repetition_penalty = 1,
                          .seed = 7,
                          .top_logprobs = bits & 2 ? 2 : -1,
                          .prompt_logprobs = bits & 4,
                          .ignore_eos = bits & 8,
                          .choices = 1 + (int32_t)(bits >> 4 & 3),
                          .choice_first = (int32_t)(bits >> 6 & 1),
                          .max_tokens = (int32_t)fuzz_below(in, 12),
                          .stop_ids_count = (int32_t)(bits >> 7),
                          .stop_ids = {2}};
}

static void make_submit(fuzz_say *s, fuzz_input *in) {
    message_submit *m = &s->made.submit;
    m->peer_worker = fuzz_below(in, FUZZ_SAY_WORKERS + 1);
    m->peer_worker = m->peer_worker == FUZZ_SAY_WORKERS ? MESSAGE_NO_WORKER : m->peer_worker;
    m->peer_epoch = fuzz_below(in, 4) == 3 ? 2 : 1;
    m->local = s->made.type == MESSAGE_RESERVE && m->peer_worker == MESSAGE_NO_WORKER;
    m->salt = fuzz_below(in, 2);
    m->tokens_count = 1 + (int32_t)fuzz_below(in, FUZZ_SAY_TOKENS);
    m->prompt_count = m->tokens_count - (int32_t)(fuzz_below(in, 4) == 3 && m->tokens_count > 1);
    /* Prompts share beginnings, so that the prefix cache has work. */
    int32_t odd = (int32_t)fuzz_below(in, FUZZ_SAY_TOKENS);
    for (int32_t i = 0; i < m->tokens_count; i++) {
        s->ids[i] = i == odd ? 5 : i % 7;
    }
    m->tokens = s->ids;
    fuzz_say_params(in, &s->params);
    m->params = &s->params;
}

static const request_token *make_tokens(fuzz_say *s, fuzz_input *in, int32_t *count) {
    *count = (int32_t)fuzz_below(in, FUZZ_SAY_LIST + 1);
    for (int32_t i = 0; i < *count; i++) {
        uint32_t bits = fuzz_below(in, 256);
        s->tokens[i] =
            (request_token){.choice = (int32_t)(bits & 3),
                            .index = (int32_t)(bits >> 2 & 7),
                            .token = (int32_t)(bits >> 5 & 3),
                            .end = bits >> 7 ? (request_end)fuzz_below(in, 5) : REQUEST_RUNNING};
    }
    return s->tokens;
}

static void make_announce(fuzz_say *s, fuzz_input *in) {
    s->made.announce = (message_announce){.sequence = fuzz_below(in, 8),
                                          .group = fuzz_below(in, 6),
                                          .layer_first = fuzz_below(in, FUZZ_SAY_LAYERS + 1),
                                          .layers = fuzz_below(in, FUZZ_SAY_LAYERS + 2),
                                          .page_first = fuzz_below(in, 8),
                                          .pages = fuzz_below(in, 8)};
}

static void make_leases(fuzz_say *s, fuzz_input *in) {
    s->made.leases.count = fuzz_below(in, FUZZ_SAY_LIST + 1);
    s->made.leases.list = s->leases;
    for (uint32_t i = 0; i < s->made.leases.count; i++) {
        uint32_t bits = fuzz_below(in, 16);
        s->leases[i] = (message_lease){.request = 1 + (bits & 3), .attempt = 1 + (bits >> 2)};
    }
}

static void make_body(fuzz_say *s, fuzz_input *in) {
    message *m = &s->made;
    m->reason = (message_reason)fuzz_below(in, MESSAGE_REASON_ROLE + 1);
    switch (m->type) {
        case MESSAGE_LEASES:
            make_leases(s, in);
            break;
        case MESSAGE_SUBMIT:
        case MESSAGE_RESERVE:
            make_submit(s, in);
            break;
        case MESSAGE_GRANT:
            m->pages = fuzz_below(in, 9);
            m->prefix_pages = fuzz_below(in, 9);
            break;
        case MESSAGE_ANNOUNCE:
            make_announce(s, in);
            break;
        case MESSAGE_POSTED:
            m->posted = (message_posted){fuzz_below(in, 8), fuzz_below(in, 6)};
            break;
        case MESSAGE_HANDOFF:
            m->handoff.groups = fuzz_below(in, 8);
            m->handoff.tokens = make_tokens(s, in, &m->handoff.tokens_count);
            break;
        case MESSAGE_TOKENS:
            m->tokens.cached_tokens = (int32_t)fuzz_below(in, 64);
            m->tokens.done = fuzz_below(in, 2);
            m->tokens.tokens = make_tokens(s, in, &m->tokens.tokens_count);
            break;
        case MESSAGE_SCORES:
            m->scores.position_first = (int32_t)fuzz_below(in, 8);
            m->scores.scores = make_tokens(s, in, &m->scores.scores_count);
            break;
        case MESSAGE_LINK_LOST:
            m->worker = fuzz_below(in, FUZZ_SAY_WORKERS);
            break;
        case MESSAGE_REJECT:
            m->about = (message_type)(1 + fuzz_below(in, MESSAGE_REJECT));
            make_announce(s, in);
            break;
        default:
            m->deadline_ms = fuzz_below(in, 256) * 100;
            break;
    }
}

const message *fuzz_say_next(fuzz_say *s, fuzz_input *in) {
    uint32_t type = MESSAGE_SUBMIT + fuzz_below(in, MESSAGE_REJECT - MESSAGE_SUBMIT + 4);
    s->made = (message){.type = (message_type)type};
    if (type > MESSAGE_REJECT) {
        static const message_type of_link[] = {MESSAGE_LEASES, MESSAGE_DRAIN, MESSAGE_HEARTBEAT};
        s->made.type = of_link[type - MESSAGE_REJECT - 1];
    } else {
        uint32_t bits = fuzz_below(in, 16);
        s->made.request = 1 + (bits & 3);
        s->made.attempt = 1 + (bits >> 2) % 3;
    }
    make_body(s, in);
    strbuf_clear(&s->bytes);
    if (message_encode(&s->made, &s->bytes) != STATUS_OK) {
        return NULL;
    }
    diag d;
    CHECK_EQ(message_decode(strbuf_str(&s->bytes), s->scratch, &s->decoded, &d), STATUS_OK);
    return &s->decoded;
}
