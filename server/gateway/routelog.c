/* routelog.c -- why a request went where it went. */
#include "server/gateway/routelog.h"

#include <inttypes.h>

#include "engine/base/log.h"
#include "server/http/jsonout.h"

typedef struct {
    routelog_about about;
    router_explanation e;
    router_candidate prefill[LIMIT_WORKERS], decode[LIMIT_WORKERS];
} decision;

struct routelog {
    decision *list; /* [ROUTELOG_DECISIONS] */
    uint64_t count; /* made; the next goes to count % ROUTELOG_DECISIONS */
};

status routelog_create(arena *a, routelog **out) {
    routelog *l = ARENA_TAKE(a, 1, routelog);
    if (!l) {
        return STATUS_NOMEM;
    }
    l->list = ARENA_TAKE(a, ROUTELOG_DECISIONS, decision);
    *out = l;
    return l->list ? STATUS_OK : STATUS_NOMEM;
}

static uint32_t keep(router_candidate *into, const router_candidate *from, uint32_t count) {
    count = count < LIMIT_WORKERS ? count : LIMIT_WORKERS;
    for (uint32_t i = 0; i < count; i++) {
        into[i] = from[i];
    }
    return count;
}

static const router_candidate *candidate_of(const router_candidate *list, uint32_t count,
                                            uint32_t worker) {
    for (uint32_t i = 0; i < count; i++) {
        if (list[i].worker == worker) {
            return &list[i];
        }
    }
    return NULL;
}

static void say(const routelog_about *about, const router_explanation *e) {
    static const router_candidate none = {.worker = MESSAGE_NO_WORKER};
    const router_candidate *p = candidate_of(e->prefill, e->prefill_count, e->choice.prefill);
    const router_candidate *d = candidate_of(e->decode, e->decode_count, e->choice.decode);
    p = p ? p : &none;
    d = d ? d : &none;
    LOG(DEBUG, "router", "chosen",
        "request=%" PRIu64
        " attempt=%u path=%s reason=%s prefill=%d decode=%d prompt_tokens=%d "
        "cached_tokens=%d predicted_us=%" PRId64 " p_queue_us=%" PRId64 " p_compute_us=%" PRId64
        " d_token_us=%" PRId64 " d_transfer_us=%" PRId64 " d_room_us=%" PRId64
        " p_candidates=%u d_candidates=%u",
        about->request, about->attempt, router_path_name(e->choice.path),
        router_reason_name(e->choice.reason), (int)e->choice.prefill, (int)e->choice.decode,
        about->prompt_tokens, e->choice.cached_tokens, e->choice.predicted_us, p->queue_us,
        p->compute_us, d->token_us, d->transfer_us, d->room_us, e->prefill_count, e->decode_count);
}

void routelog_add(routelog *l, const routelog_about *about, const router_explanation *e) {
    decision *at = &l->list[l->count++ % ROUTELOG_DECISIONS];
    at->about = *about;
    at->e = *e;
    at->e.prefill_count = keep(at->prefill, e->prefill, e->prefill_count);
    at->e.decode_count = keep(at->decode, e->decode, e->decode_count);
    at->e.prefill = at->prefill;
    at->e.decode = at->decode;
    say(about, &at->e);
}

static void member(strbuf *out, const char *name, int64_t v) {
    jsonout_key(out, name);
    jsonout_int(out, v);
}

static void member_ms(strbuf *out, const char *name, int64_t us) {
    jsonout_key(out, name);
    jsonout_float(out, (float)us / 1000.0f);
}

static void worker(strbuf *out, const char *name, uint32_t number) {
    jsonout_key(out, name);
    if (number == MESSAGE_NO_WORKER) {
        strbuf_append_str(out, str_from("null"));
    } else {
        jsonout_int(out, number);
    }
}

static void write_candidates(strbuf *out, const char *name, const router_candidate *list,
                             uint32_t count, bool decode) {
    jsonout_key(out, name);
    strbuf_append_str(out, str_from("["));
    for (uint32_t i = 0; i < count; i++) {
        const router_candidate *c = &list[i];
        jsonout_comma(out);
        strbuf_append_str(out, str_from("{"));
        member(out, "worker", c->worker);
        jsonout_key(out, "fitness");
        jsonout_string_z(out, router_fitness_name(c->fitness));
        member_ms(out, "cost_ms", c->cost_us);
        member(out, "cached_tokens", c->cached_tokens);
        member_ms(out, "queue_ms", c->queue_us);
        member_ms(out, "compute_ms", c->compute_us);
        if (decode) {
            member_ms(out, "token_ms", c->token_us);
            member_ms(out, "transfer_ms", c->transfer_us);
            member_ms(out, "room_ms", c->room_us);
        }
        member_ms(out, "session_ms", -c->session_us);
        strbuf_append_str(out, str_from("}"));
    }
    strbuf_append_str(out, str_from("]"));
}

void routelog_write_one(strbuf *out, const routelog_about *about, const router_explanation *e,
                        int64_t now_us) {
    static const char *const results[] = {
        [ROUTER_CHOSEN] = "chosen", [ROUTER_NONE_NOW] = "none-now", [ROUTER_NEVER] = "never"};
    strbuf_append_str(out, str_from("{"));
    if (about->request) {
        jsonout_key(out, "request");
        strbuf_printf(out, "\"%" PRIu64 "\"", about->request); /* more than a double's digits */
        member(out, "attempt", about->attempt);
        member_ms(out, "ago_ms", now_us - about->now_us);
    }
    member(out, "prompt_tokens", about->prompt_tokens);
    member(out, "max_tokens", about->max_tokens);
    jsonout_key(out, "session");
    strbuf_append_str(out, str_from(about->session ? "true" : "false"));
    jsonout_key(out, "result");
    jsonout_string_z(out, results[e->result]);
    if (e->result == ROUTER_CHOSEN) {
        jsonout_key(out, "path");
        jsonout_string_z(out, router_path_name(e->choice.path));
        jsonout_key(out, "reason");
        jsonout_string_z(out, router_reason_name(e->choice.reason));
        worker(out, "prefill", e->choice.prefill);
        worker(out, "decode", e->choice.decode);
        member(out, "cached_tokens", e->choice.cached_tokens);
        member_ms(out, "predicted_ttft_ms", e->choice.predicted_us);
    }
    write_candidates(out, "prefill_candidates", e->prefill, e->prefill_count, false);
    write_candidates(out, "decode_candidates", e->decode, e->decode_count, true);
    strbuf_append_str(out, str_from("}"));
}

void routelog_write(const routelog *l, strbuf *out, const char *policy, pageindex_counts index,
                    int64_t now_us) {
    strbuf_append_str(out, str_from("{"));
    jsonout_key(out, "policy");
    jsonout_string_z(out, policy);
    jsonout_key(out, "index");
    strbuf_append_str(out, str_from("{"));
    member(out, "pages", index.pages);
    member(out, "entries", (int64_t)index.entries);
    member(out, "dropped", (int64_t)index.dropped);
    strbuf_append_str(out, str_from("}"));
    jsonout_key(out, "decisions");
    strbuf_append_str(out, str_from("["));
    for (uint64_t i = 0; i < l->count && i < ROUTELOG_DECISIONS; i++) {
        const decision *at = &l->list[(l->count - 1 - i) % ROUTELOG_DECISIONS];
        jsonout_comma(out);
        routelog_write_one(out, &at->about, &at->e, now_us);
    }
    strbuf_append_str(out, str_from("]}"));
}
