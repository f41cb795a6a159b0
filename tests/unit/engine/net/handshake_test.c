/* handshake_test.c -- what gets through, and that nothing else does. The bytes go through the
 * test's hands, so it can cut, change, repeat and reflect them. */
#include "engine/net/handshake.h"

#include <criterion/criterion.h>
#include <string.h>

#include "engine/base/rng.h"
#include "engine/base/str.h"

typedef struct {
    handshake dialler, acceptor;
    handshake_result dialler_result, acceptor_result;
    uint8_t sent[4][HANDSHAKE_FRAME_BYTES]; /* every frame on its way, in order */
    size_t sent_bytes[4];
    int frames;
} pair;

typedef void change(pair *p, int frame, uint8_t *bytes, size_t *count);

static handshake_options side(handshake_kind kind, uint32_t worker, uint64_t epoch) {
    handshake_options o = {.self = {kind, kind == HANDSHAKE_WORKER ? 3 : 0, worker, epoch},
                           .version_min = 2,
                           .version_max = 2,
                           .purpose = HANDSHAKE_CONTROL};
    memset(o.key, 'k', sizeof o.key);
    memset(o.nonce, (int)(epoch & 0xFF), sizeof o.nonce);
    return o;
}

static handshake_options dialler_side(void) {
    return side(HANDSHAKE_WORKER, 1, 100);
}

static handshake_options acceptor_side(void) {
    return side(HANDSHAKE_WORKER, 2, 200);
}

/* Feeds all bytes in pieces of at most `piece`. */
static handshake_result feed(handshake *h, const uint8_t *bytes, size_t count, size_t piece) {
    handshake_result r = HANDSHAKE_MORE;
    for (size_t at = 0; at < count && r == HANDSHAKE_MORE;) {
        size_t part = handshake_wants(h);
        part = part < piece ? part : piece;
        part = part < count - at ? part : count - at;
        cr_assert_gt(part, 0);
        r = handshake_feed(h, bytes + at, part);
        at += part;
    }
    return r;
}

/* Carries frames to and fro until nothing more is said. */
static void run(pair *p, const handshake_options *dialler, const handshake_options *acceptor,
                change *change_it, size_t piece) {
    *p = (pair){.frames = 0};
    handshake_start(&p->dialler, true, dialler);
    handshake_start(&p->acceptor, false, acceptor);
    p->dialler_result = p->acceptor_result = HANDSHAKE_MORE;
    for (int turn = 0; turn < 5; turn++) {
        handshake *from = turn % 2 ? &p->acceptor : &p->dialler;
        handshake *to = turn % 2 ? &p->dialler : &p->acceptor;
        handshake_result *result = turn % 2 ? &p->dialler_result : &p->acceptor_result;
        size_t count = from->out_bytes;
        if (count == 0 || *result != HANDSHAKE_MORE) {
            return;
        }
        cr_assert_lt(p->frames, 4);
        uint8_t *bytes = p->sent[p->frames];
        memcpy(bytes, from->out, count);
        from->out_bytes = 0;
        if (change_it) {
            change_it(p, p->frames, bytes, &count);
        }
        p->sent_bytes[p->frames++] = count;
        *result = feed(to, bytes, count, piece);
    }
}

static bool says(const handshake *h, const char *text) {
    return str_find(str_from(h->why.text), str_from(text), 0) != SIZE_MAX;
}

