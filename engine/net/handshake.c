/* handshake.c -- four frames; each proof is an HMAC-SHA-256 (RFC 2104) over everything said before
 * it, so what was not seen the same by both ends does not verify. The shape is that of the usual
 * mutual challenge and response with a shared key (ISO/IEC 9798-4, mechanism for mutual
 * authentication in three passes), with the answer "welcome" as a fourth. */
#include "engine/net/handshake.h"

#include <stdio.h>
#include <string.h>

#include "engine/base/bytes.h"
#include "engine/base/check.h"

enum {
    TYPE_OPEN = 1,
    TYPE_CHALLENGE,
    TYPE_PROOF,
    TYPE_WELCOME,
    TYPE_REFUSE,
    IDENT_BYTES = 1 + 1 + 4 + 8,
    OPEN_BYTES = 2 + 2 + IDENT_BYTES + 1 + HANDSHAKE_TOKEN_BYTES + HANDSHAKE_NONCE_BYTES,
    CHALLENGE_BYTES = 2 + IDENT_BYTES + HANDSHAKE_NONCE_BYTES + SHA256_BYTES,
    REASON_BYTES_MAX = HANDSHAKE_FRAME_BYTES - HANDSHAKE_HEADER_BYTES
};

_Static_assert(HANDSHAKE_HEADER_BYTES + CHALLENGE_BYTES <= HANDSHAKE_FRAME_BYTES, "fits");
_Static_assert(HANDSHAKE_HEADER_BYTES + OPEN_BYTES <= HANDSHAKE_FRAME_BYTES, "fits");

typedef enum { WAIT_OPEN, WAIT_CHALLENGE, WAIT_PROOF, WAIT_WELCOME, OVER } handshake_state;

static const uint8_t magic[4] = {'W', 'E', 'I', 'R'};

const char *handshake_kind_name(handshake_kind k) {
    return k == HANDSHAKE_HUB ? "hub" : k == HANDSHAKE_GATEWAY ? "gateway" : "worker";
}

/* ---- bytes ---------------------------------------------------------------------------------- */

static void put(uint8_t **p, uint64_t value, int bytes) {
    bytes_put(*p, value, bytes);
    *p += bytes;
}

static uint64_t get(const uint8_t **p, int bytes) {
    uint64_t value = bytes_get(*p, bytes);
    *p += bytes;
    return value;
}

static void put_bytes(uint8_t **p, const void *data, size_t bytes) {
    memcpy(*p, data, bytes);
    *p += bytes;
}

static void put_ident(uint8_t **p, const handshake_ident *who) {
    put(p, (uint64_t)who->kind, 1);
    put(p, who->roles, 1);
    put(p, who->worker, 4);
    put(p, who->epoch, 8);
}

static bool get_ident(const uint8_t **p, handshake_ident *who) {
    uint64_t kind = get(p, 1);
    who->roles = (uint32_t)get(p, 1);
    who->worker = (uint32_t)get(p, 4);
    who->epoch = get(p, 8);
    who->kind = (handshake_kind)kind;
    return kind >= HANDSHAKE_HUB && kind <= HANDSHAKE_WORKER;
}

/* The start of a frame in `out`; its body's place. */
static uint8_t *begin_frame(handshake *h, int type, size_t body_bytes) {
    CHECK_LE(h->out_bytes + HANDSHAKE_HEADER_BYTES + body_bytes, sizeof h->out);
    uint8_t *p = h->out + h->out_bytes;
    put_bytes(&p, magic, sizeof magic);
    put(&p, (uint64_t)type, 1);
    put(&p, 0, 1);
    put(&p, body_bytes, 2);
    h->out_bytes += HANDSHAKE_HEADER_BYTES + body_bytes;
    return p;
}

/* ---- proofs --------------------------------------------------------------------------------- */

/* The HMAC of a label and of all frames so far. */
static void prove(const handshake *h, const char *label, uint8_t out[SHA256_BYTES]) {
    uint8_t text[32 + SHA256_BYTES];
    sha256 fork = h->transcript;
    size_t bytes = strlen(label);
    CHECK_LE(bytes, 32);
    memcpy(text, label, bytes);
    sha256_finish(&fork, text + bytes);
    sha256_hmac(h->options.key, HANDSHAKE_KEY_BYTES, text, bytes + SHA256_BYTES, out);
}

static void derive(handshake *h) {
    uint8_t up[SHA256_BYTES], down[SHA256_BYTES];
    prove(h, "weir frames from dialler", up);
    prove(h, "weir frames from acceptor", down);
    prove(h, "weir secret", h->secret);
    memcpy(h->keys.send, h->dialler ? up : down, SEAL_KEY_BYTES);
    memcpy(h->keys.receive, h->dialler ? down : up, SEAL_KEY_BYTES);
}

/* ---- refusals ------------------------------------------------------------------------------- */

