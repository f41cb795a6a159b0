/* session.c -- journal to text to answer.
 *
 * A choice's tokens go through its detokeniser (whole characters only), then through the stop
 * matcher (nothing of a stop string), and what comes out is the text of the next stream event or
 * of the answer. Tokens wait in `tokens` until text they belong to goes out, so that logprobs and
 * ids are sent with it. */
#include "server/api/session.h"

#include <string.h>

#include "engine/base/check.h"
#include "engine/base/clock.h"
#include "engine/base/mem.h"
#include "engine/base/rng.h"
#include "models/text/detok.h"
#include "server/api/reply.h"
#include "server/api/routes.h"
#include "server/api/stops.h"

/* Most answers, and most events, are no longer: their text need not move while it grows. */
enum { ANSWER_BYTES = 900, EVENT_BYTES = 400 };

typedef struct {
    detok detok;
    stops stops;
    strbuf text;           /* not yet sent (stream) or all of it */
    request_token *tokens; /* [tokens_count] not yet sent, or all; only when they are shown */
    int32_t tokens_count, tokens_capacity;
    int32_t completion_tokens;
    int32_t text_offset;
    reply_finish finish;
    str stop_string;
    int32_t stop_token;
    bool opened; /* its first event is out */
} choice_state;

typedef struct {
    prepare_prompt prompt;
    choice_state choices[LIMIT_CHOICES];
    request_token *scores; /* [scores_count] of the prompt, from position score_first */
    int32_t scores_count, scores_capacity, score_first;
    int32_t cached_tokens;
    bool done;
    request_params params; /* last: of its biases only those that are used have a value */
} run_state;

struct session {
    exchange *exchange;
    openai_request *request;
    const tokenizer *tokenizer;
    run_state *runs; /* [runs_count] */
    int32_t runs_count;
    int32_t runs_done;
    reply reply;
    char id[48];
    bool streaming; /* the stream has begun */
    bool finished;
    session_times times;
};

static void setup_run(session *s, run_state *run, const prepare_prompt *prompt, uint64_t seed) {
    const openai_request *r = s->request;
    memset(run, 0, offsetof(run_state, params.biases));
    run->prompt = *prompt;
    request_params_copy(&run->params, &r->params);
    run->params.max_tokens = prompt->max_tokens;
    if (run->params.min_tokens > prompt->max_tokens) {
        run->params.min_tokens = prompt->max_tokens;
    }
    run->params.seed = seed;
    run->score_first = 1;
    s->times.prompt_tokens += prompt->count;
    for (int32_t i = 0; i < run->params.choices; i++) {
        choice_state *c = &run->choices[i];
        c->detok = detok_make(r->special_skipped);
        c->stops = stops_make(r->stops, r->stops_count);
        c->text = strbuf_make(EXCHANGE_RESPONSE_BYTES);
        c->stop_token = -1;
    }
}

status session_open(exchange *x, openai_request *r, prepare_result *prompts, const tokenizer *t,
                    uint64_t seed_drawn, session **out) {
    session *s = mem_calloc(1, sizeof *s);
    run_state *runs = mem_alloc((size_t)prompts->count, sizeof *runs);
    if (!s || !runs) {
        mem_free(s);
        mem_free(runs);
        exchange_release(x);
        openai_free(r);
        prepare_free(prompts);
        return STATUS_NOMEM;
    }
    s->exchange = x;
    s->request = r;
    s->tokenizer = t;
    s->runs = runs;
    s->runs_count = prompts->count;
    s->times.received_us = exchange_received_us(x);
    uint64_t seed = r->seed_given ? r->params.seed : seed_drawn;
    for (int32_t i = 0; i < prompts->count; i++) {
        /* Prompts of one request draw from different streams; the first one's is the seed's. */
        setup_run(s, &runs[i], &prompts->prompts[i], seed + (uint64_t)i);
    }
    mem_free(prompts->prompts);
    *prompts = (prepare_result){0};
    reply_id(r->kind, rng_mix(seed_drawn ^ 0x5bd1e995u), rng_mix(seed_drawn + 1), s->id);
    s->reply = (reply){.request = r,
                       .id = s->id,
                       .created_s = clock_wall_us() / 1000000,
                       .pieces = {t, prepare_piece}};
    *out = s;
    return STATUS_OK;
}

