/* message.c -- the request protocol's messages as bytes.
 *
 * One walk describes each message; it writes or reads, so the two cannot drift apart. Every field
 * carries its range, checked both ways: from outside a bad value is bad input, on the way out it is
 * this process's mistake and must not reach a peer either.
 */
#include "engine/core/message.h"

#include <math.h>
#include <string.h>

#include "engine/base/bytes.h"
#include "engine/base/check.h"
#include "engine/base/mem.h"

enum { ROLES_ALL = MESSAGE_ROLE_PREFILL | MESSAGE_ROLE_DECODE | MESSAGE_ROLE_FLIPS };

struct message_scratch {
    request_params params;
    int32_t *ids; /* [ids_capacity] */
    size_t ids_capacity;
    request_token *tokens; /* [tokens_capacity] */
    size_t tokens_capacity;
    message_lease *leases; /* [leases_capacity] */
    size_t leases_capacity;
    uint64_t *pages; /* [pages_capacity] */
    size_t pages_capacity;
    message_member members[LIMIT_WORKERS];
    message_latency latencies[MESSAGE_LATENCIES_MAX];
};

/* Writing when `out` is set, else reading `in` from `at`. After the first failure every field is
 * its minimum and nothing more is written or read. */
typedef struct {
    strbuf *out;
    str in; /* [in.bytes] */
    size_t at;
    message_scratch *scratch;
    diag *d;
    status result;
} codec;

status message_scratch_open(message_scratch **out) {
    *out = mem_calloc(1, sizeof(**out));
    return *out ? STATUS_OK : STATUS_NOMEM;
}

void message_scratch_close(message_scratch *s) {
    if (s == NULL) {
        return;
    }
    mem_free(s->ids);
    mem_free(s->tokens);
    mem_free(s->leases);
    mem_free(s->pages);
    mem_free(s);
}

static void fail(codec *c, status code, const char *name, const char *why) {
    if (c->result == STATUS_OK) {
        c->result = status_fail_param(c->d, code, name, "message field %s %s (byte %zu)", name, why,
                                      c->out ? c->out->bytes : c->at);
    }
}

/* A little-endian number of `bytes` bytes. */
static uint64_t number(codec *c, const char *name, size_t bytes, uint64_t value, uint64_t min,
                       uint64_t max) {
    CHECK(bytes >= 1 && bytes <= 8);
    CHECK(min <= max);
    if (c->result != STATUS_OK) {
        return min;
    }
    uint8_t raw[8] = {0};
    if (c->out == NULL) {
        if (c->in.bytes - c->at < bytes) {
            fail(c, STATUS_CORRUPT, name, "is cut off");
            return min;
        }
        memcpy(raw, c->in.data + c->at, bytes);
        value = 0;
        for (size_t i = bytes; i > 0; i--) {
            value = value << 8 | raw[i - 1];
        }
    }
    if (value < min || value > max) {
        fail(c, c->out ? STATUS_INVALID : STATUS_CORRUPT, name, "is out of range");
        return min;
    }
    if (c->out == NULL) {
        c->at += bytes;
        return value;
    }
    for (size_t i = 0; i < bytes; i++) {
        raw[i] = (uint8_t)(value >> (8 * i));
    }
    if (!strbuf_append(c->out, raw, bytes)) {
        fail(c, STATUS_LIMIT, name, "does not fit the buffer");
    }
    return value;
}

static uint64_t u64(codec *c, const char *name, uint64_t v) {
    return number(c, name, 8, v, 0, UINT64_MAX);
}

static uint32_t u32(codec *c, const char *name, uint32_t v, uint32_t min, uint32_t max) {
    return (uint32_t)number(c, name, 4, v, min, max);
}

/* min >= 0: no field of the protocol that has four bytes is negative. */
static int32_t count32(codec *c, const char *name, int32_t v, int32_t min, int32_t max) {
    return (int32_t)number(c, name, 4, (uint32_t)v, (uint64_t)min, (uint64_t)max);
}

static uint32_t small(codec *c, const char *name, uint32_t v, uint32_t min, uint32_t max) {
    CHECK_LE(max, 255);
    return (uint32_t)number(c, name, 1, v, min, max);
}

static bool flag(codec *c, const char *name, bool v) {
    return number(c, name, 1, v, 0, 1) != 0;
}

static float real(codec *c, const char *name, float v) {
    uint32_t bits;
    memcpy(&bits, &v, sizeof(bits));
    bits = (uint32_t)number(c, name, 4, bits, 0, UINT32_MAX);
    memcpy(&v, &bits, sizeof(v));
    if (c->result == STATUS_OK && !isfinite(v)) {
        fail(c, c->out ? STATUS_INVALID : STATUS_CORRUPT, name, "is not finite");
        return 0;
    }
    return v;
}

