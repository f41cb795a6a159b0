/* layout_test.c -- plans against a naive model of caches, over a real channel; cuts keep their
 * bounds; groups expose little. */
#include "kvtransfer/layout.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/rng.h"
#include "kvtransfer/local.h"

Test(layout, a_group_is_as_large_as_its_bounds_allow) {
    static const struct {
        uint32_t layers;
        uint64_t unit, bytes_max;
        uint32_t pages_max, pages_want, layers_want;
    } cases[] = {
        {30, 1000, 30000, 256, 1, 30}, {30, 1000, 59999, 256, 1, 30},
        {30, 1000, 60000, 256, 2, 30}, {30, 1000, 29999, 256, 1, 29},
        {30, 1000, 1000, 256, 1, 1},   {30, 1000, 1, 256, 1, 1},
        {30, 1000, 0, 256, 1, 1},      {2, 10, 1 << 20, 256, 256, 2},
        {2, 10, 1 << 20, 1, 1, 2},     {1, 1, UINT64_MAX, 256, 256, 1},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        layout_group g =
            layout_cut(cases[i].layers, cases[i].unit, cases[i].bytes_max, cases[i].pages_max);
        cr_assert_eq(g.pages, cases[i].pages_want, "case %zu: %u pages", i, g.pages);
        cr_assert_eq(g.layers, cases[i].layers_want, "case %zu: %u layers", i, g.layers);
    }
}

Test(layout, no_cut_passes_its_bounds) {
    uint64_t random = 5;
    for (int i = 0; i < 100000; i++) {
        uint32_t layers = 1 + (uint32_t)rng_below(&random, 256);
        uint64_t unit = 1 + rng_below(&random, 1 << 20);
        uint64_t most = rng_below(&random, (uint64_t)1 << (1 + rng_below(&random, 40)));
        uint32_t pages_max = 1 + (uint32_t)rng_below(&random, 256);
        layout_group g = layout_cut(layers, unit, most, pages_max);
        uint64_t bytes = (uint64_t)g.pages * g.layers * unit;
        cr_assert(g.pages >= 1 && g.pages <= pages_max && g.layers >= 1 && g.layers <= layers);
        cr_assert(bytes <= most || (g.pages == 1 && g.layers == 1));
        cr_assert(g.pages == 1 || g.layers == layers, "pages are only added to whole layers");
    }
}

/* ---- plans ----------------------------------------------------------------------------------- */

enum { LAYERS = 2, TOKENS = 144, POOL_PAGES = 32, CELL_BYTES = 24 };

/* One rank's pool, and the channel's way into it. */
typedef struct {
    const layout_side *side;
    const layout_plan *plan;
    const layout_view *view;
    uint8_t *bytes; /* [LAYERS, POOL_PAGES, layer_page_bytes] */
    uint64_t layer_page_bytes;
    uint32_t pages[POOL_PAGES]; /* of the request, in the order of tokens */
} cache;

/* The naive model: byte `b` of head `h` of a cell of tokens in a layer. */
static uint8_t content(uint32_t layer, uint32_t head, uint32_t cell, uint32_t b) {
    return (uint8_t)rng_at(layer, (uint64_t)head << 32 | cell, b);
}

static uint8_t *place(const cache *c, uint32_t layer, uint32_t head, uint32_t cell) {
    uint32_t cells = c->side->page_tokens / LAYOUT_CELL_TOKENS;
    uint64_t page = (uint64_t)layer * POOL_PAGES + c->pages[cell / cells];
    return c->bytes + page * c->layer_page_bytes +
           ((uint64_t)head * cells + cell % cells) * CELL_BYTES;
}

static void open_cache(cache *c, const layout_side *s, uint32_t rank, uint32_t step) {
    uint32_t heads = layout_heads_of(s, rank).count;
    *c = (cache){
        .side = s,
        .layer_page_bytes = (uint64_t)heads * s->page_tokens / LAYOUT_CELL_TOKENS * CELL_BYTES};
    c->bytes = calloc(LAYERS * POOL_PAGES, c->layer_page_bytes);
    for (uint32_t i = 0; i < POOL_PAGES; i++) {
        c->pages[i] = (i * step + rank) % POOL_PAGES; /* `step` has no divisor with POOL_PAGES */
    }
}

static void fill(cache *c, uint32_t rank) {
    layout_heads h = layout_heads_of(c->side, rank);
    for (uint32_t l = 0; l < LAYERS; l++) {
        for (uint32_t i = 0; i < h.count; i++) {
            for (uint32_t cell = 0; cell < TOKENS / LAYOUT_CELL_TOKENS; cell++) {
                for (uint32_t b = 0; b < CELL_BYTES; b++) {
                    place(c, l, i, cell)[b] = content(l, h.first + i, cell, b);
                }
            }
        }
    }
}

/* A kvt_pool of units. */
static uint8_t *unit_at(void *context, uint32_t layer, uint32_t named) {
    const cache *c = context;
    uint64_t page = (uint64_t)layer * POOL_PAGES + layout_page(c->view, named);
    return c->bytes + page * c->layer_page_bytes + layout_offset(c->plan, c->view, named);
}