Test(handshake, two_that_hold_the_key_agree_on_everything) {
    for (size_t piece = 1; piece <= HANDSHAKE_FRAME_BYTES; piece *= 2) {
        pair p;
        handshake_options d = dialler_side(), a = acceptor_side();
        d.purpose = HANDSHAKE_PULL;
        memset(d.token, 9, sizeof d.token);
        d.expects = true;
        d.expected = a.self;
        run(&p, &d, &a, NULL, piece);
        cr_assert_eq(p.dialler_result, HANDSHAKE_DONE, "%s", p.dialler.why.text);
        cr_assert_eq(p.acceptor_result, HANDSHAKE_DONE, "%s", p.acceptor.why.text);
        cr_assert(p.acceptor.peer.epoch == 100 && p.acceptor.peer.worker == 1);
        cr_assert(p.acceptor.peer.kind == HANDSHAKE_WORKER && p.acceptor.peer.roles == 3);
        cr_assert(p.dialler.peer.epoch == 200 && p.dialler.peer.worker == 2);
        cr_assert_eq(p.acceptor.purpose, HANDSHAKE_PULL);
        cr_assert_eq(p.dialler.purpose, HANDSHAKE_PULL);
        cr_assert_arr_eq(p.acceptor.token, d.token, sizeof d.token);
        cr_assert_arr_eq(p.dialler.keys.send, p.acceptor.keys.receive, SEAL_KEY_BYTES);
        cr_assert_arr_eq(p.dialler.keys.receive, p.acceptor.keys.send, SEAL_KEY_BYTES);
        cr_assert_arr_neq(p.dialler.keys.send, p.dialler.keys.receive, SEAL_KEY_BYTES);
        cr_assert_arr_eq(p.dialler.secret, p.acceptor.secret, HANDSHAKE_KEY_BYTES);
        cr_assert_eq(p.frames, 4);
        uint8_t push[HANDSHAKE_TOKEN_BYTES], pull[HANDSHAKE_TOKEN_BYTES];
        handshake_kv_token(p.dialler.secret, HANDSHAKE_PUSH, push);
        handshake_kv_token(p.dialler.secret, HANDSHAKE_PULL, pull);
        cr_assert_arr_neq(push, pull, HANDSHAKE_TOKEN_BYTES);
    }
}

Test(handshake, other_nonces_give_other_keys) {
    pair p, q;
    handshake_options d = dialler_side(), a = acceptor_side();
    run(&p, &d, &a, NULL, 256);
    d.nonce[31] ^= 1;
    run(&q, &d, &a, NULL, 256);
    cr_assert_arr_neq(p.dialler.keys.send, q.dialler.keys.send, SEAL_KEY_BYTES);
    d = dialler_side();
    a.nonce[0] ^= 1;
    run(&q, &d, &a, NULL, 256);
    cr_assert_arr_neq(p.dialler.keys.send, q.dialler.keys.send, SEAL_KEY_BYTES);
}

/* Everything that keeps two ends apart, and the words that both of them have for it. */
static const struct {
    const char *what, *why;
    uint8_t key;
    uint16_t version_min, version_max;
    uint32_t worker;
    uint64_t epoch, self_epoch;
    handshake_kind kind;
} mismatches[] = {
    {"another key", "keys differ", 'K', 2, 2, 2, 200, 100, HANDSHAKE_WORKER},
    {"older versions", "version differs", 'k', 1, 1, 2, 200, 100, HANDSHAKE_WORKER},
    {"newer versions", "version differs", 'k', 3, 9, 2, 200, 100, HANDSHAKE_WORKER},
    {"a later life", "epoch 201", 'k', 2, 2, 2, 201, 100, HANDSHAKE_WORKER},
    {"an earlier life", "epoch 199", 'k', 2, 2, 2, 199, 100, HANDSHAKE_WORKER},
    {"another worker", "worker 5", 'k', 2, 2, 5, 200, 100, HANDSHAKE_WORKER},
    {"another kind", "gateway 2", 'k', 2, 2, 2, 200, 100, HANDSHAKE_GATEWAY},
    {"itself", "itself", 'k', 2, 2, 2, 200, 200, HANDSHAKE_WORKER},
};

Test(handshake, what_does_not_fit_is_refused_with_a_reason_on_both_sides) {
    for (size_t i = 0; i < sizeof mismatches / sizeof mismatches[0]; i++) {
        pair p;
        handshake_options d = dialler_side();
        d.self.epoch = mismatches[i].self_epoch;
        d.expects = true;
        d.expected = acceptor_side().self;
        handshake_options a = side(mismatches[i].kind, mismatches[i].worker, mismatches[i].epoch);
        memset(a.key, mismatches[i].key, sizeof a.key);
        a.version_min = mismatches[i].version_min;
        a.version_max = mismatches[i].version_max;
        run(&p, &d, &a, NULL, 256);
        cr_assert_eq(p.dialler_result, HANDSHAKE_REFUSED, "%s", mismatches[i].what);
        cr_assert_eq(p.acceptor_result, HANDSHAKE_REFUSED, "%s", mismatches[i].what);
        cr_assert(says(&p.dialler, mismatches[i].why), "%s: %s", mismatches[i].what,
                  p.dialler.why.text);
        cr_assert(says(&p.acceptor, mismatches[i].why), "%s: %s", mismatches[i].what,
                  p.acceptor.why.text);
    }
}

