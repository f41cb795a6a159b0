/* routesim.c -- arrivals, prompts that are done, heartbeats, in the order of virtual time. */
#include "bench/routesim.h"

#include <math.h>
#include <stdlib.h>

#include "engine/base/check.h"
#include "engine/base/mem.h"
#include "engine/base/rng.h"
#include "engine/core/prefix.h"

enum {
    OWN_TOKENS_MIN = 32, /* of a prompt after its beginning */
    OWN_TOKENS_MAX = 512,
    ANSWER_TOKENS_MAX = 128,
    CHUNK_TOKENS = 512,
    BEAT_US = 250000,
    QUEUE_MAX = 1 << 14, /* prompts of a worker */
    WARM_PERCENT = 10    /* of the time, at first, that does not count: empty caches */
};

/* A prompt: a step of 512 rows takes 26 ms; a token beside 8 others 5 ms. */
static const stepmodel_fit PREFILL = {500, 45, 0.004f, 1000};
static const stepmodel_fit DECODE = {4000, 100, 0.01f, 1000};

typedef struct {
    int64_t arrived_us;
    uint64_t number, prefix;
    int32_t tokens;
    uint32_t decode; /* where it goes on */
} job;

typedef struct {
    blocks *blocks;
    prefix *prefix;
    cachelog_reader reader;
    job *queue; /* [QUEUE_MAX] a ring */
    uint64_t first, next;
    int64_t done_us; /* of the first; INT64_MAX: idle */
    uint32_t *pages; /* of the first */
    uint32_t pages_count, found;
    uint64_t requests;
} worker;

typedef struct {
    const routesim_options *o;
    arena memory;
    router *router;
    router_view views[2 * ROUTESIM_WORKERS_MAX];
    worker workers[ROUTESIM_WORKERS_MAX];
    int64_t *decode_until_us; /* [decodes_max] a request's end on D */
    uint32_t *decode_worker;
    int64_t decodes, decodes_max;
    int32_t *tokens; /* of the prompt at hand */
    double *zipf;    /* [prefixes] cumulative */
    double *ttft_us; /* [requests_max] */
    int64_t requests, requests_max;
    uint64_t random, numbers;
    uint64_t tokens_all, tokens_cached;
    int64_t now_us, arrival_us, beat_us, mean_gap_us;
} fleet;

static void make_tokens(fleet *f, const job *j) {
    for (int32_t i = 0; i < j->tokens; i++) {
        bool own = i >= f->o->prefix_tokens;
        f->tokens[i] = (int32_t)(rng_at(own ? j->number : j->prefix, own, (uint64_t)i) & 0xffff);
    }
}

static uint64_t draw_prefix(fleet *f) {
    double at = rng_unit(rng_next(&f->random)) * f->zipf[f->o->prefixes - 1];
    uint32_t k = 0;
    while (k + 1 < f->o->prefixes && f->zipf[k] < at) {
        k++;
    }
    return k;
}

/* ---- a prefill worker ----------------------------------------------------------------------- */

static void begin_job(fleet *f, worker *w) {
    job *j = &w->queue[w->first % QUEUE_MAX];
    prefix_chain chain;
    make_tokens(f, j);
    uint32_t whole = (uint32_t)(j->tokens - 1) / LIMIT_PAGE_TOKENS;
    w->pages_count = (uint32_t)(j->tokens + LIMIT_PAGE_TOKENS - 1) / LIMIT_PAGE_TOKENS;
    w->found = prefix_find(w->prefix, 0, f->tokens, whole, w->pages, &chain);
    CHECK(prefix_take(w->prefix, w->pages_count - w->found, w->pages + w->found));
    int64_t cached = (int64_t)w->found * LIMIT_PAGE_TOKENS;
    int64_t own = j->tokens - cached;
    w->done_us = f->now_us + (int64_t)stepmodel_prefill_us(
                                 &PREFILL, own, stepmodel_pairs(own, cached), CHUNK_TOKENS);
    f->tokens_all += (uint64_t)j->tokens;
    f->tokens_cached += (uint64_t)cached;
}

