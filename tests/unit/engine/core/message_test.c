/* message_test.c -- encode and decode: round trips of random messages, damage of every kind.
 *
 * The oracle for a round trip is a field-by-field comparison written here; for damaged bytes it is
 * the list of ranges in `within_limits`, written from the header, not from the codec.
 */
#include "engine/core/message.h"

#include <criterion/criterion.h>
#include <math.h>
#include <string.h>

#include "engine/base/rng.h"
#include "tests/unit/engine/core/message_sample.h"

/* ---- comparison ----------------------------------------------------------------------------- */

static void same_params(const request_params *a, const request_params *b) {
    cr_assert_eq(a->temperature, b->temperature);
    cr_assert_eq(a->top_k, b->top_k);
    cr_assert_eq(a->top_p, b->top_p);
    cr_assert_eq(a->min_p, b->min_p);
    cr_assert_eq(a->repetition_penalty, b->repetition_penalty);
    cr_assert_eq(a->presence_penalty, b->presence_penalty);
    cr_assert_eq(a->frequency_penalty, b->frequency_penalty);
    cr_assert_eq(a->seed, b->seed);
    cr_assert_eq(a->max_tokens, b->max_tokens);
    cr_assert_eq(a->min_tokens, b->min_tokens);
    cr_assert_eq(a->ignore_eos, b->ignore_eos);
    cr_assert_eq(a->top_logprobs, b->top_logprobs);
    cr_assert_eq(a->prompt_logprobs, b->prompt_logprobs);
    cr_assert_eq(a->choices, b->choices);
    cr_assert_eq(a->choice_first, b->choice_first);
    cr_assert_eq(a->stop_ids_count, b->stop_ids_count);
    cr_assert_eq(a->biases_count, b->biases_count);
    for (int i = 0; i < a->stop_ids_count; i++) {
        cr_assert_eq(a->stop_ids[i], b->stop_ids[i]);
    }
    for (int i = 0; i < a->biases_count; i++) {
        cr_assert_eq(a->biases[i].token, b->biases[i].token);
        cr_assert_eq(a->biases[i].bias, b->biases[i].bias);
    }
}

static void same_tokens(const request_token *a, int32_t a_count, const request_token *b,
                        int32_t b_count) {
    cr_assert_eq(a_count, b_count);
    for (int i = 0; i < a_count; i++) {
        cr_assert_eq(a[i].choice, b[i].choice);
        cr_assert_eq(a[i].index, b[i].index);
        cr_assert_eq(a[i].token, b[i].token);
        cr_assert_eq(a[i].end, b[i].end);
        cr_assert_eq(a[i].logprob, b[i].logprob);
        cr_assert_eq(a[i].top_count, b[i].top_count);
        for (int k = 0; k < a[i].top_count; k++) {
            cr_assert_eq(a[i].top[k].token, b[i].top[k].token);
            cr_assert_eq(a[i].top[k].logprob, b[i].top[k].logprob);
        }
    }
}

static void same_announce(const message_announce *a, const message_announce *b) {
    cr_assert_eq(a->sequence, b->sequence);
    cr_assert_eq(a->group, b->group);
    cr_assert_eq(a->layer_first, b->layer_first);
    cr_assert_eq(a->layers, b->layers);
    cr_assert_eq(a->page_first, b->page_first);
    cr_assert_eq(a->pages, b->pages);
}

static void same_fit(const stepmodel_fit *a, const stepmodel_fit *b) {
    cr_assert(a->fixed_us == b->fixed_us && a->row_us == b->row_us && a->work_us == b->work_us &&
              a->samples == b->samples);
}

static void same_heartbeat(const message_heartbeat *x, const message_heartbeat *y) {
    cr_assert(x->steps == y->steps && x->pages_free == y->pages_free &&
              x->pages_total == y->pages_total && x->running == y->running &&
              x->waiting == y->waiting && x->queued_tokens == y->queued_tokens &&
              x->step_us == y->step_us && x->tokens_per_second == y->tokens_per_second &&
              x->chunk_tokens == y->chunk_tokens && x->queued_us == y->queued_us &&
              x->cached_sequence == y->cached_sequence);
    same_fit(&x->prefill_fit, &y->prefill_fit);
    same_fit(&x->decode_fit, &y->decode_fit);
    cr_assert_eq(x->waste.unit, y->waste.unit);
    cr_assert_eq(x->waste.share_milli, y->waste.share_milli);
    cr_assert_arr_eq(x->waste.us, y->waste.us, sizeof x->waste.us);
}

