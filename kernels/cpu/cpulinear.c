/* cpulinear.c -- linear operators: inputs transformed once, tiles shared out to threads. */
#include "kernels/cpu/cpustate.h"

enum {
    STREAM_ITEM_BYTES = 24 << 10, /* weights of one item of few rows: some microseconds */
    ITEMS_PER_THREAD = 3,         /* at least, so that threads end together */
    ROW_BLOCK_MIN = 16
};

/* One block of up to CPU_ROWS rows of an operator. */
typedef struct {
    const cpu *c;
    const ops_linear *op;
    int32_t inputs;
    int32_t row_base, rows;
    backend_activations activations;
    const float *x;                           /* f32 activations [rows, inputs] */
    int32_t columns;                          /* of a panel of bf16 */
    int32_t input_parts;                      /* of a panel's groups, to items of their own */
    int32_t tiles_step, row_step, row_blocks; /* shape of an item */
    int32_t part_items[OPS_LINEAR_PARTS_MAX];
} linear_job;

static const cpu_weight *part_weight(const ops_linear *op, int32_t part) {
    return (const cpu_weight *)(const void *)op->parts[part].weight;
}

static int32_t part_tiles(const ops_linear *op, int32_t part) {
    return (op->parts[part].weight->outputs + TILE_OUTPUTS - 1) / TILE_OUTPUTS;
}

/* An item is one panel of rows, or a part of its groups where there are few panels: threads never
 * write the same panel of a group, whose lines they would take from each other. */
static void input_item(void *context, int32_t item, int32_t thread) {
    const linear_job *j = context;
    (void)thread;
    const int32_t first = item / j->input_parts * ISA_PANEL_ROWS, left = j->rows - first;
    const int32_t groups = j->inputs / TILE_GROUP, part = item % j->input_parts;
    const int32_t group_first = groups * part / j->input_parts;
    const isa_input in = {.op = j->op,
                          .inputs = j->inputs,
                          .row_first = first,
                          .rows = left < ISA_PANEL_ROWS ? left : ISA_PANEL_ROWS,
                          .row_base = j->row_base,
                          .group_first = group_first,
                          .groups = groups * (part + 1) / j->input_parts - group_first,
                          .panels = j->c->panels,
                          .x = j->c->x};
    if (j->activations == BACKEND_ACTIVATIONS_INT8) {
        j->c->kernels->input_int8(&in);
    } else {
        j->c->kernels->input_f32(&in);
    }
}

/* Of a panel of bf16, for an operator of this many rows. */
static int32_t pairs_columns(int32_t rows) {
    if (rows > ISA_PAIRS_NARROW_ROWS) {
        return 0;
    }
    return rows < ISA_PANEL_ROWS ? rows : ISA_PANEL_ROWS;
}

/* The same for bf16: rows are transformed beside each other, then rounded together. */
static void pairs_item(void *context, int32_t item, int32_t thread) {
    const linear_job *j = context;
    const int32_t first = item * ISA_PANEL_ROWS, left = j->rows - first;
    const int32_t rows = left < ISA_PANEL_ROWS ? left : ISA_PANEL_ROWS;
    const float *x = j->op->x + (int64_t)(j->row_base + first) * j->inputs;
    if (j->op->input != OPS_INPUT_PLAIN) {
        float *own = j->c->x_rows + (int64_t)thread * ISA_PANEL_ROWS * j->inputs;
        const isa_input in = {.op = j->op,
                              .inputs = j->inputs,
                              .rows = rows,
                              .row_base = j->row_base + first,
                              .x = own};
        j->c->kernels->input_f32(&in);
        x = own;
    }
    j->c->pairs->pack(x, j->inputs, rows, j->columns,
                      j->c->x_pairs + (int64_t)first * j->inputs * (int64_t)sizeof(uint16_t));
}

static void input_transform(linear_job *j) {
    if (j->activations == BACKEND_ACTIVATIONS_BF16) {
        cpupool_run(j->c->pool, pairs_item, j, cpu_divide_up(j->rows, ISA_PANEL_ROWS));
        return;
    }
    const bool int8 = j->activations == BACKEND_ACTIVATIONS_INT8;
    const int32_t panels = cpu_divide_up(j->rows, ISA_PANEL_ROWS);
    const int32_t wanted = j->rows > 1 ? j->c->shared.threads : 1;
    const int32_t groups = j->inputs / TILE_GROUP;
    j->input_parts = int8 && panels < wanted ? cpu_divide_up(wanted, panels) : 1;
    if (j->input_parts > groups) {
        j->input_parts = groups;
    }
    cpupool_run(j->c->pool, input_item, j, panels * j->input_parts);
}