static str text(codec *c, const char *name, str v, uint32_t bytes_max, bool printable) {
    CHECK(bytes_max <= LIMIT_MESSAGE_BYTES);
    if (c->out != NULL && v.bytes > bytes_max) {
        fail(c, STATUS_INVALID, name, "is too long");
        return str_of(NULL, 0);
    }
    uint32_t bytes = u32(c, name, (uint32_t)v.bytes, 0, bytes_max);
    if (c->result != STATUS_OK) {
        return str_of(NULL, 0);
    }
    if (c->out == NULL) {
        if (c->in.bytes - c->at < bytes) {
            fail(c, STATUS_CORRUPT, name, "is cut off");
            return str_of(NULL, 0);
        }
        v = str_of(c->in.data + c->at, bytes);
        c->at += bytes;
    } else if (!strbuf_append(c->out, v.data, v.bytes)) {
        fail(c, STATUS_LIMIT, name, "does not fit the buffer");
    }
    /* These end in logs: nothing that moves a terminal's cursor. */
    for (size_t i = 0; printable && i < v.bytes; i++) {
        if (v.data[i] < 0x20 || v.data[i] > 0x7e) {
            fail(c, c->out ? STATUS_INVALID : STATUS_CORRUPT, name, "has a byte not printable");
            return str_of(NULL, 0);
        }
    }
    return v;
}

/* Room for `count` elements in *array when reading; what is left of the message must be able to
 * hold them, so that a large count in a short message takes no memory. */
static bool room(codec *c, const char *name, void **array, size_t *capacity, size_t count,
                 size_t element_bytes, size_t wire_bytes_min) {
    CHECK(wire_bytes_min > 0);
    if (c->result != STATUS_OK || c->out != NULL) {
        return false;
    }
    if (count > (c->in.bytes - c->at) / wire_bytes_min) {
        fail(c, STATUS_CORRUPT, name, "counts more than the message holds");
        return false;
    }
    if (count > *capacity) {
        size_t grown = count + count / 2;
        void *p = mem_realloc(*array, grown, element_bytes);
        if (p == NULL) {
            fail(c, STATUS_NOMEM, name, "found no memory");
            return false;
        }
        *array = p;
        *capacity = grown;
    }
    return true;
}

static uint32_t worker_number(codec *c, const char *name, uint32_t v) {
    v = u32(c, name, v, 0, UINT32_MAX);
    if (v != MESSAGE_NO_WORKER && v >= LIMIT_WORKERS) {
        fail(c, c->out ? STATUS_INVALID : STATUS_CORRUPT, name, "is no worker's number");
        return MESSAGE_NO_WORKER;
    }
    return v;
}

static void walk_hello(codec *c, message_hello *h) {
    h->version = u32(c, "version", h->version, 0, UINT32_MAX);
    h->worker = worker_number(c, "worker", h->worker);
    h->epoch = u64(c, "epoch", h->epoch);
    h->roles = small(c, "roles", h->roles, 0, ROLES_ALL);
    h->pid = u32(c, "pid", h->pid, 0, UINT32_MAX);
    h->model_hash = u64(c, "model_hash", h->model_hash);
    h->layers = u32(c, "layers", h->layers, 0, LIMIT_LAYERS);
    h->block_tokens = u32(c, "block_tokens", h->block_tokens, 0, UINT16_MAX);
    h->kv_layer_page_bytes = u64(c, "kv_layer_page_bytes", h->kv_layer_page_bytes);
    h->pages = u32(c, "pages", h->pages, 0, INT32_MAX);
    h->context_tokens = u32(c, "context_tokens", h->context_tokens, 0, LIMIT_CONTEXT_TOKENS);
    h->vocab = u32(c, "vocab", h->vocab, 0, INT32_MAX);
    h->numerics = text(c, "numerics", h->numerics, MESSAGE_NUMERICS_BYTES, true);
    h->kv_layout = text(c, "kv_layout", h->kv_layout, MESSAGE_LAYOUT_BYTES, true);
    h->address = text(c, "address", h->address, MESSAGE_ADDRESS_BYTES, true);
    h->transports = u32(c, "transports", h->transports, 0, UINT32_MAX);
    h->device = u64(c, "device", h->device);
}