static void same_load(const message_load *x, const message_load *y) {
    cr_assert(x->requests == y->requests && x->prompt_tokens == y->prompt_tokens &&
              x->prompt_squares == y->prompt_squares && x->finished == y->finished &&
              x->finished_tokens == y->finished_tokens && x->held == y->held &&
              x->latencies_count == y->latencies_count);
    for (uint32_t i = 0; i < x->latencies_count; i++) {
        cr_assert(x->latencies[i].ttft_us == y->latencies[i].ttft_us &&
                  x->latencies[i].tpot_us == y->latencies[i].tpot_us);
    }
}

static void same_controller_body(const message *a, const message *b) {
    switch (a->type) {
        case MESSAGE_ROLE:
            cr_assert(a->role.roles == b->role.roles && a->role.token == b->role.token);
            break;
        case MESSAGE_DRAIN:
            cr_assert(a->drain.token == b->drain.token && a->drain.limit_ms == b->drain.limit_ms);
            break;
        case MESSAGE_LOAD:
            same_load(&a->load, &b->load);
            break;
        default:
            break;
    }
}

static void same_link_body(const message *a, const message *b) {
    switch (a->type) {
        case MESSAGE_HELLO:
            cr_assert_eq(a->hello.version, b->hello.version);
            cr_assert_eq(a->hello.worker, b->hello.worker);
            cr_assert_eq(a->hello.epoch, b->hello.epoch);
            cr_assert_eq(a->hello.roles, b->hello.roles);
            cr_assert_eq(a->hello.pid, b->hello.pid);
            cr_assert_eq(a->hello.model_hash, b->hello.model_hash);
            cr_assert_eq(a->hello.layers, b->hello.layers);
            cr_assert_eq(a->hello.block_tokens, b->hello.block_tokens);
            cr_assert_eq(a->hello.kv_layer_page_bytes, b->hello.kv_layer_page_bytes);
            cr_assert_eq(a->hello.pages, b->hello.pages);
            cr_assert_eq(a->hello.context_tokens, b->hello.context_tokens);
            cr_assert_eq(a->hello.vocab, b->hello.vocab);
            cr_assert(str_equal(a->hello.numerics, b->hello.numerics));
            cr_assert(str_equal(a->hello.kv_layout, b->hello.kv_layout));
            cr_assert(str_equal(a->hello.address, b->hello.address));
            break;
        case MESSAGE_PEER:
            cr_assert_eq(a->peer.worker, b->peer.worker);
            cr_assert_eq(a->peer.epoch, b->peer.epoch);
            cr_assert_eq(a->peer.roles, b->peer.roles);
            cr_assert_eq(a->peer.how, b->peer.how);
            cr_assert_eq(a->peer.mend, b->peer.mend);
            cr_assert(str_equal(a->peer.address, b->peer.address));
            break;
        case MESSAGE_GOODBYE:
            cr_assert(str_equal(a->goodbye, b->goodbye));
            break;
        case MESSAGE_ROSTER:
            cr_assert_eq(a->roster.count, b->roster.count);
            cr_assert_eq(a->roster.holds, b->roster.holds);
            for (uint32_t i = 0; i < a->roster.count; i++) {
                const message_member *v = &a->roster.list[i], *w = &b->roster.list[i];
                cr_assert(v->worker == w->worker && v->epoch == w->epoch && v->roles == w->roles);
                cr_assert(str_equal(v->address, w->address));
            }
            break;
        case MESSAGE_HEARTBEAT:
            same_heartbeat(&a->heartbeat, &b->heartbeat);
            break;
        case MESSAGE_CACHED:
            cr_assert(a->cached.sequence == b->cached.sequence &&
                      a->cached.snapshot == b->cached.snapshot &&
                      a->cached.count == b->cached.count);
            for (uint32_t i = 0; i < a->cached.count; i++) {
                cr_assert_eq(a->cached.pages[i], b->cached.pages[i]);
            }
            break;
        case MESSAGE_LEASES:
            cr_assert_eq(a->leases.count, b->leases.count);
            for (uint32_t i = 0; i < a->leases.count; i++) {
                cr_assert_eq(a->leases.list[i].request, b->leases.list[i].request);
                cr_assert_eq(a->leases.list[i].attempt, b->leases.list[i].attempt);
            }
            break;
        case MESSAGE_METRICS:
            cr_assert(str_equal(a->metrics, b->metrics));
            break;
        default:
            same_controller_body(a, b);
            break;
    }
}

