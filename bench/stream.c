/* stream.c -- each thread reads its own slice of one buffer; each thread multiplies registers. */
#define _GNU_SOURCE
#include "bench/stream.h"

#include <pthread.h>
#include <stddef.h>
#include <string.h>
#include <sys/mman.h>

#include "engine/base/clock.h"
#include "engine/base/limits.h"

enum {
    READ_PASSES = 15,
    READ_AHEAD_WORDS = 256, /* prefetched: past the page the hardware's own prefetch stops at */
    PEAK_PASSES = 40,
    PEAK_LOOPS = 4000 /* some tens of microseconds: short passes meet quiet moments */
};

typedef struct {
    const uint64_t *words; /* [count] */
    size_t count;
    uint64_t sum; /* kept, so that the reads are not optimised away */
} slice;

static void *slice_sum(void *argument) {
    slice *s = argument;
    uint64_t lane[8] = {0};
    for (size_t i = 0; i + 8 <= s->count; i += 8) {
        __builtin_prefetch(s->words + i + READ_AHEAD_WORDS);
        for (size_t j = 0; j < 8; j++) {
            lane[j] += s->words[i + j];
        }
    }
    for (size_t j = 0; j < 8; j++) {
        s->sum += lane[j];
    }
    return NULL;
}

/* Nanoseconds until all threads are through; INT64_MAX when one did not start. */
static int64_t slices_pass(slice *slices, int32_t threads) {
    pthread_t ids[LIMIT_THREADS];
    int64_t start = clock_now_ns();
    int32_t started = 1;
    while (started < threads &&
           pthread_create(&ids[started], NULL, slice_sum, &slices[started]) == 0) {
        started++;
    }
    slice_sum(&slices[0]);
    for (int32_t i = 1; i < started; i++) {
        (void)pthread_join(ids[i], NULL);
    }
    return started == threads ? clock_now_ns() - start : INT64_MAX;
}

double stream_read_bytes_per_s(int32_t threads, uint64_t bytes) {
    slice slices[LIMIT_THREADS];
    if (threads < 1 || threads > LIMIT_THREADS) {
        return 0;
    }
    uint64_t *words = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (words == MAP_FAILED) {
        return 0;
    }
    (void)madvise(words, bytes, MADV_HUGEPAGE); /* as the weights have */
    size_t count = bytes / sizeof(words[0]);
    for (size_t i = 0; i < count; i++) {
        words[i] = i; /* touched here: the passes meet no page faults */
    }
    size_t each = count / (size_t)threads;
    for (int32_t i = 0; i < threads; i++) {
        slices[i] = (slice){words + (size_t)i * each, each, 0};
    }
    int64_t best_ns = INT64_MAX;
    for (int pass = 0; pass < READ_PASSES; pass++) {
        int64_t ns = slices_pass(slices, threads);
        best_ns = ns < best_ns ? ns : best_ns;
    }
    (void)munmap(words, bytes);
    return (double)(each * (size_t)threads * sizeof(words[0])) * 1e9 / (double)best_ns;
}

#if defined(__x86_64__)
/* In assembly: the compiler would copy an array of accumulators around. 12 chains hide a latency of
 * 5 cycles on two ports. */
#define PEAK_TWELVE(instruction, r)                                                                \
    instruction " %%" r "0, %%" r "0, %%" r "1\n" instruction " %%" r "0, %%" r "0, %%" r          \
                "2\n" instruction " %%" r "0, %%" r "0, %%" r "3\n" instruction " %%" r "0, %%" r  \
                "0, %%" r "4\n" instruction " %%" r "0, %%" r "0, %%" r "5\n" instruction " %%" r  \
                "0, %%" r "0, %%" r "6\n" instruction " %%" r "0, %%" r "0, %%" r                  \
                "7\n" instruction " %%" r "0, %%" r "0, %%" r "8\n" instruction " %%" r "0, %%" r  \
                "0, %%" r "9\n" instruction " %%" r "0, %%" r "0, %%" r "10\n" instruction " %%" r \
                "0, %%" r "0, %%" r "11\n" instruction " %%" r "0, %%" r "0, %%" r "12\n"
