/* kvt_test.c -- what every transport promises, over each of them. */
#define _GNU_SOURCE
#include "kvtransfer/kvt.h"

#include <poll.h>

#include "tests/unit/kvtransfer/kvt_fixture.h"

static void (*const transports[])(fixture *) = {fixture_open_local, fixture_open_shm,
                                                fixture_open_tcp,
#ifdef WEIR_EMU_LIBRARY
                                                fixture_open_nccl, fixture_open_ipc
#endif
};

#define EACH_TRANSPORT(f)                                                    \
    for (size_t t_ = 0; t_ < sizeof transports / sizeof transports[0]; t_++) \
        for (bool open_ = (transports[t_](&(f)), true); open_; open_ = (fixture_close(&(f)), false))

static bool readable(int fd) {
    struct pollfd p = {fd, POLLIN, 0};
    return poll(&p, 1, 0) == 1;
}

Test(kvt, pages_arrive_where_they_were_wanted) {
    fixture f;
    EACH_TRANSPORT(f) {
        kvt_job send = fixture_job(0, 5, 4), post = fixture_job(0, 20, 4);
        send.layer_first = post.layer_first = 1;
        send.layers = post.layers = 2;
        kvt_arrival a;
        uint32_t done;
        cr_assert_eq(kvt_receive(f.receiver, &a), KVT_AGAIN);
        cr_assert_eq(kvt_post(f.receiver, &post), KVT_DONE);
        cr_assert_eq(kvt_receive(f.receiver, &a), KVT_AGAIN);
        cr_assert_not(kvt_sent(f.sender, &done));
        cr_assert_eq(kvt_send(f.sender, &send), KVT_DONE);
        cr_assert(readable(kvt_event_fd(f.receiver)));
        kvt_event_clear(f.receiver);
        cr_assert_eq(fixture_arrive(&f, &a), KVT_DONE);
        cr_assert_eq(a.outcome, KVT_ARRIVED);
        cr_assert_eq(a.sequence, 0);
        cr_assert_eq(a.bytes, (uint64_t)2 * 4 * FIXTURE_UNIT);
        cr_assert_eq(a.bytes, kvt_job_bytes(f.sender, &send));
        cr_assert(fixture_same(&f, &send, &post));
        cr_assert(fixture_done(&f, &done));
        cr_assert_eq(done, 0);
        cr_assert_not(kvt_sent(f.sender, &done));
        for (uint32_t layer = 0; layer < FIXTURE_LAYERS; layer++) {
            for (uint32_t page = 0; page < FIXTURE_PAGES; page++) {
                bool wanted = layer >= 1 && page >= 20 && page < 24;
                cr_assert_eq(fixture_page(f.to, layer, page)[0] == 0xEE &&
                                 fixture_page(f.to, layer, page)[FIXTURE_UNIT - 1] == 0xEE,
                             !wanted);
            }
        }
    }
}

Test(kvt, an_empty_answer_touches_nothing) {
    fixture f;
    EACH_TRANSPORT(f) {
        kvt_job post = fixture_job(0, 0, 8), send = fixture_job(0, 0, 0);
        send.junk = true;
        kvt_arrival a;
        cr_assert_eq(kvt_post(f.receiver, &post), KVT_DONE);
        cr_assert_eq(kvt_send(f.sender, &send), KVT_DONE);
        cr_assert_eq(fixture_arrive(&f, &a), KVT_DONE);
        cr_assert_eq(a.outcome, KVT_JUNK);
        cr_assert_eq(a.bytes, 0);
        cr_assert(fixture_untouched(&f));
    }
}

/* What one side of a test job may say otherwise. */
static const struct {
    const char *what;
    int64_t request, attempt, group, sequence, pages, layers;
} differences[] = {
    {"another request", 1, 0, 0, 0, 0, 0}, {"an older attempt", 0, -1, 0, 0, 0, 0},
    {"a later attempt", 0, 1, 0, 0, 0, 0}, {"another group", 0, 0, 1, 0, 0, 0},
    {"a repeat", 0, 0, 0, -1, 0, 0},       {"a gap", 0, 0, 0, 1, 0, 0},
    {"fewer pages", 0, 0, 0, 0, -1, 0},    {"more pages", 0, 0, 0, 0, 1, 0},
    {"fewer layers", 0, 0, 0, 0, 0, -1},
};