static void same_submit(const message_submit *a, const message_submit *b) {
    cr_assert_eq(a->peer_worker, b->peer_worker);
    cr_assert_eq(a->peer_epoch, b->peer_epoch);
    cr_assert_eq(a->local, b->local);
    cr_assert_eq(a->salt, b->salt);
    cr_assert(a->trace[0] == b->trace[0] && a->trace[1] == b->trace[1]);
    cr_assert_eq(a->prompt_count, b->prompt_count);
    cr_assert_eq(a->tokens_count, b->tokens_count);
    cr_assert_arr_eq(a->tokens, b->tokens, (size_t)a->tokens_count * 4);
    same_params(a->params, b->params);
}

static void same_message(const message *a, const message *b) {
    cr_assert_eq(a->type, b->type);
    cr_assert_eq(a->request, b->request);
    cr_assert_eq(a->attempt, b->attempt);
    cr_assert_eq(a->reason, b->reason);
    cr_assert_eq(a->about, b->about);
    cr_assert_eq(a->worker, b->worker);
    cr_assert_eq(a->prefix_pages, b->prefix_pages);
    cr_assert_eq(a->pages, b->pages);
    cr_assert_eq(a->deadline_ms, b->deadline_ms);
    same_link_body(a, b);
    if (a->type == MESSAGE_SUBMIT || a->type == MESSAGE_RESERVE) {
        same_submit(&a->submit, &b->submit);
    } else if (a->type == MESSAGE_ANNOUNCE || a->about == MESSAGE_ANNOUNCE) {
        same_announce(&a->announce, &b->announce);
    } else if (a->type == MESSAGE_POSTED) {
        cr_assert_eq(a->posted.sequence, b->posted.sequence);
        cr_assert_eq(a->posted.group, b->posted.group);
    } else if (a->type == MESSAGE_HANDOFF) {
        cr_assert_eq(a->handoff.groups, b->handoff.groups);
        same_tokens(a->handoff.tokens, a->handoff.tokens_count, b->handoff.tokens,
                    b->handoff.tokens_count);
    } else if (a->type == MESSAGE_ADOPTED) {
        cr_assert(a->adopted.waited_us == b->adopted.waited_us &&
                  a->adopted.moved_us == b->adopted.moved_us);
    } else if (a->type == MESSAGE_TOKENS) {
        cr_assert_eq(a->tokens.cached_tokens, b->tokens.cached_tokens);
        cr_assert_eq(a->tokens.done, b->tokens.done);
        cr_assert_eq(a->tokens.waited_us, b->tokens.waited_us);
        cr_assert_eq(a->tokens.computed_us, b->tokens.computed_us);
        same_tokens(a->tokens.tokens, a->tokens.tokens_count, b->tokens.tokens,
                    b->tokens.tokens_count);
    } else if (a->type == MESSAGE_SCORES) {
        cr_assert_eq(a->scores.position_first, b->scores.position_first);
        same_tokens(a->scores.scores, a->scores.scores_count, b->scores.scores,
                    b->scores.scores_count);
    }
}

/* ---- limits, from the header ---------------------------------------------------------------- */

static void tokens_within(const request_token *t, int32_t count, int32_t most) {
    cr_assert(count >= 0 && count <= most);
    for (int i = 0; i < count; i++) {
        cr_assert(t[i].choice >= 0 && t[i].choice < LIMIT_CHOICES);
        cr_assert(t[i].index >= 0 && t[i].token >= 0);
        cr_assert(t[i].end >= REQUEST_RUNNING && t[i].end <= REQUEST_FAILED);
        cr_assert(isfinite(t[i].logprob));
        cr_assert(t[i].top_count >= 0 && t[i].top_count <= LIMIT_TOP_LOGPROBS);
        for (int k = 0; k < t[i].top_count; k++) {
            cr_assert(isfinite(t[i].top[k].logprob) && t[i].top[k].token >= 0);
        }
    }
}

