/* slices_test.c -- heads of packed pages that lie on another device, as ranks of a group take and
 * put them: in parts where the buffer is small, and all of it before the stream goes on. The
 * devices are the emulated ones. */
#define _GNU_SOURCE
#include "kvtransfer/nccl.h"

#ifdef WEIR_CUDA_EMU
#include <cuda_runtime_api.h>
#include <pthread.h>

#include "kernels/backend.h"
#include "tests/unit/kvtransfer/kvt_fixture.h"

/* A rank's buffer has 4 MiB: 8 of its (layer, page)s, few and large because each is a block of
 * emulated threads. */
enum { RANKS = 2, LAYERS = 5, HEADS = 16, DIM = 256, PAGES = 10, CELL = 524288 };

typedef struct {
    backend *device;
    backend_kv *kv;
    const backend_group_id *id;
    int32_t rank;
    status joined;
    diag d;
    uint8_t *want; /* [LAYERS, PAGES, CELL] */
} rank;

static rank ranks[RANKS];
static cudaStream_t stream;
static cudaEvent_t passed;

static void *join(void *argument) {
    rank *r = argument;
    r->joined = backend_group_join(r->device, r->id, r->rank, RANKS, &r->d);
    return NULL;
}

static void open_ranks(void) {
    static backend_group_id id;
    pthread_t threads[RANKS];
    (void)setenv("EMU_DEVICES", "3", 1);
    (void)setenv("WEIR_CUDA_MODULE", WEIR_CUDA_EMU, 1);
    (void)setenv("WEIR_NCCL", WEIR_EMU_LIBRARY, 1);
    for (int32_t i = 0; i < RANKS; i++) {
        rank *r = &ranks[i];
        const backend_options o = {.threads = 1, .device = i};
        *r = (rank){.id = &id, .rank = i, .want = malloc((size_t)LAYERS * PAGES * CELL)};
        cr_assert_eq(backend_open("cuda", &o, &r->device, &r->d), STATUS_OK, "%s", r->d.text);
    }
    cr_assert_eq(backend_group_make(ranks[0].device, &id, &ranks[0].d), STATUS_OK);
    for (int32_t i = 0; i < RANKS; i++) {
        cr_assert_eq(pthread_create(&threads[i], NULL, join, &ranks[i]), 0);
    }
    for (int32_t i = 0; i < RANKS; i++) {
        const backend_kv_options kv = {LAYERS, HEADS, DIM, PAGES, BACKEND_KV_F32};
        rank *r = &ranks[i];
        cr_assert_eq(pthread_join(threads[i], NULL), 0);
        cr_assert_eq(r->joined, STATUS_OK, "%s", r->d.text);
        cr_assert_eq(backend_kv_open(r->device, &kv, &r->kv, &r->d), STATUS_OK, "%s", r->d.text);
        cr_assert_eq(r->kv->layer_page_bytes, CELL);
    }
    cr_assert_eq(cudaSetDevice(0), cudaSuccess);
    cr_assert_eq(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), cudaSuccess);
    cr_assert_eq(cudaEventCreate(&passed), cudaSuccess);
}

static void close_ranks(void) {
    (void)cudaSetDevice(0);
    (void)cudaStreamDestroy(stream);
    (void)cudaEventDestroy(passed);
    for (int32_t i = 0; i < RANKS; i++) {
        backend_kv_close(ranks[i].device, ranks[i].kv);
        backend_close(ranks[i].device);
        free(ranks[i].want);
    }
}

TestSuite(slices, .init = open_ranks, .fini = close_ranks);

/* The emulated device's memory can be looked at as it is, without waiting for anything. */
static uint8_t *cell(const rank *r, uint32_t layer, uint32_t page) {
    return backend_kv_page(r->kv, (int32_t)layer, page);
}

static void fill(rank *r, uint64_t seed) {
    for (uint64_t i = 0; i < (uint64_t)LAYERS * PAGES * CELL; i += 64) {
        uint64_t word = rng_at(seed, (uint64_t)r->rank, i);
        for (int j = 0; j < 64; j += 8) {
            memcpy(r->want + i + j, &word, 8);
        }
    }
    memcpy(cell(r, 0, 0), r->want, (size_t)LAYERS * PAGES * CELL);
}

