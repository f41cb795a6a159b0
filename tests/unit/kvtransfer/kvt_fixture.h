/* kvt_fixture.h -- two pools and a channel between them, over any transport.
 *
 * Purpose    The same tests run over every transport: a fixture opens a sender over one pool and a
 *            receiver over the other. Pages are guarded: a page or layer that no job may touch
 *            fails the test.
 * Ownership  fixture_open takes memory and descriptors; fixture_close gives them back.
 * Threads    One.
 * Limits     FIXTURE_* below.
 */
#ifndef TESTS_UNIT_KVTRANSFER_KVT_FIXTURE_H
#define TESTS_UNIT_KVTRANSFER_KVT_FIXTURE_H

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine/base/clock.h"
#include "engine/base/rng.h"
#include "kvtransfer/ipc.h"
#include "kvtransfer/local.h"
#include "kvtransfer/nccl.h"
#include "kvtransfer/shm.h"
#include "kvtransfer/tcp.h"

enum {
    FIXTURE_LAYERS = 3,
    FIXTURE_PAGES = 48,
    FIXTURE_UNIT = 704, /* no power of two: frames wrap at every offset */
    FIXTURE_GENERATION = 7,
    FIXTURE_PIECES = FIXTURE_LAYERS * FIXTURE_PAGES
};

typedef struct {
    uint8_t bytes[FIXTURE_PIECES][FIXTURE_UNIT];
} fixture_pool;

typedef struct {
    fixture_pool *from, *to;
    wire *near, *far; /* shm: the wire that carried the offer */
    kvt *sender, *receiver;
    bool held; /* fixture_arrive saw a completion: fixture_done's to report */
    uint32_t held_sequence;
} fixture;

static inline uint8_t *fixture_page(void *context, uint32_t layer, uint32_t page) {
    fixture_pool *pool = context;
    cr_assert_lt(layer, FIXTURE_LAYERS);
    cr_assert_lt(page, FIXTURE_PAGES);
    return pool->bytes[layer * FIXTURE_PAGES + page];
}

static inline kvt_pool fixture_view(fixture_pool *pool) {
    return (kvt_pool){fixture_page, pool, FIXTURE_UNIT};
}

/* Random content that no other call gave. */
static inline void fixture_fill(uint8_t piece[FIXTURE_UNIT], uint64_t *random) {
    for (int i = 0; i < FIXTURE_UNIT; i += 8) {
        uint64_t word = rng_next(random);
        memcpy(piece + i, &word, 8);
    }
}

static inline void fixture_pools(fixture *f) {
    *f = (fixture){.from = calloc(1, sizeof *f->from), .to = calloc(1, sizeof *f->to)};
    uint64_t random = 99;
    for (int i = 0; i < FIXTURE_PIECES; i++) {
        fixture_fill(f->from->bytes[i], &random);
    }
    memset(f->to, 0xEE, sizeof *f->to);
}

static inline void fixture_wires(fixture *f) {
    int fds[2];
    cr_assert_eq(wire_pair(fds), STATUS_OK);
    cr_assert_eq(wire_open(fds[0], 1 << 20, &f->near), STATUS_OK);
    cr_assert_eq(wire_open(fds[1], 1 << 20, &f->far), STATUS_OK);
}

/* Takes a whole offer from `far`. */
static inline kvt *fixture_accept(wire *far, fixture_pool *to) {
    kvt_pool view = fixture_view(to);
    shm_pending offer = {0};
    shm_pending_clear(&offer);
    kvt *channel = NULL;
    while (!channel) {
        str bytes;
        int fd;
        diag d;
        wire_result r = wire_receive(far, &bytes, &fd);
        cr_assert_neq(r, WIRE_CLOSED);
        if (r == WIRE_MESSAGE) {
            cr_assert(shm_is_offer(bytes));
            cr_assert_eq(shm_accept(&offer, &view, bytes, fd, &channel, &d), STATUS_OK, "%s",
                         d.text);
        }
    }
    return channel;
}