/* Tells the other end and this one. */
static handshake_result refuse(handshake *h, const char *reason) {
    size_t bytes = strlen(reason);
    bytes = bytes < REASON_BYTES_MAX ? bytes : REASON_BYTES_MAX;
    h->out_bytes = 0;
    uint8_t *p = begin_frame(h, TYPE_REFUSE, bytes);
    memcpy(p, reason, bytes);
    h->state = OVER;
    (void)status_fail(&h->why, STATUS_MISMATCH, "%s", reason);
    return HANDSHAKE_REFUSED;
}

/* The text is a stranger's: it ends in a log. */
static handshake_result refused(handshake *h, const uint8_t *body, size_t bytes) {
    char text[REASON_BYTES_MAX + 1];
    for (size_t i = 0; i < bytes; i++) {
        text[i] = (char)(body[i] >= 0x20 && body[i] <= 0x7e && body[i] != '"' ? body[i] : '?');
    }
    text[bytes] = 0;
    h->state = OVER;
    (void)status_fail(&h->why, STATUS_MISMATCH, "refused by the other side: %s", text);
    return HANDSHAKE_REFUSED;
}

/* ---- frames --------------------------------------------------------------------------------- */

static void send_open(handshake *h) {
    const handshake_options *o = &h->options;
    uint8_t *frame = h->out;
    uint8_t *p = begin_frame(h, TYPE_OPEN, OPEN_BYTES);
    put(&p, o->version_min, 2);
    put(&p, o->version_max, 2);
    put_ident(&p, &o->self);
    put(&p, (uint64_t)o->purpose, 1);
    put_bytes(&p, o->token, sizeof o->token);
    put_bytes(&p, o->nonce, sizeof o->nonce);
    sha256_add(&h->transcript, frame, h->out_bytes);
    h->state = WAIT_CHALLENGE;
}

static handshake_result on_open(handshake *h, const uint8_t *p) {
    const handshake_options *o = &h->options;
    uint16_t least = (uint16_t)get(&p, 2), most = (uint16_t)get(&p, 2);
    if (least > o->version_max || most < o->version_min) {
        char text[128];
        (void)snprintf(text, sizeof text, "protocol version differs: %u to %u here, %u to %u there",
                       o->version_min, o->version_max, least, most);
        return refuse(h, text);
    }
    if (!get_ident(&p, &h->peer)) {
        return refuse(h, "kind of process not known");
    }
    uint64_t purpose = get(&p, 1);
    if (purpose < HANDSHAKE_CONTROL || purpose > HANDSHAKE_PULL) {
        return refuse(h, "purpose of the connection not known");
    }
    if (h->peer.epoch == o->self.epoch) {
        return refuse(h, "a process may not connect to itself");
    }
    h->purpose = (handshake_purpose)purpose;
    memcpy(h->token, p, sizeof h->token);
    h->version = most < o->version_max ? most : o->version_max;
    sha256_add(&h->transcript, h->in, h->in_bytes);
    uint8_t *frame = h->out;
    uint8_t *q = begin_frame(h, TYPE_CHALLENGE, CHALLENGE_BYTES);
    put(&q, h->version, 2);
    put_ident(&q, &o->self);
    put_bytes(&q, o->nonce, sizeof o->nonce);
    sha256_add(&h->transcript, frame, (size_t)(q - frame));
    prove(h, "weir acceptor", q);
    sha256_add(&h->transcript, q, SHA256_BYTES);
    h->state = WAIT_PROOF;
    return HANDSHAKE_MORE;
}

static const char wrong_key[] = "the cluster keys differ";

static bool is_expected(const handshake_ident *want, const handshake_ident *got) {
    return got->kind == want->kind && got->epoch == want->epoch && got->worker == want->worker;
}

static handshake_result on_challenge(handshake *h, const uint8_t *p) {
    const handshake_options *o = &h->options;
    uint8_t proof[SHA256_BYTES];
    h->version = (uint16_t)get(&p, 2);
    bool kind_known = get_ident(&p, &h->peer);
    p += HANDSHAKE_NONCE_BYTES;
    sha256_add(&h->transcript, h->in, (size_t)(p - h->in));
    prove(h, "weir acceptor", proof);
    if (!sha256_equal(proof, p)) {
        return refuse(h, wrong_key);
    }
    if (h->version < o->version_min || h->version > o->version_max) {
        return refuse(h, "the version chosen was not offered");
    }
    if (!kind_known || h->peer.epoch == o->self.epoch) {
        return refuse(h, "a process may not connect to itself");
    }
    if (o->expects && !is_expected(&o->expected, &h->peer)) {
        char text[160];
        (void)snprintf(text, sizeof text,
                       "not who was expected: %s %u of epoch %llu, not %s %u of epoch %llu",
                       handshake_kind_name(h->peer.kind), h->peer.worker,
                       (unsigned long long)h->peer.epoch, handshake_kind_name(o->expected.kind),
                       o->expected.worker, (unsigned long long)o->expected.epoch);
        return refuse(h, text);
    }
    sha256_add(&h->transcript, p, SHA256_BYTES);
    uint8_t *frame = h->out;
    uint8_t *q = begin_frame(h, TYPE_PROOF, SHA256_BYTES);
    prove(h, "weir dialler", q);
    sha256_add(&h->transcript, frame, HANDSHAKE_HEADER_BYTES + SHA256_BYTES);
    prove(h, "weir welcome", h->expected_welcome);
    derive(h);
    h->state = WAIT_WELCOME;
    return HANDSHAKE_MORE;
}

