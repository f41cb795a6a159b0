/* cpuchain.c -- linear operators of bf16 one after another: a thread takes a block of rows through
 * all of them, so that what lies between two operators stays in its second-level cache.
 *
 * Threads share the rows here, and in cpulinear.c the outputs: so each of them makes all weights,
 * which many rows must pay for. With fewer, operators run one by one. Where the next operator takes
 * act(gate) * up of two parts, these are never written: their sums become its input at once.
 */
#include <stddef.h>

#include "kernels/cpu/cpustate.h"

enum { CHAIN_THREAD_ROWS_MIN = 32 };

typedef struct {
    const cpu *c;
    const ops_linear *ops;
    int32_t count;
    int32_t row_base, rows; /* of the operators: up to CPU_ROWS */
    int32_t block;          /* rows of an item: a multiple of 16 */
} chain_job;

/* One operator's rows [first, first + rows), and the item's own memory for its input. */
typedef struct {
    const cpu *c;
    const ops_linear *op;
    int32_t inputs;
    int32_t first, rows;
    float *x_rows;
    uint8_t *pairs, *gated; /* panels; those of the next operator */
    uint8_t *scratch;
} chain_step;

static void chain_input(const chain_step *s) {
    for (int32_t r = 0; r < s->rows; r += ISA_PANEL_ROWS) {
        const int32_t left = s->rows - r, rows = left < ISA_PANEL_ROWS ? left : ISA_PANEL_ROWS;
        const float *x = s->op->x + (int64_t)(s->first + r) * s->inputs;
        if (s->op->input != OPS_INPUT_PLAIN) {
            const isa_input in = {.op = s->op,
                                  .inputs = s->inputs,
                                  .rows = rows,
                                  .row_base = s->first + r,
                                  .x = s->x_rows};
            s->c->kernels->input_f32(&in);
            x = s->x_rows;
        }
        s->c->pairs->pack(x, s->inputs, rows, ISA_PANEL_ROWS,
                          s->pairs + (int64_t)r * s->inputs * (int64_t)sizeof(uint16_t));
    }
}

/* All outputs of one part. */
static isa_linear chain_part(const chain_step *s, int32_t part) {
    const ops_linear_part *p = &s->op->parts[part];
    const cpu_weight *w = (const cpu_weight *)(const void *)p->weight;
    return (isa_linear){.format = w->format,
                        .order = w->order,
                        .weights = w->tiles,
                        .pairs = s->pairs,
                        .columns = ISA_PANEL_ROWS,
                        .out = p->out + (int64_t)s->first * w->shape.outputs,
                        .bias = p->bias,
                        .accumulate = p->accumulate,
                        .inputs = s->inputs,
                        .outputs = w->shape.outputs,
                        .rows = s->rows};
}

/* Whether `next` takes what `op` writes, gated, and nothing else reads it. */
static bool chain_gated(const ops_linear *op, const ops_linear *next) {
    return (next->input == OPS_INPUT_SILU_MUL || next->input == OPS_INPUT_GELU_MUL) &&
           op->parts_count == 2 && next->x == op->parts[0].out && next->x_up == op->parts[1].out &&
           !op->parts[0].accumulate && !op->parts[1].accumulate;
}

static void chain_products(const chain_step *s, const ops_linear *next) {
    const isa_linear first = chain_part(s, 0);
    if (next != NULL) {
        const isa_linear up = chain_part(s, 1);
        const isa_rows r = {
            .l = &first, .up = &up, .gated = s->gated, .gelu = next->input == OPS_INPUT_GELU_MUL};
        s->c->pairs->rows(&r, s->scratch);
        return;
    }
    for (int32_t p = 0; p < s->op->parts_count; p++) {
        const isa_linear l = chain_part(s, p);
        s->c->pairs->rows(&(isa_rows){.l = &l}, s->scratch);
    }
}

static void chain_item(void *context, int32_t item, int32_t thread) {
    const chain_job *j = context;
    const cpu *c = j->c;
    const int32_t row = item * j->block, left = j->rows - row;
    const int64_t panels = (int64_t)row * c->inputs_max_bf16 * (int64_t)sizeof(uint16_t);
    bool made = false; /* this operator's input, by the one before */
    for (int32_t i = 0; i < j->count; i++) {
        const ops_linear *next = i + 1 < j->count ? &j->ops[i + 1] : NULL;
        const bool gates = !made && next != NULL && chain_gated(&j->ops[i], next);
        const chain_step s = {
            .c = c,
            .op = &j->ops[i],
            .inputs = j->ops[i].parts[0].weight->inputs,
            .first = j->row_base + row,
            .rows = left < j->block ? left : j->block,
            .x_rows = c->x_rows + (int64_t)thread * ISA_PANEL_ROWS * c->inputs_max_bf16,
            .pairs = (made ? c->x_gated : c->x_pairs) + panels,
            .gated = c->x_gated + panels,
            .scratch = cpu_scratch(c, thread),
        };
        if (!made) {
            chain_input(&s);
        }
        chain_products(&s, gates ? next : NULL);
        made = gates;
    }
}

bool cpuchain_worth(const cpu *c, const ops_linear *op) {
    const int32_t rows = op->rows < CPU_ROWS ? op->rows : CPU_ROWS;
    return cpu_activations(op) == BACKEND_ACTIVATIONS_BF16 &&
           rows >= CHAIN_THREAD_ROWS_MIN * c->shared.threads;
}

/* Of an item: as many items as threads, or twice as many, ..., of whole pairs of panels. */
static int32_t chain_block(const cpu *c, int32_t rows) {
    enum { PAIR = 2 * ISA_PANEL_ROWS };
    const int32_t threads = c->shared.threads;
    const int32_t turns = cpu_divide_up(rows, threads * ISA_PAIRS_BLOCK_ROWS);
    return cpu_divide_up(cpu_divide_up(rows, turns * threads), PAIR) * PAIR;
}

status cpuchain_run(backend *b, const ops_linear *ops, int32_t count) {
    const cpu *c = cpu_of(b);
    bool worth = true;
    if (cpufew_worth(ops, count)) {
        cpufew_run(c, ops, count);
        return STATUS_OK;
    }
    for (int32_t i = 0; i < count; i++) {
        worth = worth && cpuchain_worth(c, &ops[i]);
    }
    for (int32_t i = 0; i < count && !worth; i++) {
        TRY(cpulinear_run(b, &ops[i]));
    }
    for (int32_t base = 0; base < ops[0].rows && worth; base += CPU_ROWS) {
        const int32_t left = ops[0].rows - base, rows = left < CPU_ROWS ? left : CPU_ROWS;
        chain_job j = {.c = c,
                       .ops = ops,
                       .count = count,
                       .row_base = base,
                       .rows = rows,
                       .block = chain_block(c, rows)};
        cpupool_run(c->pool, chain_item, &j, cpu_divide_up(j.rows, j.block));
    }
    return STATUS_OK;
}
