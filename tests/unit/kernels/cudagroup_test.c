/* cudagroup_test.c -- ranks add up what each of them has; a rank that fails leaves nobody waiting.
 *
 * Needs devices: WEIR_CUDA_MODULE names the module of the emulated ones, as in tests/plan.txt
 * (cuda/group). */
#define _GNU_SOURCE
#include <criterion/criterion.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "kernels/backend.h"

enum { RANKS = 3, ROWS = 37, WIDTH = 96, COUNT = ROWS * WIDTH, CALLS = 5 };

typedef struct {
    backend *device;
    backend_group_id *id;
    int32_t rank, ranks;
    status joined, summed;
    float *x; /* device [ROWS, WIDTH] */
    float out[COUNT];
    diag d;
} member;

/* Whole numbers, so that no order of additions matters. */
static float value(int32_t rank, int32_t i) {
    return (float)((i * 7 + rank * 1001) % 4096 - 2048);
}

static bool start(member *m, int32_t ranks, bool deterministic, backend_group_id *id) {
    const char *module = getenv("WEIR_CUDA_MODULE");
    if (!module || access(module, R_OK) != 0) {
        return false;
    }
    (void)setenv("EMU_DEVICES", "3", 1); /* read when the module first asks for a device */
    for (int32_t r = 0; r < ranks; r++) {
        const backend_options o = {.device = r, .deterministic = deterministic};
        m[r] = (member){.id = id, .rank = r, .ranks = ranks};
        cr_assert_eq(backend_open("cuda", &o, &m[r].device, &m[r].d), STATUS_OK, "%s", m[r].d.text);
    }
    cr_assert_eq(backend_group_make(m[0].device, id, &m[0].d), STATUS_OK, "%s", m[0].d.text);
    return true;
}

static void close_all(member *m, int32_t ranks) {
    for (int32_t r = 0; r < ranks; r++) {
        backend_free(m[r].device, m[r].x);
        backend_close(m[r].device);
    }
}

static void run_all(member *m, int32_t ranks, void *(*body)(void *)) {
    pthread_t threads[RANKS];
    for (int32_t r = 0; r < ranks; r++) {
        cr_assert_eq(pthread_create(&threads[r], NULL, body, &m[r]), 0);
    }
    for (int32_t r = 0; r < ranks; r++) {
        cr_assert_eq(pthread_join(threads[r], NULL), 0);
    }
}

static status sum(member *m, int32_t calls) {
    float host[COUNT];
    void *memory;
    TRY(backend_alloc(m->device, sizeof host, &memory));
    m->x = memory;
    for (int32_t i = 0; i < COUNT; i++) {
        host[i] = value(m->rank, i);
    }
    const ops_all_reduce op = {m->x, ROWS, WIDTH};
    for (int32_t i = 0; i < calls; i++) {
        TRY(backend_upload(m->device, m->x, host, sizeof host));
        TRY(backend_all_reduce(m->device, &op));
    }
    return backend_download(m->device, m->out, m->x, sizeof m->out);
}

static void *join_and_sum(void *argument) {
    member *m = argument;
    m->joined = backend_group_join(m->device, m->id, m->rank, m->ranks, &m->d);
    m->summed = m->joined == STATUS_OK ? sum(m, CALLS) : m->joined;
    return NULL;
}

Test(cudagroup, every_rank_has_the_sum_of_all) {
    static member m[RANKS];
    for (int32_t ranks = 2; ranks <= RANKS; ranks++) {
        backend_group_id id;
        if (!start(m, ranks, false, &id)) {
            cr_skip_test("WEIR_CUDA_MODULE names no module");
        }
        run_all(m, ranks, join_and_sum);
        for (int32_t r = 0; r < ranks; r++) {
            cr_assert_eq(m[r].summed, STATUS_OK, "rank %d: %s", r, m[r].d.text);
            cr_assert_eq(m[r].device->ranks, ranks);
            for (int32_t i = 0; i < COUNT; i++) {
                float want = 0;
                for (int32_t from = 0; from < ranks; from++) {
                    want += value(from, i);
                }
                cr_assert_eq(m[r].out[i], want, "rank %d, element %d", r, i);
            }
        }
        close_all(m, ranks);
    }
}

/* The last rank never calls; the others are told. */
static void *sum_but_for_the_last(void *argument) {
    static _Atomic int32_t waiting;
    member *m = argument;
    m->joined = backend_group_join(m->device, m->id, m->rank, m->ranks, &m->d);
    if (m->rank + 1 < m->ranks) {
        atomic_fetch_add(&waiting, 1);
        m->summed = sum(m, 1);
        return NULL;
    }
    while (atomic_load(&waiting) + 1 < m->ranks) {
        (void)usleep(1000);
    }
    for (int32_t r = 0; r < m->ranks; r++) {
        backend_group_leave(m[r - m->rank].device);
    }
    m->summed = sum(m, 1);
    return NULL;
}

Test(cudagroup, nobody_waits_for_a_rank_that_has_failed) {
    static member m[RANKS];
    backend_group_id id;
    if (!start(m, RANKS, false, &id)) {
        cr_skip_test("WEIR_CUDA_MODULE names no module");
    }
    run_all(m, RANKS, sum_but_for_the_last);
    for (int32_t r = 0; r < RANKS; r++) {
        cr_assert_eq(m[r].joined, STATUS_OK, "%s", m[r].d.text);
        cr_assert_eq(m[r].summed, STATUS_DEVICE, "rank %d", r);
    }
    close_all(m, RANKS);
}