static void walk_peer(codec *c, message_peer *p) {
    p->worker = u32(c, "worker", p->worker, 0, LIMIT_WORKERS - 1);
    p->epoch = u64(c, "epoch", p->epoch);
    p->roles = small(c, "roles", p->roles, 0, ROLES_ALL);
    p->how = (message_peer_how)small(c, "how", p->how, MESSAGE_PEER_SOCKET, MESSAGE_PEER_AWAIT);
    p->mend = flag(c, "mend", p->mend);
    p->address = text(c, "address", p->address, MESSAGE_ADDRESS_BYTES, true);
}

static void walk_roster(codec *c, message *m) {
    m->roster.holds = flag(c, "holds", m->roster.holds);
    m->roster.count = u32(c, "members", m->roster.count, 0, LIMIT_WORKERS);
    for (uint32_t i = 0; i < m->roster.count && c->result == STATUS_OK; i++) {
        message_member w = c->out ? m->roster.list[i] : (message_member){0};
        w.worker = u32(c, "member", w.worker, 0, LIMIT_WORKERS - 1);
        w.epoch = u64(c, "member epoch", w.epoch);
        w.roles = small(c, "member roles", w.roles, 0, ROLES_ALL);
        w.address = text(c, "member address", w.address, MESSAGE_ADDRESS_BYTES, true);
        if (c->out == NULL) {
            c->scratch->members[i] = w;
        }
    }
    if (c->out == NULL) {
        m->roster.list = c->scratch->members;
    }
}

static float time_us(codec *c, const char *name, float v) {
    v = real(c, name, v);
    if (v < 0) {
        fail(c, c->out ? STATUS_INVALID : STATUS_CORRUPT, name, "is negative");
        return 0;
    }
    return v;
}

static void walk_fit(codec *c, stepmodel_fit *f) {
    f->fixed_us = time_us(c, "fixed_us", f->fixed_us);
    f->row_us = time_us(c, "row_us", f->row_us);
    f->work_us = time_us(c, "work_us", f->work_us);
    f->samples = u32(c, "samples", f->samples, 0, UINT32_MAX);
}

static void walk_waste(codec *c, message_waste *w) {
    w->unit = (waste_unit)number(c, "unit", 1, (uint64_t)w->unit, 0, WASTE_UNITS - 1);
    w->share_milli = u32(c, "share_milli", w->share_milli, 0, INT32_MAX);
    for (int p = 0; p < WASTE_POOLS; p++) {
        for (int s = 0; s < WASTE_STATES; s++) {
            w->us[p][s] = number(c, "state_us", 8, w->us[p][s], 0, INT64_MAX);
        }
    }
}

static void walk_heartbeat(codec *c, message_heartbeat *h) {
    h->steps = u64(c, "steps", h->steps);
    h->pages_total = u32(c, "pages_total", h->pages_total, 0, INT32_MAX);
    h->pages_free = u32(c, "pages_free", h->pages_free, 0, h->pages_total);
    h->running = u32(c, "running", h->running, 0, INT32_MAX);
    h->waiting = u32(c, "waiting", h->waiting, 0, INT32_MAX);
    h->queued_tokens = number(c, "queued_tokens", 8, h->queued_tokens, 0, INT64_MAX);
    h->step_us = u32(c, "step_us", h->step_us, 0, INT32_MAX);
    h->tokens_per_second = u32(c, "tokens_per_second", h->tokens_per_second, 0, INT32_MAX);
    h->chunk_tokens = u32(c, "chunk_tokens", h->chunk_tokens, 0, LIMIT_CONTEXT_TOKENS);
    h->queued_us = number(c, "queued_us", 8, h->queued_us, 0, INT64_MAX);
    walk_fit(c, &h->prefill_fit);
    walk_fit(c, &h->decode_fit);
    walk_waste(c, &h->waste);
    h->cached_sequence = u64(c, "cached_sequence", h->cached_sequence);
}

static void walk_cached(codec *c, message_cached *k) {
    k->sequence = number(c, "sequence", 8, k->sequence, 1, UINT64_MAX);
    k->snapshot = flag(c, "snapshot", k->snapshot);
    k->count = u32(c, "pages", k->count, 0, MESSAGE_CACHED_MAX);
    if (c->out != NULL) {
        for (uint32_t i = 0; i < k->count && c->result == STATUS_OK; i++) {
            (void)u64(c, "page", k->pages[i]);
        }
        return;
    }
    void *array = c->scratch->pages;
    if (!room(c, "pages", &array, &c->scratch->pages_capacity, k->count, sizeof(uint64_t), 8)) {
        return;
    }
    c->scratch->pages = array;
    for (uint32_t i = 0; i < k->count && c->result == STATUS_OK; i++) {
        c->scratch->pages[i] = u64(c, "page", 0);
    }
    k->pages = c->scratch->pages;
}

