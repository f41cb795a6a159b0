/* shm_test.c -- two processes, offers that are no rings, peers that write what they like. */
#define _GNU_SOURCE
#include "kvtransfer/shm.h"

#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "engine/base/failpoint.h"
#include "tests/unit/kvtransfer/kvt_fixture.h"

/* The documented layout of the shared memory: head, tail and "starved" a cache line each, the ring
 * after a page. */
enum { HEAD = 0, TAIL = 8, STARVED = 16, RING_AT = 4096, RING = SHM_RING_BYTES_MIN };

/* A receiver whose memory the test holds too, as a hostile sender would. */
typedef struct {
    fixture f;
    uint64_t *words; /* [HEAD], [TAIL], [STARVED] */
    uint8_t *ring;   /* [RING] */
} open_ring;

static uint8_t *map(int fd) {
    uint8_t *p = mmap(NULL, RING_AT + RING, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    cr_assert_neq(p, MAP_FAILED);
    return p;
}

static void open_hostile(open_ring *o) {
    fixture *f = &o->f;
    diag d;
    fixture_pools(f);
    fixture_wires(f);
    kvt_pool from = fixture_view(f->from), to = fixture_view(f->to);
    cr_assert_eq(shm_offer(&from, RING, FIXTURE_GENERATION, f->near, &f->sender, &d), STATUS_OK);
    cr_assert(wire_flush(f->near));
    shm_pending offer = {0};
    shm_pending_clear(&offer);
    for (int i = 0; i < 3; i++) {
        str bytes;
        int fd;
        cr_assert_eq(wire_receive(f->far, &bytes, &fd), WIRE_MESSAGE);
        if (i == 0) {
            uint8_t *p = map(fd);
            o->words = (uint64_t *)p;
            o->ring = p + RING_AT;
        }
        cr_assert_eq(shm_accept(&offer, &to, bytes, fd, &f->receiver, &d), STATUS_OK);
    }
}

static void close_hostile(open_ring *o) {
    munmap(o->words, RING_AT + RING);
    fixture_close(&o->f);
}

Test(shm, a_payload_changed_on_its_way_is_damage_and_the_next_is_not) {
    cr_assert_eq(failpoint_setup("kvt.damage=error:1@1", NULL), STATUS_OK);
    fixture f;
    fixture_open_shm(&f);
    for (uint32_t i = 0; i < 4; i++) {
        kvt_job job = fixture_job(i, 3 * i, 3);
        kvt_arrival a;
        cr_assert_eq(kvt_post(f.receiver, &job), KVT_DONE);
        cr_assert_eq(kvt_send(f.sender, &job), KVT_DONE);
        cr_assert_eq(kvt_receive(f.receiver, &a), KVT_DONE);
        cr_assert_eq(a.outcome, i == 1 ? KVT_DAMAGED : KVT_ARRIVED);
        cr_assert(i == 1 || fixture_same(&f, &job, &job));
    }
    fixture_close(&f);
}

Test(shm, any_changed_payload_byte_is_damage_any_changed_header_byte_ends_the_channel) {
    enum { PAYLOAD = FIXTURE_LAYERS * FIXTURE_UNIT };
    for (uint32_t at = 0; at < FRAME_BYTES + PAYLOAD; at += at < FRAME_BYTES ? 1 : 37) {
        open_ring o;
        open_hostile(&o);
        kvt_job job = fixture_job(0, 0, 1);
        kvt_arrival a;
        cr_assert_eq(kvt_post(o.f.receiver, &job), KVT_DONE);
        cr_assert_eq(kvt_send(o.f.sender, &job), KVT_DONE);
        o.ring[at] ^= 0x10;
        kvt_result r = kvt_receive(o.f.receiver, &a);
        cr_assert_eq(r, at < FRAME_BYTES ? KVT_FAILED : KVT_DONE, "byte %u", at);
        cr_assert(r == KVT_FAILED || a.outcome == KVT_DAMAGED);
        cr_assert(r == KVT_DONE || fixture_untouched(&o.f));
        close_hostile(&o);
    }
}

/* Writes a sound header for whatever `f` says at the start of the ring. */
static void forge(open_ring *o, frame f, uint64_t head) {
    frame_put(&f, o->ring);
    __atomic_store_n(&o->words[HEAD], head, __ATOMIC_RELEASE);
}

Test(shm, hostile_counts_and_sizes_never_reach_past_the_ring) {
    static const struct {
        const char *what;
        uint64_t head, payload;
        kvt_result result;
    } cases[] = {
        {"more than the ring", RING + 1, 704, KVT_FAILED},
        {"head behind", (uint64_t)-64, 704, KVT_FAILED},
        {"head at the end of time", UINT64_MAX, 704, KVT_FAILED},
        {"half a header", 63, 704, KVT_FAILED},
        {"one byte", 1, 704, KVT_FAILED},
        {"payload past head", 64, 704, KVT_FAILED},
        {"payload one line past head", 64 + 640, 704, KVT_FAILED},
        {"payload larger than the ring", RING, (uint64_t)RING + 1, KVT_FAILED},
        {"payload that wraps when padded", RING, UINT64_MAX, KVT_FAILED},
        {"payload that wraps with its header", RING, UINT64_MAX - 63, KVT_FAILED},
        {"payload larger than the job", RING, RING - 64, KVT_DONE},
        {"payload smaller than the job", 64 + 64, 1, KVT_DONE},
        {"nothing new", 0, 704, KVT_AGAIN},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        open_ring o;
        open_hostile(&o);
        kvt_job job = fixture_job(0, 0, 1);
        kvt_arrival a;
        cr_assert_eq(kvt_post(o.f.receiver, &job), KVT_DONE);
        frame f = kvt_job_frame(o.f.receiver, &job);
        f.payload_bytes = cases[i].payload;
        forge(&o, f, cases[i].head);
        kvt_result r = kvt_receive(o.f.receiver, &a);
        cr_assert_eq(r, cases[i].result, "%s: %d", cases[i].what, r);
        cr_assert(r != KVT_DONE || a.outcome == KVT_DAMAGED, "%s", cases[i].what);
        cr_assert(fixture_untouched(&o.f), "%s", cases[i].what);
        close_hostile(&o);
    }
}

Test(shm, a_hostile_tail_gives_the_sender_no_room_it_has_not) {
    static const uint64_t tails[] = {
        1, 64, RING, (uint64_t)1 << 63, (uint64_t)-RING, (uint64_t)-RING - 1};
    for (size_t i = 0; i < sizeof tails / sizeof tails[0]; i++) {
        open_ring o;
        open_hostile(&o);
        kvt_job job = fixture_job(0, 0, 1);
        __atomic_store_n(&o.words[TAIL], tails[i], __ATOMIC_RELEASE);
        kvt_result r = kvt_send(o.f.sender, &job);
        cr_assert_eq(r, KVT_AGAIN, "tail %llu", (unsigned long long)tails[i]);
        cr_assert_eq(o.words[HEAD], 0);
        close_hostile(&o);
    }
}

/* Random bytes over the control words and the ring between sound operations: whatever comes out,
 * only posted pages are ever written (guarded by the fixture) and nothing reads past the mapping
 * (which a sanitizer watches). */
Test(shm, random_writes_by_the_peer_hurt_only_the_channel) {
    uint64_t random = 23;
    int failed = 0, damaged = 0, arrived = 0;
    for (int round = 0; round < 300; round++) {
        open_ring o;
        open_hostile(&o);
        for (uint32_t i = 0; i < 40; i++) {
            kvt_job job = fixture_job(i, i, 1 + i % 5);
            kvt_arrival a;
            if (kvt_send(o.f.sender, &job) != KVT_DONE || kvt_post(o.f.receiver, &job)) {
                break;
            }
            switch (rng_below(&random, 6)) {
                case 0:
                    o.ring[rng_below(&random, RING)] ^= (uint8_t)rng_next(&random);
                    break;
                case 1:
                    o.words[rng_below(&random, 3) * 8] = rng_next(&random);
                    break;
                case 2:
                    o.words[HEAD] += rng_below(&random, 4096);
                    break;
                case 3:
                    fixture_fill(o.ring + rng_below(&random, RING - FIXTURE_UNIT), &random);
                    break;
                default:
                    break;
            }
            kvt_result r = kvt_receive(o.f.receiver, &a);
            failed += r == KVT_FAILED;
            damaged += r == KVT_DONE && a.outcome == KVT_DAMAGED;
            if (r == KVT_DONE && a.outcome == KVT_ARRIVED) {
                cr_assert(fixture_same(&o.f, &job, &job));
                arrived++;
            }
        }
        close_hostile(&o);
    }
    cr_assert(failed > 50 && damaged > 50 && arrived > 50, "%d %d %d", failed, damaged, arrived);
}

Test(shm, a_job_larger_than_the_ring_ends_the_channel) {
    fixture f;
    fixture_open_shm(&f);
    kvt_job job = fixture_job(0, 0, 40);
    cr_assert_eq(kvt_send(f.sender, &job), KVT_FAILED);
    job = fixture_job(0, 0, 1);
    cr_assert_eq(kvt_send(f.sender, &job), KVT_FAILED);
    fixture_close(&f);
}

/* ---- offers --------------------------------------------------------------------------------- */

/* What an offer's memory may be instead of a sealed ring. */
typedef enum {
    SOUND,
    UNSEALED,
    TOO_SMALL,
    TOO_LARGE,
    A_PIPE,
    A_FILE,
    SEALED_AGAINST_GROWTH_ONLY
} memory_kind;

static int make_memory(memory_kind kind) {
    int fds[2];
    if (kind == A_PIPE) {
        cr_assert_eq(pipe(fds), 0);
        close(fds[1]);
        return fds[0];
    }
    if (kind == A_FILE) {
        int file = open("/tmp", O_TMPFILE | O_RDWR, 0600);
        cr_assert_geq(file, 0);
        cr_assert_eq(ftruncate(file, RING_AT + RING), 0);
        return file;
    }
    int fd = memfd_create("ring", MFD_ALLOW_SEALING | MFD_CLOEXEC);
    off_t bytes = RING_AT + RING + (kind == TOO_LARGE) * 4096 - (kind == TOO_SMALL) * 4096;
    cr_assert_eq(ftruncate(fd, bytes), 0);
    if (kind != UNSEALED) {
        int seals = kind == SEALED_AGAINST_GROWTH_ONLY ? F_SEAL_GROW : F_SEAL_SHRINK | F_SEAL_GROW;
        cr_assert_eq(fcntl(fd, F_ADD_SEALS, seals), 0);
    }
    return fd;
}

static void offer_text(char out[24], uint64_t generation, uint64_t ring_bytes) {
    memcpy(out, "KVTSHM\0\1", 8);
    memcpy(out + 8, &generation, 8);
    memcpy(out + 16, &ring_bytes, 8);
}

static int open_fds(void) {
    int count = 0;
    for (int fd = 0; fd < 1024; fd++) {
        count += fcntl(fd, F_GETFD) >= 0;
    }
    return count;
}

Test(shm, only_a_sealed_ring_of_the_offered_size_is_mapped) {
    static const struct {
        const char *what;
        memory_kind memory;
        uint64_t ring_bytes;
        int event_flags;
        status want;
    } cases[] = {
        {"sound", SOUND, RING, EFD_NONBLOCK, STATUS_OK},
        {"unsealed", UNSEALED, RING, EFD_NONBLOCK, STATUS_CORRUPT},
        {"may shrink", SEALED_AGAINST_GROWTH_ONLY, RING, EFD_NONBLOCK, STATUS_CORRUPT},
        {"smaller than offered", TOO_SMALL, RING, EFD_NONBLOCK, STATUS_CORRUPT},
        {"larger than offered", TOO_LARGE, RING, EFD_NONBLOCK, STATUS_CORRUPT},
        {"a pipe", A_PIPE, RING, EFD_NONBLOCK, STATUS_CORRUPT},
        {"a file", A_FILE, RING, EFD_NONBLOCK, STATUS_CORRUPT},
        {"no power of two", SOUND, RING + 64, EFD_NONBLOCK, STATUS_CORRUPT},
        {"nothing", SOUND, 0, EFD_NONBLOCK, STATUS_CORRUPT},
        {"half", SOUND, RING / 2, EFD_NONBLOCK, STATUS_CORRUPT},
        {"double", SOUND, RING * 2, EFD_NONBLOCK, STATUS_CORRUPT},
        {"enormous", SOUND, (uint64_t)1 << 63, EFD_NONBLOCK, STATUS_CORRUPT},
        {"sum overflows", SOUND, UINT64_MAX, EFD_NONBLOCK, STATUS_CORRUPT},
        {"events that block", SOUND, RING, 0, STATUS_CORRUPT},
    };
    fixture f;
    fixture_pools(&f);
    kvt_pool to = fixture_view(f.to);
    int before = open_fds();
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char text[24];
        offer_text(text, 1, cases[i].ring_bytes);
        cr_assert(shm_is_offer(str_of(text, sizeof text)));
        shm_pending offer = {0};
        shm_pending_clear(&offer);
        kvt *channel = NULL;
        diag d;
        status s = STATUS_OK;
        const int fds[3] = {make_memory(cases[i].memory), eventfd(0, cases[i].event_flags),
                            eventfd(0, cases[i].event_flags)};
        for (int part = 0; part < 3; part++) {
            cr_assert_eq(s, STATUS_OK);
            s = shm_accept(&offer, &to, str_of(text, sizeof text), fds[part], &channel, &d);
        }
        cr_assert_eq(s, cases[i].want, "%s: %d", cases[i].what, s);
        cr_assert_eq(channel != NULL, s == STATUS_OK);
        kvt_close(channel);
        cr_assert_eq(open_fds(), before, "%s leaks", cases[i].what);
    }
    fixture_close(&f);
}

