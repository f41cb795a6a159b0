/* fuzz_handshake.c -- two ends of a new connection and somebody in the middle: an end is through
 * only when it has the key and got every byte as the other end sent it, and then both agree. */
#include "engine/net/handshake.h"
#include "tests/fuzz/fuzz.h"

enum { FRAMES_MAX = 12 };

typedef struct {
    handshake ends[2]; /* the dialler first */
    handshake_result results[2];
    bool altered[2];                     /* it was given other bytes than the other end sent */
    uint8_t kept[HANDSHAKE_FRAME_BYTES]; /* [kept_bytes] the last frame on its way */
    size_t kept_bytes;
} rig;

static handshake_ident make_ident(fuzz_input *in) {
    uint32_t bits = fuzz_below(in, 256);
    handshake_ident i = {
        .kind = (handshake_kind)(1 + bits % 3), .worker = UINT32_MAX, .epoch = bits};
    if (i.kind == HANDSHAKE_WORKER) {
        i.roles = 1 + (bits >> 2 & 1);
        i.worker = bits >> 3 & 7;
    }
    return i;
}

static bool same_ident(const handshake_ident *a, const handshake_ident *b) {
    return a->kind == b->kind && a->roles == b->roles && a->worker == b->worker &&
           a->epoch == b->epoch;
}

static handshake_options make_options(fuzz_input *in, uint8_t nonce) {
    handshake_options o = {.self = make_ident(in), .version_max = 3};
    uint32_t bits = fuzz_below(in, 256);
    memset(o.key, (bits & 7) == 7, sizeof o.key);
    memset(o.nonce, nonce, sizeof o.nonce);
    o.version_min = (uint16_t)(1 + (bits >> 3 & 3));
    o.version_max = (uint16_t)(o.version_min + (bits >> 5 & 1));
    o.purpose = (handshake_purpose)(1 + (bits >> 6) % 3);
    memset(o.token, (int)bits, sizeof o.token);
    return o;
}

/* What the one in the middle makes of a frame; true when it is not what it was. */
static bool tamper(rig *r, fuzz_input *in, uint8_t *frame, size_t *bytes) {
    uint8_t was[HANDSHAKE_FRAME_BYTES];
    size_t was_bytes = *bytes;
    memcpy(was, frame, was_bytes);
    switch (fuzz_below(in, 8)) {
        case 1:
            frame[fuzz_below(in, (uint32_t)*bytes)] ^= (uint8_t)(1u << fuzz_below(in, 8));
            break;
        case 2: {
            str raw = fuzz_take(in, fuzz_below(in, HANDSHAKE_FRAME_BYTES));
            memcpy(frame, raw.data, raw.bytes);
            *bytes = raw.bytes > *bytes ? raw.bytes : *bytes;
            break;
        }
        case 3: /* an old one again, or the receiver's own */
            if (r->kept_bytes > 0) {
                memcpy(frame, r->kept, r->kept_bytes);
                *bytes = r->kept_bytes;
            }
            break;
        case 4:
            *bytes = fuzz_below(in, (uint32_t)*bytes);
            break;
        default:
            break;
    }
    memcpy(r->kept, was, was_bytes);
    r->kept_bytes = was_bytes;
    return *bytes != was_bytes || memcmp(was, frame, was_bytes) != 0;
}

static void give(rig *r, int to, const uint8_t *data, size_t bytes) {
    handshake *h = &r->ends[to];
    for (size_t at = 0; at < bytes && r->results[to] == HANDSHAKE_MORE;) {
        size_t n = handshake_wants(h);
        CHECK(n > 0 && n <= HANDSHAKE_FRAME_BYTES);
        n = n < bytes - at ? n : bytes - at;
        r->results[to] = handshake_feed(h, data + at, n);
        CHECK_LE(h->out_bytes, sizeof h->out);
        at += n;
    }
}

static void check(const rig *r, int e) {
    const handshake *h = &r->ends[e];
    const handshake *other = &r->ends[1 - e];
    if (r->results[e] == HANDSHAKE_REFUSED) {
        CHECK(h->why.text[0] != 0);
    }
    if (r->results[e] != HANDSHAKE_DONE) {
        return;
    }
    CHECK(!r->altered[e]);
    CHECK_EQ(memcmp(h->options.key, other->options.key, HANDSHAKE_KEY_BYTES), 0);
    CHECK(same_ident(&h->peer, &other->options.self));
    CHECK(h->version >= h->options.version_min && h->version <= h->options.version_max);
    CHECK(h->version >= other->options.version_min && h->version <= other->options.version_max);
    CHECK(!h->options.expects || !h->dialler || same_ident(&h->options.expected, &h->peer));
    CHECK_EQ(h->purpose, r->ends[0].options.purpose);
    if (r->results[1 - e] == HANDSHAKE_DONE) {
        CHECK_EQ(memcmp(h->keys.send, other->keys.receive, SEAL_KEY_BYTES), 0);
        CHECK_EQ(memcmp(r->ends[1].token, r->ends[0].options.token, HANDSHAKE_TOKEN_BYTES), 0);
        CHECK(h->version == other->version);
        CHECK(memcmp(h->keys.send, h->keys.receive, SEAL_KEY_BYTES) != 0);
    }
}

FUZZ_TARGET(handshake, FUZZ_ALLOWANCE_BYTES) {
    fuzz_input in = {data, bytes, 0};
    rig r = {.results = {HANDSHAKE_MORE, HANDSHAKE_MORE}};
    handshake_options a = make_options(&in, 1);
    handshake_options b = make_options(&in, 2);
    a.expects = fuzz_below(&in, 2);
    a.expected = fuzz_below(&in, 4) == 3 ? make_ident(&in) : b.self;
    handshake_start(&r.ends[0], true, &a);
    handshake_start(&r.ends[1], false, &b);
    bool clean = true;
    for (int i = 0; i < FRAMES_MAX; i++) {
        for (int from = 0; from < 2; from++) {
            handshake *h = &r.ends[from];
            if (h->out_bytes == 0) {
                continue;
            }
            uint8_t frame[2 * HANDSHAKE_FRAME_BYTES];
            size_t count = h->out_bytes;
            memcpy(frame, h->out, count);
            h->out_bytes = 0;
            bool waits = r.results[1 - from] == HANDSHAKE_MORE;
            bool changed = tamper(&r, &in, frame, &count);
            r.altered[1 - from] = r.altered[1 - from] || (waits && changed);
            clean = clean && !changed;
            give(&r, 1 - from, frame, count);
        }
    }
    check(&r, 0);
    check(&r, 1);
    /* Left alone, both come to the same end. */
    CHECK(!clean || (r.results[0] == r.results[1] && r.results[0] != HANDSHAKE_MORE));
}
