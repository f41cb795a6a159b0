/* body_place.h -- where the queries of a unit of attention lie, and the pages they see.
 *
 * Purpose    Offsets and addresses, for every kernel of attention.
 * Ownership  Included by isa_*.c and body_*.h only.
 * Threads    Pure functions.
 * Limits     As isa.h.
 */
#ifndef KERNELS_CPU_BODY_PLACE_H
#define KERNELS_CPU_BODY_PLACE_H

#include "engine/base/limits.h"
#include "kernels/backend.h"
#include "kernels/cpu/isa.h"

static int32_t attention_group(const isa_attention *a) {
    return a->op->heads / a->op->kv->shape.kv_heads;
}

/* Offset of a query's head in q and out. */
static int64_t attention_at(const isa_attention *a, int32_t query) {
    const int32_t group = attention_group(a), i = a->query_first + query;
    const int64_t row = a->seq->row_first + i / group;
    const int64_t head = (int64_t)a->kv_head * group + i % group;
    return (row * a->op->heads + head) * a->op->kv->shape.head_dim;
}

static int32_t attention_position(const isa_attention *a, int32_t query) {
    return a->seq->position_first + (a->query_first + query) / attention_group(a);
}

static const uint8_t *attention_page(const isa_attention *a, const ops_seq *seq, int32_t kv_head,
                                     int32_t token) {
    const backend_kv *kv = a->op->kv;
    const uint32_t page = seq->pages[token / LIMIT_PAGE_TOKENS];
    return backend_kv_page(kv, a->op->layer, page) + (uint64_t)kv_head * kv->head_bytes;
}

#endif