static void tiles_item(void *context, int32_t item, int32_t thread) {
    const linear_job *j = context;
    int32_t part = 0;
    while (item >= j->part_items[part]) {
        item -= j->part_items[part++];
    }
    const ops_linear_part *p = &j->op->parts[part];
    const cpu_weight *w = part_weight(j->op, part);
    const int32_t tiles = part_tiles(j->op, part);
    const int32_t columns = cpu_divide_up(tiles, j->tiles_step);
    /* Row blocks outermost: their activations stay in cache while the tiles pass. */
    const int32_t tile_first = item % columns * j->tiles_step;
    const int32_t row_first = item / columns * j->row_step;
    const int32_t tiles_left = tiles - tile_first, rows_left = j->rows - row_first;
    const isa_linear l = {
        .format = w->format,
        .order = w->order,
        .weights = w->tiles,
        .panels = j->c->panels,
        .x = j->x,
        .pairs = j->c->x_pairs,
        .columns = j->columns,
        .out = p->out + (int64_t)j->row_base * w->shape.outputs,
        .bias = p->bias,
        .accumulate = p->accumulate,
        .inputs = j->inputs,
        .outputs = w->shape.outputs,
        .tile_first = tile_first,
        .tiles = tiles_left < j->tiles_step ? tiles_left : j->tiles_step,
        .row_first = row_first,
        .rows = rows_left < j->row_step ? rows_left : j->row_step,
    };
    if (j->activations == BACKEND_ACTIVATIONS_BF16) {
        j->c->pairs->linear(&l, cpu_scratch(j->c, thread));
    } else if (j->activations == BACKEND_ACTIVATIONS_INT8) {
        j->c->kernels->linear_int8(&l, cpu_scratch(j->c, thread));
    } else {
        j->c->kernels->linear_f32(&l, cpu_scratch(j->c, thread));
    }
}

static int32_t items_count(linear_job *j) {
    int32_t items = 0;
    j->row_blocks = cpu_divide_up(j->rows, j->row_step);
    for (int32_t i = 0; i < j->op->parts_count; i++) {
        j->part_items[i] = cpu_divide_up(part_tiles(j->op, i), j->tiles_step) * j->row_blocks;
        items += j->part_items[i];
    }
    return items;
}

/* The shape of an item moves work between threads, never an output's arithmetic. */
static int32_t items_plan(linear_job *j) {
    const int32_t wanted = j->c->shared.threads * ITEMS_PER_THREAD;
    const bool bf16 = j->activations == BACKEND_ACTIVATIONS_BF16;
    const int32_t narrow = bf16 ? ISA_PAIRS_NARROW_ROWS : 0;
    j->row_step = bf16 ? CPU_ROWS : ISA_BLOCK_ROWS;
    j->tiles_step = bf16 ? ISA_PAIRS_TILES : j->c->kernels->wide_tiles;
    if (j->rows > narrow) {
        int32_t items = items_count(j);
        while (items < wanted && j->row_step > ROW_BLOCK_MIN && j->row_step / 2 < j->rows) {
            j->row_step /= 2;
            items = items_count(j);
        }
        return items;
    }
    int32_t tiles = 0;
    for (int32_t i = 0; i < j->op->parts_count; i++) {
        tiles += part_tiles(j->op, i);
    }
    const uint64_t bytes = tile_bytes(part_weight(j->op, 0)->format, j->inputs);
    const int32_t by_bytes = bytes < STREAM_ITEM_BYTES ? (int32_t)(STREAM_ITEM_BYTES / bytes) : 1;
    const int32_t by_threads = tiles / wanted;
    j->tiles_step = by_bytes < by_threads ? by_bytes : by_threads;
    if (j->tiles_step < 1) {
        j->tiles_step = 1;
    }
    return items_count(j);
}

status cpulinear_run(backend *b, const ops_linear *op) {
    const cpu *c = cpu_of(b);
    const backend_weight *first = op->parts[0].weight;
    if (cpufew_worth(op, 1)) {
        cpufew_run(c, op, 1);
        return STATUS_OK;
    }
    if (cpuchain_worth(c, op)) {
        return cpuchain_run(b, op, 1);
    }
    for (int32_t base = 0; base < op->rows; base += CPU_ROWS) {
        const int32_t left = op->rows - base;
        linear_job j = {.c = c,
                        .op = op,
                        .inputs = first->inputs,
                        .row_base = base,
                        .rows = left < CPU_ROWS ? left : CPU_ROWS,
                        .activations = cpu_activations(op),
                        .columns = pairs_columns(left),
                        .x = c->x};
        if (j.activations == BACKEND_ACTIVATIONS_F32 && op->input == OPS_INPUT_PLAIN) {
            j.x = op->x + (int64_t)base * first->inputs;
        } else {
            input_transform(&j);
        }
        cpupool_run(c->pool, tiles_item, &j, items_plan(&j));
    }
    return STATUS_OK;
}