Test(shm, an_offer_without_its_descriptors_is_refused) {
    fixture f;
    fixture_pools(&f);
    kvt_pool to = fixture_view(f.to);
    int before = open_fds();
    char text[24];
    diag d;
    kvt *channel = NULL;
    offer_text(text, 1, RING);
    shm_pending offer = {0};
    shm_pending_clear(&offer);
    cr_assert_eq(shm_accept(&offer, &to, str_of(text, 24), -1, &channel, &d), STATUS_CORRUPT);
    cr_assert_eq(shm_accept(&offer, &to, str_of(text, 24), make_memory(SOUND), &channel, &d),
                 STATUS_OK);
    cr_assert_null(channel);
    shm_pending_clear(&offer); /* the peer left in the middle */
    cr_assert_eq(open_fds(), before);
    cr_assert_not(shm_is_offer(str_of(text, 23)));
    text[0] ^= 1;
    cr_assert_not(shm_is_offer(str_of(text, 24)));
    fixture_close(&f);
}

Test(shm, rings_of_a_wrong_size_are_not_made) {
    static const uint64_t sizes[] = {0,
                                     1,
                                     SHM_RING_BYTES_MIN / 2,
                                     SHM_RING_BYTES_MIN + 1,
                                     (uint64_t)SHM_RING_BYTES_MAX * 2,
                                     (uint64_t)1 << 63};
    fixture f;
    fixture_pools(&f);
    fixture_wires(&f);
    kvt_pool from = fixture_view(f.from);
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        kvt *k = NULL;
        diag d;
        cr_assert_eq(shm_offer(&from, sizes[i], 1, f.near, &k, &d), STATUS_INVALID);
        cr_assert_null(k);
    }
    fixture_close(&f);
}