static void walk_load(codec *c, message_load *l) {
    l->requests = u64(c, "requests", l->requests);
    l->prompt_tokens = u64(c, "prompt_tokens", l->prompt_tokens);
    l->prompt_squares = u64(c, "prompt_squares", l->prompt_squares);
    l->finished = u64(c, "finished", l->finished);
    l->finished_tokens = u64(c, "finished_tokens", l->finished_tokens);
    l->held = u32(c, "held", l->held, 0, INT32_MAX);
    l->latencies_count = u32(c, "latencies", l->latencies_count, 0, MESSAGE_LATENCIES_MAX);
    for (uint32_t i = 0; i < l->latencies_count && c->result == STATUS_OK; i++) {
        message_latency t = c->out ? l->latencies[i] : (message_latency){0};
        t.ttft_us = u32(c, "ttft_us", t.ttft_us, 0, INT32_MAX);
        t.tpot_us = u32(c, "tpot_us", t.tpot_us, 0, INT32_MAX);
        if (c->out == NULL) {
            c->scratch->latencies[i] = t;
        }
    }
    if (c->out == NULL) {
        l->latencies = c->scratch->latencies;
    }
}

static void walk_leases(codec *c, message *m) {
    m->leases.count = u32(c, "leases", m->leases.count, 0, MESSAGE_LEASES_MAX);
    message_lease *into = NULL;
    void *array = c->out ? NULL : c->scratch->leases;
    if (c->out == NULL) {
        size_t *capacity = &c->scratch->leases_capacity;
        if (!room(c, "leases", &array, capacity, m->leases.count, sizeof(*into), 12)) {
            return;
        }
        into = c->scratch->leases = array;
    }
    for (uint32_t i = 0; i < m->leases.count && c->result == STATUS_OK; i++) {
        message_lease l = c->out ? m->leases.list[i] : (message_lease){0};
        l.request = number(c, "lease request", 8, l.request, 1, UINT64_MAX);
        l.attempt = u32(c, "lease attempt", l.attempt, 1, UINT32_MAX);
        if (into != NULL) {
            into[i] = l;
        }
    }
    if (c->out == NULL) {
        m->leases.list = into;
    }
}

static status check_real(diag *d, const char *name, float v, float min, float max) {
    if (!isfinite(v) || v < min || v > max) {
        return status_fail_param(d, STATUS_INVALID, name, "%s must be between %g and %g", name,
                                 (double)min, (double)max);
    }
    return STATUS_OK;
}

static status check_int(diag *d, const char *name, int32_t v, int32_t min, int32_t max) {
    if (v < min || v > max) {
        return status_fail_param(d, STATUS_INVALID, name, "%s must be between %d and %d", name, min,
                                 max);
    }
    return STATUS_OK;
}

static status check_lists(const request_params *p, diag *d) {
    TRY(check_int(d, "stop_token_ids", p->stop_ids_count, 0, LIMIT_STOP_IDS));
    TRY(check_int(d, "logit_bias", p->biases_count, 0, LIMIT_LOGIT_BIAS));
    for (int32_t i = 0; i < p->stop_ids_count; i++) {
        TRY(check_int(d, "stop_token_ids", p->stop_ids[i], 0, INT32_MAX));
    }
    for (int32_t i = 0; i < p->biases_count; i++) {
        TRY(check_int(d, "logit_bias", p->biases[i].token, 0, INT32_MAX));
        TRY(check_real(d, "logit_bias", p->biases[i].bias, -1e6f, 1e6f));
    }
    return STATUS_OK;
}

status message_params_check(const request_params *p, diag *d) {
    TRY(check_real(d, "temperature", p->temperature, 0, 100));
    TRY(check_int(d, "top_k", p->top_k, 0, INT32_MAX));
    TRY(check_real(d, "top_p", p->top_p, 0, 1));
    if (p->top_p <= 0) {
        return status_fail_param(d, STATUS_INVALID, "top_p", "top_p must be above 0");
    }
    TRY(check_real(d, "min_p", p->min_p, 0, 1));
    TRY(check_real(d, "repetition_penalty", p->repetition_penalty, 1e-3f, 1e3f));
    TRY(check_real(d, "presence_penalty", p->presence_penalty, -2, 2));
    TRY(check_real(d, "frequency_penalty", p->frequency_penalty, -2, 2));
    TRY(check_int(d, "max_tokens", p->max_tokens, 0, LIMIT_CONTEXT_TOKENS));
    TRY(check_int(d, "min_tokens", p->min_tokens, 0, LIMIT_CONTEXT_TOKENS));
    TRY(check_int(d, "top_logprobs", p->top_logprobs, -1, LIMIT_TOP_LOGPROBS));
    TRY(check_int(d, "n", p->choices, 1, LIMIT_CHOICES));
    TRY(check_int(d, "choice_first", p->choice_first, 0, LIMIT_CHOICES - p->choices));
    return check_lists(p, d);
}

