/* ipc_test.c -- what only the IPC transport has: another process's memory, and what becomes of it
 * when either side goes. The devices are emulated; the processes are real. */
#define _GNU_SOURCE
#include "kvtransfer/ipc.h"

#ifdef WEIR_EMU_LIBRARY
#include <cuda_runtime_api.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/unit/kvtransfer/kvt_fixture.h"

enum { PATIENCE_US = 120000000, GROUPS = 12, EACH = 4 };

/* Before the emulated device's first call, which reads it. */
static void two_devices(void) {
    (void)setenv("EMU_DEVICES", "2", 1);
    (void)setenv("WEIR_NCCL", WEIR_EMU_LIBRARY, 1);
}

TestSuite(ipc, .init = two_devices);

static kvt *open_side(fixture_pool *pool, uint64_t stage_bytes, bool receiver, int fd) {
    devpair_options o = {.stage_bytes = stage_bytes, .device = receiver};
    kvt_pool view = fixture_view(pool);
    kvt *k = NULL;
    diag d;
    cr_assert_eq(ipc_open(&view, &o, FIXTURE_GENERATION, receiver, &k, &d), STATUS_OK, "%s",
                 d.text);
    cr_assert_eq(devpair_attach(k, fd, receiver ? &fixture_far_keys : &fixture_near_keys, &d),
                 STATUS_OK);
    return k;
}

static const uint64_t STAGE_BYTES = (uint64_t)EACH * FIXTURE_LAYERS * FIXTURE_UNIT;

/* P, in a process of its own: sends GROUPS groups, of which every third is empty, or stops for ever
 * when so many have been handed over. */
