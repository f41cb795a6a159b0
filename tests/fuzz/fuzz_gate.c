/* fuzz_gate.c -- the gateway's side of the protocol among hostile workers: whatever they say, a
 * client gets each token once and in order, one end a request, and nothing after it. */
#include "engine/base/mem.h"
#include "engine/core/gate.h"
#include "tests/fuzz/fuzz_say.h"

enum { REQUESTS = 6, EVENTS_MAX = 400 };

typedef struct {
    bool open;
    request_id id;
    request_params params;
    int32_t next[LIMIT_CHOICES];
    int32_t score_next;
} client;

typedef struct {
    gate *gate;
    fuzz_say say;
    client clients[REQUESTS];
    bool up[FUZZ_SAY_WORKERS];
    bool close_asked[FUZZ_SAY_WORKERS];
    uint32_t opened;
    int64_t now_us;
} rig;

static client *find(rig *r, request_id id) {
    for (uint32_t i = 0; i < REQUESTS; i++) {
        if (r->clients[i].open && r->clients[i].id == id) {
            return &r->clients[i];
        }
    }
    return NULL;
}

static void act(rig *r, const gate_action *a) {
    client *c = find(r, a->request);
    switch (a->type) {
        case GATE_SEND:
            CHECK(a->worker < FUZZ_SAY_WORKERS && r->up[a->worker]);
            strbuf_clear(&r->say.bytes);
            CHECK_EQ(message_encode(&a->message, &r->say.bytes), STATUS_OK);
            break;
        case GATE_TOKEN:
            CHECK(c != NULL && a->token.choice >= 0 && a->token.choice < c->params.choices);
            CHECK_EQ(a->token.index, c->next[a->token.choice]++);
            CHECK_LT(a->token.index, c->params.max_tokens);
            break;
        case GATE_SCORES:
            CHECK(c != NULL && c->params.prompt_logprobs);
            CHECK_EQ(a->token.index, c->score_next++);
            break;
        case GATE_DONE:
        case GATE_FAILED:
            CHECK(c != NULL);
            c->open = false;
            break;
        case GATE_CLOSE:
            CHECK(a->worker < FUZZ_SAY_WORKERS && a->text != NULL);
            r->close_asked[a->worker] = true;
            break;
    }
}

static void drain(rig *r) {
    gate_action a;
    while (gate_next(r->gate, &a)) {
        act(r, &a);
    }
}

static void link_down(rig *r, uint32_t w) {
    if (r->up[w]) {
        r->up[w] = r->close_asked[w] = false;
        gate_link_down(r->gate, w, r->now_us);
        drain(r);
    }
}

static void link_up(rig *r, uint32_t w, uint64_t epoch) {
    r->up[w] = true;
    gate_link_up(r->gate, w, epoch, r->now_us);
    drain(r);
}

static void open_request(rig *r, fuzz_input *in) {
    client *c = NULL;
    for (uint32_t i = 0; i < REQUESTS && c == NULL; i++) {
        c = r->clients[i].open ? NULL : &r->clients[i];
    }
    request_params p;
    fuzz_say_params(in, &p);
    p.choice_first = 0;
    int32_t tokens[FUZZ_SAY_TOKENS] = {1, 2, 3};
    gate_request q = {.tokens = tokens,
                      .tokens_count = 1 + (int32_t)fuzz_below(in, FUZZ_SAY_TOKENS),
                      .params = &p};
    request_id id;
    if (c == NULL || gate_open(r->gate, &q, r->now_us, &id) != GATE_OPENED) {
        return;
    }
    *c = (client){.open = true, .id = id, .params = p, .score_next = 1};
    r->opened++;
    drain(r);
}

static void dispatch(rig *r, fuzz_input *in) {
    uint64_t cursor = 0;
    gate_pending p;
    while (gate_pending_next(r->gate, &cursor, r->now_us, &p)) {
        gate_choice c = {fuzz_below(in, FUZZ_SAY_WORKERS + 1), fuzz_below(in, FUZZ_SAY_WORKERS)};
        c.prefill = c.prefill == FUZZ_SAY_WORKERS ? MESSAGE_NO_WORKER : c.prefill;
        bool fits =
            r->up[c.decode] && c.prefill != c.decode &&
            (c.prefill == MESSAGE_NO_WORKER || (r->up[c.prefill] && !p.params->prompt_logprobs));
        if (fits) {
            gate_dispatch(r->gate, p.run, c, r->now_us);
            drain(r);
        }
    }
}

