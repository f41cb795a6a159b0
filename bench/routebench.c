/* routebench.c -- the router alone: time a decision, and policies compared. */
#include "bench/routebench.h"

#include <stdio.h>
#include <stdlib.h>

#include "bench/routesim.h"
#include "engine/base/check.h"
#include "engine/base/clock.h"
#include "engine/base/config.h"
#include "engine/base/mem.h"
#include "engine/base/rng.h"
#include "engine/core/pagename.h"
#include "server/gateway/router.h"

enum { SLACK_BYTES = 1 << 20, EVERYBODY_PAGES = 32, PAGES_A_MESSAGE = 1024 };

typedef struct {
    int64_t workers, pages, prompt_tokens, decisions, seed;
    double seconds, load;
    int64_t prefill, decode, prefixes, prefix_tokens, worker_pages;
    bool compare, json;
} settings;

#define FIELD(name) offsetof(settings, name)

static const config_option options[] = {
    {"workers", CONFIG_INT, FIELD(workers), 2, PAGEINDEX_WORKERS_MAX, "1000", NULL, NULL,
     "workers, half of them for prefill"},
    {"pages", CONFIG_INT, FIELD(pages), 1, 1 << 24, "1000000", NULL, NULL,
     "cached pages that the router knows of, of all workers together"},
    {"prompt-tokens", CONFIG_INT, FIELD(prompt_tokens), 1, 1 << 20, "2048", NULL, NULL,
     "length of each prompt"},
    {"decisions", CONFIG_INT, FIELD(decisions), 1, 1000000, "2000", NULL, NULL,
     "how many are timed"},
    {"seed", CONFIG_INT, FIELD(seed), 0, INT32_MAX, "1", NULL, NULL, "of everything random"},
    {"compare", CONFIG_BOOL, FIELD(compare), 0, 0, "false", NULL, NULL,
     "simulate policies under a load of shared beginnings instead"},
    {"prefill", CONFIG_INT, FIELD(prefill), 1, ROUTESIM_WORKERS_MAX, "4", NULL, NULL,
     "--compare: prefill workers"},
    {"decode", CONFIG_INT, FIELD(decode), 1, ROUTESIM_WORKERS_MAX, "4", NULL, NULL,
     "--compare: decode workers"},
    {"prefixes", CONFIG_INT, FIELD(prefixes), 1, 100000, "64", NULL, NULL,
     "--compare: different beginnings, popular ones more often (Zipf)"},
    {"prefix-tokens", CONFIG_INT, FIELD(prefix_tokens), 0, 1 << 20, "1536", NULL, NULL,
     "--compare: tokens of a beginning"},
    {"worker-pages", CONFIG_INT, FIELD(worker_pages), 1, 1 << 20, "4096", NULL, NULL,
     "--compare: KV pages of a worker"},
    {"load", CONFIG_DOUBLE, FIELD(load), 0.01, 10, "0.7", NULL, NULL,
     "--compare: of what the prefill workers could do without any cache"},
    {"seconds", CONFIG_DOUBLE, FIELD(seconds), 1, 1e6, "300", NULL, NULL,
     "--compare: simulated time"},
    {"json", CONFIG_BOOL, FIELD(json), 0, 0, "false", NULL, NULL, "one JSON object a line"},
};

static const config_table table = {
    "weir bench route", "What a routing decision costs, and (--compare) what it is worth.", options,
    sizeof options / sizeof options[0], NULL};

/* ---- the cost of a decision ----------------------------------------------------------------- */

typedef struct {
    const settings *o;
    arena memory;
    router *r;
    router_view *views;
    int32_t *prompt;     /* [prompt_tokens] */
    uint64_t prompts;    /* that somebody has */
    uint32_t full_pages; /* of a prompt */
    uint64_t random;
} timing;

/* All prompts begin the same way (a system prompt), then differ. */
static void make_prompt(timing *t, uint64_t number) {
    for (int64_t i = 0; i < t->o->prompt_tokens; i++) {
        bool same = i < EVERYBODY_PAGES * LIMIT_PAGE_TOKENS;
        t->prompt[i] = (int32_t)(rng_at(same ? 0 : number + 1, 7, (uint64_t)i) & 0x1ffff);
    }
}