static void submit_within(const message_submit *s) {
    cr_assert(s->peer_worker < LIMIT_WORKERS || s->peer_worker == MESSAGE_NO_WORKER);
    cr_assert(s->prompt_count >= 1 && s->prompt_count <= s->tokens_count);
    cr_assert(s->tokens_count <= LIMIT_CONTEXT_TOKENS);
    for (int i = 0; i < s->tokens_count; i++) {
        cr_assert_geq(s->tokens[i], 0);
    }
    const request_params *p = s->params;
    cr_assert(isfinite(p->temperature) && p->temperature >= 0);
    cr_assert(p->top_k >= 0 && p->top_p > 0 && p->top_p <= 1 && p->min_p >= 0 && p->min_p <= 1);
    cr_assert(p->repetition_penalty > 0 && isfinite(p->repetition_penalty));
    cr_assert(fabsf(p->presence_penalty) <= 2 && fabsf(p->frequency_penalty) <= 2);
    cr_assert(p->max_tokens >= 0 && p->max_tokens <= LIMIT_CONTEXT_TOKENS);
    cr_assert(p->top_logprobs >= -1 && p->top_logprobs <= LIMIT_TOP_LOGPROBS);
    cr_assert(p->choices >= 1 && p->choice_first >= 0);
    cr_assert(p->choice_first + p->choices <= LIMIT_CHOICES);
    cr_assert(p->stop_ids_count >= 0 && p->stop_ids_count <= LIMIT_STOP_IDS);
    cr_assert(p->biases_count >= 0 && p->biases_count <= LIMIT_LOGIT_BIAS);
    for (int i = 0; i < p->biases_count; i++) {
        cr_assert(p->biases[i].token >= 0 && isfinite(p->biases[i].bias));
    }
}

static void within_limits(const message *m) {
    cr_assert(m->type >= MESSAGE_HELLO && m->type <= MESSAGE_LAST);
    cr_assert(m->reason <= MESSAGE_REASON_ROLE);
    switch (m->type) {
        case MESSAGE_HELLO:
            cr_assert(m->hello.worker < LIMIT_WORKERS || m->hello.worker == MESSAGE_NO_WORKER);
            cr_assert(m->hello.numerics.bytes <= 128 && m->hello.kv_layout.bytes <= 64);
            cr_assert(m->hello.layers <= LIMIT_LAYERS && m->hello.roles <= 3);
            break;
        case MESSAGE_HEARTBEAT:
            cr_assert_leq(m->heartbeat.pages_free, m->heartbeat.pages_total);
            break;
        case MESSAGE_LEASES:
            cr_assert_leq(m->leases.count, MESSAGE_LEASES_MAX);
            break;
        case MESSAGE_LOAD:
            cr_assert_leq(m->load.latencies_count, MESSAGE_LATENCIES_MAX);
            break;
        case MESSAGE_SUBMIT:
        case MESSAGE_RESERVE:
            submit_within(&m->submit);
            break;
        case MESSAGE_GRANT:
            cr_assert(m->prefix_pages <= m->pages && m->pages <= LIMIT_SEQ_PAGES);
            break;
        case MESSAGE_ANNOUNCE:
            cr_assert(m->announce.layers >= 1 && m->announce.pages >= 1);
            cr_assert_leq(m->announce.layer_first + m->announce.layers, LIMIT_LAYERS);
            cr_assert_leq(m->announce.page_first + m->announce.pages, LIMIT_SEQ_PAGES);
            break;
        case MESSAGE_HANDOFF:
            tokens_within(m->handoff.tokens, m->handoff.tokens_count, LIMIT_CHOICES);
            break;
        case MESSAGE_TOKENS:
            tokens_within(m->tokens.tokens, m->tokens.tokens_count, MESSAGE_TOKENS_MAX);
            break;
        case MESSAGE_SCORES:
            tokens_within(m->scores.scores, m->scores.scores_count, MESSAGE_TOKENS_MAX);
            break;
        case MESSAGE_LINK_LOST:
            cr_assert_lt(m->worker, LIMIT_WORKERS);
            break;
        default:
            break;
    }
}