static void end_job(fleet *f, worker *w) {
    const job *j = &w->queue[w->first++ % QUEUE_MAX];
    prefix_chain chain = {0};
    make_tokens(f, j);
    while ((int32_t)(chain.pages + 1) * LIMIT_PAGE_TOKENS <= j->tokens) {
        uint32_t at = chain.pages;
        prefix_add(w->prefix, 0, &chain, f->tokens + (size_t)at * LIMIT_PAGE_TOKENS, w->pages[at]);
    }
    while (w->pages_count > 0) {
        blocks_drop(w->blocks, w->pages[--w->pages_count]);
    }
    if (j->arrived_us > (int64_t)(f->o->seconds * 1e4 * WARM_PERCENT) &&
        f->requests < f->requests_max) {
        f->ttft_us[f->requests++] = (double)(f->now_us - j->arrived_us);
        w->requests++;
    }
    if (f->decodes < f->decodes_max) {
        const routecost_reference none = {.step_us = 0};
        int64_t tokens = 1 + (int64_t)rng_at(j->number, 2, 0) % ANSWER_TOKENS_MAX;
        tokens = tokens < 0 ? -tokens : tokens;
        int64_t each =
            routecost_token_us(&f->views[j->decode], &none, j->tokens, LIMIT_PAGE_TOKENS);
        f->decode_until_us[f->decodes] = f->now_us + tokens * each;
        f->decode_worker[f->decodes++] = j->decode;
    }
    w->done_us = INT64_MAX;
    if (w->first < w->next) {
        begin_job(f, w);
    }
}

/* ---- the gateway ---------------------------------------------------------------------------- */

static void arrive(fleet *f) {
    job j = {.arrived_us = f->now_us, .number = 1000000 + f->numbers++, .prefix = draw_prefix(f)};
    j.tokens = f->o->prefix_tokens + OWN_TOKENS_MIN +
               (int32_t)rng_below(&f->random, OWN_TOKENS_MAX - OWN_TOKENS_MIN);
    make_tokens(f, &j);
    router_request q = {.prompt = f->tokens,
                        .prompt_count = j.tokens,
                        .max_tokens = ANSWER_TOKENS_MAX,
                        .choices = 1,
                        .prefill_last = MESSAGE_NO_WORKER,
                        .decode_avoid = MESSAGE_NO_WORKER,
                        .now_us = f->now_us};
    router_choice c;
    CHECK_EQ(router_choose(f->router, f->views, f->o->prefill + f->o->decode, &q, &c),
             ROUTER_CHOSEN);
    router_remember(f->router, &q, &c);
    router_charge(f->views, &c, &q, LIMIT_PAGE_TOKENS);
    worker *w = &f->workers[c.prefill];
    j.decode = c.decode;
    if (w->next - w->first < QUEUE_MAX) {
        w->queue[w->next++ % QUEUE_MAX] = j;
        if (w->next - w->first == 1) {
            begin_job(f, w);
        }
    }
    double gap = -log(1 - rng_unit(rng_next(&f->random))) * (double)f->mean_gap_us;
    f->arrival_us = f->now_us + 1 + (int64_t)gap;
}

static void beat_prefill(fleet *f, uint32_t i) {
    worker *w = &f->workers[i];
    message_heartbeat h = {.pages_total = f->o->worker_pages,
                           .pages_free = blocks_free_count(w->blocks),
                           .waiting = (uint32_t)(w->next - w->first),
                           .chunk_tokens = CHUNK_TOKENS,
                           .prefill_fit = PREFILL,
                           .decode_fit = DECODE};
    double us = w->first < w->next ? (double)(w->done_us - f->now_us) : 0;
    for (uint64_t k = w->first + 1; k < w->next; k++) { /* as a worker: it cannot know its hits */
        int64_t tokens = w->queue[k % QUEUE_MAX].tokens;
        us += stepmodel_prefill_us(&PREFILL, tokens, stepmodel_pairs(tokens, 0), CHUNK_TOKENS);
        h.queued_tokens += (uint64_t)tokens;
    }
    h.queued_us = (uint64_t)us;
    routecost_told(&f->views[i], &h, f->now_us);
    message_cached told;
    bool room = true;
    while (cachelog_read(prefix_log(w->prefix), &w->reader, &room, &told)) {
        CHECK(router_cached(f->router, i, &told));
    }
}

