/* simclient.c -- clients that know every token they must get, computed from the prompt alone. */
#include <string.h>

#include "engine/base/check.h"
#include "engine/base/mem.h"
#include "engine/base/rng.h"
#include "tests/sim/sim.h"

enum { DOCUMENTS = 3, PROMPT_MAX = 140, CONVERSATION_MAX = 300, OUTPUT_MAX = 50, STOP_TOKEN = 3 };

/* ---- making --------------------------------------------------------------------------------- */

/* Prompts share beginnings, so that the prefix caches have something to find. */
static void make_prompt(sim *s, sim_request *r) {
    uint64_t document = sim_below(s, DOCUMENTS);
    int32_t shared = (int32_t)sim_below(s, PROMPT_MAX);
    r->prompt_count = shared + 1 + (int32_t)sim_below(s, (uint64_t)(PROMPT_MAX - shared));
    for (int32_t i = 0; i < r->prompt_count; i++) {
        uint64_t bits =
            i < shared ? rng_at(s->options.seed, document, (uint64_t)i) : sim_below(s, 1u << 30);
        r->prompt[i] = (int32_t)(bits % (uint64_t)s->model.vocab);
    }
}

/* Some prompts begin with an earlier request's prompt and answer, as the next turn of a
 * conversation does. Not drawn in turn, so that seeds without them mean what they meant. */
static void make_turn(sim *s, uint32_t index) {
    sim_request *r = &s->requests[index];
    uint64_t bits = rng_at(s->options.seed, 0xC0, index);
    if (!s->model.apart || index == 0 || bits % 3 > 0) {
        return;
    }
    const sim_request *before = &s->requests[bits / 3 % index];
    int32_t answer = before->expected_count[0], own = r->prompt_count;
    int32_t history = before->prompt_count + answer;
    if (history + own > CONVERSATION_MAX) {
        return;
    }
    memmove(r->prompt + history, r->prompt, (size_t)own * sizeof(*r->prompt));
    memcpy(r->prompt, before->prompt, (size_t)before->prompt_count * sizeof(*r->prompt));
    for (int32_t i = 0; i < answer; i++) {
        r->prompt[before->prompt_count + i] = before->expected[0][i].token;
    }
    r->prompt_count = history + own;
    r->salt = before->salt;
}

static void make_params(sim *s, request_params *p) {
    *p = (request_params){.top_p = 1, .repetition_penalty = 1, .top_logprobs = -1, .choices = 1};
    p->max_tokens =
        sim_chance(s, 15) ? (int32_t)sim_below(s, 3) : 1 + (int32_t)sim_below(s, OUTPUT_MAX);
    p->seed = sim_below(s, UINT64_MAX);
    p->temperature = sim_chance(s, 50) ? 0 : 1;
    p->ignore_eos = sim_chance(s, 50);
    p->min_tokens = sim_chance(s, 20) ? (int32_t)sim_below(s, 5) : 0;
    p->prompt_logprobs = sim_chance(s, 15);
    if (sim_chance(s, 25)) {
        p->top_logprobs = (int32_t)sim_below(s, 4);
    }
    if (sim_chance(s, 25)) {
        p->choices = 2 + (int32_t)sim_below(s, 3);
        p->temperature = 1;
    }
    if (sim_chance(s, 20)) {
        p->stop_ids_count = 1;
        p->stop_ids[0] = STOP_TOKEN;
    }
}

static void expect(sim *s, sim_request *r) {
    int32_t tokens[SIM_TOKENS_MAX];
    for (int32_t c = 0; c < r->params.choices; c++) {
        memcpy(tokens, r->prompt, (size_t)r->prompt_count * sizeof(*tokens));
        int32_t count = r->prompt_count;
        r->expected[c] = mem_calloc((size_t)r->params.max_tokens + 1, sizeof(request_token));
        CHECK(r->expected[c] != NULL);
        int32_t n = 0;
        while (n < r->params.max_tokens && (n == 0 || r->expected[c][n - 1].end == 0)) {
            r->expected[c][n] =
                hashmodel_next(&s->model, tokens, count, r->prompt_count, &r->params, c);
            tokens[count++] = r->expected[c][n++].token;
        }
        r->expected_count[c] = n;
    }
}

