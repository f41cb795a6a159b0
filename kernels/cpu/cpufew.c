/* cpufew.c -- few rows of int8: linear operators one after another, as phases of one job.
 *
 * Decoding reads all weights once a step, and what it loses it loses between operators. So threads
 * go from one to the next by themselves, and as seldom as can be:
 *   - With very few rows each thread quantises the input for itself: that takes less time than to
 *     wait for somebody and fetch what he wrote.
 *   - Who has made 32 outputs of gate and up, for up to 8 rows, gates and quantises them at once:
 *     they are a group of the next operator's input.
 *
 * Sizes of items move work between threads, never an output's arithmetic.
 */
#include <assert.h>
#include <stddef.h>

#include "engine/base/check.h"
#include "kernels/cpu/cpustate.h"

enum {
    FEW_ROWS = ISA_BLOCK_ROWS,
    FEW_OWN_ROWS = 1,         /* of which each thread makes the input for itself */
    FEW_OWN_THREADS = 16,     /* at most, or somebody makes it for all */
    FEW_ITEMS_PER_THREAD = 8, /* so that threads end together */
    FEW_ITEM_BYTES = 48 << 10,
    FEW_PANELS = FEW_ROWS / ISA_PANEL_ROWS,
    GROUP_TILES = TILE_GROUP / TILE_OUTPUTS
};
static_assert(2 * FEW_PANELS + FEW_OWN_THREADS <= CPU_ROWS / ISA_PANEL_ROWS, "panels have room");

/* One operator. */
typedef struct {
    const cpu *c;
    const ops_linear *op;
    const ops_linear *gates; /* the operator whose input it makes too, or NULL */
    isa_panel *panels;       /* its input; each thread's own follow each other */
    isa_panel *gated;        /* that one's */
    int64_t own;             /* from one thread's panels to the next one's; 0: shared */
    int32_t groups;          /* of the input */
    int32_t parts;           /* of those, to items of their own */
    int32_t step;            /* tiles of an item; with `gates`, groups of outputs */
    isa_linear products[OPS_LINEAR_PARTS_MAX];
    int32_t part_items[OPS_LINEAR_PARTS_MAX];
    bool made[FEW_OWN_THREADS];
} few_op;

static int32_t part_tiles(const isa_linear *l) {
    return cpu_divide_up(l->outputs, TILE_OUTPUTS);
}

/* Groups [first, first + count) of all rows' input. */
static void few_input(const cpu *c, const ops_linear *op, isa_panel *panels, int32_t first,
                      int32_t count) {
    for (int32_t r = 0; r < op->rows; r += ISA_PANEL_ROWS) {
        const int32_t left = op->rows - r;
        const isa_input in = {.op = op,
                              .inputs = op->parts[0].weight->inputs,
                              .row_first = r,
                              .rows = left < ISA_PANEL_ROWS ? left : ISA_PANEL_ROWS,
                              .group_first = first,
                              .groups = count,
                              .panels = panels};
        c->kernels->input_int8(&in);
    }
}

static void input_item(void *context, int32_t item, int32_t thread) {
    const few_op *o = context;
    (void)thread;
    const int32_t first = o->groups * item / o->parts, end = o->groups * (item + 1) / o->parts;
    few_input(o->c, o->op, o->panels, first, end - first);
}

/* Tiles [first, first + count) of a part, with the panels of this thread. */
static void few_products(few_op *o, int32_t part, int32_t first, int32_t count, int32_t thread) {
    isa_linear l = o->products[part];
    const int32_t left = part_tiles(&l) - first;
    l.tile_first = first;
    l.tiles = left < count ? left : count;
    l.panels = o->panels + o->own * thread;
    o->c->kernels->linear_int8(&l, cpu_scratch(o->c, thread));
}

static void own_input(few_op *o, int32_t thread) {
    if (o->own != 0 && !o->made[thread]) {
        few_input(o->c, o->op, o->panels + o->own * thread, 0, o->groups);
        o->made[thread] = true;
    }
}

static void tiles_item(void *context, int32_t item, int32_t thread) {
    few_op *o = context;
    int32_t part = 0;
    while (item >= o->part_items[part]) {
        item -= o->part_items[part++];
    }
    own_input(o, thread);
    few_products(o, part, item * o->step, o->step, thread);
}

static void gated_item(void *context, int32_t item, int32_t thread) {
    few_op *o = context;
    const int32_t first = item * o->step, left = o->products[0].outputs / TILE_GROUP - first;
    const int32_t count = left < o->step ? left : o->step;
    own_input(o, thread);
    few_products(o, 0, first * GROUP_TILES, count * GROUP_TILES, thread);
    few_products(o, 1, first * GROUP_TILES, count * GROUP_TILES, thread);
    few_input(o->c, o->gates, o->gated, first, count);
}