static handshake_result on_proof(handshake *h, const uint8_t *p) {
    uint8_t proof[SHA256_BYTES];
    prove(h, "weir dialler", proof);
    if (!sha256_equal(proof, p)) {
        return refuse(h, wrong_key);
    }
    sha256_add(&h->transcript, h->in, h->in_bytes);
    prove(h, "weir welcome", begin_frame(h, TYPE_WELCOME, SHA256_BYTES));
    derive(h);
    h->state = OVER;
    return HANDSHAKE_DONE;
}

static handshake_result on_welcome(handshake *h, const uint8_t *p) {
    if (!sha256_equal(h->expected_welcome, p)) {
        return refuse(h, wrong_key);
    }
    h->state = OVER;
    h->purpose = h->options.purpose;
    return HANDSHAKE_DONE;
}

/* Which frame may come in a state, and how long its body is. */
static const struct {
    int type;
    size_t body_bytes;
    handshake_result (*take)(handshake *h, const uint8_t *body);
} steps[] = {
    [WAIT_OPEN] = {TYPE_OPEN, OPEN_BYTES, on_open},
    [WAIT_CHALLENGE] = {TYPE_CHALLENGE, CHALLENGE_BYTES, on_challenge},
    [WAIT_PROOF] = {TYPE_PROOF, SHA256_BYTES, on_proof},
    [WAIT_WELCOME] = {TYPE_WELCOME, SHA256_BYTES, on_welcome},
};

/* ---- the machine ---------------------------------------------------------------------------- */

void handshake_start(handshake *h, bool dialler, const handshake_options *options) {
    *h = (handshake){.options = *options, .dialler = dialler, .state = WAIT_OPEN};
    sha256_start(&h->transcript);
    if (dialler) {
        send_open(h);
    }
}

static size_t body_bytes(const handshake *h) {
    return (size_t)h->in[6] | (size_t)h->in[7] << 8;
}

size_t handshake_wants(const handshake *h) {
    if (h->state == OVER) {
        return 0;
    }
    if (h->in_bytes < HANDSHAKE_HEADER_BYTES) {
        return HANDSHAKE_HEADER_BYTES - h->in_bytes;
    }
    return HANDSHAKE_HEADER_BYTES + body_bytes(h) - h->in_bytes;
}

/* Before the body is read: only what may come now, in the length it has. */
static bool header_fits(const handshake *h) {
    size_t bytes = body_bytes(h);
    if (memcmp(h->in, magic, sizeof magic) != 0 || h->in[5] != 0) {
        return false;
    }
    if (h->in[4] == TYPE_REFUSE) {
        return bytes >= 1 && bytes <= REASON_BYTES_MAX;
    }
    return h->in[4] == steps[h->state].type && bytes == steps[h->state].body_bytes;
}

handshake_result handshake_feed(handshake *h, const void *data, size_t bytes) {
    CHECK_LE(bytes, handshake_wants(h));
    CHECK_LE(h->in_bytes + bytes, sizeof h->in);
    memcpy(h->in + h->in_bytes, data, bytes);
    h->in_bytes += bytes;
    if (h->in_bytes == HANDSHAKE_HEADER_BYTES && !header_fits(h)) {
        return refuse(h, "not a frame of weir's handshake");
    }
    if (handshake_wants(h) > 0) {
        return HANDSHAKE_MORE;
    }
    const uint8_t *body = h->in + HANDSHAKE_HEADER_BYTES;
    handshake_result r =
        h->in[4] == TYPE_REFUSE ? refused(h, body, body_bytes(h)) : steps[h->state].take(h, body);
    h->in_bytes = 0;
    return r;
}

void handshake_kv_token(const uint8_t secret[HANDSHAKE_KEY_BYTES], handshake_purpose purpose,
                        uint8_t out[HANDSHAKE_TOKEN_BYTES]) {
    const char *label = purpose == HANDSHAKE_PUSH ? "weir kv push" : "weir kv pull";
    uint8_t full[SHA256_BYTES];
    sha256_hmac(secret, HANDSHAKE_KEY_BYTES, label, strlen(label), full);
    memcpy(out, full, HANDSHAKE_TOKEN_BYTES);
}