#define PEAK_REGISTERS                                                                       \
    "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", \
        "xmm11", "xmm12"

static void peak_avx512(void) {
    for (int i = 0; i < PEAK_LOOPS; i++) {
        __asm__ volatile(PEAK_TWELVE("vpdpbusd", "zmm")::: PEAK_REGISTERS);
    }
}

static void peak_avxvnni(void) {
    for (int i = 0; i < PEAK_LOOPS; i++) {
        __asm__ volatile(PEAK_TWELVE("%{vex%} vpdpbusd", "ymm")::: PEAK_REGISTERS);
    }
}

/* Full tiles of 16 x 64 bytes by 64 x 16. The permission was asked for when the backend was opened.
 */
static void peak_tiles(void) {
    uint8_t shapes[64] = {1};
    for (int t = 0; t < 8; t++) {
        shapes[16 + 2 * t] = 64; /* bytes of a row */
        shapes[48 + t] = 16;     /* rows */
    }
    __asm__ volatile(
        "ldtilecfg %0\n tilezero %%tmm0\n tilezero %%tmm1\n tilezero %%tmm2\n tilezero %%tmm3\n"
        "tilezero %%tmm4\n tilezero %%tmm5\n tilezero %%tmm6\n tilezero %%tmm7\n" ::"m"(shapes));
}

#define PEAK_FOUR(instruction)                                                            \
    instruction " %tmm6, %tmm4, %tmm0\n" instruction " %tmm7, %tmm4, %tmm1\n" instruction \
                " %tmm6, %tmm5, %tmm2\n" instruction " %tmm7, %tmm5, %tmm3\n"

static void peak_amx(void) {
    peak_tiles();
    for (int i = 0; i < PEAK_LOOPS; i++) {
        __asm__ volatile(PEAK_FOUR("tdpbssd"));
    }
    __asm__ volatile("tilerelease");
}

static void peak_amxbf16(void) {
    peak_tiles();
    for (int i = 0; i < PEAK_LOOPS; i++) {
        __asm__ volatile(PEAK_FOUR("tdpbf16ps"));
    }
    __asm__ volatile("tilerelease");
}
#endif

typedef struct {
    void (*loop)(void);
    int64_t best_ns;
} peak;

static void *peak_main(void *argument) {
    peak *p = argument;
    p->best_ns = INT64_MAX;
    for (int pass = 0; pass < PEAK_PASSES; pass++) {
        const int64_t start = clock_now_ns();
        p->loop();
        const int64_t ns = clock_now_ns() - start;
        p->best_ns = ns < p->best_ns ? ns : p->best_ns;
    }
    return NULL;
}

/* One core's, times the threads. On a thread of its own: the tile shapes of the caller's stay. */
double stream_ops_per_s(int32_t threads, const char *name) {
    static const struct {
        const char *name;
        void (*loop)(void);
        double ops; /* of one turn */
    } peaks[] = {
#if defined(__x86_64__)
        {"amx", peak_amx, 4 * 2.0 * 16 * 16 * 64},
        {"amx-bf16", peak_amxbf16, 4 * 2.0 * 16 * 16 * 32},
        {"avx512", peak_avx512, 12 * 2.0 * 64},
        {"avxvnni", peak_avxvnni, 12 * 2.0 * 32},
#endif
        {"", NULL, 0}
    };
    for (size_t i = 0; peaks[i].loop != NULL; i++) {
        pthread_t id;
        peak p = {peaks[i].loop, 0};
        if (strcmp(peaks[i].name, name) == 0 && pthread_create(&id, NULL, peak_main, &p) == 0) {
            (void)pthread_join(id, NULL);
            return threads * peaks[i].ops * PEAK_LOOPS * 1e9 / (double)p.best_ns;
        }
    }
    return 0;
}