/* Everything that P's rank has for D's goes over a channel of theirs. */
static void move(cache *p, cache *d, const layout_plan *plan) {
    kvt *sender, *receiver;
    kvt_arrival a;
    diag why;
    kvt_job from = {.layers = LAYERS}, to;
    p->plan = d->plan = plan;
    p->view = &plan->from;
    d->view = &plan->to;
    kvt_pool out = {unit_at, p, plan->from.unit_bytes}, in = {unit_at, d, plan->to.unit_bytes};
    cr_assert_eq(plan->from.unit_bytes, plan->to.unit_bytes);
    cr_assert_eq(local_pair(&out, &in, 1, &sender, &receiver, &why), STATUS_OK);
    from.pages_count = layout_units(plan, TOKENS);
    cr_assert_leq(from.pages_count, KVT_JOB_PAGES);
    to = from;
    for (uint32_t u = 0; u < from.pages_count; u++) {
        from.pages[u] = layout_unit(&plan->from, p->pages, u);
        to.pages[u] = layout_unit(&plan->to, d->pages, u);
    }
    cr_assert_eq(kvt_post(receiver, &to), KVT_DONE);
    cr_assert_eq(kvt_send(sender, &from), KVT_DONE);
    cr_assert_eq(kvt_receive(receiver, &a), KVT_DONE);
    cr_assert_eq(a.outcome, KVT_ARRIVED);
    kvt_close(sender);
    kvt_close(receiver);
}

/* All ranks of P to one of D: its heads are all there, each from one rank alone. */
static void check_rank(const layout_side *p, const layout_side *d, uint32_t d_rank) {
    cache to, want;
    open_cache(&to, d, d_rank, 5);
    open_cache(&want, d, d_rank, 5);
    fill(&want, d_rank);
    uint32_t heads = 0;
    for (uint32_t p_rank = 0; p_rank < p->ranks; p_rank++) {
        cache from;
        layout_plan plan;
        open_cache(&from, p, p_rank, 11);
        fill(&from, p_rank);
        cr_assert(layout_plan_make(p, p_rank, d, d_rank, &plan));
        heads += plan.heads;
        if (plan.heads > 0) {
            move(&from, &to, &plan);
        }
        free(from.bytes);
    }
    cr_assert_eq(heads, layout_heads_of(d, d_rank).count, "each head once");
    cr_assert_eq(memcmp(to.bytes, want.bytes, LAYERS * POOL_PAGES * to.layer_page_bytes), 0,
                 "%u heads, P %u x %u tokens, D %u x %u, rank %u", p->kv_heads, p->ranks,
                 p->page_tokens, d->ranks, d->page_tokens, d_rank);
    free(to.bytes);
    free(want.bytes);
}

Test(layout, any_tensor_parallelism_and_page_size_fills_each_rank_of_d_and_nothing_else) {
    static const uint32_t heads[] = {1, 2, 3, 4, 8}; /* 1: latent */
    static const uint32_t tokens[] = {16, 48, 64};
    for (int h = 0; h < 5; h++) {
        for (uint32_t p_ranks = 1; p_ranks <= 4; p_ranks *= 2) {
            for (uint32_t d_ranks = 1; d_ranks <= 4; d_ranks *= 2) {
                for (int t = 0; t < 9; t++) {
                    layout_side p = {heads[h], p_ranks, tokens[t / 3], CELL_BYTES};
                    layout_side d = {heads[h], d_ranks, tokens[t % 3], CELL_BYTES};
                    layout_plan ignored;
                    bool fits = heads[h] != 3 || (p_ranks == 1 && d_ranks == 1);
                    cr_assert_eq(layout_plan_make(&p, 0, &d, 0, &ignored), fits);
                    for (uint32_t r = 0; fits && r < d_ranks; r++) {
                        check_rank(&p, &d, r);
                    }
                }
            }
        }
    }
}

Test(layout, equal_workers_move_whole_pages) {
    layout_side s = {8, 2, 16, 1000};
    layout_plan plan;
    cr_assert(layout_plan_make(&s, 1, &s, 1, &plan));
    cr_assert_eq(plan.heads, 4);
    cr_assert_eq(plan.from.per_page, 1);
    cr_assert_eq(plan.from.unit_bytes, 4000);
    cr_assert_eq(layout_offset(&plan, &plan.from, 5), 0);
    cr_assert(layout_plan_make(&s, 0, &s, 1, &plan));
    cr_assert_eq(plan.heads, 0);
    cr_assert_eq(layout_units(&plan, 100), 0);
}

Test(layout, replicas_of_p_share_the_ranks_of_d) {
    layout_side p = {1, 4, 16, 8}, d = {1, 4, 16, 8}; /* latent: everybody has it */
    layout_plan plan;
    for (uint32_t d_rank = 0; d_rank < 4; d_rank++) {
        for (uint32_t p_rank = 0; p_rank < 4; p_rank++) {
            cr_assert(layout_plan_make(&p, p_rank, &d, d_rank, &plan));
            cr_assert_eq(plan.heads, p_rank == d_rank);
        }
    }
}

