/* shares.h -- who gets which cores and which part of which GPU of one machine. Pure.
 *
 * Purpose    Workers of one host must not fight over it: each gets cores that no other has, while
 *            there are enough, and a part of a GPU that has that much left. GPUs are filled one
 *            after the other (best fit), so that what is free is whole GPUs rather than remains.
 * Ownership  Plain values.
 * Threads    Any.
 * Limits     Cores below SHARES_CPUS_MAX; SHARES_DEVICES_MAX GPUs with numbers below
 *            SHARES_DEVICE_NUMBERS. Parts of a GPU are counted in thousandths.
 */
#ifndef SERVER_DRIVERS_SHARES_H
#define SERVER_DRIVERS_SHARES_H

#include <stdbool.h>
#include <stdint.h>

#include "engine/base/status.h"

enum {
    SHARES_CPUS_MAX = 1024, /* as cpu_set_t */
    SHARES_DEVICES_MAX = 64,
    SHARES_DEVICE_NUMBERS = 1024,
    SHARES_WHOLE = 1000, /* a GPU */
    SHARES_NO_DEVICE = -1
};

typedef struct {
    uint64_t words[SHARES_CPUS_MAX / 64]; /* a bit a core */
} shares_cpus;

typedef struct {
    shares_cpus cpus; /* none: not pinned */
    int32_t device;   /* SHARES_NO_DEVICE: none */
    uint32_t part;    /* of the device, in thousandths */
} shares_part;

typedef struct {
    shares_cpus cpus;   /* that workers may run on */
    uint32_t cpus_each; /* 0: workers are not pinned */
    uint16_t devices[SHARES_DEVICES_MAX];
    uint32_t devices_count; /* 0: workers get no GPU */
    uint32_t part_each;     /* of a GPU, 1 to SHARES_WHOLE */
} shares;

void shares_add_cpu(shares_cpus *set, uint32_t cpu);
bool shares_has_cpu(const shares_cpus *set, uint32_t cpu);
uint32_t shares_count_cpus(const shares_cpus *set);

/* What a new worker may have beside those that hold `held` [held_count]. Cores are taken next to
 * each other where that is possible; with too few left the worker is not pinned. False: no GPU has
 * so much left. */
bool shares_pick(const shares *s, const shares_part *held, uint32_t held_count, shares_part *out,
                 diag *why);

/* Workers for which the GPUs still have room; UINT32_MAX where workers get none. */
uint32_t shares_room(const shares *s, const shares_part *held, uint32_t held_count);

/* GPUs by number: "0,2,5". Replaces those of `s`. */
MUST_USE status shares_read_devices(shares *s, const char *text, diag *d);

#endif