void simclient_make(sim *s) {
    static const int64_t spreads[] = {20000, 200000, 1000000, 6000000};
    int64_t spread = spreads[sim_below(s, sizeof(spreads) / sizeof(spreads[0]))];
    for (uint32_t i = 0; i < s->requests_count; i++) {
        sim_request *r = &s->requests[i];
        make_prompt(s, r);
        make_params(s, &r->params);
        r->salt = sim_below(s, 2);
        make_turn(s, i);
        r->gateway = SIM_GATEWAYS_MAX;
        r->stop_choice =
            sim_chance(s, 10) ? (int32_t)sim_below(s, (uint64_t)r->params.choices) : -1;
        r->stop_after = 1 + (int32_t)sim_below(s, 10);
        expect(s, r);
        r->open_us = 100000 + (int64_t)sim_below(s, (uint64_t)spread);
        simnet_at(s, r->open_us, SIM_OPEN, SIM_WORLD)->index = i;
        if (sim_chance(s, 15)) {
            int64_t stay = (int64_t)sim_below(s, sim_chance(s, 50) ? 50000 : 3000000);
            simnet_at(s, r->open_us + stay, SIM_LEAVE, SIM_WORLD)->index = i;
        }
    }
}

void simclient_close(sim *s) {
    for (uint32_t i = 0; i < s->requests_count; i++) {
        for (int c = 0; c < LIMIT_CHOICES; c++) {
            mem_free(s->requests[i].expected[c]);
        }
    }
}

/* ---- living --------------------------------------------------------------------------------- */

static void end(sim *s, sim_request *r, sim_request_state state) {
    CHECK_EQ(r->state, SIM_OPENED);
    r->state = state;
    s->ended_count++;
}

/* Clients find a gateway that runs, as behind a balancer, or try again soon. One that is frozen
 * looks as if it ran. */
static void connect(sim *s, uint32_t index) {
    uint32_t first = (uint32_t)sim_below(s, s->gateways_count);
    for (uint32_t i = 0; i < s->gateways_count; i++) {
        uint32_t g = (first + i) % s->gateways_count;
        if (s->gateways[g].process.running) {
            s->requests[index].gateway = g;
            simnet_at(s, s->now_us, SIM_OPEN, sim_gateway_node(g))->index = index;
            return;
        }
    }
    simnet_at(s, s->now_us + 100000, SIM_OPEN, SIM_WORLD)->index = index;
}

void simclient_event(sim *s, sim_event *e) {
    const sim_request *r = &s->requests[e->index];
    if (e->type == SIM_OPEN) {
        connect(s, e->index);
    } else if (r->state == SIM_OPENED) {
        simnet_at(s, s->now_us, SIM_LEAVE, sim_gateway_node(r->gateway))->index = e->index;
    }
}

void simclient_open(sim *s, uint32_t g, uint32_t index) {
    sim_request *r = &s->requests[index];
    gate_request q = {.tokens = r->prompt,
                      .tokens_count = r->prompt_count,
                      .salt = r->salt,
                      .params = &r->params};
    gate_open_result result =
        gate_open(s->gateways[g].gate, &q, sim_clock(s, sim_gateway_node(g)), &r->id);
    if (result != GATE_OPENED) {
        sim_fail(s, "gate_open: %d", result);
        return;
    }
    r->state = SIM_OPENED;
    sim_trace(s, "client %u opens %llu at gateway %u: prompt %d, max %d, choices %d", index,
              (unsigned long long)r->id, g, r->prompt_count, r->params.max_tokens,
              r->params.choices);
}

bool simclient_left(sim *s, uint32_t index) {
    sim_request *r = &s->requests[index];
    if (r->state != SIM_OPENED) {
        return false;
    }
    sim_trace(s, "client %u leaves", index);
    end(s, r, SIM_LEFT);
    s->counts.left++;
    return true;
}

void simclient_orphan(sim *s, uint32_t g) {
    for (uint32_t i = 0; i < s->requests_count; i++) {
        sim_request *r = &s->requests[i];
        if (r->gateway != g) {
            continue;
        }
        if (r->state == SIM_OPENED) {
            end(s, r, SIM_ORPHANED);
            s->counts.orphaned++;
        } else if (r->state == SIM_NEW) { /* it had not yet been heard */
            r->gateway = SIM_GATEWAYS_MAX;
            simnet_at(s, s->now_us, SIM_OPEN, SIM_WORLD)->index = i;
        }
    }
}

static sim_request *find(sim *s, request_id id, const char *what) {
    for (uint32_t i = 0; i < s->requests_count; i++) {
        if (s->requests[i].id == id && s->requests[i].state == SIM_OPENED) {
            return &s->requests[i];
        }
    }
    sim_fail(s, "%s for request %llu, which is not open [I1]", what, (unsigned long long)id);
    return NULL;
}

