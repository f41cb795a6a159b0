/* stream.c -- each thread sums its own slice of one large buffer. */
#include "bench/stream.h"

#include <pthread.h>

#include "engine/base/clock.h"
#include "engine/base/limits.h"
#include "engine/base/mem.h"

enum { BUFFER_BYTES = 512 << 20, PASSES = 5 };

typedef struct {
    const uint64_t *words; /* [count] */
    size_t count;
    uint64_t sum; /* kept, so that the reads are not optimised away */
} slice;

static void *stream_sum(void *argument) {
    slice *s = argument;
    uint64_t lane[8] = {0};
    for (size_t i = 0; i + 8 <= s->count; i += 8) {
        for (size_t j = 0; j < 8; j++) {
            lane[j] += s->words[i + j];
        }
    }
    for (size_t j = 0; j < 8; j++) {
        s->sum += lane[j];
    }
    return NULL;
}

static int64_t stream_pass(slice *slices, int32_t threads) {
    pthread_t ids[LIMIT_THREADS];
    int64_t start = clock_now_ns();
    int32_t started = 1;
    while (started < threads &&
           pthread_create(&ids[started], NULL, stream_sum, &slices[started]) == 0) {
        started++;
    }
    stream_sum(&slices[0]);
    for (int32_t i = 1; i < started; i++) {
        (void)pthread_join(ids[i], NULL);
    }
    return started == threads ? clock_now_ns() - start : INT64_MAX;
}

double stream_read_bytes_per_s(int32_t threads) {
    uint64_t *words = mem_alloc(BUFFER_BYTES, 1);
    slice slices[LIMIT_THREADS];
    if (!words || threads < 1 || threads > LIMIT_THREADS) {
        mem_free(words);
        return 0;
    }
    size_t count = BUFFER_BYTES / sizeof(words[0]);
    for (size_t i = 0; i < count; i++) {
        words[i] = i; /* touched here: the passes meet no page faults */
    }
    size_t each = count / (size_t)threads;
    for (int32_t i = 0; i < threads; i++) {
        slices[i] = (slice){words + (size_t)i * each, each, 0};
    }
    int64_t best_ns = INT64_MAX;
    for (int pass = 0; pass < PASSES; pass++) {
        int64_t ns = stream_pass(slices, threads);
        best_ns = ns < best_ns ? ns : best_ns;
    }
    mem_free(words);
    return (double)(each * (size_t)threads * sizeof(words[0])) * 1e9 / (double)best_ns;
}
