/* hello.c -- the comparison made when two workers join. */
#include "engine/core/hello.h"

#include <stdio.h>
#include <string.h>

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

/* What of `text` follows `before`, up to a space, a slash or the end. */
static str part_after(str text, const char *before) {
    size_t at = str_find(text, str_from(before), 0);
    if (at == SIZE_MAX) {
        return str_of(text.data, 0);
    }
    size_t from = at + strlen(before), to = from;
    while (to < text.bytes && text.data[to] != ' ' && text.data[to] != '/') {
        to++;
    }
    return str_of(text.data + from, to - from);
}

/* The same but for these parts, which both have. */
static bool same_beside(str a, str a_part, str b, str b_part) {
    if (a_part.bytes == 0 || b_part.bytes == 0) {
        return false;
    }
    str a_head = str_of(a.data, (size_t)(a_part.data - a.data));
    str b_head = str_of(b.data, (size_t)(b_part.data - b.data));
    const char *a_rest = a_part.data + a_part.bytes, *b_rest = b_part.data + b_part.bytes;
    return str_equal(a_head, b_head) &&
           str_equal(str_of(a_rest, (size_t)(a.data + a.bytes - a_rest)),
                     str_of(b_rest, (size_t)(b.data + b.bytes - b_rest)));
}

str hello_kv_type(const message_hello *h) {
    return part_after(h->kv_layout, "/");
}

static bool converts(const message_hello *p, const message_hello *d) {
    str gpu = str_from("cuda");
    return p->roles == MESSAGE_ROLE_PREFILL && d->roles == MESSAGE_ROLE_DECODE &&
           p->kv_layer_page_bytes >= d->kv_layer_page_bytes && str_find(p->numerics, gpu, 0) == 0 &&
           !str_equal(hello_kv_type(p), hello_kv_type(d)) &&
           same_beside(p->kv_layout, hello_kv_type(p), d->kv_layout, hello_kv_type(d)) &&
           same_beside(without_ranks(p->numerics), part_after(p->numerics, "kv="),
                       without_ranks(d->numerics), part_after(d->numerics, "kv="));
}

bool hello_converts(const message_hello *mine, const message_hello *theirs) {
    return converts(mine, theirs) || converts(theirs, mine);
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
    if (mine->block_tokens != theirs->block_tokens && !(blocks_fine(mine) && blocks_fine(theirs))) {
        return differ(d, "tokens a block", mine->block_tokens, theirs->block_tokens);
    }
    if (hello_converts(mine, theirs)) {
        return STATUS_OK;
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
    static const char *const names[] = {"local", "shm", "ipc", "nccl", "tcp"};
    CHECK_LT(t, HELLO_TRANSPORTS);
    return names[t];
}

const char *hello_reason_name(hello_reason r) {
    static const char *const names[] = {"asked",  "one-process", "one-host",  "two-hosts",
                                        "no-ipc", "host-memory", "no-devices"};
    CHECK_LT(r, HELLO_REASONS);
    return names[r];
}

static bool is_only(uint32_t transports, hello_transport t) {
    return transports == HELLO_BIT(t);
}

static bool one_host(const message_hello *a, const message_hello *b) {
    return a->device != 0 && a->device >> 32 == b->device >> 32;
}

hello_reason hello_why(const message_hello *mine, const message_hello *theirs, hello_transport t) {
    if (is_only(mine->transports, t) || is_only(theirs->transports, t)) {
        return HELLO_ASKED;
    }
    switch (t) {
        case HELLO_LOCAL:
            return HELLO_ONE_PROCESS;
        case HELLO_IPC:
            return HELLO_ONE_HOST;
        case HELLO_NCCL:
            return one_host(mine, theirs) ? HELLO_NO_IPC : HELLO_TWO_HOSTS;
        case HELLO_SHM:
        case HELLO_TCP:
        case HELLO_TRANSPORTS:
        default:
            return mine->device && theirs->device ? HELLO_NO_DEVICES : HELLO_HOST_MEMORY;
    }
}

bool hello_between_devices(const message_hello *a, const message_hello *b) {
    const uint32_t between = HELLO_BIT(HELLO_IPC) | HELLO_BIT(HELLO_NCCL);
    hello_transport t;
    diag d;
    return (a->transports & b->transports & between) &&
           hello_carries(a, b, between, &t, &d) == STATUS_OK;
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
    const uint32_t between = HELLO_BIT(HELLO_IPC) | HELLO_BIT(HELLO_NCCL);
    if (hello_converts(mine, theirs) && !((both &= between))) {
        str here = hello_kv_type(mine), there = hello_kv_type(theirs);
        return status_fail_param(d, STATUS_MISMATCH, "KV transport",
                                 "KV is %.*s here and %.*s there, which goes over ipc and NCCL "
                                 "alone, and neither is between the two",
                                 (int)here.bytes, here.data, (int)there.bytes, there.data);
    }
    if (mine->device >> 32 != theirs->device >> 32 || mine->device == 0) {
        both &= ~HELLO_BIT(HELLO_IPC); /* other hosts */
    }
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