static void close_request(void *request) {
    openai_free(request);
}

void session_close(session *s) {
    if (!s) {
        return;
    }
    for (int32_t i = 0; i < s->runs_count; i++) {
        run_state *run = &s->runs[i];
        for (int32_t c = 0; c < run->params.choices; c++) {
            strbuf_close(&run->choices[c].text);
            mem_free(run->choices[c].tokens);
        }
        if (i == 0) {
            exchange_leave_with(s->exchange, run->prompt.tokens, mem_free);
        } else {
            mem_free(run->prompt.tokens);
        }
        mem_free(run->scores);
    }
    exchange_leave_with(s->exchange, s->request, close_request);
    exchange_release(s->exchange);
    mem_free(s->runs);
    mem_free(s);
}

int32_t session_runs(const session *s) {
    return s->runs_count;
}

gate_request session_run(const session *s, int32_t run, uint64_t salt) {
    CHECK_LT(run, s->runs_count);
    const run_state *r = &s->runs[run];
    return (gate_request){.tokens = r->prompt.tokens,
                          .tokens_count = r->prompt.count,
                          .salt = salt,
                          .params = &r->params};
}

/* Room for one more in a growing array. */
static bool grow(request_token **array, int32_t count, int32_t *capacity) {
    if (count < *capacity) {
        return true;
    }
    int32_t bigger = *capacity ? *capacity * 2 : 8;
    request_token *grown = mem_realloc(*array, (size_t)bigger, sizeof **array);
    if (!grown) {
        return false;
    }
    *array = grown;
    *capacity = bigger;
    return true;
}

static bool shows_tokens(const openai_request *r) {
    return r->logprobs || r->token_ids;
}

static reply_part make_part(const session *s, int32_t run, int32_t choice) {
    const run_state *rs = &s->runs[run];
    const choice_state *c = &rs->choices[choice];
    const openai_request *r = s->request;
    bool with_prompt = !c->opened && (r->echo || r->token_ids);
    return (reply_part){.index = run * r->params.choices + choice,
                        .text = strbuf_str(&c->text),
                        .first = !c->opened,
                        .tokens = c->tokens,
                        .tokens_count = c->tokens_count,
                        .prompt = with_prompt ? rs->prompt.tokens : NULL,
                        .prompt_count = with_prompt ? rs->prompt.count : 0,
                        .scores = with_prompt ? rs->scores : NULL,
                        .scores_count = with_prompt ? rs->scores_count : 0,
                        .score_first = rs->score_first,
                        .text_offset = c->text_offset,
                        .finish = c->finish,
                        .stop_string = c->stop_string,
                        .stop_token = c->stop_token};
}

static reply_usage usage_of(const session *s) {
    return (reply_usage){s->times.prompt_tokens, s->times.completion_tokens,
                         s->times.cached_tokens};
}

/* What an event's tokens add to the text offsets of the next one. */
static void advance_offset(const session *s, const run_state *rs, choice_state *c,
                           const reply_part *part) {
    for (int32_t i = 0; i < part->prompt_count && s->request->echo; i++) {
        c->text_offset += reply_characters(tokenizer_piece(s->tokenizer, rs->prompt.tokens[i]));
    }
    for (int32_t i = 0; i < c->tokens_count; i++) {
        c->text_offset += reply_characters(tokenizer_piece(s->tokenizer, c->tokens[i].token));
    }
}

static bool begin_stream(session *s) {
    if (!s->streaming) {
        const exchange_header plain[] = {{"Cache-Control", "no-cache"},
                                         {"X-Accel-Buffering", "no"}};
        s->streaming =
            exchange_begin(s->exchange, 200, "text/event-stream; charset=utf-8", plain, 2);
    }
    return s->streaming;
}