/* Both ranks, in turn as a worker does it. */
static void pack(const backend_kv_run *run, bool gather, uint8_t *staging) {
    for (int32_t i = RANKS - 1; i >= 0; i--) {
        const backend_kv_slice s = {staging, (uint64_t)RANKS * CELL, (uint64_t)i * CELL};
        cr_assert_eq(backend_kv_pack_slice(ranks[i].device, ranks[i].kv, run, gather,
                                           BACKEND_KV_F32, &s, stream),
                     STATUS_OK);
    }
}

/* As a channel waits. */
static void wait_for_stream(void) {
    int64_t until = clock_now_us() + 120000000;
    cr_assert_eq(cudaEventRecord(passed, stream), cudaSuccess);
    while (cudaEventQuery(passed) == cudaErrorNotReady && clock_now_us() < until) {
    }
}

static uint8_t *staging_on(int device) {
    void *p = NULL;
    cr_assert_eq(cudaSetDevice(device), cudaSuccess);
    cr_assert_eq(cudaMalloc(&p, (size_t)LAYERS * PAGES * RANKS * CELL), cudaSuccess);
    cr_assert_eq(cudaSetDevice(0), cudaSuccess);
    memset(p, 0xEE, (size_t)LAYERS * PAGES * RANKS * CELL);
    return p;
}

static void check_staging(const backend_kv_run *run, const uint8_t *staging) {
    for (uint32_t l = 0; l < (uint32_t)run->layers; l++) {
        for (uint32_t p = 0; p < run->pages_count; p++) {
            for (int32_t i = 0; i < RANKS; i++, staging += CELL) {
                uint64_t at = ((uint64_t)run->layer_first + l) * PAGES + run->pages[p];
                cr_assert_eq(memcmp(staging, ranks[i].want + at * CELL, CELL), 0,
                             "layer %u, page number %u, rank %d", l, p, i);
            }
        }
    }
    cr_assert_eq(*staging, 0xEE, "nothing behind it");
}

static void number(uint32_t *pages, uint32_t count, uint32_t step) {
    for (uint32_t i = 0; i < count; i++) {
        pages[i] = (i * step + 3) % PAGES;
    }
}

/* Whole layers that fit, layers in parts, one page; staging of the first rank's device, of the
 * second's, and of another worker's. Streams take turns by lot: what had not ended when the event
 * had passed would be missing. */
Test(slices, all_heads_are_there_when_the_stream_goes_on) {
    static const struct {
        int32_t layer_first, layers;
        uint32_t pages;
    } runs[] = {{0, 5, 2}, {1, 2, 9}, {4, 1, 1}, {0, 1, 8}, {2, 3, 5}};
    uint32_t from[PAGES], to[PAGES];
    number(from, PAGES, 7);
    number(to, PAGES, 9);
    for (int device = 0; device < 3; device++) {
        uint8_t *staging = staging_on(device);
        for (size_t i = 0; i < sizeof runs / sizeof runs[0]; i++) {
            backend_kv_run run = {runs[i].layer_first, runs[i].layers, from, runs[i].pages};
            fill(&ranks[0], i + 1);
            fill(&ranks[1], i + 1);
            memset(staging, 0xEE, (size_t)LAYERS * PAGES * RANKS * CELL);
            pack(&run, true, staging);
            wait_for_stream();
            check_staging(&run, staging);
            /* And into other pages, beside which nothing changes. */
            backend_kv_run back = {runs[i].layer_first, runs[i].layers, to, runs[i].pages};
            pack(&back, false, staging);
            wait_for_stream();
            for (int32_t r = 0; r < RANKS; r++) {
                uint8_t *want = malloc((size_t)LAYERS * PAGES * CELL);
                memcpy(want, ranks[r].want, (size_t)LAYERS * PAGES * CELL);
                for (uint32_t n = 0; n < (uint32_t)run.layers * run.pages_count; n++) {
                    uint64_t layer = (uint64_t)run.layer_first + n / run.pages_count;
                    memcpy(want + (layer * PAGES + to[n % run.pages_count]) * CELL,
                           staging + ((uint64_t)n * RANKS + (uint64_t)r) * CELL, CELL);
                }
                cr_assert_eq(memcmp(cell(&ranks[r], 0, 0), want, (size_t)LAYERS * PAGES * CELL), 0,
                             "run %zu, rank %d", i, r);
                free(want);
            }
        }
        cr_assert_eq(cudaFree(staging), cudaSuccess);
    }
}

