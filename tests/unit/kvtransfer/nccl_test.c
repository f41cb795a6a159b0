/* nccl_test.c -- what only the NCCL transport has: peers that die or freeze in the middle, a
 * communicator that never forms, an abort that hangs. The library is the emulated one. */
#define _GNU_SOURCE
#include "kvtransfer/nccl.h"

#ifdef WEIR_EMU_LIBRARY
#include <cuda_runtime_api.h>
#include <poll.h>
#include <unistd.h>

#include "tests/emu/libs/emu_nccl.h"
#include "tests/unit/kvtransfer/kvt_fixture.h"

/* Before the emulated device's first call, which reads it. */
static void two_devices(void) {
    (void)setenv("EMU_DEVICES", "2", 1);
    (void)setenv("EMU_NCCL_ONE_THREAD", "1", 1);
}

TestSuite(nccl, .init = two_devices);

enum { LIMIT_US = 300000, PATIENCE_US = 120000000 };

/* Communicators, and what runs on them, are all gone when the helpers have ended. */
static void expect_nothing_left(void) {
    int64_t until = clock_now_us() + PATIENCE_US;
    bool hung;
    while (nccl_aborting(&hung) > 0 && clock_now_us() < until) {
        (void)usleep(1000);
    }
    cr_assert_eq(nccl_aborting(&hung), 0);
    cr_assert_not(hung);
    cr_assert_eq(emu_nccl_comms(), 0);
    cr_assert_eq(emu_nccl_operations(), 0);
}

static size_t memory_free(int device) {
    size_t left = 0, all = 0;
    cr_assert_eq(cudaSetDevice(device), cudaSuccess);
    cr_assert_eq(cudaMemGetInfo(&left, &all), cudaSuccess);
    return left;
}

static void start_one(fixture *f, uint32_t sequence) {
    kvt_job job = fixture_job(sequence, sequence, 8);
    cr_assert_eq(kvt_post(f->receiver, &job), KVT_DONE);
    cr_assert_eq(kvt_send(f->sender, &job), KVT_DONE);
}

static void pass_one(fixture *f, uint32_t sequence) {
    kvt_job job = fixture_job(sequence, sequence, 8);
    kvt_arrival a;
    uint32_t done;
    start_one(f, sequence);
    cr_assert_eq(fixture_arrive(f, &a), KVT_DONE, "%s", devpair_reason(f->receiver));
    cr_assert_eq(a.outcome, KVT_ARRIVED);
    cr_assert(fixture_same(f, &job, &job));
    cr_assert(fixture_done(f, &done), "%s", devpair_reason(f->sender));
    cr_assert_eq(done, sequence);
}

/* Both sides are driven until both have failed. */
static void until_both_failed(fixture *f) {
    int64_t until = clock_now_us() + PATIENCE_US;
    kvt_arrival a;
    uint32_t done;
    while ((!kvt_failed(f->sender) || !kvt_failed(f->receiver)) && clock_now_us() < until) {
        (void)kvt_sent(f->sender, &done);
        cr_assert_neq(kvt_receive(f->receiver, &a), KVT_DONE, "nothing may arrive");
    }
    cr_assert(kvt_failed(f->sender));
    cr_assert(kvt_failed(f->receiver));
}

/* Each fault, at the setting up or in a transfer, ends both sides, and writes no page. */
static const struct {
    const char *fault, *sender, *receiver; /* what their reasons have in them; NULL: anything */
} faults[] = {
    {"init-hangs", "setting up", "setting up"},
    {"init-hangs,rank=1", "setting up", "setting up"},
    {"init-fails,rank=0", "NCCL error", NULL},
    {"init-fails,rank=1", NULL, "NCCL error"},
    {"stall,message=1,percent=0", "transfer took", "transfer took"},
    {"stall,message=1,percent=50", "transfer took", "transfer took"},
    {"die,message=1,percent=25", NULL, "NCCL error"},
    {"die,message=1,percent=75;death-silent", "transfer took", "transfer took"},
    {"stall,message=0", "setting up", "setting up"},
    {"die,message=0", NULL, "NCCL error"},
};

static bool says(const char *reason, const char *what) {
    return !what || strstr(reason, what);
}

/* Whoever gives up first tells the other, by its connection or by NCCL. */
static bool was_told(const char *reason) {
    return strstr(reason, "gone") || strstr(reason, "NCCL error");
}

Test(nccl, every_fault_ends_within_its_deadline_with_pages_untouched_and_nothing_left) {
    for (size_t i = 0; i < sizeof faults / sizeof faults[0]; i++) {
        fixture f;
        emu_nccl_fault(faults[i].fault);
        fixture_open_nccl_within(&f, LIMIT_US);
        kvt_job job = fixture_job(0, 0, 8);
        cr_assert_eq(kvt_post(f.receiver, &job), KVT_DONE);
        cr_assert_neq(kvt_send(f.sender, &job), KVT_AGAIN); /* it may know at once */
        until_both_failed(&f);
        const char *s = devpair_reason(f.sender), *r = devpair_reason(f.receiver);
        bool sender_says = says(s, faults[i].sender), receiver_says = says(r, faults[i].receiver);
        cr_expect(sender_says || was_told(s), "%s: %s", faults[i].fault, s);
        cr_expect(receiver_says || was_told(r), "%s: %s", faults[i].fault, r);
        cr_expect(sender_says || receiver_says, "%s: %s; %s", faults[i].fault, s, r);
        cr_expect(fixture_untouched(&f), "%s: pages were written", faults[i].fault);
        fixture_close(&f);
        emu_nccl_fault(NULL);
        expect_nothing_left();
    }
}