/* Sends what a choice has, as one event. False when the client is gone. */
static bool send_event(session *s, int32_t run, int32_t choice) {
    choice_state *c = &s->runs[run].choices[choice];
    reply_part part = make_part(s, run, choice);
    reply_usage usage = usage_of(s);
    strbuf event = strbuf_make(EXCHANGE_BUFFER_BYTES);
    (void)strbuf_reserve(&event, EVENT_BYTES);
    reply_write_event(&event, &s->reply, &part, s->request->usage_continuous ? &usage : NULL);
    advance_offset(s, &s->runs[run], c, &part);
    c->opened = true;
    c->tokens_count = 0;
    strbuf_clear(&c->text);
    bool sent = !event.failed && begin_stream(s) && exchange_write(s->exchange, strbuf_str(&event));
    strbuf_close(&event);
    return sent;
}

/* With echo the prompt's text comes first. */
static bool open_text(session *s, const run_state *rs, choice_state *c) {
    if (!s->request->echo || c->completion_tokens > 0 || c->text.bytes > 0) {
        return true;
    }
    detok state = detok_make(false);
    bool fits = true;
    for (int32_t i = 0; i < rs->prompt.count && fits; i++) {
        fits = detok_feed(&state, s->tokenizer, rs->prompt.tokens[i], &c->text);
    }
    return fits && detok_flush(&state, &c->text);
}

/* Puts a token's text through the detokeniser and the stop matcher. True when a stop string ended
 * the choice. */
static bool feed_text(session *s, const run_state *rs, choice_state *c,
                      const request_token *token) {
    const openai_request *r = s->request;
    strbuf piece = strbuf_make(EXCHANGE_BUFFER_BYTES);
    bool hidden = token->end == REQUEST_STOP && !r->stop_included;
    bool fits = hidden || detok_feed(&c->detok, s->tokenizer, token->token, &piece);
    if (token->end != REQUEST_RUNNING) {
        fits = detok_flush(&c->detok, &piece) && fits;
    }
    c->text.failed |= !fits; /* no memory: the answer cannot be finished, and says so */
    int32_t hit = -1;
    if (token->index + 1 < rs->params.min_tokens) {
        strbuf_append_str(&c->text, strbuf_str(&piece));
    } else {
        hit = stops_feed(&c->stops, strbuf_str(&piece), r->stop_included, &c->text);
    }
    strbuf_close(&piece);
    if (hit >= 0) {
        c->stop_string = r->stops[hit];
        c->finish = REPLY_STOP;
        return true;
    }
    if (token->end != REQUEST_RUNNING) {
        stops_flush(&c->stops, &c->text);
    }
    return false;
}

static bool is_stop_id(const request_params *p, int32_t token) {
    for (int32_t i = 0; i < p->stop_ids_count; i++) {
        if (p->stop_ids[i] == token) {
            return true;
        }
    }
    return false;
}

session_result session_token(session *s, int32_t run, const request_token *token, int64_t now_us) {
    CHECK_LT(run, s->runs_count);
    run_state *rs = &s->runs[run];
    CHECK_LT(token->choice, rs->params.choices);
    choice_state *c = &rs->choices[token->choice];
    if (c->finish != REPLY_OPEN) {
        return SESSION_GOES_ON;
    }
    if (!s->times.first_token_us) {
        s->times.first_token_us = now_us;
    }
    s->times.last_token_us = now_us;
    if (!open_text(s, rs, c)) {
        return SESSION_CLIENT_GONE;
    }
    c->completion_tokens++;
    s->times.completion_tokens++;
    if (shows_tokens(s->request)) {
        if (!grow(&c->tokens, c->tokens_count, &c->tokens_capacity)) {
            return SESSION_CLIENT_GONE;
        }
        c->tokens[c->tokens_count++] = *token;
    }
    bool stopped = feed_text(s, rs, c, token);
    if (token->end == REQUEST_STOP && !stopped) {
        c->finish = REPLY_STOP;
        c->stop_token = is_stop_id(&rs->params, token->token) ? token->token : -1;
    } else if (token->end == REQUEST_LENGTH && !stopped) {
        c->finish = REPLY_LENGTH;
    }
    bool show = c->text.bytes > 0 || c->finish != REPLY_OPEN || s->request->token_ids;
    if (s->request->stream && show && !send_event(s, run, token->choice)) {
        return SESSION_CLIENT_GONE;
    }
    return stopped && token->end == REQUEST_RUNNING ? SESSION_CHOICE_ENDED : SESSION_GOES_ON;
}