static void tell(timing *t, uint32_t worker, uint64_t *sequence, uint64_t *pages, uint32_t count) {
    message_cached m = {++*sequence, *sequence == 1, count, pages};
    CHECK(router_cached(t->r, worker, &m));
}

/* Worker w has every prompt whose number is w modulo the workers. */
static void fill(timing *t) {
    uint64_t pages[PAGES_A_MESSAGE];
    uint32_t each = t->full_pages < PAGES_A_MESSAGE ? t->full_pages : PAGES_A_MESSAGE;
    uint64_t workers = (uint64_t)t->o->workers;
    uint32_t own = each > EVERYBODY_PAGES ? each - EVERYBODY_PAGES : each;
    t->prompts = ((uint64_t)t->o->pages + own - 1) / own;
    for (uint64_t w = 0; w < workers; w++) {
        uint64_t sequence = 0;
        for (uint64_t n = w; n < t->prompts; n += workers) {
            make_prompt(t, n);
            uint64_t name = 0;
            for (uint32_t p = 0; p < each; p++) {
                name = pagename_next(name, 1, t->prompt + (size_t)p * LIMIT_PAGE_TOKENS);
                pages[p] = name | 1;
            }
            tell(t, (uint32_t)w, &sequence, pages, each);
        }
        router_view *v = &t->views[w];
        *v = (router_view){.up = true,
                           .roles = w % 2 ? MESSAGE_ROLE_DECODE : MESSAGE_ROLE_PREFILL,
                           .pages_total = 100000,
                           .pages_free = 50000 + (uint32_t)rng_below(&t->random, 50000),
                           .context_tokens = 1 << 20,
                           .running = (uint32_t)rng_below(&t->random, 60),
                           .chunk_tokens = 512,
                           .queued_us = (int64_t)rng_below(&t->random, 200000),
                           .prefill_fit = {500, 50, 0.01f, 100},
                           .decode_fit = {8000, 40, 0.02f, 100}};
    }
}