/* ---- two processes -------------------------------------------------------------------------- */

enum { REMOTE_JOBS = 3000 };

/* The same on both sides: a job, and the content of its pages. */
static kvt_job remote_job(uint32_t sequence) {
    uint64_t random = 1000 + sequence;
    kvt_job j = fixture_job(sequence, (uint32_t)rng_below(&random, FIXTURE_PAGES),
                            1 + (uint32_t)rng_below(&random, 20));
    j.layers = 1 + (uint32_t)rng_below(&random, FIXTURE_LAYERS);
    j.junk = rng_below(&random, 10) == 0;
    return j;
}

static void remote_content(const kvt_job *j, fixture_pool *pool) {
    uint64_t random = (uint64_t)j->sequence << 32;
    for (uint32_t l = 0; l < j->layers; l++) {
        for (uint32_t p = 0; p < j->pages_count; p++) {
            fixture_fill(fixture_page(pool, l, j->pages[p]), &random);
        }
    }
}

static void sleep_on(const kvt *k) {
    struct pollfd p = {kvt_event_fd(k), POLLIN, 0};
    if (poll(&p, 1, 120000) != 1) {
        _exit(9); /* a wake-up was lost */
    }
}

/* Sleeps whenever there is no room, so that a lost wake-up hangs. */
static int remote_sender(wire *w) {
    fixture f;
    diag d;
    fixture_pools(&f);
    kvt_pool from = fixture_view(f.from);
    if (shm_offer(&from, RING, 42, w, &f.sender, &d) != STATUS_OK || !wire_flush(w)) {
        return 2;
    }
    for (uint32_t i = 0; i < REMOTE_JOBS; i++) {
        kvt_job job = remote_job(i);
        kvt_result r;
        uint32_t done;
        remote_content(&job, f.from);
        job.pages_count = job.junk ? 0 : job.pages_count;
        while ((r = kvt_send(f.sender, &job)) == KVT_AGAIN) {
            sleep_on(f.sender);
            kvt_event_clear(f.sender);
        }
        if (r != KVT_DONE || !kvt_sent(f.sender, &done) || done != i) {
            return 3;
        }
    }
    fixture_close(&f);
    return 0;
}