Test(handshake, the_newest_version_of_both_is_taken) {
    pair p;
    handshake_options d = dialler_side(), a = acceptor_side();
    d.version_min = 2;
    d.version_max = 5;
    a.version_min = 1;
    a.version_max = 4;
    run(&p, &d, &a, NULL, 256);
    cr_assert(p.dialler_result == HANDSHAKE_DONE && p.acceptor_result == HANDSHAKE_DONE);
    cr_assert(p.dialler.version == 4 && p.acceptor.version == 4);
}

/* ---- on the way ----------------------------------------------------------------------------- */

static int change_frame, change_at, change_bit;

static void flip(pair *p, int frame, uint8_t *bytes, size_t *count) {
    (void)p;
    if (frame == change_frame && change_at < (int)*count) {
        bytes[change_at] ^= (uint8_t)(1 << change_bit);
    }
}

Test(handshake, no_bit_of_any_frame_can_be_changed) {
    pair p;
    handshake_options d = dialler_side(), a = acceptor_side();
    run(&p, &d, &a, NULL, 256);
    size_t lengths[4];
    memcpy(lengths, p.sent_bytes, sizeof lengths);
    for (change_frame = 0; change_frame < 4; change_frame++) {
        for (change_at = 0; change_at < (int)lengths[change_frame]; change_at++) {
            for (change_bit = 0; change_bit < 8; change_bit++) {
                run(&p, &d, &a, flip, 256);
                /* The last frame tells the dialler only: its damage is the dialler's to see. */
                bool both =
                    p.dialler_result == HANDSHAKE_DONE && p.acceptor_result == HANDSHAKE_DONE;
                cr_assert_not(both, "frame %d byte %d bit %d", change_frame, change_at, change_bit);
                cr_assert_neq(p.dialler_result, HANDSHAKE_DONE, "frame %d byte %d bit %d",
                              change_frame, change_at, change_bit);
                if (change_frame < 3) {
                    cr_assert_neq(p.acceptor_result, HANDSHAKE_DONE);
                }
            }
        }
    }
}

/* The downgrade is an attacker's: both ends speak 2 to 4. */
static void downgrade(pair *p, int frame, uint8_t *bytes, size_t *count) {
    (void)p;
    (void)count;
    if (frame == 0) {
        bytes[HANDSHAKE_HEADER_BYTES + 2] = 2; /* version_max */
    }
}

Test(handshake, a_downgraded_offer_is_noticed) {
    pair p;
    handshake_options d = dialler_side(), a = acceptor_side();
    d.version_max = a.version_max = 4;
    run(&p, &d, &a, downgrade, 256);
    cr_assert_eq(p.dialler_result, HANDSHAKE_REFUSED);
    cr_assert_neq(p.acceptor_result, HANDSHAKE_DONE);
}

Test(handshake, frames_of_an_earlier_handshake_are_of_no_use) {
    pair heard, p;
    handshake_options d = dialler_side(), a = acceptor_side();
    run(&heard, &d, &a, NULL, 256);
    a.nonce[5] ^= 0x40; /* the acceptor's next connection */
    handshake_start(&p.acceptor, false, &a);
    cr_assert_eq(feed(&p.acceptor, heard.sent[0], heard.sent_bytes[0], 256), HANDSHAKE_MORE);
    p.acceptor.out_bytes = 0;
    cr_assert_eq(feed(&p.acceptor, heard.sent[2], heard.sent_bytes[2], 256), HANDSHAKE_REFUSED);
    d.nonce[5] ^= 0x40; /* the dialler's next connection */
    handshake_start(&p.dialler, true, &d);
    cr_assert_eq(feed(&p.dialler, heard.sent[1], heard.sent_bytes[1], 256), HANDSHAKE_REFUSED);
}

