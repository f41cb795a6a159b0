/* layout.c -- slices, units and group sizes. */
#include "kvtransfer/layout.h"

#include "engine/base/check.h"

/* ---- who keeps what -------------------------------------------------------------------------- */

static bool side_fine(const layout_side *s) {
    if (s->kv_heads == 0 || s->ranks == 0 || s->cell_bytes == 0 || s->page_tokens == 0 ||
        s->page_tokens % LAYOUT_CELL_TOKENS != 0) {
        return false;
    }
    return s->ranks <= s->kv_heads ? s->kv_heads % s->ranks == 0 : s->ranks % s->kv_heads == 0;
}

/* Ranks that keep the same head. */
static uint32_t replicas(const layout_side *s) {
    return s->ranks > s->kv_heads ? s->ranks / s->kv_heads : 1;
}

layout_heads layout_heads_of(const layout_side *s, uint32_t rank) {
    CHECK_LT(rank, s->ranks);
    uint32_t copies = replicas(s);
    uint32_t count = copies > 1 ? 1 : s->kv_heads / s->ranks;
    return (layout_heads){rank / copies * count, count};
}

static uint32_t common_divisor(uint32_t a, uint32_t b) {
    while (b != 0) {
        uint32_t rest = a % b;
        a = b;
        b = rest;
    }
    return a;
}

static layout_view view_of(const layout_side *s, uint32_t head_first, const layout_plan *plan) {
    uint32_t cells = s->page_tokens / LAYOUT_CELL_TOKENS;
    return (layout_view){.head_first = head_first,
                         .page_cells = cells,
                         .cell_bytes = s->cell_bytes,
                         .per_page = cells / plan->unit_cells * (plan->heads / plan->unit_heads),
                         .unit_bytes = plan->unit_heads * plan->unit_cells * s->cell_bytes};
}

bool layout_plan_make(const layout_side *p, uint32_t p_rank, const layout_side *d, uint32_t d_rank,
                      layout_plan *out) {
    *out = (layout_plan){0};
    if (!side_fine(p) || !side_fine(d) || p->kv_heads != d->kv_heads || p_rank >= p->ranks ||
        d_rank >= d->ranks) {
        return false;
    }
    layout_heads from = layout_heads_of(p, p_rank), to = layout_heads_of(d, d_rank);
    uint32_t first = from.first > to.first ? from.first : to.first;
    uint32_t from_end = from.first + from.count, to_end = to.first + to.count;
    uint32_t end = from_end < to_end ? from_end : to_end;
    bool chosen = p_rank % replicas(p) == d_rank % replicas(p);
    if (end <= first || !chosen) {
        return true;
    }
    out->heads = end - first;
    /* Heads lie behind each other in pages of one size; else a head's cells do, as many as divide
     * both pages. */
    bool equal = p->page_tokens == d->page_tokens;
    out->unit_heads = equal ? out->heads : 1;
    out->unit_cells = common_divisor(p->page_tokens, d->page_tokens) / LAYOUT_CELL_TOKENS;
    out->from = view_of(p, first - from.first, out);
    out->to = view_of(d, first - to.first, out);
    return true;
}

/* ---- units ----------------------------------------------------------------------------------- */

uint32_t layout_units(const layout_plan *plan, uint32_t tokens) {
    uint32_t unit_tokens = plan->unit_cells * LAYOUT_CELL_TOKENS;
    return plan->heads == 0
               ? 0
               : (tokens + unit_tokens - 1) / unit_tokens * (plan->heads / plan->unit_heads);
}

uint32_t layout_unit(const layout_view *v, const uint32_t *pages, uint32_t unit) {
    return pages[unit / v->per_page] * v->per_page + unit % v->per_page;
}

uint32_t layout_page(const layout_view *v, uint32_t named) {
    return named / v->per_page;
}

/* Within a page: all heads of the first cells, then of the next ones. */
uint64_t layout_offset(const layout_plan *plan, const layout_view *v, uint32_t named) {
    uint32_t unit = named % v->per_page, groups = plan->heads / plan->unit_heads;
    uint64_t head = v->head_first + (uint64_t)(unit % groups) * plan->unit_heads;
    uint64_t cell = (uint64_t)(unit / groups) * plan->unit_cells;
    return (head * v->page_cells + cell) * v->cell_bytes;
}

/* ---- groups ---------------------------------------------------------------------------------- */

layout_group layout_cut(uint32_t layers, uint64_t layer_page_bytes, uint64_t bytes_max,
                        uint32_t pages_max) {
    uint64_t units = layer_page_bytes ? bytes_max / layer_page_bytes : 1;
    if (units < 1) {
        units = 1;
    }
    layout_group g = {1, layers};
    if (units < layers) {
        g.layers = (uint32_t)units;
    } else {
        uint64_t pages = units / layers;
        g.pages = pages > pages_max ? pages_max : (uint32_t)pages;
    }
    return g;
}

double layout_exposed_us(const layout_speed *s, uint32_t group_layers) {
    double link_free_us = 0;
    for (uint32_t done = 0; done < s->layers;) {
        uint32_t left = s->layers - done;
        uint32_t layers = group_layers < left ? group_layers : left;
        done += layers;
        double computed_us = done * s->layer_us;
        double start_us = computed_us > link_free_us ? computed_us : link_free_us;
        link_free_us = start_us + s->group_us + layers * s->layer_bytes / s->bytes_per_us;
    }
    return link_free_us - s->layers * s->layer_us;
}

uint32_t layout_group_layers(const layout_speed *s) {
    uint32_t most = s->layers_max < s->layers ? s->layers_max : s->layers;
    if (most <= 1 || !(s->bytes_per_us > 0) || !(s->layer_us >= 0)) {
        return most > 1 ? most : 1;
    }
    double least_us = layout_exposed_us(s, 1);
    for (uint32_t g = 2; g <= most; g++) {
        double exposed_us = layout_exposed_us(s, g);
        least_us = exposed_us < least_us ? exposed_us : least_us;
    }
    uint32_t best = most;
    while (best > 1 && layout_exposed_us(s, best) > least_us + s->layers * s->layer_us / 100) {
        best--;
    }
    return best;
}