Test(layout, another_type_on_d_has_units_of_its_own_size) {
    layout_side p = {4, 1, 16, 2048}, d = {4, 2, 32, 1024}; /* BF16 to FP8 */
    layout_plan plan;
    cr_assert(layout_plan_make(&p, 0, &d, 1, &plan));
    cr_assert_eq(plan.heads, 2);
    cr_assert_eq(plan.from.unit_bytes, 2048);
    cr_assert_eq(plan.to.unit_bytes, 1024);
    cr_assert_eq(plan.from.head_first, 2);
    cr_assert_eq(plan.to.head_first, 0);
    /* The second head's first sixteen tokens in D's page of 32: behind the first head's 32. */
    cr_assert_eq(layout_offset(&plan, &plan.to, 1), 2048);
    cr_assert_eq(layout_offset(&plan, &plan.to, 2), 1024);
}

Test(layout, caches_that_do_not_fit_are_refused) {
    const layout_side good = {8, 2, 16, 100};
    const layout_side bad[] = {{4, 2, 16, 100}, {8, 3, 16, 100}, {8, 12, 16, 100}, {8, 2, 24, 100},
                               {8, 2, 0, 100},  {8, 0, 16, 100}, {0, 1, 16, 100},  {8, 2, 16, 0}};
    layout_plan plan;
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        cr_assert_not(layout_plan_make(&good, 0, &bad[i], 0, &plan), "case %zu", i);
        cr_assert_not(layout_plan_make(&bad[i], 0, &good, 0, &plan), "case %zu", i);
    }
    cr_assert_not(layout_plan_make(&good, 2, &good, 0, &plan));
    cr_assert_not(layout_plan_make(&good, 0, &good, 2, &plan));
}

/* ---- groups that adapt ----------------------------------------------------------------------- */

/* An 8B model's chunk of 1,024 tokens: 32 layers of 4 MiB, 2 ms each. */
static layout_speed speed(double bytes_per_us) {
    return (layout_speed){.layers = 32,
                          .layer_us = 2000,
                          .layer_bytes = 4 << 20,
                          .bytes_per_us = bytes_per_us,
                          .group_us = 200,
                          .layers_max = 32};
}

Test(layout, exposed_time_is_the_last_group_on_a_fast_link_and_the_backlog_on_a_slow_one) {
    layout_speed s = speed(42000); /* 42 GB/s: a layer in 100 us */
    cr_assert_float_eq(layout_exposed_us(&s, 1), 200 + 4194304 / 42000.0, 0.5);
    cr_assert_float_eq(layout_exposed_us(&s, 32), 200 + 32 * 4194304 / 42000.0, 0.5);
    s = speed(1250); /* 10 Gbit/s: a layer in 3.4 ms */
    double all = 32 * 4194304 / 1250.0;
    cr_assert_float_eq(layout_exposed_us(&s, 1), 2000 + 32 * 200 + all - 64000, 0.5);
    cr_assert_float_eq(layout_exposed_us(&s, 8), 16000 + 4 * 200 + all - 64000, 0.5);
}

Test(layout, the_group_grows_as_far_as_nothing_is_lost_by_it) {
    layout_speed s = speed(42000);
    /* Thirty layers have left when the last two are computed; thirty-one would not have. */
    cr_assert_eq(layout_group_layers(&s), 30);
    s.layers_max = 8; /* 640 us more than single layers, a hundredth of the compute time */
    cr_assert_eq(layout_group_layers(&s), 7);
    s = speed(1250); /* a layer takes longer than its computing: the first must leave early */
    cr_assert_eq(layout_group_layers(&s), 2);
    s = speed(42000);
    s.layer_us = 0; /* nothing to hide behind: as few groups as may be */
    cr_assert_eq(layout_group_layers(&s), 32);
    s.layers_max = 5;
    cr_assert_eq(layout_group_layers(&s), 5);
    s = speed(0); /* not measured yet */
    cr_assert_eq(layout_group_layers(&s), 32);
    s.layers_max = 0;
    cr_assert_eq(layout_group_layers(&s), 1);
}

Test(layout, no_other_group_exposes_much_less) {
    uint64_t random = 3;
    for (int i = 0; i < 20000; i++) {
        layout_speed s = {.layers = 1 + (uint32_t)rng_below(&random, 80),
                          .layer_us = 1 + (double)rng_below(&random, 20000),
                          .layer_bytes = 1 + (double)rng_below(&random, 1 << 24),
                          .bytes_per_us = 1 + (double)rng_below(&random, 300000),
                          .group_us = (double)rng_below(&random, 3000)};
        s.layers_max = 1 + (uint32_t)rng_below(&random, s.layers);
        uint32_t g = layout_group_layers(&s);
        cr_assert(g >= 1 && g <= s.layers_max);
        double slack = s.layers * s.layer_us / 100;
        for (uint32_t other = 1; other <= s.layers_max; other++) {
            cr_assert_leq(layout_exposed_us(&s, g), layout_exposed_us(&s, other) + slack + 1e-6);
        }
    }
}
