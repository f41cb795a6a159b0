/* cudaweights.c -- weights repacked for the device, as cuda_ops.h describes. */
#include <stdio.h>
#include <string.h>

#include "engine/base/mem.h"
#include "kernels/cpu/quant.h"
#include "kernels/cuda/cudastate.h"
#include "kernels/kmath.h"

enum { GROUP = 32, LANES = 32 };

/* What becomes of a matrix: its storage, and the bytes of each plane. */
typedef struct {
    cuda_matrix m;
    int32_t chunk_steps;
    uint64_t values, scales, minimums;
} plan;

static uint64_t aligned(uint64_t bytes) {
    return (bytes + 255) & ~(uint64_t)255;
}

static int32_t parts(int32_t all, int32_t part) {
    return (all + part - 1) / part;
}

static void plan_store(const backend_weight *w, plan *p, bool *minimums) {
    p->m.store = CUDA_STORE_BYTES;
    p->m.scale_group = GROUP;
    *minimums = false;
    switch (w->type) {
        case BACKEND_F32:
            p->m.store = CUDA_STORE_F32;
            break;
        case BACKEND_F16:
            p->m.store = CUDA_STORE_F16;
            break;
        case BACKEND_BF16:
            p->m.store = CUDA_STORE_BF16;
            break;
        case BACKEND_Q4_0:
            p->m.store = CUDA_STORE_NIBBLES;
            p->m.zero = 8;
            break;
        case BACKEND_Q4_1:
        case BACKEND_Q4_K:
            p->m.store = CUDA_STORE_NIBBLES;
            *minimums = true;
            break;
        case BACKEND_Q5_1:
        case BACKEND_Q5_K:
            *minimums = true;
            break;
        case BACKEND_Q6_K:
            p->m.scale_group = GROUP / 2;
            break;
        case BACKEND_Q5_0:
        case BACKEND_Q8_0:
            break;
    }
    p->m.scales_f32 = w->type == BACKEND_Q4_K || w->type == BACKEND_Q5_K || w->type == BACKEND_Q6_K;
}

static bool plan_quantised(const plan *p) {
    return p->m.store == CUDA_STORE_NIBBLES || p->m.store == CUDA_STORE_BYTES;
}

static plan plan_of(const backend_weight *w) {
    static const int32_t steps[] = {[CUDA_STORE_F32] = 1,
                                    [CUDA_STORE_F16] = 2,
                                    [CUDA_STORE_BF16] = 2,
                                    [CUDA_STORE_NIBBLES] = 8,
                                    [CUDA_STORE_BYTES] = 4};
    plan p = {.m = {.outputs = w->outputs, .inputs = w->inputs}};
    bool minimums;
    plan_store(w, &p, &minimums);
    p.chunk_steps = steps[p.m.store];
    p.m.chunks = parts(w->inputs, p.chunk_steps * CUDA_STEP);
    p.m.spans = parts(w->inputs, CUDA_SPAN);
    const uint64_t tiles = (uint64_t)parts(w->outputs, CUDA_TILE);
    p.values = tiles * (uint64_t)p.m.chunks * 2 * LANES * CUDA_CHUNK_BYTES;
    if (plan_quantised(&p)) {
        const uint64_t element = p.m.scales_f32 ? 4 : 2;
        const uint64_t rows = tiles * (uint64_t)p.m.spans * CUDA_TILE;
        p.scales = rows * (uint64_t)(CUDA_SPAN / p.m.scale_group) * element;
        p.minimums = minimums ? rows * (CUDA_SPAN / GROUP) * element : 0;
    }
    return p;
}

/* The 16 bytes that hold input k of output o, and its step in them. */
static uint8_t *chunk_at(const plan *p, uint8_t *image, int32_t o, int32_t k, int32_t *step) {
    const int32_t chunk = k / (p->chunk_steps * CUDA_STEP);
    const int32_t half = o % CUDA_TILE / 8, lane = o % 8 * 4 + k % CUDA_STEP / 4;
    *step = k / CUDA_STEP % p->chunk_steps;
    const uint64_t tile = (uint64_t)(o / CUDA_TILE);
    const uint64_t row = (tile * (uint64_t)p->m.chunks + (uint64_t)chunk) * 2 + (uint64_t)half;
    return image + (row * LANES + (uint64_t)lane) * CUDA_CHUNK_BYTES;
}

static void put_quant(const plan *p, uint8_t *image, int32_t o, int32_t k, uint8_t quant) {
    int32_t step;
    uint8_t *at = chunk_at(p, image, o, k, &step);
    if (p->m.store == CUDA_STORE_NIBBLES) {
        at[step / 2 * 4 + k % 4] |= (uint8_t)(quant << (step % 2 * 4));
    } else {
        at[step * 4 + k % 4] = quant;
    }
}