/* Whether `next` takes what `op` writes, group by group. With more rows that gained nothing. */
static bool few_gates(const ops_linear *op, const ops_linear *next) {
    return op->rows <= ISA_NARROW_ROWS &&
           (next->input == OPS_INPUT_SILU_MUL || next->input == OPS_INPUT_GELU_MUL) &&
           op->parts_count == 2 && next->x == op->parts[0].out && next->x_up == op->parts[1].out;
}

static void few_parts(few_op *o) {
    for (int32_t i = 0; i < o->op->parts_count; i++) {
        const ops_linear_part *p = &o->op->parts[i];
        const cpu_weight *w = (const cpu_weight *)(const void *)p->weight;
        o->products[i] = (isa_linear){.format = w->format,
                                      .weights = w->tiles,
                                      .out = p->out,
                                      .bias = p->bias,
                                      .accumulate = p->accumulate,
                                      .inputs = w->shape.inputs,
                                      .outputs = w->shape.outputs,
                                      .rows = o->op->rows};
    }
}

/* Tiles of an item. Vectors want several at a time when rows are many. */
static int32_t few_step(const few_op *o, int32_t tiles) {
    const cpu *c = o->c;
    const bool wide = o->op->rows > c->kernels->narrow_rows && c->kernels->tiles == NULL;
    const int32_t unit = wide ? c->kernels->wide_tiles : 1;
    const uint64_t bytes = tile_bytes(o->products[0].format, o->products[0].inputs);
    const int32_t by_bytes = bytes < FEW_ITEM_BYTES ? (int32_t)(FEW_ITEM_BYTES / bytes) : 1;
    const int32_t by_threads = tiles / (c->shared.threads * FEW_ITEMS_PER_THREAD);
    const int32_t step = by_bytes < by_threads ? by_bytes : by_threads;
    return step < 1 ? unit : cpu_divide_up(step, unit) * unit;
}

static cpupool_phase few_tiles_phase(few_op *o) {
    int32_t tiles = 0, items = 0;
    for (int32_t i = 0; i < o->op->parts_count; i++) {
        tiles += part_tiles(&o->products[i]);
    }
    o->step = few_step(o, tiles);
    for (int32_t i = 0; i < o->op->parts_count; i++) {
        o->part_items[i] = cpu_divide_up(part_tiles(&o->products[i]), o->step);
        items += o->part_items[i];
    }
    return (cpupool_phase){tiles_item, o, items};
}

static cpupool_phase few_gated_phase(few_op *o) {
    const int32_t groups = o->products[0].outputs / TILE_GROUP;
    o->step = few_step(o, groups);
    return (cpupool_phase){gated_item, o, cpu_divide_up(groups, o->step)};
}

bool cpufew_worth(const ops_linear *ops, int32_t count) {
    bool worth = ops[0].rows <= FEW_ROWS;
    for (int32_t i = 0; i < count; i++) {
        worth = worth && cpu_activations(&ops[i]) == BACKEND_ACTIVATIONS_INT8;
    }
    return worth;
}

void cpufew_run(const cpu *c, const ops_linear *ops, int32_t count) {
    const int64_t stride = c->inputs_max / TILE_GROUP;
    const int32_t threads = c->shared.threads;
    few_op few[OPS_CHAIN_MAX];
    cpupool_phase phases[2 * OPS_CHAIN_MAX];
    int32_t phases_count = 0;
    CHECK_LE(count, OPS_CHAIN_MAX);
    for (int32_t i = 0; i < count; i++) {
        few_op *o = &few[i];
        const bool made = i > 0 && few[i - 1].gates != NULL;
        const bool own = !made && ops[i].rows <= FEW_OWN_ROWS && threads <= FEW_OWN_THREADS;
        *o = (few_op){.c = c,
                      .op = &ops[i],
                      .panels = c->panels,
                      .gated = c->panels + FEW_PANELS * stride,
                      .groups = ops[i].parts[0].weight->inputs / TILE_GROUP};
        few_parts(o);
        if (made) {
            o->panels = o->gated;
        } else if (own) {
            o->panels += 2 * FEW_PANELS * stride;
            o->own = stride;
        } else {
            o->parts = threads < o->groups ? threads : o->groups;
            phases[phases_count++] = (cpupool_phase){input_item, o, o->parts};
        }
        const bool gates = !made && i + 1 < count && few_gates(&ops[i], &ops[i + 1]);
        o->gates = gates ? &ops[i + 1] : NULL;
        phases[phases_count++] = gates ? few_gated_phase(o) : few_tiles_phase(o);
    }
    cpupool_phases(c->pool, phases, phases_count);
}