static pid_t start_sender(fixture *f, const int fds[2], uint32_t stop_after) {
    pid_t child = fork();
    cr_assert_geq(child, 0);
    if (child != 0) {
        (void)close(fds[0]);
        return child;
    }
    (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
    (void)close(fds[1]);
    kvt *sender = open_side(f->from, STAGE_BYTES, false, fds[0]);
    uint32_t handed = 0, done = 0, sequence;
    int64_t until = clock_now_us() + PATIENCE_US;
    while (done < GROUPS && !kvt_failed(sender) && clock_now_us() < until) {
        kvt_job job = fixture_job(handed, handed, EACH);
        job.junk = handed % 3 == 2;
        handed += handed < GROUPS && kvt_send(sender, &job) == KVT_DONE;
        if (handed > stop_after) {
            (void)pause();
        }
        done += kvt_sent(sender, &sequence);
    }
    _exit(done == GROUPS ? 0 : 1);
}

static void expect_groups(fixture *f, uint32_t count) {
    int64_t until = clock_now_us() + PATIENCE_US;
    for (uint32_t i = 0; i < count;) {
        kvt_arrival a;
        kvt_result r = kvt_receive(f->receiver, &a);
        cr_assert_neq(r, KVT_FAILED, "%s", devpair_reason(f->receiver));
        cr_assert_lt(clock_now_us(), until);
        if (r == KVT_DONE) {
            kvt_job send = fixture_job(i, i, EACH), post = fixture_job(i, EACH * i, EACH);
            cr_assert_eq(a.sequence, i);
            cr_assert_eq(a.outcome, i % 3 == 2 ? KVT_JUNK : KVT_ARRIVED);
            cr_assert(i % 3 == 2 || fixture_same(f, &send, &post));
            i++;
        }
    }
}

static void post_all(fixture *f) {
    for (uint32_t i = 0; i < GROUPS; i++) {
        kvt_job post = fixture_job(i, EACH * i, EACH);
        cr_assert_eq(kvt_post(f->receiver, &post), KVT_DONE);
    }
}

Test(ipc, pages_come_from_another_process_in_order) {
    fixture f;
    int fds[2], ended;
    fixture_pools(&f);
    cr_assert_eq(wire_pair(fds), STATUS_OK);
    pid_t child = start_sender(&f, fds, GROUPS);
    f.receiver = open_side(f.to, STAGE_BYTES, true, fds[1]);
    post_all(&f);
    expect_groups(&f, GROUPS);
    cr_assert_eq(waitpid(child, &ended, 0), child);
    cr_assert(WIFEXITED(ended) && WEXITSTATUS(ended) == 0);
    devpair_times t;
    devpair_get_times(f.receiver, &t);
    cr_assert_eq(t.groups, GROUPS);
    cr_assert_eq(t.empty, GROUPS / 3);
    cr_assert_eq(t.bytes, STAGE_BYTES * (GROUPS - GROUPS / 3));
    fixture_close(&f);
}

Test(ipc, a_sender_that_is_killed_is_gone_and_what_was_reported_stays) {
    fixture f;
    int fds[2];
    fixture_pools(&f);
    cr_assert_eq(wire_pair(fds), STATUS_OK);
    pid_t child = start_sender(&f, fds, 4);
    f.receiver = open_side(f.to, STAGE_BYTES, true, fds[1]);
    post_all(&f);
    expect_groups(&f, 2);
    cr_assert_eq(kill(child, SIGKILL), 0);
    cr_assert_eq(waitpid(child, NULL, 0), child);
    kvt_arrival a;
    int64_t until = clock_now_us() + PATIENCE_US;
    while (kvt_receive(f.receiver, &a) != KVT_FAILED && clock_now_us() < until) {
    }
    cr_assert_str_eq(devpair_reason(f.receiver), "ipc: the peer has gone");
    for (uint32_t i = 0; i < 2; i++) {
        kvt_job send = fixture_job(i, i, EACH), post = fixture_job(i, EACH * i, EACH);
        cr_assert(fixture_same(&f, &send, &post));
    }
    fixture_close(&f);
}

/* Both sides within this process, until one has failed. */
static void open_both(fixture *f, uint64_t far_bytes) {
    int fds[2];
    fixture_pools(f);
    cr_assert_eq(wire_pair(fds), STATUS_OK);
    f->sender = open_side(f->from, STAGE_BYTES, false, fds[0]);
    f->receiver = open_side(f->to, far_bytes, true, fds[1]);
    kvt_job job = fixture_job(0, 0, EACH);
    cr_assert_eq(kvt_post(f->receiver, &job), KVT_DONE);
    cr_assert_eq(kvt_send(f->sender, &job), KVT_DONE);
}

static void expect_refusal(fixture *f, const char *why) {
    kvt_arrival a;
    int64_t until = clock_now_us() + PATIENCE_US;
    while (kvt_receive(f->receiver, &a) == KVT_AGAIN && clock_now_us() < until) {
    }
    cr_assert(kvt_failed(f->receiver));
    cr_assert(strstr(devpair_reason(f->receiver), why), "%s", devpair_reason(f->receiver));
    cr_assert(fixture_untouched(f));
}

Test(ipc, the_receiver_takes_the_sizes_of_the_sender) {
    fixture f;
    kvt_arrival a;
    open_both(&f, STAGE_BYTES / 2);
    cr_assert_eq(fixture_arrive(&f, &a), KVT_DONE);
    cr_assert_eq(a.outcome, KVT_ARRIVED);
    cr_assert_eq(a.bytes, STAGE_BYTES);
    fixture_close(&f);
}

Test(ipc, staging_that_is_offered_no_more_is_not_read) {
    fixture f;
    open_both(&f, STAGE_BYTES);
    kvt_close(f.sender);
    f.sender = NULL;
    expect_refusal(&f, "never offered");
    kvt_close(f.receiver);
    free(f.from);
    free(f.to);
}

Test(ipc, a_receiver_that_does_not_answer_breaks_the_channel_at_the_deadline) {
    fixture f;
    fixture_open_ipc_within(&f, 200000);
    kvt_job job = fixture_job(0, 0, EACH);
    uint32_t sequence;
    cr_assert_eq(kvt_send(f.sender, &job), KVT_DONE);
    int64_t until = clock_now_us() + PATIENCE_US;
    while (!kvt_failed(f.sender) && clock_now_us() < until) {
        cr_assert_not(kvt_sent(f.sender, &sequence));
    }
    cr_assert_str_eq(devpair_reason(f.sender), "ipc: a transfer took longer than 200 ms");
    fixture_close(&f);
}

static size_t memory_free(void) {
    size_t left = 0, all = 0;
    cr_assert_eq(cudaSetDevice(0), cudaSuccess);
    cr_assert_eq(cudaMemGetInfo(&left, &all), cudaSuccess);
    return left;
}

static void *half_staging;

/* One page of the group is on its way when the device says no. */
static bool gather_half(void *context, const kvt_job *job, void *staging, uint32_t *list,
                        void *stream) {
    (void)list;
    half_staging = staging;
    return cudaMemcpyAsync(staging, fixture_page(context, 0, job->pages[0]), FIXTURE_UNIT,
                           cudaMemcpyDefault, stream) != cudaSuccess;
}

Test(ipc, a_copy_that_fails_half_way_has_ended_when_the_channel_is_closed) {
    static const kvt_packer packer = {gather_half, NULL};
    fixture f;
    fixture_open_ipc(&f);
    kvt_job job = fixture_job(0, 5, EACH);
    kvt_use_packer(f.sender, &packer);
    cr_assert_eq(kvt_send(f.sender, &job), KVT_FAILED);
    cr_assert_str_eq(devpair_reason(f.sender), "ipc: copying pages: the device has failed");
    kvt_close(f.sender);
    cr_assert_eq(memcmp(half_staging, fixture_page(f.from, 0, 5), FIXTURE_UNIT), 0);
    f.sender = NULL;
    fixture_close(&f);
}

/* What a receiver may still be reading is not what the next pair writes. */
Test(ipc, staging_goes_to_the_next_pair_but_not_while_it_may_be_read) {
    fixture f;
    kvt_arrival a;
    uint32_t done;
    open_both(&f, STAGE_BYTES);
    cr_assert_eq(fixture_arrive(&f, &a), KVT_DONE);
    cr_assert(fixture_done(&f, &done));
    fixture_close(&f);
    const size_t one = memory_free();
    open_both(&f, STAGE_BYTES);
    cr_assert_eq(memory_free(), one, "the same staging again");
    int64_t until = clock_now_us() + PATIENCE_US;
    devpair_times t = {0};
    while (t.copy_us == 0 && clock_now_us() < until) { /* packed, and so announced */
        (void)kvt_sent(f.sender, &done);
        devpair_get_times(f.sender, &t);
    }
    fixture_close(&f); /* without an answer */
    open_both(&f, STAGE_BYTES);
    cr_assert_lt(memory_free(), one, "another staging");
    fixture_close(&f);
    cr_assert_eq(nccl_staged(), 0);
}
#endif