static int by_time(const void *a, const void *b) {
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

static void report(const timing *t, int64_t *ns, int64_t cached) {
    size_t n = (size_t)t->o->decisions;
    pageindex_counts c = router_index_count(t->r);
    qsort(ns, n, sizeof *ns, by_time);
    double us[4] = {(double)ns[0] / 1e3, (double)ns[n / 2] / 1e3, (double)ns[n * 99 / 100] / 1e3,
                    (double)ns[n - 1] / 1e3};
    (void)printf(t->o->json
                     ? "{\"bench\":\"route\",\"workers\":%lld,\"index_pages\":%u,"
                       "\"index_entries\":%llu,\"dropped\":%llu,\"prompt_tokens\":%lld,"
                       "\"decisions\":%zu,\"cached_tokens_mean\":%lld,\"us_min\":%.2f,"
                       "\"us_p50\":%.2f,\"us_p99\":%.2f,\"us_max\":%.2f}\n"
                     : "%lld workers, %u pages (%llu held, %llu dropped), prompts of %lld tokens, "
                       "%zu decisions\n"
                       "cached tokens, mean        %lld\n"
                       "a decision, us: best %.2f  p50 %.2f  p99 %.2f  worst %.2f\n",
                 (long long)t->o->workers, c.pages, (unsigned long long)c.entries,
                 (unsigned long long)c.dropped, (long long)t->o->prompt_tokens, n,
                 (long long)(cached / t->o->decisions), us[0], us[1], us[2], us[3]);
}

/* Each decision whole: prompts to names, index, costs, turns, what is remembered. */
static void time_decisions(timing *t, int64_t *ns) {
    int64_t now_us = 1000000, cached = 0;
    for (int64_t i = 0; i < t->o->decisions; i++) {
        make_prompt(t, rng_below(&t->random, 2 * t->prompts)); /* half of them known */
        now_us += 1000;
        router_request q = {.prompt = t->prompt,
                            .prompt_count = (int32_t)t->o->prompt_tokens,
                            .max_tokens = 256,
                            .choices = 1,
                            .salt = 1,
                            .prefill_last = MESSAGE_NO_WORKER,
                            .decode_avoid = MESSAGE_NO_WORKER,
                            .now_us = now_us};
        router_choice choice;
        int64_t began = clock_now_ns();
        router_result r = router_choose(t->r, t->views, (uint32_t)t->o->workers, &q, &choice);
        router_remember(t->r, &q, &choice);
        router_charge(t->views, &choice, &q, LIMIT_PAGE_TOKENS);
        ns[i] = clock_now_ns() - began;
        CHECK_EQ(r, ROUTER_CHOSEN);
        cached += choice.cached_tokens;
    }
    report(t, ns, cached);
}

static int bench_decisions(const settings *o) {
    timing t = {.o = o, .random = (uint64_t)o->seed};
    t.full_pages = (uint32_t)(o->prompt_tokens / LIMIT_PAGE_TOKENS);
    if (t.full_pages == 0) {
        (void)fprintf(stderr, "--prompt-tokens is less than a page\n");
        return 2;
    }
    router_options ro = {.workers_max = (uint32_t)o->workers,
                         .pages_max = (uint32_t)o->pages + EVERYBODY_PAGES + t.full_pages,
                         .expected_max = 1 << 16,
                         .page_tokens = LIMIT_PAGE_TOKENS,
                         .transfer_page_us = 20};
    uint64_t extra = (uint64_t)o->workers * sizeof(router_view) +
                     (uint64_t)o->prompt_tokens * sizeof(int32_t) + SLACK_BYTES;
    int64_t *ns = mem_alloc((size_t)o->decisions, sizeof *ns);
    int code = 1;
    if (ns && arena_open(&t.memory, router_bytes(&ro) + extra) == STATUS_OK) {
        t.views = ARENA_TAKE(&t.memory, (size_t)o->workers, router_view);
        t.prompt = ARENA_TAKE(&t.memory, (size_t)o->prompt_tokens, int32_t);
        if (t.views && t.prompt && router_create(&t.memory, &ro, &t.r) == STATUS_OK) {
            fill(&t);
            time_decisions(&t, ns);
            code = 0;
        }
        arena_close(&t.memory);
    }
    if (code) {
        (void)fprintf(stderr, "no memory for the benchmark\n");
    }
    mem_free(ns);
    return code;
}

/* ---- policies compared ---------------------------------------------------------------------- */

static int bench_policies(const settings *o) {
    static const struct {
        const char *name;
        router_policy policy;
    } policies[] = {
        {"cost", ROUTER_COST}, {"round-robin", ROUTER_ROUND_ROBIN}, {"random", ROUTER_RANDOM}};
    routesim_options so = {.prefill = (uint32_t)o->prefill,
                           .decode = (uint32_t)o->decode,
                           .prefixes = (uint32_t)o->prefixes,
                           .prefix_tokens = (int32_t)o->prefix_tokens,
                           .worker_pages = (uint32_t)o->worker_pages,
                           .load = o->load,
                           .seconds = o->seconds,
                           .seed = (uint64_t)o->seed};
    for (size_t i = 0; i < sizeof policies / sizeof policies[0]; i++) {
        routesim_result r;
        so.policy = policies[i].policy;
        if (routesim_run(&so, &r) != STATUS_OK) {
            (void)fprintf(stderr, "no memory for the simulation\n");
            return 1;
        }
        (void)printf(o->json ? "{\"bench\":\"route-policies\",\"policy\":\"%s\",\"requests\":%lld,"
                               "\"ttft_ms_mean\":%.2f,\"ttft_ms_p50\":%.2f,\"ttft_ms_p99\":%.2f,"
                               "\"cached_share\":%.4f,\"least_share\":%.3f}\n"
                             : "%-12s %7lld requests  TTFT ms: mean %8.2f  p50 %8.2f  p99 %9.2f  "
                               "cached %5.3f  least busy worker %.2f of its share\n",
                     policies[i].name, (long long)r.requests, r.ttft_mean_us / 1e3,
                     r.ttft_p50_us / 1e3, r.ttft_p99_us / 1e3, r.cached_share, r.least_share);
    }
    return 0;
}

int routebench(int argc, char *const *argv) {
    settings o;
    config c;
    int code;
    if (config_start(&c, &table, argc, argv, &o, &code)) {
        code = o.compare ? bench_policies(&o) : bench_decisions(&o);
    }
    config_close(&c);
    return code;
}
