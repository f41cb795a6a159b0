/* fuzz_guard.c -- heads of HTTP requests: the verdict does not depend on how the bytes are cut, and
 * a head that passes means the same to another parser (llhttp). */
#include <llhttp.h>

#include "engine/base/mem.h"
#include "engine/base/rng.h"
#include "server/http/guard.h"
#include "tests/fuzz/fuzz.h"

enum { CUTS = 96 };

typedef struct {
    bool complete;
    char target[GUARD_TARGET_BYTES + 1];
    size_t target_bytes;
} witness;

static int on_target(llhttp_t *p, const char *at, size_t bytes) {
    witness *w = p->data;
    CHECK_LE(w->target_bytes + bytes, sizeof w->target);
    memcpy(w->target + w->target_bytes, at, bytes);
    w->target_bytes += bytes;
    return 0;
}

static int on_complete(llhttp_t *p) {
    witness *w = p->data;
    w->complete = true;
    return HPE_PAUSED;
}

/* llhttp may refuse what the guard lets pass (that ends the request), but must not understand it
 * in another way. */
static void check_witness(const char *data, const guard_head *h) {
    static llhttp_settings_t settings = {.on_url = on_target, .on_headers_complete = on_complete};
    witness w = {.complete = false};
    llhttp_t p;
    llhttp_init(&p, HTTP_REQUEST, &settings);
    p.data = &w;
    llhttp_errno_t early = llhttp_execute(&p, data, h->bytes - 1);
    CHECK(!w.complete);
    if (early != HPE_OK) {
        return;
    }
    (void)llhttp_execute(&p, data + h->bytes - 1, 1);
    CHECK(w.complete);
    CHECK(str_equal_z(h->method, llhttp_method_name((llhttp_method_t)p.method)));
    CHECK(str_equal(h->target, str_of(w.target, w.target_bytes)));
    CHECK_EQ((p.flags & F_CHUNKED) != 0, h->chunked);
    CHECK_EQ((int64_t)p.content_length, h->body_bytes);
    CHECK(!h->keep || llhttp_should_keep_alive(&p) || (p.flags & F_UPGRADE));
}

static void check_cut(const uint8_t *data, size_t bytes, guard_verdict whole,
                      const guard_head *head) {
    char *copy = fuzz_copy(str_of((const char *)data, bytes));
    guard_head h;
    guard_verdict v = guard_read(copy, bytes, &h);
    if (v == GUARD_PASS) {
        CHECK(whole == GUARD_PASS && h.bytes == head->bytes && h.bytes <= bytes);
        CHECK(h.body_bytes == head->body_bytes && h.chunked == head->chunked);
        CHECK(h.keep == head->keep && h.expects == head->expects);
    } else if (v == GUARD_REFUSE) {
        CHECK_EQ(whole, GUARD_REFUSE);
        CHECK(h.code >= 400 && h.code < 600 && h.reason != NULL);
    } else {
        CHECK(whole != GUARD_PASS || bytes < head->bytes);
    }
    mem_free(copy);
}

FUZZ_TARGET(guard, FUZZ_ALLOWANCE_BYTES) {
    guard_head head;
    guard_verdict whole = guard_read((const char *)data, bytes, &head);
    if (whole == GUARD_PASS) {
        CHECK(head.bytes <= bytes && head.bytes <= LIMIT_HEADER_BYTES);
        CHECK(!head.chunked || head.body_bytes == 0);
        check_witness((const char *)data, &head);
        check_cut(data, head.bytes, whole, &head);
        check_cut(data, head.bytes - 1, whole, &head);
    }
    uint64_t state = bytes;
    for (size_t i = 0; i < CUTS && bytes > 0; i++) {
        size_t cut = bytes <= CUTS ? i % bytes : (size_t)rng_below(&state, bytes);
        check_cut(data, cut, whole, &head);
    }
}