Test(shm, two_processes_move_pages_without_losing_a_wake_up) {
    int fds[2];
    cr_assert_eq(wire_pair(fds), STATUS_OK);
    pid_t child = fork();
    cr_assert_geq(child, 0);
    if (child == 0) {
        wire *w = NULL;
        close(fds[1]);
        _exit(wire_open(fds[0], 1 << 20, &w) == STATUS_OK ? remote_sender(w) : 1);
    }
    close(fds[0]);
    fixture f;
    fixture_pools(&f);
    cr_assert_eq(wire_open(fds[1], 1 << 20, &f.far), STATUS_OK);
    f.receiver = fixture_accept(f.far, f.to);
    fixture_pool *want = calloc(1, sizeof *want);
    for (uint32_t i = 0; i < REMOTE_JOBS; i++) {
        kvt_job job = remote_job(i);
        kvt_arrival a;
        kvt_result r;
        bool junk = job.junk;
        job.junk = false;
        memcpy(want, f.to, sizeof *want);
        if (!junk) {
            remote_content(&job, want);
        }
        cr_assert_eq(kvt_post(f.receiver, &job), KVT_DONE);
        while ((r = kvt_receive(f.receiver, &a)) == KVT_AGAIN) {
            sleep_on(f.receiver);
            kvt_event_clear(f.receiver);
        }
        cr_assert_eq(r, KVT_DONE);
        cr_assert_eq(a.outcome, junk ? KVT_JUNK : KVT_ARRIVED);
        cr_assert_arr_eq(f.to, want, sizeof *want, "job %u", i);
    }
    int how;
    cr_assert_eq(waitpid(child, &how, 0), child);
    cr_assert(WIFEXITED(how) && WEXITSTATUS(how) == 0, "sender ended with %d", how);
    free(want);
    fixture_close(&f);
}

