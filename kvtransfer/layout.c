/* layout.c -- the comparison made when two workers join, and the size of a transfer group. */
#include "kvtransfer/layout.h"

static status differ(diag *d, const char *what, uint64_t mine, uint64_t theirs) {
    return status_fail_param(d, STATUS_MISMATCH, what, "%s differs: %llu here, %llu there", what,
                             (unsigned long long)mine, (unsigned long long)theirs);
}

status layout_check(const layout *mine, const layout *theirs, diag *d) {
    if (mine->protocol != theirs->protocol) {
        return differ(d, "protocol version", mine->protocol, theirs->protocol);
    }
    if (mine->model_hash != theirs->model_hash) {
        return status_fail_param(d, STATUS_MISMATCH, "model", "not the same model file");
    }
    if (mine->layers != theirs->layers) {
        return differ(d, "layers", mine->layers, theirs->layers);
    }
    if (mine->page_tokens != theirs->page_tokens) {
        return differ(d, "tokens a page", mine->page_tokens, theirs->page_tokens);
    }
    if (mine->layer_page_bytes != theirs->layer_page_bytes) {
        return differ(d, "bytes a layer page", mine->layer_page_bytes, theirs->layer_page_bytes);
    }
    if (!str_equal(mine->kv_layout, theirs->kv_layout)) {
        return status_fail_param(d, STATUS_MISMATCH, "KV layout",
                                 "KV layout differs: %.*s here, %.*s there",
                                 (int)mine->kv_layout.bytes, mine->kv_layout.data,
                                 (int)theirs->kv_layout.bytes, theirs->kv_layout.data);
    }
    if (!str_equal(mine->numerics, theirs->numerics)) {
        return status_fail_param(d, STATUS_MISMATCH, "numerics class",
                                 "numerics class differs: %.*s here, %.*s there",
                                 (int)mine->numerics.bytes, mine->numerics.data,
                                 (int)theirs->numerics.bytes, theirs->numerics.data);
    }
    return STATUS_OK;
}

layout_group layout_cut(uint32_t layers, uint64_t layer_page_bytes, uint64_t bytes_max,
                        uint32_t pages_max) {
    uint64_t units = layer_page_bytes ? bytes_max / layer_page_bytes : 1;
    if (units < 1) {
        units = 1;
    }
    layout_group g = {1, layers};
    if (units < layers) {
        g.layers = (uint32_t)units;
    } else {
        uint64_t pages = units / layers;
        g.pages = pages > pages_max ? pages_max : (uint32_t)pages;
    }
    return g;
}