void session_scores(session *s, int32_t run, const request_token *score) {
    run_state *rs = &s->runs[run];
    if (rs->scores_count == 0) {
        rs->score_first = score->index;
    }
    if (grow(&rs->scores, rs->scores_count, &rs->scores_capacity)) {
        rs->scores[rs->scores_count++] = *score;
    }
}

static bool write_whole(session *s) {
    int32_t n = s->request->params.choices;
    reply_part *parts = mem_calloc((size_t)(s->runs_count * n), sizeof *parts);
    strbuf json = strbuf_make(EXCHANGE_RESPONSE_BYTES);
    reply_usage usage = usage_of(s);
    bool sent = false;
    if (parts && strbuf_reserve(&json, ANSWER_BYTES)) {
        for (int32_t i = 0; i < s->runs_count * n; i++) {
            parts[i] = make_part(s, i / n, i % n);
        }
        reply_write_whole(&json, &s->reply, parts, s->runs_count * n, &usage);
        sent = !json.failed && routes_answer(s->exchange, &json);
    }
    strbuf_close(&json);
    mem_free(parts);
    return sent;
}

static bool write_stream_end(session *s) {
    strbuf end = strbuf_make(EXCHANGE_BUFFER_BYTES);
    reply_usage usage = usage_of(s);
    if (s->request->usage_included) {
        reply_write_event_usage(&end, &s->reply, &usage);
    }
    reply_write_event_done(&end);
    bool sent = begin_stream(s) && exchange_write(s->exchange, strbuf_str(&end));
    strbuf_close(&end);
    if (sent) {
        exchange_end(s->exchange);
    }
    return sent;
}

/* A choice that got no token at all (max_tokens 0) still has an answer: the echoed prompt. */
static bool close_empty_choices(session *s, int32_t run) {
    run_state *rs = &s->runs[run];
    for (int32_t i = 0; i < rs->params.choices; i++) {
        choice_state *c = &rs->choices[i];
        if (c->finish != REPLY_OPEN) {
            continue;
        }
        if (!open_text(s, rs, c)) {
            return false;
        }
        c->finish = REPLY_LENGTH;
        if (s->request->stream && !send_event(s, run, i)) {
            return false;
        }
    }
    return true;
}

session_result session_run_done(session *s, int32_t run, int32_t cached_tokens, int64_t now_us) {
    CHECK_LT(run, s->runs_count);
    CHECK(!s->runs[run].done);
    s->runs[run].done = true;
    s->times.cached_tokens += cached_tokens;
    s->times.last_token_us = now_us;
    if (!close_empty_choices(s, run)) {
        return SESSION_CLIENT_GONE;
    }
    if (++s->runs_done < s->runs_count) {
        return SESSION_GOES_ON;
    }
    s->finished = s->request->stream ? write_stream_end(s) : write_whole(s);
    return s->finished ? SESSION_GOES_ON : SESSION_CLIENT_GONE;
}

bool session_finished(const session *s) {
    return s->finished;
}

void session_fail(session *s, int http_code, const diag *d, int32_t retry_after_s) {
    if (!s->streaming) {
        (void)routes_refuse(s->exchange, http_code, d, retry_after_s);
        return;
    }
    strbuf event = strbuf_make(EXCHANGE_BUFFER_BYTES);
    reply_write_event_error(&event, http_code, d);
    (void)exchange_write(s->exchange, strbuf_str(&event));
    strbuf_close(&event);
    exchange_cut(s->exchange);
}

exchange *session_exchange(const session *s) {
    return s->exchange;
}

session_times session_get_times(const session *s) {
    return s->times;
}