Test(kvt, what_was_not_asked_for_is_damage_and_the_channel_goes_on) {
    for (size_t i = 0; i < sizeof differences / sizeof differences[0]; i++) {
        fixture f;
        EACH_TRANSPORT(f) {
            kvt_job post = fixture_job(5, 0, 4), send = post;
            send.request += (uint64_t)differences[i].request;
            send.attempt += (uint32_t)differences[i].attempt;
            send.group += (uint32_t)differences[i].group;
            send.sequence += (uint32_t)differences[i].sequence;
            send.pages_count += (uint32_t)differences[i].pages;
            send.layers += (uint32_t)differences[i].layers;
            send.pages[4] = 9;
            kvt_arrival a;
            cr_assert_eq(kvt_post(f.receiver, &post), KVT_DONE);
            cr_assert_eq(kvt_send(f.sender, &send), KVT_DONE);
            cr_assert_eq(fixture_arrive(&f, &a), KVT_DONE);
            cr_assert_eq(a.outcome, KVT_DAMAGED, "%s", differences[i].what);
            cr_assert(fixture_untouched(&f), "%s", differences[i].what);
            post = fixture_job(6, 0, 4);
            cr_assert_eq(kvt_post(f.receiver, &post), KVT_DONE);
            cr_assert_eq(kvt_send(f.sender, &post), KVT_DONE);
            cr_assert_eq(fixture_arrive(&f, &a), KVT_DONE);
            cr_assert_eq(a.outcome, KVT_ARRIVED);
            cr_assert(fixture_same(&f, &post, &post));
        }
    }
}

Test(kvt, a_sender_of_another_life_is_damage) {
    fixture f;
    EACH_TRANSPORT(f) {
        kvt_job job = fixture_job(0, 0, 2);
        kvt_arrival a;
        f.sender->generation++;
        cr_assert_eq(kvt_post(f.receiver, &job), KVT_DONE);
        cr_assert_eq(kvt_send(f.sender, &job), KVT_DONE);
        f.receiver->generation += 2;
        cr_assert_eq(fixture_arrive(&f, &a), KVT_DONE);
        if (strcmp(kvt_name(f.sender), "local") != 0) {
            cr_assert_eq(a.outcome, KVT_DAMAGED);
            cr_assert(fixture_untouched(&f));
        }
    }
}

Test(kvt, more_posts_than_the_limit_break_the_channel) {
    fixture f;
    EACH_TRANSPORT(f) {
        kvt_arrival a;
        for (uint32_t i = 0; i < KVT_JOBS_MAX; i++) {
            kvt_job job = fixture_job(i, 0, 1);
            cr_assert_eq(kvt_post(f.receiver, &job), KVT_DONE);
        }
        kvt_job job = fixture_job(KVT_JOBS_MAX, 0, 1);
        cr_assert_eq(kvt_post(f.receiver, &job), KVT_FAILED);
        cr_assert_eq(kvt_post(f.receiver, &job), KVT_FAILED);
        cr_assert_eq(kvt_receive(f.receiver, &a), KVT_FAILED);
    }
}

/* ---- random jobs ---------------------------------------------------------------------------- */

enum { JOBS = 4000, JOBS_EMULATED = 300, WINDOW = 64 };

typedef struct {
    fixture *f;
    uint64_t random;
    kvt_job sends[WINDOW], posts[WINDOW]; /* by sequence % WINDOW */
    uint32_t jobs;                        /* to make: fewer where a device is emulated */
    uint32_t made, posted, sent, done, received;
    bool from_busy[FIXTURE_PAGES], to_busy[FIXTURE_PAGES];
    uint32_t again, junk;
} traffic;

/* `count` pages nobody uses, or fewer. */
static uint32_t take_pages(traffic *t, bool *busy, uint32_t *pages, uint32_t count) {
    uint32_t got = 0;
    uint32_t at = (uint32_t)rng_below(&t->random, FIXTURE_PAGES);
    for (uint32_t i = 0; i < FIXTURE_PAGES && got < count; i++, at = (at + 1) % FIXTURE_PAGES) {
        if (!busy[at]) {
            busy[at] = true;
            pages[got++] = at;
        }
    }
    return got;
}

static void give_pages(bool *busy, const kvt_job *job) {
    for (uint32_t i = 0; i < job->pages_count; i++) {
        busy[job->pages[i]] = false;
    }
}