static void walk_params(codec *c, request_params *p) {
    p->temperature = real(c, "temperature", p->temperature);
    p->top_k = count32(c, "top_k", p->top_k, 0, INT32_MAX);
    p->top_p = real(c, "top_p", p->top_p);
    p->min_p = real(c, "min_p", p->min_p);
    p->repetition_penalty = real(c, "repetition_penalty", p->repetition_penalty);
    p->presence_penalty = real(c, "presence_penalty", p->presence_penalty);
    p->frequency_penalty = real(c, "frequency_penalty", p->frequency_penalty);
    p->seed = u64(c, "seed", p->seed);
    p->max_tokens = count32(c, "max_tokens", p->max_tokens, 0, LIMIT_CONTEXT_TOKENS);
    p->min_tokens = count32(c, "min_tokens", p->min_tokens, 0, LIMIT_CONTEXT_TOKENS);
    p->ignore_eos = flag(c, "ignore_eos", p->ignore_eos);
    /* -1 travels as 0. */
    p->top_logprobs = (int32_t)small(c, "top_logprobs", (uint32_t)(p->top_logprobs + 1), 0,
                                     LIMIT_TOP_LOGPROBS + 1) -
                      1;
    p->prompt_logprobs = flag(c, "prompt_logprobs", p->prompt_logprobs);
    p->choices = (int32_t)small(c, "choices", (uint32_t)p->choices, 1, LIMIT_CHOICES);
    p->choice_first =
        (int32_t)small(c, "choice_first", (uint32_t)p->choice_first, 0, LIMIT_CHOICES - 1);
    p->stop_ids_count = count32(c, "stop_ids", p->stop_ids_count, 0, LIMIT_STOP_IDS);
    for (int32_t i = 0; i < p->stop_ids_count; i++) {
        p->stop_ids[i] = count32(c, "stop_id", p->stop_ids[i], 0, INT32_MAX);
    }
    p->biases_count = count32(c, "biases", p->biases_count, 0, LIMIT_LOGIT_BIAS);
    for (int32_t i = 0; i < p->biases_count; i++) {
        p->biases[i].token = count32(c, "bias token", p->biases[i].token, 0, INT32_MAX);
        p->biases[i].bias = real(c, "bias", p->biases[i].bias);
    }
    if (c->result == STATUS_OK) {
        c->result = message_params_check(p, c->d);
    }
}

/* Many small numbers: written in one piece. */
static void put_ids(codec *c, const int32_t *ids, int32_t count) {
    size_t bytes = (size_t)count * sizeof *ids;
    if (c->result != STATUS_OK) {
        return;
    }
    if (!strbuf_reserve(c->out, bytes)) {
        fail(c, STATUS_LIMIT, "token", "does not fit the buffer");
        return;
    }
    uint8_t *to = (uint8_t *)c->out->data + c->out->bytes;
    for (int32_t i = 0; i < count; i++) {
        if (ids[i] < 0) {
            fail(c, STATUS_INVALID, "token", "is out of range");
            return;
        }
        bytes_put(to + (size_t)i * sizeof *ids, (uint32_t)ids[i], sizeof *ids);
    }
    c->out->bytes += bytes;
    c->out->data[c->out->bytes] = '\0';
}

static void walk_ids(codec *c, message_submit *s) {
    s->tokens_count = count32(c, "tokens", s->tokens_count, 1, LIMIT_CONTEXT_TOKENS);
    s->prompt_count = count32(c, "prompt", s->prompt_count, 1, s->tokens_count);
    if (c->out != NULL) {
        put_ids(c, s->tokens, s->tokens_count);
        return;
    }
    void *array = c->scratch->ids;
    if (!room(c, "tokens", &array, &c->scratch->ids_capacity, (size_t)s->tokens_count,
              sizeof(int32_t), 4)) {
        return;
    }
    c->scratch->ids = array;
    for (int32_t i = 0; i < s->tokens_count && c->result == STATUS_OK; i++) {
        c->scratch->ids[i] = count32(c, "token", 0, 0, INT32_MAX);
    }
    s->tokens = c->scratch->ids;
}