static void beat(fleet *f) {
    for (uint32_t i = 0; i < f->o->prefill; i++) {
        beat_prefill(f, i);
    }
    uint32_t running[2 * ROUTESIM_WORKERS_MAX] = {0};
    int64_t kept = 0;
    for (int64_t k = 0; k < f->decodes; k++) {
        if (f->decode_until_us[k] > f->now_us) {
            running[f->decode_worker[k]]++;
            f->decode_until_us[kept] = f->decode_until_us[k];
            f->decode_worker[kept++] = f->decode_worker[k];
        }
    }
    f->decodes = kept;
    for (uint32_t i = f->o->prefill; i < f->o->prefill + f->o->decode; i++) {
        uint32_t used = running[i] * (uint32_t)(f->o->prefix_tokens / LIMIT_PAGE_TOKENS + 16);
        message_heartbeat h = {.pages_total = f->o->worker_pages * 16,
                               .running = running[i],
                               .chunk_tokens = CHUNK_TOKENS,
                               .prefill_fit = PREFILL,
                               .decode_fit = DECODE};
        h.pages_free = used < h.pages_total ? h.pages_total - used : 0;
        routecost_told(&f->views[i], &h, f->now_us);
    }
    f->beat_us = f->now_us + BEAT_US;
}

/* ---- a run ---------------------------------------------------------------------------------- */

static status open_worker(fleet *f, worker *w) {
    uint32_t most = (uint32_t)(f->o->prefix_tokens + OWN_TOKENS_MAX) / LIMIT_PAGE_TOKENS + 2;
    w->queue = ARENA_TAKE(&f->memory, QUEUE_MAX, job);
    w->pages = ARENA_TAKE(&f->memory, most, uint32_t);
    w->done_us = INT64_MAX;
    if (!w->queue || !w->pages) {
        return STATUS_NOMEM;
    }
    TRY(blocks_create(&f->memory, f->o->worker_pages, 1, &w->blocks));
    return prefix_create(&f->memory, w->blocks, f->o->worker_pages, (hash_key){1, 2}, &w->prefix);
}

/* So many prompts a second are `load` of what all could compute from scratch. */
static int64_t mean_gap_us(const routesim_options *o) {
    int64_t tokens = o->prefix_tokens + (OWN_TOKENS_MIN + OWN_TOKENS_MAX) / 2;
    double each = stepmodel_prefill_us(&PREFILL, tokens, stepmodel_pairs(tokens, 0), CHUNK_TOKENS);
    double gap = each / (double)o->prefill / o->load;
    return gap > 1 ? (int64_t)gap : 1;
}

