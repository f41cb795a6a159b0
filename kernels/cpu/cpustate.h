/* cpustate.h -- the CPU backend's own state, shared by its files.
 *
 * Purpose    struct cpu, and the operators behind the backend table.
 * Ownership  cpu_open holds everything here until the backend closes.
 * Threads    As backend.h: one caller at a time; compute threads inside.
 * Limits     CPU_ROWS rows are quantised at a time, whatever a call brings.
 */
#ifndef KERNELS_CPU_CPUSTATE_H
#define KERNELS_CPU_CPUSTATE_H

#include "kernels/backend.h"
#include "kernels/cpu/cpupool.h"
#include "kernels/cpu/isa.h"

enum {
    CPU_ROWS = 512,             /* rows whose activations are held at a time */
    CPU_ROW_ITEM = 16,          /* rows of one item of a row operator */
    CPU_CHUNK_BYTES = 32 << 20, /* weights are taken from chunks of this size, or larger ones */
    CPU_HUGE_BYTES = 2 << 20,   /* a huge page */
    CPU_PARTS_BYTES = 8 << 20   /* partial results of attention split over positions */
};

typedef struct cpu_weight {
    backend_weight shape; /* first: backend.h hands out its address */
    tile_format format;
    tile_order order;
    uint8_t *tiles;
    struct cpu_weight *next;
} cpu_weight;

/* A mapping weights are taken from; its header lies at its start. */
typedef struct cpu_chunk {
    struct cpu_chunk *next;
    uint64_t bytes, used;
} cpu_chunk;

typedef struct {
    backend shared; /* first: backend.h hands out its address */
    const isa_kernels *kernels;
    const isa_pairs *pairs; /* products of bf16, or NULL: not on this CPU */
    cpupool *pool;
    uint8_t *scratch;   /* [threads, ISA_SCRATCH_BYTES] */
    uint8_t *parts;     /* [CPU_PARTS_BYTES] */
    isa_panel *panels;  /* [CPU_ROWS / 16, inputs_max / 32] */
    float *x;           /* [CPU_ROWS, inputs_max_f32] */
    uint8_t *x_pairs;   /* [CPU_ROWS / 16, inputs_max_bf16 / 2, 16] pairs of bf16 */
    uint8_t *x_gated;   /* the same, of gated products */
    float *x_rows;      /* [threads, 16, inputs_max_bf16]: on their way there */
    int32_t inputs_max; /* of weights with int8 activations */
    int32_t inputs_max_f32;
    int32_t inputs_max_bf16;
    cpu_weight *weights;
    cpu_chunk *chunks;
    uint64_t nodes; /* that have memory, a bit each */
} cpu;

static inline cpu *cpu_of(backend *b) {
    return (cpu *)(void *)b;
}

static inline uint8_t *cpu_scratch(const cpu *c, int32_t thread) {
    return c->scratch + (int64_t)thread * ISA_SCRATCH_BYTES;
}

/* What the rows of an operator meet its weights as: never MIXED. */
static inline backend_activations cpu_activations(const ops_linear *op) {
    const backend_activations loaded = op->parts[0].weight->activations;
    if (loaded != BACKEND_ACTIVATIONS_MIXED) {
        return loaded;
    }
    return op->prompt ? BACKEND_ACTIVATIONS_BF16 : BACKEND_ACTIVATIONS_INT8;
}

static inline int32_t cpu_divide_up(int32_t a, int32_t b) {
    return (a + b - 1) / b;
}

status cpuweights_load(backend *b, const backend_weight *shape, const void *data, uint64_t bytes,
                       const backend_weight **out, diag *d);
void cpuweights_close(cpu *c);
/* Room for the activations of all weights that `of` has. */
bool cpuweights_share(cpu *c, const cpu *of);

status cpuops_embed(backend *b, const ops_embed *op);
status cpuops_rmsnorm(backend *b, const ops_rmsnorm *op);
status cpuops_silu_mul(backend *b, const ops_silu_mul *op);
MUST_USE status cpuops_softcap(backend *b, const ops_softcap *op);
status cpuops_gather(backend *b, const ops_gather *op);
status cpuops_rope_table(backend *b, const ops_rope_table *op);
status cpuops_rope_append(backend *b, const ops_rope_append *op);
status cpulinear_run(backend *b, const ops_linear *op);
/* Up to OPS_CHAIN_MAX operators; whether cpufew_run takes them. */
bool cpufew_worth(const ops_linear *ops, int32_t count);
void cpufew_run(const cpu *c, const ops_linear *ops, int32_t count);
bool cpuchain_worth(const cpu *c, const ops_linear *op);
status cpuchain_run(backend *b, const ops_linear *ops, int32_t count);
status cpuattention_run(backend *b, const ops_attention *op);

#endif