Test(handshake, what_one_says_is_of_no_use_when_thrown_back_at_it) {
    handshake h;
    handshake_options d = dialler_side();
    uint8_t own[HANDSHAKE_FRAME_BYTES];
    handshake_start(&h, true, &d);
    size_t bytes = h.out_bytes;
    memcpy(own, h.out, bytes);
    cr_assert_eq(feed(&h, own, bytes, 256), HANDSHAKE_REFUSED, "its OPEN as an answer");
    /* Its own listener, as a mirror: the answer has the key, but its own epoch. */
    handshake listener;
    handshake_options mirror = d;
    mirror.nonce[0] ^= 1;
    handshake_start(&listener, false, &mirror);
    cr_assert_eq(feed(&listener, own, bytes, 256), HANDSHAKE_REFUSED);
    cr_assert(says(&listener, "itself"));
}

Test(handshake, a_frame_cut_short_never_finishes) {
    pair p;
    handshake_options d = dialler_side(), a = acceptor_side();
    run(&p, &d, &a, NULL, 256);
    for (size_t cut = 0; cut < p.sent_bytes[0]; cut++) {
        handshake h;
        handshake_start(&h, false, &a);
        cr_assert_eq(feed(&h, p.sent[0], cut, 256), HANDSHAKE_MORE);
        cr_assert_gt(handshake_wants(&h), 0);
        cr_assert_eq(h.out_bytes, 0, "nothing is answered to half a question");
    }
}

Test(handshake, a_length_that_is_no_length_is_refused_before_its_body) {
    handshake_options a = acceptor_side();
    static const uint16_t lengths[] = {0, 1, 68, 70, 248, 249, 256, 4096, 65535};
    for (size_t i = 0; i < sizeof lengths / sizeof lengths[0]; i++) {
        handshake h;
        uint8_t header[HANDSHAKE_HEADER_BYTES] = {'W', 'E', 'I', 'R', 1, 0};
        header[6] = (uint8_t)lengths[i];
        header[7] = (uint8_t)(lengths[i] >> 8);
        handshake_start(&h, false, &a);
        cr_assert_eq(feed(&h, header, sizeof header, 256), HANDSHAKE_REFUSED, "%u", lengths[i]);
    }
}

Test(handshake, a_strangers_reason_cannot_write_to_the_terminal) {
    handshake h;
    handshake_options d = dialler_side();
    handshake_start(&h, true, &d);
    static const uint8_t frame[] = {'W', 'E', 'I', 'R', 5,   0,    8,   0,
                                    'a', 27,  '[', '2', 'J', '\n', '"', 0xff};
    cr_assert_eq(feed(&h, frame, sizeof frame, 256), HANDSHAKE_REFUSED);
    for (const char *c = h.why.text; *c; c++) {
        cr_assert(*c >= 0x20 && *c <= 0x7e && *c != '"', "%d", *c);
    }
}

Test(handshake, random_bytes_never_get_through) {
    uint64_t random = 8;
    handshake_options d = dialler_side(), a = acceptor_side();
    for (int i = 0; i < 30000; i++) {
        handshake h;
        bool dialler = i % 2;
        handshake_start(&h, dialler, dialler ? &d : &a);
        handshake_result r = HANDSHAKE_MORE;
        bool framed = rng_below(&random, 8) != 0;
        for (int frame = 0; frame < 4 && r == HANDSHAKE_MORE; frame++) {
            uint8_t bytes[HANDSHAKE_FRAME_BYTES];
            for (size_t k = 0; k < sizeof bytes; k++) {
                bytes[k] = (uint8_t)rng_next(&random);
            }
            if (framed) {
                memcpy(bytes, "WEIR", 4);
                bytes[4] = (uint8_t)(1 + rng_below(&random, 5));
                bytes[5] = 0;
                static const uint8_t sizes[] = {67, 80, 32, 69, 5};
                bytes[6] = sizes[rng_below(&random, 5)];
                bytes[7] = 0;
            }
            size_t wanted = handshake_wants(&h);
            r = handshake_feed(&h, bytes, wanted);
            if (r == HANDSHAKE_MORE && handshake_wants(&h) > 0) {
                r = handshake_feed(&h, bytes + wanted, handshake_wants(&h));
            }
            h.out_bytes = 0;
        }
        cr_assert_neq(r, HANDSHAKE_DONE);
    }
}