static void hear(rig *r, fuzz_input *in) {
    uint32_t w = fuzz_below(in, FUZZ_SAY_WORKERS);
    const message *m = fuzz_say_next(&r->say, in);
    if (m != NULL && r->up[w] && m->type != MESSAGE_HEARTBEAT) {
        gate_message(r->gate, w, m, r->now_us);
        drain(r);
    }
}

static void leave(rig *r, fuzz_input *in) {
    client *c = &r->clients[fuzz_below(in, REQUESTS)];
    if (!c->open) {
        return;
    }
    if (fuzz_below(in, 2)) {
        c->open = false;
        gate_cancel(r->gate, c->id, r->now_us);
    } else {
        int32_t choice = (int32_t)fuzz_below(in, (uint32_t)c->params.choices);
        gate_end_choice(r->gate, c->id, choice, r->now_us);
    }
    drain(r);
}

static void event(rig *r, fuzz_input *in) {
    static const int64_t waits_us[] = {0, 1000, 20000, 600000, 6000000, 31000000};
    switch (fuzz_below(in, 12)) {
        case 0: {
            uint32_t w = fuzz_below(in, FUZZ_SAY_WORKERS);
            if (r->up[w]) {
                link_down(r, w);
            } else {
                link_up(r, w, 1 + fuzz_below(in, 3));
            }
            break;
        }
        case 1:
            r->now_us += waits_us[fuzz_below(in, 6)];
            gate_tick(r->gate, r->now_us);
            drain(r);
            break;
        case 2:
            open_request(r, in);
            break;
        case 3:
            leave(r, in);
            break;
        case 4:
        case 5:
            dispatch(r, in);
            break;
        default:
            hear(r, in);
            break;
    }
    r->now_us++;
    for (uint32_t w = 0; w < FUZZ_SAY_WORKERS; w++) {
        if (r->close_asked[w]) {
            link_down(r, w);
        }
    }
}

/* No worker is left: every request has its end, exactly one. */
static void check_end(rig *r) {
    for (uint32_t w = 0; w < FUZZ_SAY_WORKERS; w++) {
        link_down(r, w);
    }
    for (int i = 0; i < 8; i++) {
        r->now_us += 20000000;
        gate_tick(r->gate, r->now_us);
        drain(r);
    }
    const gate_counts *n = gate_counters(r->gate);
    CHECK_EQ(gate_count(r->gate), 0);
    CHECK_EQ(n->opened, r->opened);
    CHECK_EQ(n->done + n->cancelled + n->failed, n->opened);
    for (uint32_t i = 0; i < REQUESTS; i++) {
        CHECK(!r->clients[i].open);
    }
}

FUZZ_TARGET(gate, FUZZ_ALLOWANCE_BYTES) {
    static const gate_options options = {.requests_max = 4,
                                         .id_first = 1,
                                         .lease_us = 30000000,
                                         .pending_deadline_us = 15000000,
                                         .retry_percent = 10,
                                         .retry_burst = 2,
                                         .attempts_max = 5};
    fuzz_input in = {data, bytes, 0};
    rig *r = mem_calloc(1, sizeof *r);
    CHECK(r != NULL);
    CHECK_EQ(gate_create(&options, &r->gate), STATUS_OK);
    fuzz_say_open(&r->say);
    r->now_us = 1;
    for (uint32_t w = 0; w < FUZZ_SAY_WORKERS; w++) {
        link_up(r, w, 1);
    }
    for (int i = 0; i < EVENTS_MAX && !fuzz_done(&in); i++) {
        event(r, &in);
    }
    check_end(r);
    gate_destroy(r->gate);
    fuzz_say_close(&r->say);
    mem_free(r);
}
