/* llama_slice.c -- shapes and bytes of a rank. */
#include "models/arch/llama_slice.h"

#include <string.h>

#include "engine/base/mem.h"
#include "models/arch/kvheads.h"

llama_slice llama_slice_of(int32_t whole, bool split, int32_t rank, int32_t ranks) {
    int32_t count = split ? whole / ranks : whole;
    return (llama_slice){whole, split ? rank * count : 0, count};
}

status llama_slice_shape(const llama_shape *whole, int32_t ranks, llama_shape *out, diag *d) {
    *out = *whole;
    if (whole->heads % ranks != 0 || !kvheads_fit(whole->kv_heads, ranks) ||
        whole->ffn % ranks != 0) {
        return status_fail_param(d, STATUS_UNSUPPORTED, "tensor-parallel-size",
                                 "--tensor-parallel-size %d: this model has %d heads, %d kv heads "
                                 "and an inner width of %d, which it has to divide; of kv heads it "
                                 "may be a multiple",
                                 ranks, whole->heads, whole->kv_heads, whole->ffn);
    }
    out->heads = whole->heads / ranks;
    out->kv_heads = kvheads_of(whole->kv_heads, 0, ranks).count;
    out->ffn = whole->ffn / ranks;
    return STATUS_OK;
}

status llama_slice_matrix(const gguf_tensor *t, const llama_slice *inputs,
                          const llama_slice *outputs, const uint8_t **data, uint64_t *bytes,
                          uint8_t **copy, diag *d) {
    backend_type type = (backend_type)t->type;
    *data = t->data;
    *bytes = t->bytes;
    *copy = NULL;
    if (inputs->count == inputs->whole && outputs->count == outputs->whole) {
        return STATUS_OK;
    }
    uint64_t row = backend_type_bytes(type, 1, inputs->whole);
    uint64_t part = backend_type_bytes(type, 1, inputs->count);
    if (row == 0 || part == 0) {
        return status_fail_param(d, STATUS_UNSUPPORTED, "tensor-parallel-size",
                                 "--tensor-parallel-size %d: a rank's %d inputs are no whole "
                                 "blocks of %s",
                                 inputs->whole / inputs->count, inputs->count,
                                 backend_type_name(type));
    }
    *data += (uint64_t)outputs->first * row;
    *bytes = (uint64_t)outputs->count * part;
    if (part == row) {
        return STATUS_OK;
    }
    uint8_t *to = mem_alloc(*bytes, 1);
    if (!to) {
        return status_fail(d, STATUS_NOMEM, "no memory for a rank's part");
    }
    uint64_t skip = part * (uint64_t)(inputs->first / inputs->count);
    for (int32_t r = 0; r < outputs->count; r++) {
        memcpy(to + (uint64_t)r * part, *data + (uint64_t)r * row + skip, part);
    }
    *data = *copy = to;
    return STATUS_OK;
}