static inline void fixture_open_local(fixture *f) {
    diag d;
    fixture_pools(f);
    kvt_pool from = fixture_view(f->from), to = fixture_view(f->to);
    cr_assert_eq(local_pair(&from, &to, FIXTURE_GENERATION, &f->sender, &f->receiver, &d),
                 STATUS_OK);
}

static inline void fixture_open_shm(fixture *f) {
    diag d;
    fixture_pools(f);
    fixture_wires(f);
    kvt_pool from = fixture_view(f->from);
    cr_assert_eq(shm_offer(&from, SHM_RING_BYTES_MIN, FIXTURE_GENERATION, f->near, &f->sender, &d),
                 STATUS_OK, "%s", d.text);
    cr_assert(wire_flush(f->near));
    f->receiver = fixture_accept(f->far, f->to);
}

static const seal_keys fixture_sender_keys = {.send = {1, 2, 3}};
static const seal_keys fixture_receiver_keys = {.receive = {1, 2, 3}};

static inline void fixture_open_tcp(fixture *f) {
    diag d;
    int fds[2];
    fixture_pools(f);
    kvt_pool from = fixture_view(f->from), to = fixture_view(f->to);
    cr_assert_eq(wire_pair(fds), STATUS_OK);
    cr_assert_eq(tcp_open(&from, FIXTURE_GENERATION, false, &f->sender, &d), STATUS_OK);
    cr_assert_eq(tcp_open(&to, FIXTURE_GENERATION, true, &f->receiver, &d), STATUS_OK);
    cr_assert_eq(tcp_attach(f->sender, fds[0], &fixture_sender_keys, &d), STATUS_OK);
    cr_assert_eq(tcp_attach(f->receiver, fds[1], &fixture_receiver_keys, &d), STATUS_OK);
}

#ifdef WEIR_EMU_LIBRARY
static const seal_keys fixture_near_keys = {.send = {4, 5}, .receive = {6, 7}};
static const seal_keys fixture_far_keys = {.send = {6, 7}, .receive = {4, 5}};

/* Two emulated devices, one a side; the pools are host memory, which CUDA copies as well. */
static inline void fixture_open_nccl_within(fixture *f, int64_t limit_us) {
    diag d;
    int fds[2];
    (void)setenv("EMU_DEVICES", "2", 1);
    (void)setenv("EMU_NCCL_ONE_THREAD", "1", 1);
    (void)setenv("WEIR_NCCL", WEIR_EMU_LIBRARY, 1);
    fixture_pools(f);
    kvt_pool from = fixture_view(f->from), to = fixture_view(f->to);
    devpair_options o = {.stage_bytes = (uint64_t)FIXTURE_PIECES * FIXTURE_UNIT,
                         .setup_us = limit_us,
                         .transfer_us = limit_us};
    cr_assert_eq(wire_pair(fds), STATUS_OK);
    cr_assert_eq(nccl_open(&from, &o, FIXTURE_GENERATION, false, &f->sender, &d), STATUS_OK, "%s",
                 d.text);
    o.device = 1;
    cr_assert_eq(nccl_open(&to, &o, FIXTURE_GENERATION, true, &f->receiver, &d), STATUS_OK);
    cr_assert_eq(devpair_attach(f->sender, fds[0], &fixture_near_keys, &d), STATUS_OK);
    cr_assert_eq(devpair_attach(f->receiver, fds[1], &fixture_far_keys, &d), STATUS_OK);
}

static inline void fixture_open_nccl(fixture *f) {
    fixture_open_nccl_within(f, 60000000);
}