/* What could not be asked for any more is not waited for; what was, is. */
static void open_with_a_fault(void) {
    (void)setenv("EMU_CUDA_FAULT", "cudaMemcpy2DAsync,error=2,after=1,device=1", 1);
    open_ranks();
}

TestSuite(slicefaults, .init = open_with_a_fault, .fini = close_ranks);

Test(slicefaults, what_fails_in_the_middle_has_ended_with_the_stream) {
    uint32_t pages[PAGES];
    uint8_t *staging = staging_on(0);
    backend_kv_run run = {0, LAYERS, pages, 2}; /* four layers, then one */
    const backend_kv_slice s = {staging, CELL, 0};
    number(pages, PAGES, 7);
    fill(&ranks[1], 4);
    cr_assert_eq(
        backend_kv_pack_slice(ranks[1].device, ranks[1].kv, &run, true, BACKEND_KV_F32, &s, stream),
        STATUS_NOMEM);
    wait_for_stream();
    for (uint32_t n = 0; n < 4 * run.pages_count; n++) {
        uint64_t at = (uint64_t)n / run.pages_count * PAGES + pages[n % run.pages_count];
        cr_assert_eq(memcmp(staging + (uint64_t)n * CELL, ranks[1].want + at * CELL, CELL), 0,
                     "number %u", n);
    }
    cr_assert_eq(staging[4 * run.pages_count * CELL], 0xEE);
    cr_assert_eq(cudaFree(staging), cudaSuccess);
}

Test(slices, what_is_none_is_refused) {
    uint32_t page = 0, far = PAGES;
    uint8_t *staging = staging_on(0);
    backend_kv_run run = {0, 1, &page, 1}, outside = {0, 1, &far, 1};
    const struct {
        const backend_kv_run *run;
        bool gather;
        backend_kv_type type;
        backend_kv_slice slice;
        status want;
    } cases[] = {
        {&run, true, BACKEND_KV_F32, {staging, CELL, 0}, STATUS_OK},
        {&outside, true, BACKEND_KV_F32, {staging, CELL, 0}, STATUS_INVALID},
        {&run, true, BACKEND_KV_F16, {staging, CELL, 0}, STATUS_INVALID},
        {&run, false, BACKEND_KV_TYPES, {staging, CELL, 0}, STATUS_INVALID},
        {&run, true, BACKEND_KV_F32, {NULL, CELL, 0}, STATUS_INVALID},
        {&run, true, BACKEND_KV_F32, {staging, CELL - 1, 0}, STATUS_INVALID},
        {&run, true, BACKEND_KV_F32, {staging, 2 * CELL, CELL + 1}, STATUS_INVALID},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        cr_assert_eq(backend_kv_pack_slice(ranks[0].device, ranks[0].kv, cases[i].run,
                                           cases[i].gather, cases[i].type, &cases[i].slice, stream),
                     cases[i].want, "case %zu", i);
    }
    wait_for_stream();
    backend *alone;
    const backend_options o = {.threads = 1, .device = 2};
    const backend_kv_slice s = {staging, CELL, 0};
    diag d;
    cr_assert_eq(backend_open("cuda", &o, &alone, &d), STATUS_OK);
    cr_assert_eq(backend_kv_pack_slice(alone, ranks[0].kv, &run, true, BACKEND_KV_F32, &s, stream),
                 STATUS_UNSUPPORTED);
    backend_close(alone);
    cr_assert_eq(cudaFree(staging), cudaSuccess);
}
#endif