static void *join_unless_last(void *argument) {
    member *m = argument;
    if (m->rank + 1 == m->ranks) {
        (void)usleep(20000);
        for (int32_t r = 0; r < m->ranks; r++) {
            backend_group_leave(m[r - m->rank].device);
        }
        return NULL;
    }
    m->joined = backend_group_join(m->device, m->id, m->rank, m->ranks, &m->d);
    return NULL;
}

Test(cudagroup, nor_for_one_that_never_joins) {
    static member m[2];
    backend_group_id id;
    if (!start(m, 2, false, &id)) {
        cr_skip_test("WEIR_CUDA_MODULE names no module");
    }
    run_all(m, 2, join_unless_last);
    cr_assert_eq(m[0].joined, STATUS_DEVICE);
    cr_assert(strstr(m[0].d.text, "rank 0 of 2 on device 0: another rank has failed") != NULL, "%s",
              m[0].d.text);
    close_all(m, 2);
}

/* Numbers whose sum depends on the order of additions. */
static float rough(int32_t rank, int32_t i) {
    static const float sizes[RANKS] = {1e8f, 1.0f, -1e8f};
    return sizes[(rank + i) % RANKS] * (1 + (float)(i % 97) / 128);
}

/* The first `count` numbers, for some counts that leave ranks with shares of other sizes, or none.
 */
static void *join_and_sum_rough(void *argument) {
    static const int32_t counts[] = {COUNT, 1, 2, RANKS + 1, WIDTH};
    member *m = argument;
    void *memory;
    float host[COUNT];
    m->joined = backend_group_join(m->device, m->id, m->rank, m->ranks, &m->d);
    m->summed = m->joined;
    if (m->summed == STATUS_OK) {
        m->summed = backend_alloc(m->device, sizeof host, &memory);
        m->x = memory;
    }
    for (size_t n = 0; n < sizeof counts / sizeof counts[0] && m->summed == STATUS_OK; n++) {
        const ops_all_reduce op = {m->x, 1, counts[n]};
        for (int32_t i = 0; i < COUNT; i++) {
            host[i] = rough(m->rank, i);
        }
        m->summed = backend_upload(m->device, m->x, host, sizeof host);
        if (m->summed == STATUS_OK) {
            m->summed = backend_all_reduce(m->device, &op);
        }
        if (m->summed == STATUS_OK) {
            m->summed = backend_download(m->device, m->out, m->x, sizeof m->out);
        }
        for (int32_t i = 0; i < COUNT && m->summed == STATUS_OK; i++) {
            float want = rough(m->rank, i);
            if (i < counts[n]) {
                want = rough(0, i);
                for (int32_t r = 1; r < m->ranks; r++) {
                    want += rough(r, i);
                }
            }
            m->summed = m->out[i] == want ? STATUS_OK : STATUS_MISMATCH;
        }
    }
    return NULL;
}

Test(cudagroup, deterministic_sums_are_in_the_order_of_ranks) {
    static member m[RANKS];
    for (int32_t ranks = 2; ranks <= RANKS; ranks++) {
        backend_group_id id;
        if (!start(m, ranks, true, &id)) {
            cr_skip_test("WEIR_CUDA_MODULE names no module");
        }
        run_all(m, ranks, join_and_sum_rough);
        for (int32_t r = 0; r < ranks; r++) {
            cr_assert_eq(m[r].summed, STATUS_OK, "rank %d of %d: %s %s", r, ranks,
                         status_text(m[r].summed), m[r].d.text);
            cr_assert(strstr(backend_numerics(m[r].device), "/exact") != NULL);
        }
        close_all(m, ranks);
    }
    backend_group_id id;
    cr_assert(start(m, RANKS, false, &id));
    run_all(m, RANKS, join_and_sum);
    cr_assert(strstr(backend_numerics(m[0].device), "/fast") != NULL, "NCCL's order is its own");
    close_all(m, RANKS);
}

Test(cudagroup, alone_there_is_nothing_to_add) {
    static member m[1];
    backend_group_id id;
    if (!start(m, 1, false, &id)) {
        cr_skip_test("WEIR_CUDA_MODULE names no module");
    }
    cr_assert_eq(sum(&m[0], 1), STATUS_INVALID);
    cr_assert_eq(backend_group_join(m[0].device, &id, 0, 1, &m[0].d), STATUS_INVALID);
    cr_assert_eq(backend_group_join(m[0].device, &id, 2, 2, &m[0].d), STATUS_INVALID);
    close_all(m, 1);
}

Test(cudagroup, the_cpu_has_no_groups) {
    backend *b;
    backend_group_id id;
    diag d;
    cr_assert_eq(backend_open("cpu", NULL, &b, &d), STATUS_OK);
    cr_assert_eq(backend_group_make(b, &id, &d), STATUS_UNSUPPORTED);
    cr_assert(strstr(d.text, "the cpu backend") != NULL, "%s", d.text);
    cr_assert_eq(backend_group_join(b, &id, 0, 2, &d), STATUS_INVALID);
    backend_group_leave(b);
    backend_close(b);
}