/* ---- tests ---------------------------------------------------------------------------------- */

/* Into memory of exactly that size, so that a sanitizer sees a read past the end. */
static status decode_exact(const char *data, size_t bytes, message_scratch *scratch, message *out,
                           diag *d) {
    char *copy = malloc(bytes ? bytes : 1);
    memcpy(copy, data, bytes);
    status s = message_decode(str_of(copy, bytes), scratch, out, d);
    if (s == STATUS_OK) {
        within_limits(out);
    }
    free(copy);
    return s;
}

static void encode(const sample *s, strbuf *out) {
    strbuf_clear(out);
    cr_assert_eq(message_encode(&s->m, out), STATUS_OK, "%s", message_type_name(s->m.type));
}

Test(message, every_type_survives_the_round_trip) {
    strbuf bytes = strbuf_make(LIMIT_MESSAGE_BYTES);
    message_scratch *scratch;
    cr_assert_eq(message_scratch_open(&scratch), STATUS_OK);
    static sample s;
    for (int type = MESSAGE_HELLO; type <= MESSAGE_LAST; type++) {
        for (int round = 0; round < 200; round++) {
            state = (uint64_t)(type * 1000 + round);
            random_message(&s, (message_type)type);
            encode(&s, &bytes);
            message back;
            diag d = {0};
            cr_assert_eq(message_decode(strbuf_str(&bytes), scratch, &back, &d), STATUS_OK, "%s",
                         d.text);
            same_message(&s.m, &back);
        }
    }
    message_scratch_close(scratch);
    strbuf_close(&bytes);
}

Test(message, a_cut_message_is_refused_at_every_byte) {
    strbuf bytes = strbuf_make(LIMIT_MESSAGE_BYTES);
    message_scratch *scratch;
    cr_assert_eq(message_scratch_open(&scratch), STATUS_OK);
    static sample s;
    for (int type = MESSAGE_HELLO; type <= MESSAGE_LAST; type++) {
        for (int round = 0; round < 5; round++) {
            state = (uint64_t)(type * 1000 + round);
            random_message(&s, (message_type)type);
            encode(&s, &bytes);
            for (size_t cut = 0; cut < bytes.bytes; cut++) {
                message back;
                diag d = {0};
                cr_assert_neq(decode_exact(bytes.data, cut, scratch, &back, &d), STATUS_OK);
                cr_assert_neq(d.text[0], '\0');
            }
        }
    }
    message_scratch_close(scratch);
    strbuf_close(&bytes);
}

Test(message, bytes_after_the_end_are_refused) {
    strbuf bytes = strbuf_make(LIMIT_MESSAGE_BYTES);
    message_scratch *scratch;
    cr_assert_eq(message_scratch_open(&scratch), STATUS_OK);
    static sample s;
    for (int type = MESSAGE_HELLO; type <= MESSAGE_LAST; type++) {
        state = (uint64_t)type;
        random_message(&s, (message_type)type);
        encode(&s, &bytes);
        cr_assert(strbuf_append_char(&bytes, 0));
        message back;
        cr_assert_eq(message_decode(strbuf_str(&bytes), scratch, &back, NULL), STATUS_CORRUPT);
    }
    message_scratch_close(scratch);
    strbuf_close(&bytes);
}

Test(message, a_changed_byte_is_refused_or_stays_within_the_limits) {
    strbuf bytes = strbuf_make(LIMIT_MESSAGE_BYTES);
    message_scratch *scratch;
    cr_assert_eq(message_scratch_open(&scratch), STATUS_OK);
    static sample s;
    static const uint8_t flips[] = {0x01, 0x80, 0xff, 0x7f, 0x10};
    for (int type = MESSAGE_HELLO; type <= MESSAGE_LAST; type++) {
        for (int round = 0; round < 4; round++) {
            state = (uint64_t)(type * 77 + round);
            random_message(&s, (message_type)type);
            encode(&s, &bytes);
            for (size_t at = 0; at < bytes.bytes; at++) {
                for (size_t f = 0; f < sizeof(flips); f++) {
                    bytes.data[at] = (char)(bytes.data[at] ^ flips[f]);
                    message back;
                    (void)decode_exact(bytes.data, bytes.bytes, scratch, &back, NULL);
                    bytes.data[at] = (char)(bytes.data[at] ^ flips[f]);
                }
            }
        }
    }
    message_scratch_close(scratch);
    strbuf_close(&bytes);
}

