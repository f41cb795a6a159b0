/* hello.c -- the comparison made when two workers join. */
#include "engine/core/hello.h"

#include <stdio.h>

#include "engine/base/check.h"
#include "engine/base/limits.h"

static status differ(diag *d, const char *what, uint64_t mine, uint64_t theirs) {
    return status_fail_param(d, STATUS_MISMATCH, what, "%s differs: %llu here, %llu there", what,
                             (unsigned long long)mine, (unsigned long long)theirs);
}

static status differ_text(diag *d, const char *what, str mine, str theirs) {
    return status_fail_param(d, STATUS_MISMATCH, what, "%s differs: %.*s here, %.*s there", what,
                             (int)mine.bytes, mine.data, (int)theirs.bytes, theirs.data);
}

/* Devices that share a model round some sums elsewhere, and models say so last: " tp=N". */
static str without_ranks(str numerics) {
    size_t at = str_find(numerics, str_from(" tp="), 0);
    return at == SIZE_MAX ? numerics : str_of(numerics.data, at);
}

bool hello_rounds_alike(const message_hello *mine, const message_hello *theirs) {
    return str_equal(mine->numerics, theirs->numerics);
}

/* Any size fits any other, for messages and transfers name pages; it only must have whole ones. */
static bool blocks_fine(const message_hello *h) {
    return h->block_tokens > 0 && h->block_tokens % LIMIT_PAGE_TOKENS == 0 &&
           h->block_tokens <= LIMIT_BLOCK_PAGES * LIMIT_PAGE_TOKENS;
}

status hello_fits(const message_hello *mine, const message_hello *theirs, diag *d) {
    CHECK(mine && theirs);
    if (mine->version != theirs->version) {
        return differ(d, "protocol version", mine->version, theirs->version);
    }
    if (mine->model_hash != theirs->model_hash) {
        return status_fail_param(d, STATUS_MISMATCH, "model",
                                 "not the same model file: its hash is %016llx here, %016llx there",
                                 (unsigned long long)mine->model_hash,
                                 (unsigned long long)theirs->model_hash);
    }
    if (mine->vocab != theirs->vocab) {
        return differ(d, "vocabulary", mine->vocab, theirs->vocab);
    }
    if (mine->context_tokens != theirs->context_tokens) {
        return differ(d, "context", mine->context_tokens, theirs->context_tokens);
    }
    if (mine->layers != theirs->layers) {
        return differ(d, "layers", mine->layers, theirs->layers);
    }
    if (!blocks_fine(mine) || !blocks_fine(theirs)) {
        return differ(d, "tokens a block", mine->block_tokens, theirs->block_tokens);
    }
    /* Before the bytes a page, which say less: it names the dtype. */
    if (!str_equal(mine->kv_layout, theirs->kv_layout)) {
        return differ_text(d, "KV layout", mine->kv_layout, theirs->kv_layout);
    }
    if (mine->kv_layer_page_bytes != theirs->kv_layer_page_bytes) {
        return differ(d, "bytes a layer page", mine->kv_layer_page_bytes,
                      theirs->kv_layer_page_bytes);
    }
    if (!str_equal(without_ranks(mine->numerics), without_ranks(theirs->numerics))) {
        return differ_text(d, "numerics class", mine->numerics, theirs->numerics);
    }
    return STATUS_OK;
}

const char *hello_transport_name(hello_transport t) {
    static const char *const names[] = {"local", "shm", "nccl", "tcp"};
    CHECK_LT(t, HELLO_TRANSPORTS);
    return names[t];
}

static void list_names(uint32_t transports, char out[32]) {
    size_t used = 0;
    out[0] = 0;
    for (uint32_t t = 0; t < HELLO_TRANSPORTS; t++) {
        const char *name = hello_transport_name((hello_transport)t);
        if (transports & HELLO_BIT(t)) {
            used += (size_t)snprintf(out + used, 32 - used, "%s%s", used ? "|" : "", name);
        }
    }
    (void)snprintf(out + used, 32 - used, "%s", used ? "" : "none");
}

status hello_carries(const message_hello *mine, const message_hello *theirs, uint32_t reach,
                     hello_transport *out, diag *d) {
    uint32_t both = mine->transports & theirs->transports & reach;
    bool shared = mine->device == theirs->device && (both & HELLO_BIT(HELLO_NCCL));
    both &= shared ? ~HELLO_BIT(HELLO_NCCL) : UINT32_MAX;
    for (uint32_t t = 0; t < HELLO_TRANSPORTS; t++) {
        if (both & HELLO_BIT(t)) {
            *out = (hello_transport)t;
            return STATUS_OK;
        }
    }
    char names[3][32];
    list_names(mine->transports, names[0]);
    list_names(theirs->transports, names[1]);
    list_names(reach, names[2]);
    return shared ? status_fail_param(d, STATUS_MISMATCH, "KV transport",
                                      "NCCL joins no device with itself: both have their KV on the "
                                      "same GPU (processes with different NCCL_HOSTID may)")
                  : status_fail_param(d, STATUS_MISMATCH, "KV transport",
                                      "no KV transport in common: %s here, %s there, and the link "
                                      "reaches %s",
                                      names[0], names[1], names[2]);
}

static str keep(char *into, str text) {
    CHECK(text.bytes == 0 || text.data);
    if (text.bytes) {
        memcpy(into, text.data, text.bytes);
    }
    return str_of(into, text.bytes);
}

void hello_keep(hello_kept *out, const message_hello *hello) {
    CHECK_LE(hello->numerics.bytes, sizeof out->numerics);
    CHECK_LE(hello->kv_layout.bytes, sizeof out->kv_layout);
    CHECK_LT(hello->address.bytes, sizeof out->address);
    out->hello = *hello;
    out->hello.numerics = keep(out->numerics, hello->numerics);
    out->hello.kv_layout = keep(out->kv_layout, hello->kv_layout);
    out->hello.address = keep(out->address, hello->address);
    out->address[hello->address.bytes] = 0;
}
