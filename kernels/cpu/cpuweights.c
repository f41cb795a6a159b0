/* cpuweights.c -- repacking weights into tiles at load, by all threads. */
#include <string.h>

#include "engine/base/mem.h"
#include "kernels/cpu/cpumap.h"
#include "kernels/cpu/cpunodes.h"
#include "kernels/cpu/cpustate.h"

/* Bytes from the current chunk, or from a new one. Weights are taken once and live as long as the
 * backend; together they fill huge pages, which a stream through them all needs. */
static uint8_t *chunk_take(cpu *c, uint64_t bytes) {
    const uint64_t header = 64, rounded = (bytes + 63) / 64 * 64;
    cpu_chunk *chunk = c->chunks;
    if (chunk == NULL || chunk->bytes - chunk->used < rounded) {
        uint64_t size = header + rounded;
        size = size < CPU_CHUNK_BYTES ? CPU_CHUNK_BYTES : size;
        size = (size + CPU_HUGE_BYTES - 1) / CPU_HUGE_BYTES * CPU_HUGE_BYTES;
        chunk = cpumap_take(size, true);
        if (chunk == NULL) {
            return NULL;
        }
        cpunodes_spread(chunk, size, c->nodes);
        chunk->bytes = size;
        chunk->used = header;
        chunk->next = c->chunks;
        c->chunks = chunk;
    }
    uint8_t *p = (uint8_t *)chunk + chunk->used;
    chunk->used += rounded;
    return p;
}

static uint64_t panel_bytes(int32_t inputs) {
    return (uint64_t)CPU_ROWS / ISA_PANEL_ROWS * (uint64_t)(inputs / TILE_GROUP) *
           sizeof(isa_panel);
}

static uint64_t x_bytes(int32_t inputs) {
    return (uint64_t)CPU_ROWS * (uint64_t)inputs * sizeof(float);
}

static uint64_t pairs_bytes(int32_t inputs) {
    return (uint64_t)CPU_ROWS * (uint64_t)inputs * sizeof(uint16_t);
}

static uint64_t rows_bytes(const cpu *c, int32_t inputs) {
    return (uint64_t)c->shared.threads * ISA_PANEL_ROWS * (uint64_t)inputs * sizeof(float);
}

static void pairs_close(cpu *c) {
    cpumap_give(c->x_pairs, pairs_bytes(c->inputs_max_bf16));
    cpumap_give(c->x_gated, pairs_bytes(c->inputs_max_bf16));
    cpumap_give(c->x_rows, rows_bytes(c, c->inputs_max_bf16));
}

static bool pairs_grow(cpu *c, int32_t inputs) {
    if (inputs <= c->inputs_max_bf16) {
        return true;
    }
    uint8_t *pairs = cpumap_take(pairs_bytes(inputs), true);
    uint8_t *gated = cpumap_take(pairs_bytes(inputs), true);
    float *rows = cpumap_take(rows_bytes(c, inputs), true);
    if (pairs == NULL || gated == NULL || rows == NULL) {
        cpumap_give(pairs, pairs_bytes(inputs));
        cpumap_give(gated, pairs_bytes(inputs));
        cpumap_give(rows, rows_bytes(c, inputs));
        return false;
    }
    pairs_close(c);
    c->x_pairs = pairs;
    c->x_gated = gated;
    c->x_rows = rows;
    c->inputs_max_bf16 = inputs;
    return true;
}

/* Room for the activations of the widest weight: at load, so that serving takes no memory. */
static bool activations_grow(cpu *c, const backend_weight *shape) {
    const bool mixed = shape->activations == BACKEND_ACTIVATIONS_MIXED;
    if (mixed && !pairs_grow(c, shape->inputs)) {
        return false;
    }
    if (shape->activations == BACKEND_ACTIVATIONS_BF16) {
        return pairs_grow(c, shape->inputs);
    }
    if (mixed || shape->activations == BACKEND_ACTIVATIONS_INT8) {
        if (shape->inputs > c->inputs_max) {
            isa_panel *panels = cpumap_take(panel_bytes(shape->inputs), true);
            if (panels == NULL) {
                return false;
            }
            cpumap_give(c->panels, panel_bytes(c->inputs_max));
            c->panels = panels;
            c->inputs_max = shape->inputs;
        }
    } else if (shape->inputs > c->inputs_max_f32) {
        float *x = cpumap_take(x_bytes(shape->inputs), true);
        if (x == NULL) {
            return false;
        }
        cpumap_give(c->x, x_bytes(c->inputs_max_f32));
        c->x = x;
        c->inputs_max_f32 = shape->inputs;
    }
    return true;
}

bool cpuweights_share(cpu *c, const cpu *of) {
    const backend_weight widest[] = {
        {.activations = BACKEND_ACTIVATIONS_INT8, .inputs = of->inputs_max},
        {.activations = BACKEND_ACTIVATIONS_F32, .inputs = of->inputs_max_f32},
        {.activations = BACKEND_ACTIVATIONS_BF16, .inputs = of->inputs_max_bf16}};
    for (size_t i = 0; i < sizeof(widest) / sizeof(widest[0]); i++) {
        if (widest[i].inputs > 0 && !activations_grow(c, &widest[i])) {
            return false;
        }
    }
    return true;
}

typedef struct {
    const cpu_weight *w;
    const uint8_t *data;
    uint64_t row_bytes;
} pack_job;

static void pack_item(void *context, int32_t item, int32_t thread) {
    const pack_job *j = context;
    const cpu_weight *w = j->w;
    (void)thread;
    tile_pack(w->shape.type, w->order, j->data, j->row_bytes, w->shape.outputs, w->shape.inputs,
              item, w->tiles + (uint64_t)item * tile_bytes(w->format, w->shape.inputs));
}

status cpuweights_load(backend *b, const backend_weight *shape, const void *data, uint64_t bytes,
                       const backend_weight **out, diag *d) {
    cpu *c = cpu_of(b);
    const bool bf16 = shape->activations == BACKEND_ACTIVATIONS_BF16;
    const tile_format format = tile_format_of(shape->type);
    const uint64_t total = tile_weight_bytes(format, shape->outputs, shape->inputs);
    cpu_weight *w = mem_calloc(1, sizeof(*w));
    uint8_t *tiles = w != NULL && activations_grow(c, shape) ? chunk_take(c, total) : NULL;
    if (tiles == NULL) {
        mem_free(w);
        return status_fail(d, STATUS_NOMEM, "no memory for a weight of %llu bytes",
                           (unsigned long long)total);
    }
    w->shape = *shape;
    w->shape.bytes = total;
    w->format = format;
    w->order = bf16 ? TILE_BY_OUTPUT : TILE_BY_INPUT;
    w->tiles = tiles;
    w->next = c->weights;
    c->weights = w;
    pack_job job = {w, data, bytes / (uint64_t)shape->outputs};
    cpupool_run(c->pool, pack_item, &job, (shape->outputs + TILE_OUTPUTS - 1) / TILE_OUTPUTS);
    *out = &w->shape;
    return STATUS_OK;
}

void cpuweights_close(cpu *c) {
    while (c->weights != NULL) {
        cpu_weight *next = c->weights->next;
        mem_free(c->weights);
        c->weights = next;
    }
    while (c->chunks != NULL) {
        cpu_chunk *next = c->chunks->next;
        cpumap_give(c->chunks, c->chunks->bytes);
        c->chunks = next;
    }
    cpumap_give(c->panels, panel_bytes(c->inputs_max));
    cpumap_give(c->x, x_bytes(c->inputs_max_f32));
    pairs_close(c);
}
