/* cudaweights.c -- weights as the kernels read them: quants, scales and minimums apart.
 *
 * A file interleaves each group's scale with its quants, which costs a kernel unaligned reads. Here
 * a row's quants are one run, 16 bytes a group of nibbles, and its scales another.
 */
#include <string.h>

#include "engine/base/mem.h"
#include "kernels/cpu/quant.h"
#include "kernels/cuda/cudastate.h"
#include "kernels/kmath.h"

enum { GROUP = 32 };

/* How a type of a file lies on the device. */
typedef struct {
    cuda_store store;
    int32_t scale_group, zero;
    bool scales_f32, minimums, plain;
    uint64_t values, scales, minimums_bytes; /* bytes of each plane */
} cudaweights_plan;

static uint64_t aligned(uint64_t bytes) {
    return (bytes + 255) & ~(uint64_t)255;
}

static cudaweights_plan plan_of(const backend_weight *w) {
    cudaweights_plan p = {.store = CUDA_STORE_BYTES, .scale_group = GROUP};
    const uint64_t elements = (uint64_t)w->outputs * (uint64_t)w->inputs;
    switch (w->type) {
        case BACKEND_F32:
        case BACKEND_F16:
        case BACKEND_BF16:
            p.plain = true;
            p.store = w->type == BACKEND_F32   ? CUDA_STORE_F32
                      : w->type == BACKEND_F16 ? CUDA_STORE_F16
                                               : CUDA_STORE_BF16;
            p.values = elements * (w->type == BACKEND_F32 ? 4 : 2);
            return p;
        case BACKEND_Q4_0:
            p.store = CUDA_STORE_NIBBLES;
            p.zero = 8;
            break;
        case BACKEND_Q4_1:
        case BACKEND_Q4_K:
            p.store = CUDA_STORE_NIBBLES;
            p.minimums = true;
            break;
        case BACKEND_Q5_1:
        case BACKEND_Q5_K:
            p.minimums = true;
            break;
        case BACKEND_Q6_K:
            p.scale_group = GROUP / 2;
            break;
        case BACKEND_Q5_0:
        case BACKEND_Q8_0:
            break;
    }
    p.scales_f32 = w->type == BACKEND_Q4_K || w->type == BACKEND_Q5_K || w->type == BACKEND_Q6_K;
    const uint64_t element = p.scales_f32 ? 4 : 2;
    p.values = p.store == CUDA_STORE_NIBBLES ? elements / 2 : elements;
    p.scales = elements / (uint64_t)p.scale_group * element;
    p.minimums_bytes = p.minimums ? elements / GROUP * element : 0;
    return p;
}

static void put_scale(uint8_t *plane, uint64_t i, float value, bool f32) {
    if (f32) {
        memcpy(plane + i * 4, &value, 4);
    } else {
        const uint16_t half = kmath_to_f16(value); /* exact: the file had it as one */
        memcpy(plane + i * 2, &half, 2);
    }
}

/* Group g of all groups of the matrix into the host image of the three planes. */
static void put_group(const cudaweights_plan *p, const quant_group *q, uint64_t g, uint8_t *image) {
    uint8_t *scales = image + aligned(p->values), *minimums = scales + aligned(p->scales);
    if (p->store == CUDA_STORE_NIBBLES) {
        for (int i = 0; i < GROUP / 2; i++) {
            image[g * (GROUP / 2) + (uint64_t)i] =
                (uint8_t)(q->quant[i] | q->quant[i + GROUP / 2] << 4);
        }
    } else {
        const uint8_t middle = p->minimums ? 0 : 128; /* quants around 128 become signed */
        for (int i = 0; i < GROUP; i++) {
            image[g * GROUP + (uint64_t)i] = (uint8_t)(q->quant[i] - middle);
        }
    }
    if (p->scale_group == GROUP) {
        put_scale(scales, g, q->scale[0], p->scales_f32);
    } else {
        put_scale(scales, 2 * g, q->scale[0], p->scales_f32);
        put_scale(scales, 2 * g + 1, q->scale[1], p->scales_f32);
    }
    if (p->minimums) {
        put_scale(minimums, g, q->minimum, p->scales_f32);
    }
}

static void repack(const backend_weight *w, const cudaweights_plan *p, const uint8_t *data,
                   uint8_t *image) {
    if (p->plain) {
        memcpy(image, data, p->values);
        return;
    }
    const int32_t groups = w->inputs / GROUP;
    const uint64_t row_bytes = backend_type_bytes(w->type, 1, w->inputs);
    for (int32_t o = 0; o < w->outputs; o++) {
        for (int32_t g = 0; g < groups; g++) {
            quant_group q;
            quant_get(w->type, data + (uint64_t)o * row_bytes, g, &q);
            put_group(p, &q, (uint64_t)o * (uint64_t)groups + (uint64_t)g, image);
        }
    }
}

status cudaweights_load(backend *b, const backend_weight *shape, const void *data, uint64_t bytes,
                        const backend_weight **out, diag *d) {
    cudastate *c = (cudastate *)b;
    (void)bytes; /* checked by backend.c */
    const cudaweights_plan p = plan_of(shape);
    const uint64_t total = aligned(p.values) + aligned(p.scales) + aligned(p.minimums_bytes);
    cudastate_weight *w = mem_calloc(1, sizeof(*w));
    uint8_t *image = mem_calloc(1, total);
    status s = w != NULL && image != NULL ? STATUS_OK : STATUS_NOMEM;
    if (s == STATUS_OK) {
        repack(shape, &p, data, image);
        s = cudastate_check(c, cudaMalloc(&w->memory, total));
    }
    if (s == STATUS_OK) {
        s = cudastate_send(c, w->memory, image, total);
    }
    mem_free(image);
    if (s != STATUS_OK) {
        size_t unused = 0, all = 0;
        (void)cudaMemGetInfo(&unused, &all);
        if (w != NULL) {
            (void)cudaFree(w->memory);
            mem_free(w);
        }
        return status_fail(d, s, "a %s weight of %d x %d takes %llu KiB; %llu of %llu MiB are free",
                           backend_type_name(shape->type), (int)shape->outputs, (int)shape->inputs,
                           (unsigned long long)(total >> 10), (unsigned long long)(unused >> 20),
                           (unsigned long long)(all >> 20));
    }
    const uint8_t *at = w->memory;
    w->base = *shape;
    w->base.bytes = total;
    w->matrix = (cuda_matrix){p.store,
                              at,
                              at + aligned(p.values),
                              p.minimums ? at + aligned(p.values) + aligned(p.scales) : NULL,
                              p.scales_f32,
                              p.scale_group,
                              p.zero,
                              shape->outputs,
                              shape->inputs};
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