static void walk_submit(codec *c, message_type type, message_submit *s) {
    s->peer_worker = worker_number(c, "peer_worker", s->peer_worker);
    s->peer_epoch = u64(c, "peer_epoch", s->peer_epoch);
    s->local = flag(c, "local", s->local);
    bool local_fits =
        type == MESSAGE_SUBMIT ? !s->local : s->local == (s->peer_worker == MESSAGE_NO_WORKER);
    if (c->result == STATUS_OK && !local_fits) {
        fail(c, c->out ? STATUS_INVALID : STATUS_CORRUPT, "local", "does not fit peer_worker");
    }
    s->salt = u64(c, "salt", s->salt);
    s->trace[0] = u64(c, "trace", s->trace[0]);
    s->trace[1] = u64(c, "trace", s->trace[1]);
    walk_ids(c, s);
    if (c->out != NULL) {
        request_params params = *s->params;
        walk_params(c, &params);
    } else {
        walk_params(c, &c->scratch->params);
        s->params = &c->scratch->params;
    }
}

static void walk_announce(codec *c, message_announce *a) {
    a->sequence = u32(c, "sequence", a->sequence, 0, UINT32_MAX);
    a->group = u32(c, "group", a->group, 0, INT32_MAX);
    a->layer_first = u32(c, "layer_first", a->layer_first, 0, LIMIT_LAYERS - 1);
    a->layers = u32(c, "layers", a->layers, 1, LIMIT_LAYERS - a->layer_first);
    a->page_first = u32(c, "page_first", a->page_first, 0, LIMIT_SEQ_PAGES - 1);
    a->pages = u32(c, "pages", a->pages, 1, LIMIT_SEQ_PAGES - a->page_first);
}

static void walk_token(codec *c, request_token *t) {
    t->choice = (int32_t)small(c, "choice", (uint32_t)t->choice, 0, LIMIT_CHOICES - 1);
    t->index = count32(c, "index", t->index, 0, LIMIT_CONTEXT_TOKENS);
    t->token = count32(c, "token", t->token, 0, INT32_MAX);
    t->end = (request_end)small(c, "end", (uint32_t)t->end, REQUEST_RUNNING, REQUEST_FAILED);
    t->logprob = real(c, "logprob", t->logprob);
    t->top_count = (int32_t)small(c, "top_count", (uint32_t)t->top_count, 0, LIMIT_TOP_LOGPROBS);
    for (int32_t i = 0; i < t->top_count; i++) {
        t->top[i].token = count32(c, "top token", t->top[i].token, 0, INT32_MAX);
        t->top[i].logprob = real(c, "top logprob", t->top[i].logprob);
    }
}

/* Bytes of a token without logprobs of others. */
enum { TOKEN_WIRE_BYTES = 1 + 4 + 4 + 1 + 4 + 1 };

static void walk_tokens(codec *c, int32_t *count, const request_token **tokens, int32_t max) {
    *count = count32(c, "tokens", *count, 0, max);
    if (c->out != NULL) {
        for (int32_t i = 0; i < *count && c->result == STATUS_OK; i++) {
            request_token t = (*tokens)[i];
            walk_token(c, &t);
        }
        return;
    }
    void *array = c->scratch->tokens;
    if (!room(c, "tokens", &array, &c->scratch->tokens_capacity, (size_t)*count,
              sizeof(request_token), TOKEN_WIRE_BYTES)) {
        return;
    }
    c->scratch->tokens = array;
    for (int32_t i = 0; i < *count && c->result == STATUS_OK; i++) {
        c->scratch->tokens[i] = (request_token){0};
        walk_token(c, &c->scratch->tokens[i]);
    }
    *tokens = c->scratch->tokens;
}

static void walk_reason(codec *c, message *m) {
    m->reason = (message_reason)small(c, "reason", m->reason, 0, MESSAGE_REASON_ROLE);
}

static void walk_reject(codec *c, message *m) {
    walk_reason(c, m);
    m->about = (message_type)small(c, "about", m->about, MESSAGE_HELLO, MESSAGE_LAST);
    if (m->about == MESSAGE_ANNOUNCE) {
        walk_announce(c, &m->announce);
    }
}

