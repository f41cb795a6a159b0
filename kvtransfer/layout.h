/* layout.h -- which bytes of P's pages are which of D's, and how a transfer is cut into groups.
 *
 * Purpose    Two workers may differ in tensor parallelism, in the size of a page and in the type of
 *            an element. A channel joins one rank of P and one of D; a plan says which heads go
 *            over it, in units that lie in one piece on both sides. Its job names units instead of
 *            pages then, and the channel's kvt_pool finds their bytes with layout_offset: a channel
 *            needs no other code for any of this.
 * Ownership  Plain values.
 * Threads    Pure functions.
 * Limits     Tensor parallelism divides the number of kv heads or is a multiple of it.
 * Pages      A (layer, page) is [heads][cells][cell_bytes]: a head's tokens, sixteen a cell, follow
 *            each other, so a range of heads is one run of bytes. Latent caches (MLA) are this with
 *            one head, the vector, which every rank has.
 */
#ifndef KVTRANSFER_LAYOUT_H
#define KVTRANSFER_LAYOUT_H

#include <stdbool.h>
#include <stdint.h>

enum { LAYOUT_CELL_TOKENS = 16 };

/* A worker's cache. */
typedef struct {
    uint32_t kv_heads;    /* of the model; 1: a latent cache */
    uint32_t ranks;       /* tensor parallelism; more than kv_heads: heads are replicated */
    uint32_t page_tokens; /* a multiple of LAYOUT_CELL_TOKENS */
    uint32_t cell_bytes;  /* one head, one cell, one layer, keys and values */
} layout_side;

typedef struct {
    uint32_t first, count;
} layout_heads;

/* The model's heads that a rank keeps. */
layout_heads layout_heads_of(const layout_side *s, uint32_t rank);

/* What lies in one piece on both sides, as one side has it. */
typedef struct {
    uint32_t head_first; /* of the slice, as the rank counts its own heads */
    uint32_t page_cells;
    uint32_t cell_bytes;
    uint32_t per_page;   /* units of the slice in one page */
    uint32_t unit_bytes; /* of one unit */
} layout_view;

typedef struct {
    uint32_t heads; /* of the slice; 0: nothing goes between these ranks */
    uint32_t unit_heads, unit_cells;
    layout_view from, to;
} layout_plan;

/* What rank `p_rank` of P sends to rank `d_rank` of D. Over all ranks of P, each head of a rank of
 * D comes exactly once; replicas of P share the ranks of D. False: the caches do not fit, or a side
 * is none. */
bool layout_plan_make(const layout_side *p, uint32_t p_rank, const layout_side *d, uint32_t d_rank,
                      layout_plan *out);

/* Unit number `unit` of a transfer, from 0 on in the order of tokens, in the pages of one side:
 * what a job names. `pages`: [units / per_page, rounded up], in the order of tokens. */
uint32_t layout_unit(const layout_view *v, const uint32_t *pages, uint32_t unit);

/* The page of such a unit, and where in its (layer, page) it begins. */
uint32_t layout_page(const layout_view *v, uint32_t named);
uint64_t layout_offset(const layout_plan *plan, const layout_view *v, uint32_t named);

/* Units that `tokens` tokens need. */
uint32_t layout_units(const layout_plan *plan, uint32_t tokens);

/* How a transfer is cut: pages and layers of one group, so that a group is at most `bytes_max`
 * (but never less than one (layer, page)). */
typedef struct {
    uint32_t pages;
    uint32_t layers;
} layout_group;

layout_group layout_cut(uint32_t layers, uint64_t layer_page_bytes, uint64_t bytes_max,
                        uint32_t pages_max);

/* What was measured of a pair and of the model that runs on P. */
typedef struct {
    uint32_t layers;
    double layer_us;     /* computing one layer of a chunk */
    double layer_bytes;  /* its pages */
    double bytes_per_us; /* of the link */
    double group_us;     /* what a group costs beside its bytes */
    uint32_t layers_max; /* of a group, from layout_cut */
} layout_speed;

/* How long after the last layer a chunk's last group arrives, with groups of `group_layers`: a
 * group leaves when its layers are computed and the one before it has left. */
double layout_exposed_us(const layout_speed *s, uint32_t group_layers);

/* The layers of a group that expose least; of those that are as good within a hundredth of the
 * compute time, the most layers, for fewer groups cost everybody less. */
uint32_t layout_group_layers(const layout_speed *s);

#endif