/* The sender's memory stays readable after its death: nothing here can fault. */
Test(shm, a_sender_that_is_killed_leaves_a_receiver_that_waits) {
    int fds[2];
    cr_assert_eq(wire_pair(fds), STATUS_OK);
    pid_t child = fork();
    if (child == 0) {
        wire *w = NULL;
        fixture f;
        diag d;
        fixture_pools(&f);
        kvt_pool from = fixture_view(f.from);
        kvt_job job = fixture_job(0, 0, 2);
        close(fds[1]);
        bool fine = wire_open(fds[0], 1 << 20, &w) == STATUS_OK &&
                    shm_offer(&from, RING, 42, w, &f.sender, &d) == STATUS_OK &&
                    kvt_send(f.sender, &job) == KVT_DONE && wire_flush(w);
        _exit(fine ? 0 : 1);
    }
    close(fds[0]);
    fixture f;
    fixture_pools(&f);
    cr_assert_eq(wire_open(fds[1], 1 << 20, &f.far), STATUS_OK);
    f.receiver = fixture_accept(f.far, f.to);
    int how;
    cr_assert_eq(waitpid(child, &how, 0), child);
    cr_assert_eq(how, 0);
    kvt_arrival a;
    for (uint32_t i = 0; i < 2; i++) {
        kvt_job job = fixture_job(i, 0, 2);
        cr_assert_eq(kvt_post(f.receiver, &job), KVT_DONE);
    }
    cr_assert_eq(kvt_receive(f.receiver, &a), KVT_DONE);
    cr_assert_eq(a.outcome, KVT_ARRIVED);
    cr_assert_eq(kvt_receive(f.receiver, &a), KVT_AGAIN);
    fixture_close(&f);
}