Test(nccl, late_and_overtaking_transfers_arrive_all_the_same) {
    fixture f;
    emu_nccl_fault("delay,ms=20;reorder");
    fixture_open_nccl(&f);
    for (uint32_t i = 0; i < 10; i++) {
        pass_one(&f, i);
    }
    fixture_close(&f);
    emu_nccl_fault(NULL);
    expect_nothing_left();
}

Test(nccl, a_peer_that_says_nothing_is_given_up_at_the_deadline) {
    fixture f;
    uint32_t done;
    fixture_open_nccl_within(&f, LIMIT_US);
    pass_one(&f, 0);
    kvt_job job = fixture_job(1, 0, 4);
    cr_assert_eq(kvt_send(f.sender, &job), KVT_DONE);
    for (int64_t until = clock_now_us() + PATIENCE_US;
         !kvt_failed(f.sender) && clock_now_us() < until;) {
        cr_assert_not(kvt_sent(f.sender, &done));
    }
    cr_assert(strstr(devpair_reason(f.sender), "transfer took"), "%s", devpair_reason(f.sender));
    fixture_close(&f);
    expect_nothing_left();
}

Test(nccl, a_side_that_closes_ends_the_other_at_once) {
    fixture f;
    kvt_arrival a;
    fixture_open_nccl(&f);
    pass_one(&f, 0);
    start_one(&f, 1);
    kvt_close(f.sender);
    f.sender = NULL;
    kvt_result r = KVT_AGAIN;
    for (int64_t until = clock_now_us() + LIMIT_US * 20;
         r == KVT_AGAIN && clock_now_us() < until;) {
        r = kvt_receive(f.receiver, &a);
    }
    cr_assert_eq(r, KVT_FAILED);
    cr_assert(strstr(devpair_reason(f.receiver), "gone") ||
              strstr(devpair_reason(f.receiver), "NCCL"));
    fixture_close(&f);
    expect_nothing_left();
}

Test(nccl, an_abort_that_hangs_holds_up_nobody_and_is_reported) {
    fixture f;
    bool hung;
    emu_nccl_fault("abort-hangs");
    fixture_open_nccl(&f);
    pass_one(&f, 0);
    size_t before = memory_free(0);
    fixture_close(&f); /* returns */
    cr_assert_eq(nccl_aborting(&hung), 2);
    cr_assert_eq(memory_free(0), before, "staging stays as long as something may write it");
    for (int64_t until = clock_now_us() + PATIENCE_US; !hung && clock_now_us() < until;) {
        (void)usleep(10000);
        cr_assert_eq(nccl_aborting(&hung), 2);
    }
    cr_assert(hung);
    emu_nccl_fault(NULL);
    expect_nothing_left();
}

Test(nccl, a_pair_costs_bounded_memory_and_later_sends_cost_none) {
    fixture f;
    fixture_open_nccl(&f);
    size_t before = memory_free(0);
    cr_assert_eq(nccl_staged(), 0);
    pass_one(&f, 0);
    size_t up = memory_free(0);
    cr_assert_leq(before - up, (size_t)25 << 20, "%zu bytes", before - up);
    for (uint32_t i = 1; i < 40; i++) {
        pass_one(&f, i);
        cr_assert_eq(memory_free(0), up);
    }
    cr_assert_gt(nccl_staged(), 0);
    fixture_close(&f);
    expect_nothing_left();
    cr_assert_eq(nccl_staged(), 0);
    /* Staging stays with the process, for the next pair. */
    size_t kept = before - memory_free(0);
    cr_assert_leq(kept, (size_t)1 << 20);
    fixture_open_nccl(&f);
    pass_one(&f, 0);
    cr_assert_eq(memory_free(0), up);
    fixture_close(&f);
    expect_nothing_left();
    cr_assert_eq(before - memory_free(0), kept);
}

Test(nccl, junk_between_groups_keeps_the_ranks_in_step) {
    fixture f;
    kvt_arrival a;
    uint32_t done;
    fixture_open_nccl(&f);
    for (uint32_t i = 0; i < 30; i++) {
        if (i % 3 != 1) {
            pass_one(&f, i);
            continue;
        }
        kvt_job post = fixture_job(i, 0, 8), junk = fixture_job(i, 0, 0);
        junk.junk = true;
        cr_assert_eq(kvt_post(f.receiver, &post), KVT_DONE);
        cr_assert_eq(kvt_send(f.sender, &junk), KVT_DONE);
        cr_assert_eq(fixture_arrive(&f, &a), KVT_DONE);
        cr_assert_eq(a.outcome, KVT_JUNK);
        cr_assert(fixture_done(&f, &done));
    }
    fixture_close(&f);
    expect_nothing_left();
}