static void put_span(const plan *p, uint8_t *plane, int32_t o, int32_t k, int32_t group,
                     float value) {
    const uint64_t row =
        ((uint64_t)(o / CUDA_TILE) * (uint64_t)p->m.spans + (uint64_t)(k / CUDA_SPAN)) * CUDA_TILE +
        (uint64_t)(o % CUDA_TILE);
    const uint64_t i = row * (uint64_t)(CUDA_SPAN / group) + (uint64_t)(k % CUDA_SPAN / group);
    if (p->m.scales_f32) {
        memcpy(plane + i * 4, &value, 4);
    } else {
        const uint16_t half = kmath_to_f16(value); /* exact: the file had it as one */
        memcpy(plane + i * 2, &half, 2);
    }
}

static void put_group(const plan *p, uint8_t *image, int32_t o, int32_t k, const quant_group *q) {
    uint8_t *scales = image + aligned(p->values), *minimums = scales + aligned(p->scales);
    /* Bytes around 128 become signed ones around 0. */
    const uint8_t middle = p->m.store == CUDA_STORE_BYTES && p->minimums == 0 ? 128 : 0;
    for (int32_t i = 0; i < GROUP; i++) {
        put_quant(p, image, o, k + i, (uint8_t)(q->quant[i] - middle));
    }
    for (int32_t i = 0; i < GROUP; i += p->m.scale_group) {
        put_span(p, scales, o, k + i, p->m.scale_group, q->scale[i / (GROUP / 2)]);
    }
    if (p->minimums != 0) {
        put_span(p, minimums, o, k, GROUP, q->minimum);
    }
}

static void put_plain_row(const plan *p, uint8_t *image, int32_t o, const uint8_t *row) {
    const uint64_t element = p->m.store == CUDA_STORE_F32 ? 4 : 2;
    for (int32_t k = 0; k < p->m.inputs; k++) {
        int32_t step;
        uint8_t *at = chunk_at(p, image, o, k, &step);
        memcpy(at + (uint64_t)(step * 4 + k % 4) * element, row + (uint64_t)k * element, element);
    }
}

static void repack(const backend_weight *w, const plan *p, const uint8_t *data, uint8_t *image) {
    const uint64_t row_bytes = backend_type_bytes(w->type, 1, w->inputs);
    for (int32_t o = 0; o < w->outputs; o++) {
        const uint8_t *row = data + (uint64_t)o * row_bytes;
        if (!plan_quantised(p)) {
            put_plain_row(p, image, o, row);
            continue;
        }
        for (int32_t k = 0; k < w->inputs; k += GROUP) {
            quant_group q;
            quant_get(w->type, row, k / GROUP, &q);
            put_group(p, image, o, k, &q);
        }
    }
}

status cudaweights_load(backend *b, const backend_weight *shape, const void *data, uint64_t bytes,
                        const backend_weight **out, diag *d) {
    cudastate *c = (cudastate *)b;
    (void)bytes; /* checked by backend.c */
    const plan p = plan_of(shape);
    const uint64_t total = aligned(p.values) + aligned(p.scales) + aligned(p.minimums);
    cudastate_weight *w = mem_calloc(1, sizeof(*w));
    uint8_t *image = mem_calloc(1, total);
    status s = w != NULL && image != NULL ? STATUS_OK : STATUS_NOMEM;
    if (s == STATUS_OK) {
        repack(shape, &p, data, image);
        s = cudastate_take(c, total, &w->memory);
    }
    if (s == STATUS_OK) {
        s = cudastream_send(c, w->memory, image, total);
    }
    mem_free(image);
    if (s != STATUS_OK) {
        if (w != NULL) {
            (void)cudaFree(w->memory);
            mem_free(w);
        }
        char what[64];
        (void)snprintf(what, sizeof(what), "a %s weight of %d x %d", backend_type_name(shape->type),
                       (int)shape->outputs, (int)shape->inputs);
        return cudamemory_short(c, s, d, what, total);
    }
    const uint8_t *at = w->memory;
    w->base = *shape;
    w->base.bytes = total;
    w->matrix = p.m;
    w->matrix.values = at;
    w->matrix.scales = at + aligned(p.values);
    w->matrix.minimums = p.minimums != 0 ? at + aligned(p.values) + aligned(p.scales) : NULL;
    w->next = c->weights;
    c->weights = w;
    *out = &w->base;
    return STATUS_OK;
}

void cudaweights_close(cudastate *c) {
    while (c->weights != NULL) {
        cudastate_weight *w = c->weights;
        c->weights = w->next;
        (void)cudaFree(w->memory);
        mem_free(w);
    }
}