Test(message, random_bytes_never_decode_out_of_limits) {
    message_scratch *scratch;
    cr_assert_eq(message_scratch_open(&scratch), STATUS_OK);
    state = 5;
    for (int round = 0; round < 100000; round++) {
        char bytes[96];
        size_t count = below(sizeof(bytes));
        for (size_t i = 0; i < count; i++) {
            bytes[i] = (char)below(below(3) == 0 ? 256 : 4);
        }
        if (count > 0) {
            bytes[0] = (char)(1 + below(MESSAGE_LAST));
        }
        message back;
        (void)decode_exact(bytes, count, scratch, &back, NULL);
    }
    message_scratch_close(scratch);
}

Test(message, a_huge_count_in_a_short_message_takes_no_memory) {
    /* LEASES that say 65,536 entries, and then end: the scratch must not grow for them. */
    const char bytes[] = {MESSAGE_LEASES, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0};
    message_scratch *scratch;
    cr_assert_eq(message_scratch_open(&scratch), STATUS_OK);
    message back;
    diag d = {0};
    cr_assert_eq(message_decode(str_of(bytes, sizeof(bytes)), scratch, &back, &d), STATUS_CORRUPT);
    cr_assert_str_eq(d.param, "leases");
    cr_assert(strstr(d.text, "counts more than the message holds"));
    message_scratch_close(scratch);
}

static void no_attempt(sample *s) {
    s->m.attempt = 0;
}
static void no_request(sample *s) {
    s->m.request = 0;
}
static void worker_too_high(sample *s) {
    s->m.submit.peer_worker = LIMIT_WORKERS;
}
static void local_with_peer(sample *s) {
    s->m.submit.local = true;
    s->m.submit.peer_worker = 1;
}
static void submit_local(sample *s) {
    s->m.submit.local = true;
}
static void hot(sample *s) {
    s->params.temperature = NAN;
}
static void no_choices(sample *s) {
    s->params.choices = 0;
}
static void choice_too_far(sample *s) {
    s->params.choices = 2;
    s->params.choice_first = LIMIT_CHOICES - 1;
}
static void top_p_zero(sample *s) {
    s->params.top_p = 0;
}
static void bias_infinite(sample *s) {
    s->params.biases_count = 1;
    s->params.biases[0].bias = INFINITY;
}
static void token_negative(sample *s) {
    s->ids[0] = -1;
}
static void prompt_longer_than_tokens(sample *s) {
    s->m.submit.prompt_count = s->m.submit.tokens_count + 1;
}
static void prefix_above_pages(sample *s) {
    s->m.prefix_pages = s->m.pages + 1;
}
static void layers_past_the_end(sample *s) {
    s->m.announce.layer_first = LIMIT_LAYERS - 1;
    s->m.announce.layers = 2;
}
static void free_above_total(sample *s) {
    s->m.heartbeat.pages_free = s->m.heartbeat.pages_total + 1;
}
static void too_many_latencies(sample *s) {
    s->m.load.latencies_count = MESSAGE_LATENCIES_MAX + 1;
}
static void control_byte(sample *s) {
    s->m.hello.numerics = str_from("a\033[2J");
}
static void too_many_first_tokens(sample *s) {
    s->m.handoff.tokens_count = LIMIT_CHOICES + 1;
}
static void type_zero(sample *s) {
    s->m.type = 0;
}

