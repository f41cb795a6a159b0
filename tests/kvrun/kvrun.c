/* kvrun.c -- one schedule from its seed: the loop, and what must hold in the end. */
#include "tests/kvrun/kvrun.h"

#include <cuda_runtime_api.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "engine/base/rng.h"
#include "tests/emu/libs/emu_nccl.h"

enum {
    STEP_US = 500,
    IDLE_PASSES = 60,
    IDLE_STEP_US = 5000,
    PASSES_MAX = 200000,
    DEVICE_PIECES = 6
};

void kvrun_fail(kvrun *k, const char *format, ...) {
    va_list args;
    if (!k->why[0]) {
        va_start(args, format);
        (void)vsnprintf(k->why, sizeof k->why, format, args);
        va_end(args);
        kvrun_note(k, "FAILURE %s", k->why);
    }
}

void kvrun_note(const kvrun *k, const char *format, ...) {
    va_list args;
    if (k->trace) {
        va_start(args, format);
        (void)printf("%8.3f  ", (double)kvapi_time_us / 1000);
        (void)vprintf(format, args);
        (void)printf("\n");
        va_end(args);
    }
}

uint64_t kvrun_draw(kvrun *k, uint64_t below) {
    return rng_below(&k->random, below);
}

bool kvrun_chance(kvrun *k, unsigned percent) {
    return kvrun_draw(k, 100) < percent;
}

static size_t memory_free(int device) {
    size_t left = 0, all = 0;
    (void)cudaSetDevice(device);
    (void)cudaMemGetInfo(&left, &all);
    return left;
}

static bool all_done(const kvrun *k) {
    for (int i = 0; i < KVRUN_WORKERS; i++) {
        if (kvpair_busy(k, true, i)) {
            return false;
        }
    }
    return true;
}

/* Sides whose peer is gone have noticed by now. */
static bool no_halves(const kvrun *k) {
    for (int i = 0; i < KVRUN_CHANNELS; i++) {
        const kvrun_channel *c = &k->channels[i];
        if (c->used && (!c->sender || !c->receiver)) {
            return false;
        }
    }
    return true;
}

/* The devices go on by themselves, a piece of work at a time: asking for anything runs one. */
static void run_devices(kvrun *k) {
    for (uint64_t i = kvrun_draw(k, 2 * DEVICE_PIECES); i > 0; i--) {
        (void)cudaStreamQuery(NULL);
    }
}

static void turn(kvrun *k, unsigned *idle) {
    uint64_t moved = k->moved;
    unsigned first = (unsigned)kvrun_draw(k, KVRUN_CHANNELS);
    kvfleet_turn(k);
    run_devices(k);
    kvpair_work(k);
    for (unsigned i = 0; i < KVRUN_CHANNELS && !k->why[0]; i++) {
        kvrun_channel *c = &k->channels[(first + i * 5) % KVRUN_CHANNELS];
        if (c->used) {
            kvpair_turn(k, c);
        }
    }
    *idle = k->moved == moved ? *idle + 1 : 0;
    kvapi_time_us += *idle > IDLE_PASSES ? IDLE_STEP_US : 1 + (int64_t)kvrun_draw(k, 2 * STEP_US);
    if (k->counts.passes++ % 16 == 0) {
        kvpair_check_pages(k);
    }
}

static void check_end(kvrun *k) {
    bool hung;
    kvapi_now = NULL;
    kvapi_run_helpers(true);
    kvpair_check_pages(k);
    if (emu_nccl_comms() || emu_nccl_operations() || nccl_aborting(&hung) || hung) {
        kvrun_fail(k, "%u communicators and %u operations are left, %u aborts", emu_nccl_comms(),
                   emu_nccl_operations(), nccl_aborting(&hung));
    }
    if (nccl_staged() != 0) {
        kvrun_fail(k, "%llu bytes of staging are left", (unsigned long long)nccl_staged());
    }
    for (int i = 0; i < 2 * KVRUN_WORKERS; i++) {
        const kvrun_worker *w = i < KVRUN_WORKERS ? &k->p[i] : &k->d[i - KVRUN_WORKERS];
        for (uint32_t page = 0; page < KVRUN_PAGES; page++) {
            if (w->held[page]) {
                kvrun_fail(k, "page %u of %c%d is never free again", page,
                           i < KVRUN_WORKERS ? 'P' : 'D', i % KVRUN_WORKERS);
            }
        }
    }
}

bool kvrun_run(kvrun *k, uint64_t seed, bool trace, kvrun_counts *counts) {
    *k = (kvrun){.seed = seed, .random = rng_mix(seed), .trace = trace};
    unsigned idle = 0;
    for (int i = 0; i < KVAPI_DEVICES; i++) {
        k->memory[i] = memory_free(i);
    }
    kvfleet_begin(k);
    while (!k->why[0]) {
        k->ending = kvapi_time_us > k->end_us;
        if (k->ending && all_done(k) && no_halves(k)) {
            break;
        }
        turn(k, &idle);
        if (k->counts.passes > PASSES_MAX ||
            kvapi_time_us > k->end_us + 2 * KVRUN_LEASE_US + KVRUN_SETUP_US) {
            kvrun_fail(k, "jobs, or sides without a peer, never end");
        }
    }
    if (!k->why[0]) {
        kvfleet_end(k);
        check_end(k);
    }
    *counts = k->counts;
    return !k->why[0];
}