static void walk_body_link(codec *c, message *m) {
    switch (m->type) {
        case MESSAGE_HELLO:
            walk_hello(c, &m->hello);
            break;
        case MESSAGE_PEER:
            walk_peer(c, &m->peer);
            break;
        case MESSAGE_HEARTBEAT:
            walk_heartbeat(c, &m->heartbeat);
            break;
        case MESSAGE_LEASES:
            walk_leases(c, m);
            break;
        case MESSAGE_METRICS:
            m->metrics = text(c, "metrics", m->metrics, MESSAGE_METRICS_BYTES, false);
            break;
        case MESSAGE_ROSTER:
            walk_roster(c, m);
            break;
        case MESSAGE_GOODBYE:
            m->goodbye = text(c, "goodbye", m->goodbye, MESSAGE_GOODBYE_BYTES, true);
            break;
        case MESSAGE_CACHED:
            walk_cached(c, &m->cached);
            break;
        case MESSAGE_ROLE:
            m->role.roles = small(c, "roles", m->role.roles, MESSAGE_ROLE_PREFILL,
                                  MESSAGE_ROLE_PREFILL | MESSAGE_ROLE_DECODE);
            m->role.token = u64(c, "token", m->role.token);
            break;
        case MESSAGE_LOAD:
            walk_load(c, &m->load);
            break;
        case MESSAGE_DRAIN:
            m->drain.token = u64(c, "token", m->drain.token);
            m->drain.limit_ms = u32(c, "limit_ms", m->drain.limit_ms, 0, UINT32_MAX);
            break;
        case MESSAGE_RESYNC:
        default:
            break;
    }
}

static void walk_body_answers(codec *c, message *m) {
    switch (m->type) {
        case MESSAGE_TOKENS:
            m->tokens.cached_tokens =
                count32(c, "cached_tokens", m->tokens.cached_tokens, 0, LIMIT_CONTEXT_TOKENS);
            m->tokens.done = flag(c, "done", m->tokens.done);
            m->tokens.waited_us = u32(c, "waited", m->tokens.waited_us, 0, UINT32_MAX);
            m->tokens.computed_us = u32(c, "computed", m->tokens.computed_us, 0, UINT32_MAX);
            walk_tokens(c, &m->tokens.tokens_count, &m->tokens.tokens, MESSAGE_TOKENS_MAX);
            break;
        case MESSAGE_SCORES:
            m->scores.position_first =
                count32(c, "position_first", m->scores.position_first, 1, LIMIT_CONTEXT_TOKENS);
            walk_tokens(c, &m->scores.scores_count, &m->scores.scores, MESSAGE_TOKENS_MAX);
            break;
        case MESSAGE_REFUSED:
        case MESSAGE_PREEMPTED:
            walk_reason(c, m);
            break;
        case MESSAGE_LINK_LOST:
            m->worker = u32(c, "worker", m->worker, 0, LIMIT_WORKERS - 1);
            break;
        case MESSAGE_REJECT:
            walk_reject(c, m);
            break;
        case MESSAGE_ADOPTED:
            m->adopted.waited_us = u32(c, "waited", m->adopted.waited_us, 0, UINT32_MAX);
            m->adopted.moved_us = u32(c, "moved", m->adopted.moved_us, 0, UINT32_MAX);
            break;
        case MESSAGE_ALREADY_ADOPTED:
        case MESSAGE_CANCEL:
        default:
            break;
    }
}

static void walk_body(codec *c, message *m) {
    switch (m->type) {
        case MESSAGE_SUBMIT:
        case MESSAGE_RESERVE:
            walk_submit(c, m->type, &m->submit);
            break;
        case MESSAGE_GRANT:
            m->pages = u32(c, "pages", m->pages, 0, LIMIT_SEQ_PAGES);
            m->prefix_pages = u32(c, "prefix_pages", m->prefix_pages, 0, m->pages);
            break;
        case MESSAGE_QUEUED:
            m->deadline_ms = u32(c, "deadline_ms", m->deadline_ms, 0, INT32_MAX);
            break;
        case MESSAGE_ANNOUNCE:
            walk_announce(c, &m->announce);
            break;
        case MESSAGE_POSTED:
            m->posted.sequence = u32(c, "sequence", m->posted.sequence, 0, UINT32_MAX);
            m->posted.group = u32(c, "group", m->posted.group, 0, INT32_MAX);
            break;
        case MESSAGE_HANDOFF:
            m->handoff.groups = u32(c, "groups", m->handoff.groups, 0, INT32_MAX);
            walk_tokens(c, &m->handoff.tokens_count, &m->handoff.tokens, LIMIT_CHOICES);
            break;
        default:
            walk_body_answers(c, m);
            break;
    }
}

static void walk(codec *c, message *m) {
    m->type = (message_type)small(c, "type", m->type, MESSAGE_HELLO, MESSAGE_LAST);
    if (c->result != STATUS_OK) {
        return;
    }
    bool of_link = message_of_link(m->type);
    uint64_t least = m->type == MESSAGE_REJECT ? 0 : 1; /* REJECT may be about a link message */
    m->request = number(c, "request", 8, m->request, of_link ? 0 : least, of_link ? 0 : UINT64_MAX);
    m->attempt = (uint32_t)number(c, "attempt", 4, m->attempt, of_link ? 0 : least,
                                  of_link ? 0 : UINT32_MAX);
    if (of_link) {
        walk_body_link(c, m);
    } else {
        walk_body(c, m);
    }
}