static const struct {
    const char *name;
    void (*spoil)(sample *s);
    message_type type;
} spoiled[] = {
    {"attempt", no_attempt, MESSAGE_CANCEL},
    {"request", no_request, MESSAGE_TOKENS},
    {"peer_worker", worker_too_high, MESSAGE_SUBMIT},
    {"local", local_with_peer, MESSAGE_RESERVE},
    {"local", submit_local, MESSAGE_SUBMIT},
    {"temperature", hot, MESSAGE_SUBMIT},
    {"choices", no_choices, MESSAGE_SUBMIT},
    {"choice_first", choice_too_far, MESSAGE_RESERVE},
    {"top_p", top_p_zero, MESSAGE_RESERVE},
    {"bias", bias_infinite, MESSAGE_SUBMIT},
    {"token", token_negative, MESSAGE_SUBMIT},
    {"prompt", prompt_longer_than_tokens, MESSAGE_SUBMIT},
    {"prefix_pages", prefix_above_pages, MESSAGE_GRANT},
    {"layers", layers_past_the_end, MESSAGE_ANNOUNCE},
    {"pages_free", free_above_total, MESSAGE_HEARTBEAT},
    {"latencies", too_many_latencies, MESSAGE_LOAD},
    {"numerics", control_byte, MESSAGE_HELLO},
    {"tokens", too_many_first_tokens, MESSAGE_HANDOFF},
    {"type", type_zero, MESSAGE_CANCEL},
};

Test(message, a_value_out_of_range_is_not_sent) {
    static sample s;
    for (size_t i = 0; i < sizeof(spoiled) / sizeof(spoiled[0]); i++) {
        state = i;
        random_message(&s, spoiled[i].type);
        spoiled[i].spoil(&s);
        strbuf bytes = strbuf_make(LIMIT_MESSAGE_BYTES);
        cr_assert_eq(message_encode(&s.m, &bytes), STATUS_INVALID, "case %zu %s", i,
                     spoiled[i].name);
        strbuf_close(&bytes);
    }
}

Test(message, a_refusal_names_the_field) {
    static sample s;
    state = 9;
    random_message(&s, MESSAGE_GRANT);
    s.m.pages = 7;
    s.m.prefix_pages = 3;
    strbuf bytes = strbuf_make(LIMIT_MESSAGE_BYTES);
    encode(&s, &bytes);
    bytes.data[bytes.bytes - 4] = 8; /* prefix_pages */
    message_scratch *scratch;
    cr_assert_eq(message_scratch_open(&scratch), STATUS_OK);
    message back;
    diag d = {0};
    cr_assert_eq(message_decode(strbuf_str(&bytes), scratch, &back, &d), STATUS_CORRUPT);
    cr_assert_str_eq(d.param, "prefix_pages");
    message_scratch_close(scratch);
    strbuf_close(&bytes);
}

Test(message, a_full_buffer_fails_the_encoding) {
    static sample s;
    state = 4;
    random_message(&s, MESSAGE_SUBMIT);
    for (size_t room = 0; room < 40; room++) {
        strbuf bytes = strbuf_make(room);
        cr_assert_eq(message_encode(&s.m, &bytes), STATUS_LIMIT);
        strbuf_close(&bytes);
    }
}

Test(message, the_largest_submit_fits_a_message) {
    static sample s;
    state = 1;
    random_message(&s, MESSAGE_SUBMIT);
    int32_t *ids = calloc(LIMIT_CONTEXT_TOKENS, sizeof(*ids));
    s.m.submit.tokens = ids;
    s.m.submit.tokens_count = LIMIT_CONTEXT_TOKENS;
    s.m.submit.prompt_count = LIMIT_CONTEXT_TOKENS;
    s.params.biases_count = LIMIT_LOGIT_BIAS;
    strbuf bytes = strbuf_make(LIMIT_MESSAGE_BYTES);
    encode(&s, &bytes);
    message_scratch *scratch;
    cr_assert_eq(message_scratch_open(&scratch), STATUS_OK);
    message back;
    cr_assert_eq(message_decode(strbuf_str(&bytes), scratch, &back, NULL), STATUS_OK);
    cr_assert_eq(back.submit.tokens_count, LIMIT_CONTEXT_TOKENS);
    message_scratch_close(scratch);
    strbuf_close(&bytes);
    free(ids);
}

Test(message, names_are_known_for_every_type_and_reason) {
    for (int t = MESSAGE_HELLO; t <= MESSAGE_LAST; t++) {
        cr_assert_str_neq(message_type_name((message_type)t), "?");
    }
    for (int r = 0; r <= MESSAGE_REASON_ROLE; r++) {
        cr_assert_str_neq(message_reason_name((message_reason)r), "?");
    }
    cr_assert_str_eq(message_type_name((message_type)(MESSAGE_LAST + 1)), "?");
    cr_assert_str_eq(message_type_name((message_type)0), "?");
}