static status open_fleet(fleet *f) {
    const routesim_options *o = f->o;
    router_options ro = {.workers_max = 2 * ROUTESIM_WORKERS_MAX,
                         .pages_max = 1 << 20,
                         .expected_max = 1 << 16,
                         .page_tokens = LIMIT_PAGE_TOKENS,
                         .transfer_page_us = 20,
                         .policy = o->policy,
                         .seed = o->seed};
    uint64_t each = QUEUE_MAX * sizeof(job) + blocks_bytes(o->worker_pages) +
                    prefix_bytes(o->worker_pages) + (1 << 20);
    f->mean_gap_us = mean_gap_us(o);
    f->requests_max = (int64_t)(o->seconds * 1e6 / (double)f->mean_gap_us * 1.2) + 1000;
    f->decodes_max = 1 << 20;
    TRY(arena_open(&f->memory, router_bytes(&ro) + each * o->prefill +
                                   (uint64_t)f->requests_max * 8 + (uint64_t)f->decodes_max * 12 +
                                   8ull * o->prefixes + (8ull << 20)));
    TRY(router_create(&f->memory, &ro, &f->router));
    f->tokens = ARENA_TAKE(&f->memory, (size_t)(o->prefix_tokens + OWN_TOKENS_MAX), int32_t);
    f->zipf = ARENA_TAKE(&f->memory, o->prefixes, double);
    f->ttft_us = ARENA_TAKE(&f->memory, (size_t)f->requests_max, double);
    f->decode_until_us = ARENA_TAKE(&f->memory, (size_t)f->decodes_max, int64_t);
    f->decode_worker = ARENA_TAKE(&f->memory, (size_t)f->decodes_max, uint32_t);
    if (!f->tokens || !f->zipf || !f->ttft_us || !f->decode_until_us || !f->decode_worker) {
        return STATUS_NOMEM;
    }
    for (uint32_t k = 0; k < o->prefixes; k++) {
        f->zipf[k] = (k > 0 ? f->zipf[k - 1] : 0) + 1.0 / (k + 1);
    }
    for (uint32_t i = 0; i < o->prefill + o->decode; i++) {
        f->views[i] =
            (router_view){.up = true,
                          .roles = i < o->prefill ? MESSAGE_ROLE_PREFILL : MESSAGE_ROLE_DECODE,
                          .context_tokens = 1 << 20};
    }
    for (uint32_t i = 0; i < o->prefill; i++) {
        TRY(open_worker(f, &f->workers[i]));
    }
    beat(f);
    return STATUS_OK;
}

static void run(fleet *f) {
    int64_t end_us = (int64_t)(f->o->seconds * 1e6);
    while (f->now_us < end_us) {
        worker *first = &f->workers[0];
        for (uint32_t i = 1; i < f->o->prefill; i++) {
            first = f->workers[i].done_us < first->done_us ? &f->workers[i] : first;
        }
        if (first->done_us <= f->arrival_us && first->done_us <= f->beat_us) {
            f->now_us = first->done_us;
            end_job(f, first);
        } else if (f->arrival_us <= f->beat_us) {
            f->now_us = f->arrival_us;
            arrive(f);
        } else {
            f->now_us = f->beat_us;
            beat(f);
        }
    }
}

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void sum_up(fleet *f, routesim_result *out) {
    uint64_t least = UINT64_MAX;
    for (uint32_t i = 0; i < f->o->prefill; i++) {
        least = f->workers[i].requests < least ? f->workers[i].requests : least;
    }
    size_t n = (size_t)f->requests;
    *out = (routesim_result){.requests = f->requests};
    if (n == 0) {
        return;
    }
    qsort(f->ttft_us, n, sizeof *f->ttft_us, by_value);
    for (size_t i = 0; i < n; i++) {
        out->ttft_mean_us += f->ttft_us[i] / (double)n;
    }
    out->ttft_p50_us = f->ttft_us[n / 2];
    out->ttft_p99_us = f->ttft_us[n * 99 / 100];
    out->cached_share = (double)f->tokens_cached / (double)f->tokens_all;
    out->least_share = (double)least * f->o->prefill / (double)n;
}

status routesim_run(const routesim_options *o, routesim_result *out) {
    CHECK(o->prefill >= 1 && o->prefill <= ROUTESIM_WORKERS_MAX);
    CHECK(o->decode >= 1 && o->decode <= ROUTESIM_WORKERS_MAX);
    CHECK(o->worker_pages > (uint32_t)(o->prefix_tokens + OWN_TOKENS_MAX) / LIMIT_PAGE_TOKENS + 2);
    fleet *f = mem_calloc(1, sizeof *f);
    if (!f) {
        return STATUS_NOMEM;
    }
    f->o = o;
    f->random = o->seed;
    f->arrival_us = 1;
    status s = open_fleet(f);
    if (s == STATUS_OK) {
        run(f);
        sum_up(f, out);
    }
    arena_close(&f->memory);
    mem_free(f);
    return s;
}