Test(nccl, a_window_of_groups_is_under_way_at_once_and_arrives_in_order) {
    fixture f;
    kvt_arrival a;
    uint32_t done;
    fixture_open_nccl(&f);
    pass_one(&f, 0);
    for (uint32_t i = 1; i <= DEVPAIR_WINDOW + 1; i++) {
        kvt_job job = fixture_job(i, i, 2);
        cr_assert_eq(kvt_post(f.receiver, &job), KVT_DONE);
        cr_assert_eq(kvt_send(f.sender, &job), i <= DEVPAIR_WINDOW ? KVT_DONE : KVT_AGAIN);
    }
    for (uint32_t i = 1; i <= DEVPAIR_WINDOW; i++) {
        cr_assert_eq(fixture_arrive(&f, &a), KVT_DONE);
        cr_assert_eq(a.sequence, i);
    }
    int64_t until = clock_now_us() + PATIENCE_US;
    while (f.held_sequence < DEVPAIR_WINDOW && clock_now_us() < until) {
        if (kvt_sent(f.sender, &done)) {
            f.held_sequence = done;
        }
    }
    cr_assert_eq(f.held_sequence, DEVPAIR_WINDOW);
    devpair_times p, d;
    devpair_get_times(f.sender, &p);
    devpair_get_times(f.receiver, &d);
    cr_assert_eq(p.groups, DEVPAIR_WINDOW + 1);
    cr_assert_eq(d.bytes, p.bytes);
    cr_assert_eq(p.bytes, (uint64_t)FIXTURE_LAYERS * FIXTURE_UNIT * (8 + 2 * DEVPAIR_WINDOW));
    cr_assert_gt(p.setup_us, 0);
    fixture_close(&f);
    expect_nothing_left();
}

/* The program is linked so that our own allocations come here, the emulated device's do not. */
void *__real_malloc(size_t bytes);
void *__real_calloc(size_t count, size_t bytes);
void *__real_realloc(void *p, size_t bytes);
void *__wrap_malloc(size_t bytes);
void *__wrap_calloc(size_t count, size_t bytes);
void *__wrap_realloc(void *p, size_t bytes);

static _Atomic unsigned long allocations;

void *__wrap_malloc(size_t bytes) {
    allocations++;
    return __real_malloc(bytes);
}

void *__wrap_calloc(size_t count, size_t bytes) {
    allocations++;
    return __real_calloc(count, bytes);
}

void *__wrap_realloc(void *p, size_t bytes) {
    allocations++;
    return __real_realloc(p, bytes);
}

Test(nccl, a_thousand_sends_of_a_pair_that_is_up_allocate_nothing) {
    fixture f;
    unsigned long before = allocations;
    fixture_open_nccl(&f);
    cr_assert_gt(allocations, before, "the count counts");
    for (uint32_t i = 0; i < 20; i++) {
        pass_one(&f, i);
    }
    before = allocations;
    for (uint32_t i = 20; i < 1020; i++) {
        pass_one(&f, i);
    }
    cr_assert_eq(allocations, before);
    fixture_close(&f);
    expect_nothing_left();
}

Test(nccl, a_group_larger_than_staging_breaks_the_channel_and_nothing_else) {
    fixture f;
    fixture_open_nccl(&f);
    kvt_job job = fixture_job(0, 0, FIXTURE_PAGES);
    job.layers = FIXTURE_LAYERS + 1;
    cr_assert_eq(kvt_send(f.sender, &job), KVT_FAILED);
    cr_assert(strstr(devpair_reason(f.sender), "staging"));
    fixture_close(&f);
    expect_nothing_left();
}

/* As a worker waits: nothing looks at a channel until its descriptor says so. */
Test(nccl, the_descriptors_alone_carry_a_slow_transfer_to_its_end) {
    fixture f;
    emu_nccl_fault("delay,ms=20");
    fixture_open_nccl(&f);
    start_one(&f, 0);
    kvt *sides[] = {f.sender, f.receiver};
    struct pollfd fds[] = {{kvt_event_fd(f.sender), POLLIN, 0},
                           {kvt_event_fd(f.receiver), POLLIN, 0}};
    bool arrived = false, sent = false;
    while (!arrived || !sent) {
        kvt_arrival a;
        uint32_t sequence;
        cr_assert_gt(poll(fds, 2, 60000), 0, "nobody looks any more");
        for (int i = 0; i < 2; i++) {
            if (fds[i].revents) {
                kvt_event_clear(sides[i]);
            }
        }
        if (fds[0].revents) {
            sent = kvt_sent(f.sender, &sequence) || sent;
        }
        if (fds[1].revents) {
            kvt_result r = kvt_receive(f.receiver, &a);
            cr_assert_neq(r, KVT_FAILED, "%s", devpair_reason(f.receiver));
            arrived = r == KVT_DONE || arrived;
        }
    }
    emu_nccl_fault(NULL);
    fixture_close(&f);
    expect_nothing_left();
}
#endif