static bool same_tops(const request_token *a, const request_token *b) {
    if (a->logprob != b->logprob || a->top_count != b->top_count) {
        return false;
    }
    for (int32_t i = 0; i < a->top_count; i++) {
        if (a->top[i].token != b->top[i].token || a->top[i].logprob != b->top[i].logprob) {
            return false;
        }
    }
    return true;
}

void simclient_token(sim *s, const gate_action *a) {
    sim_request *r = find(s, a->request, "a token");
    const request_token *t = &a->token;
    if (!r) {
        return;
    }
    sim_trace(s, "client gets %llu: choice %d index %d token %d", (unsigned long long)a->request,
              t->choice, t->index, t->token);
    if (t->choice < 0 || t->choice >= r->params.choices || t->index != r->got[t->choice]) {
        sim_fail(s, "request %llu: choice %d index %d is not next [I2]",
                 (unsigned long long)a->request, t->choice, t->index);
        return;
    }
    int32_t at = r->got[t->choice]++;
    const request_token *e = &r->expected[t->choice][at];
    if (at >= r->expected_count[t->choice] || t->token != e->token || t->end != e->end) {
        sim_fail(s, "request %llu: choice %d index %d is token %d end %d, not %d end %d [I5]",
                 (unsigned long long)a->request, t->choice, at, t->token, t->end, e->token, e->end);
    } else if (!same_tops(t, e)) {
        sim_fail(s, "request %llu: choice %d index %d has other logprobs [I5]",
                 (unsigned long long)a->request, t->choice, at);
    }
    if (t->choice == r->stop_choice && r->got[t->choice] == r->stop_after &&
        t->end == REQUEST_RUNNING) {
        CHECK_LT(s->stops_count, SIM_REQUESTS_MAX);
        s->stops[s->stops_count].id = r->id;
        s->stops[s->stops_count].choice = t->choice;
        s->stops_count++;
    }
}

bool simclient_stopped(sim *s, request_id id, int32_t choice) {
    for (uint32_t i = 0; i < s->requests_count; i++) {
        sim_request *r = &s->requests[i];
        if (r->id == id && r->state == SIM_OPENED) {
            r->expected_count[choice] = -1; /* whatever comes from here on is too much */
            return true;
        }
    }
    return false;
}

void simclient_score(sim *s, const gate_action *a) {
    sim_request *r = find(s, a->request, "a score");
    if (!r) {
        return;
    }
    int32_t position = ++r->scores;
    if (a->token.index != position || position >= r->prompt_count || !r->params.prompt_logprobs) {
        sim_fail(s, "request %llu: score %d is not next [I2]", (unsigned long long)a->request,
                 a->token.index);
        return;
    }
    request_token e = hashmodel_score(&s->model, r->prompt, position, r->params.top_logprobs);
    if (a->token.token != e.token || !same_tops(&a->token, &e)) {
        sim_fail(s, "request %llu: the score at %d is wrong [I5]", (unsigned long long)a->request,
                 position);
    }
}

void simclient_done(sim *s, const gate_action *a) {
    sim_request *r = find(s, a->request, "an end");
    if (!r) {
        return;
    }
    for (int32_t c = 0; c < r->params.choices; c++) {
        if (r->expected_count[c] >= 0 && r->got[c] != r->expected_count[c]) {
            sim_fail(s, "request %llu: choice %d ended after %d of %d tokens [I2]",
                     (unsigned long long)a->request, c, r->got[c], r->expected_count[c]);
        }
    }
    if (r->params.prompt_logprobs && r->scores != r->prompt_count - 1) {
        sim_fail(s, "request %llu ended with %d scores of %d", (unsigned long long)a->request,
                 r->scores, r->prompt_count - 1);
    }
    if (a->cached_tokens < 0 || a->cached_tokens > r->prompt_count) {
        sim_fail(s, "request %llu: %d cached tokens", (unsigned long long)a->request,
                 a->cached_tokens);
    }
    sim_trace(s, "request %llu is done", (unsigned long long)a->request);
    s->counts.done++;
    end(s, r, SIM_DONE);
}

void simclient_failed(sim *s, const gate_action *a) {
    sim_request *r = find(s, a->request, "a failure");
    if (!r) {
        return;
    }
    sim_trace(s, "request %llu failed: %s", (unsigned long long)a->request,
              gate_failure_name(a->failure));
    if (s->strict) {
        sim_fail(s, "request %llu failed (%s), and nothing allowed it to",
                 (unsigned long long)a->request, gate_failure_name(a->failure));
    }
    s->counts.failed++;
    end(s, r, SIM_FAILED);
}