static inline void fixture_open_ipc_within(fixture *f, int64_t limit_us) {
    diag d;
    int fds[2];
    (void)setenv("EMU_DEVICES", "2", 1);
    (void)setenv("WEIR_NCCL", WEIR_EMU_LIBRARY, 1);
    fixture_pools(f);
    kvt_pool from = fixture_view(f->from), to = fixture_view(f->to);
    devpair_options o = {.stage_bytes = (uint64_t)FIXTURE_PIECES * FIXTURE_UNIT,
                         .transfer_us = limit_us};
    cr_assert_eq(wire_pair(fds), STATUS_OK);
    cr_assert_eq(ipc_open(&from, &o, FIXTURE_GENERATION, false, &f->sender, &d), STATUS_OK, "%s",
                 d.text);
    o.device = 1;
    cr_assert_eq(ipc_open(&to, &o, FIXTURE_GENERATION, true, &f->receiver, &d), STATUS_OK);
    cr_assert_eq(devpair_attach(f->sender, fds[0], &fixture_near_keys, &d), STATUS_OK);
    cr_assert_eq(devpair_attach(f->receiver, fds[1], &fixture_far_keys, &d), STATUS_OK);
}

static inline void fixture_open_ipc(fixture *f) {
    fixture_open_ipc_within(f, 60000000);
}
#endif

/* kvt_receive until it has something to say (of completions the latest is kept), while the sender
 * goes on: a transport may need both sides for what is under way. */
static inline kvt_result fixture_arrive(fixture *f, kvt_arrival *a) {
    int64_t until = clock_now_us() + 120000000;
    kvt_result r;
    while ((r = kvt_receive(f->receiver, a)) == KVT_AGAIN && clock_now_us() < until) {
        f->held = kvt_sent(f->sender, &f->held_sequence) || f->held;
    }
    return r;
}

/* kvt_sent, until there is one. */
static inline bool fixture_done(fixture *f, uint32_t *sequence) {
    int64_t until = clock_now_us() + 120000000;
    while (!f->held && !kvt_failed(f->sender) && clock_now_us() < until) {
        f->held = kvt_sent(f->sender, &f->held_sequence);
    }
    bool done = f->held;
    *sequence = f->held_sequence;
    f->held = false;
    return done;
}

static inline void fixture_close(fixture *f) {
    kvt_close(f->sender);
    kvt_close(f->receiver);
    /* Helpers that abort communicators outlive the channel, and must not outlive the process. */
    bool hung;
    for (int64_t until = clock_now_us() + 1000000;
         nccl_aborting(&hung) > 0 && clock_now_us() < until;) {
        (void)usleep(100);
    }
    wire_close(f->near);
    wire_close(f->far);
    free(f->from);
    free(f->to);
    *f = (fixture){0};
}

/* A job of `count` pages from `first` on, all layers. */
static inline kvt_job fixture_job(uint32_t sequence, uint32_t first, uint32_t count) {
    kvt_job j = {.request = 1000 + sequence,
                 .attempt = 2,
                 .group = sequence,
                 .sequence = sequence,
                 .layer_first = 0,
                 .layers = FIXTURE_LAYERS,
                 .pages_count = count};
    for (uint32_t i = 0; i < count; i++) {
        j.pages[i] = (first + i) % FIXTURE_PAGES;
    }
    return j;
}

static inline bool fixture_same(const fixture *f, const kvt_job *source, const kvt_job *target) {
    for (uint32_t l = 0; l < target->layers; l++) {
        for (uint32_t p = 0; p < target->pages_count; p++) {
            if (memcmp(fixture_page(f->from, source->layer_first + l, source->pages[p]),
                       fixture_page(f->to, target->layer_first + l, target->pages[p]),
                       FIXTURE_UNIT) != 0) {
                return false;
            }
        }
    }
    return true;
}

/* True when nothing was ever written to the receiver's pool, or it was painted again since. */
static inline bool fixture_untouched(const fixture *f) {
    const uint8_t *b = (const uint8_t *)f->to->bytes;
    for (size_t i = 0; i < sizeof f->to->bytes; i++) {
        if (b[i] != 0xEE) {
            return false;
        }
    }
    return true;
}

#endif