status message_encode(const message *m, strbuf *out) {
    CHECK(m != NULL);
    CHECK(out != NULL);
    message copy = *m;
    codec c = {.out = out, .result = STATUS_OK};
    walk(&c, &copy);
    return c.result;
}

status message_decode(str bytes, message_scratch *scratch, message *out, diag *d) {
    CHECK(scratch != NULL);
    CHECK(out != NULL);
    *out = (message){0};
    if (bytes.bytes > LIMIT_MESSAGE_BYTES) {
        return status_fail(d, STATUS_CORRUPT, "message of %zu bytes", bytes.bytes);
    }
    codec c = {.in = bytes, .scratch = scratch, .d = d, .result = STATUS_OK};
    walk(&c, out);
    if (c.result == STATUS_OK && c.at != bytes.bytes) {
        c.result = status_fail(d, STATUS_CORRUPT, "message %s: %zu bytes after its end",
                               message_type_name(out->type), bytes.bytes - c.at);
    }
    return c.result;
}

const char *message_type_name(message_type t) {
    static const char *const names[] = {
        [MESSAGE_HELLO] = "HELLO",         [MESSAGE_PEER] = "PEER",
        [MESSAGE_HEARTBEAT] = "HEARTBEAT", [MESSAGE_LEASES] = "LEASES",
        [MESSAGE_DRAIN] = "DRAIN",         [MESSAGE_METRICS] = "METRICS",
        [MESSAGE_ROSTER] = "ROSTER",       [MESSAGE_GOODBYE] = "GOODBYE",
        [MESSAGE_SUBMIT] = "SUBMIT",       [MESSAGE_RESERVE] = "RESERVE",
        [MESSAGE_GRANT] = "GRANT",         [MESSAGE_QUEUED] = "QUEUED",
        [MESSAGE_REFUSED] = "REFUSED",     [MESSAGE_ANNOUNCE] = "ANNOUNCE",
        [MESSAGE_POSTED] = "POSTED",       [MESSAGE_HANDOFF] = "HANDOFF",
        [MESSAGE_ADOPTED] = "ADOPTED",     [MESSAGE_ALREADY_ADOPTED] = "ALREADY_ADOPTED",
        [MESSAGE_TOKENS] = "TOKENS",       [MESSAGE_SCORES] = "SCORES",
        [MESSAGE_CANCEL] = "CANCEL",       [MESSAGE_PREEMPTED] = "PREEMPTED",
        [MESSAGE_LINK_LOST] = "LINK_LOST", [MESSAGE_REJECT] = "REJECT",
        [MESSAGE_CACHED] = "CACHED",       [MESSAGE_RESYNC] = "RESYNC",
        [MESSAGE_ROLE] = "ROLE",           [MESSAGE_LOAD] = "LOAD",
    };
    return t >= MESSAGE_HELLO && t <= MESSAGE_LAST ? names[t] : "?";
}

const char *message_reason_name(message_reason r) {
    static const char *const names[] = {
        [MESSAGE_REASON_NONE] = "none",         [MESSAGE_REASON_FULL] = "full",
        [MESSAGE_REASON_DEADLINE] = "deadline", [MESSAGE_REASON_LEASE] = "lease",
        [MESSAGE_REASON_LAYOUT] = "layout",     [MESSAGE_REASON_GONE] = "gone",
        [MESSAGE_REASON_STATE] = "state",       [MESSAGE_REASON_CHECKSUM] = "checksum",
        [MESSAGE_REASON_PAGES] = "pages",       [MESSAGE_REASON_LIMIT] = "limit",
        [MESSAGE_REASON_DRAINING] = "draining", [MESSAGE_REASON_ROLE] = "role",
    };
    return r <= MESSAGE_REASON_ROLE ? names[r] : "?";
}

const char *message_event_name(const message *m) {
    if (m->type != MESSAGE_TOKENS) {
        return message_type_name(m->type);
    }
    const char *name = m->tokens.done ? "LAST_TOKEN" : "TOKEN";
    for (int32_t i = 0; !m->tokens.done && i < m->tokens.tokens_count; i++) {
        name = m->tokens.tokens[i].index == 0 ? "FIRST_TOKEN" : name;
    }
    return name;
}