static void make_job(traffic *t) {
    if (t->made == t->jobs || t->made - t->done == WINDOW || t->made - t->received == WINDOW) {
        return;
    }
    kvt_job *post = &t->posts[t->made % WINDOW], *send = &t->sends[t->made % WINDOW];
    *post = fixture_job(t->made, 0, 0);
    post->layer_first = (uint32_t)rng_below(&t->random, FIXTURE_LAYERS);
    post->layers = 1 + (uint32_t)rng_below(&t->random, FIXTURE_LAYERS - post->layer_first);
    *send = *post;
    uint32_t want = 1 + (uint32_t)rng_below(&t->random, rng_below(&t->random, 4) ? 6 : 30);
    uint32_t most = take_pages(t, t->to_busy, post->pages, want);
    uint32_t got = take_pages(t, t->from_busy, send->pages, most);
    for (uint32_t i = got; i < most; i++) {
        t->to_busy[post->pages[i]] = false;
    }
    post->pages_count = send->pages_count = got;
    if (rng_below(&t->random, 8) == 0) {
        give_pages(t->from_busy, send);
        send->junk = true;
        send->pages_count = 0;
    }
    t->made++;
}

static void post_one(traffic *t) {
    if (t->posted < t->made) {
        cr_assert_eq(kvt_post(t->f->receiver, &t->posts[t->posted % WINDOW]), KVT_DONE);
        t->posted++;
    }
}

static void send_one(traffic *t) {
    if (t->sent < t->made) {
        kvt_result r = kvt_send(t->f->sender, &t->sends[t->sent % WINDOW]);
        cr_assert_neq(r, KVT_FAILED);
        t->sent += r == KVT_DONE;
        t->again += r == KVT_AGAIN;
    }
}

static void receive_one(traffic *t) {
    kvt_arrival a;
    kvt_result r = kvt_receive(t->f->receiver, &a);
    cr_assert_neq(r, KVT_FAILED);
    if (r == KVT_AGAIN) {
        return;
    }
    const kvt_job *post = &t->posts[t->received % WINDOW], *send = &t->sends[t->received % WINDOW];
    cr_assert_eq(a.sequence, t->received);
    cr_assert_eq(a.outcome, send->junk ? KVT_JUNK : KVT_ARRIVED);
    t->junk += send->junk;
    give_pages(t->to_busy, post);
    t->received++;
}

/* A finished send's pages may change: they do. What arrived is compared before, from a copy. */
static void finish_one(traffic *t) {
    fixture *f = t->f;
    f->held = f->held || kvt_sent(f->sender, &f->held_sequence);
    if (t->done < t->received && f->held) {
        const kvt_job *send = &t->sends[t->done % WINDOW];
        cr_assert_eq(f->held_sequence, t->done);
        f->held = false;
        for (uint32_t l = 0; l < send->layers; l++) {
            for (uint32_t p = 0; p < send->pages_count; p++) {
                fixture_fill(fixture_page(t->f->from, send->layer_first + l, send->pages[p]),
                             &t->random);
            }
        }
        give_pages(t->from_busy, send);
        t->done++;
    }
}

static void receive_and_compare(traffic *t) {
    uint32_t before = t->received;
    receive_one(t);
    if (t->received > before) {
        const kvt_job *send = &t->sends[before % WINDOW];
        cr_assert(send->junk || fixture_same(t->f, send, &t->posts[before % WINDOW]));
    }
}

Test(kvt, random_jobs_arrive_in_order_through_a_channel_that_fills_up) {
    fixture f;
    EACH_TRANSPORT(f) {
        bool emulated =
            strcmp(kvt_name(f.sender), "nccl") == 0 || strcmp(kvt_name(f.sender), "ipc") == 0;
        traffic t = {.f = &f, .random = 17, .jobs = emulated ? JOBS_EMULATED : JOBS};
        while (t.done < t.jobs) {
            /* Long runs of one side: the channel fills, and drains. */
            uint64_t bias = (t.made / 100) % 2;
            switch (rng_below(&t.random, 8)) {
                case 0:
                case 1:
                    make_job(&t);
                    break;
                case 2:
                    post_one(&t);
                    break;
                case 3:
                    send_one(&t);
                    break;
                case 4:
                    finish_one(&t);
                    break;
                case 5:
                    bias ? make_job(&t) : receive_and_compare(&t);
                    break;
                case 6:
                    bias ? send_one(&t) : receive_and_compare(&t);
                    break;
                default:
                    bias &&rng_below(&t.random, 4) ? post_one(&t) : receive_and_compare(&t);
            }
        }
        cr_assert_gt(t.junk, t.jobs / 20);
        cr_assert_eq(t.received, t.jobs);
        if (strcmp(kvt_name(f.sender), "shm") == 0) {
            cr_assert_gt(t.again, 100, "the ring never filled: %u", t.again);
        }
    }
}
