/* shares.c -- first fit for cores, best fit for GPUs. */
#include "server/drivers/shares.h"

#include <stdlib.h>
#include <string.h>

#include "engine/base/check.h"
#include "engine/base/str.h"

void shares_add_cpu(shares_cpus *set, uint32_t cpu) {
    CHECK_LT(cpu, SHARES_CPUS_MAX);
    set->words[cpu / 64] |= UINT64_C(1) << cpu % 64;
}

bool shares_has_cpu(const shares_cpus *set, uint32_t cpu) {
    return cpu < SHARES_CPUS_MAX && (set->words[cpu / 64] >> cpu % 64 & 1);
}

uint32_t shares_count_cpus(const shares_cpus *set) {
    uint32_t count = 0;
    for (uint32_t i = 0; i < SHARES_CPUS_MAX / 64; i++) {
        count += (uint32_t)__builtin_popcountll(set->words[i]);
    }
    return count;
}

/* ---- cores ---------------------------------------------------------------------------------- */

/* The first `count` of the free ones from `first` on that have no gap; false: there is one. */
static bool take_run(const shares_cpus *unused, uint32_t first, uint32_t count, shares_cpus *out) {
    *out = (shares_cpus){{0}};
    for (uint32_t i = first; i < first + count; i++) {
        if (!shares_has_cpu(unused, i)) {
            return false;
        }
        shares_add_cpu(out, i);
    }
    return true;
}

/* Neighbours share caches and memory. */
static shares_cpus pick_cpus(const shares *s, const shares_part *held, uint32_t held_count) {
    shares_cpus unused = s->cpus, out = {{0}};
    for (uint32_t i = 0; i < held_count; i++) {
        for (uint32_t w = 0; w < SHARES_CPUS_MAX / 64; w++) {
            unused.words[w] &= ~held[i].cpus.words[w];
        }
    }
    if (s->cpus_each == 0 || shares_count_cpus(&unused) < s->cpus_each) {
        return out;
    }
    for (uint32_t i = 0; i < SHARES_CPUS_MAX; i++) {
        if (take_run(&unused, i, s->cpus_each, &out)) {
            return out;
        }
    }
    out = (shares_cpus){{0}};
    for (uint32_t i = 0, left = s->cpus_each; left > 0; i++) {
        if (shares_has_cpu(&unused, i)) {
            shares_add_cpu(&out, i);
            left--;
        }
    }
    return out;
}

/* ---- GPUs ----------------------------------------------------------------------------------- */

static uint32_t left_of(uint32_t device, const shares_part *held, uint32_t held_count) {
    uint32_t left = SHARES_WHOLE;
    for (uint32_t i = 0; i < held_count; i++) {
        if (held[i].device == (int32_t)device) {
            left -= held[i].part < left ? held[i].part : left;
        }
    }
    return left;
}

bool shares_pick(const shares *s, const shares_part *held, uint32_t held_count, shares_part *out,
                 diag *why) {
    uint32_t least = UINT32_MAX, most = 0;
    *out = (shares_part){.device = SHARES_NO_DEVICE};
    for (uint32_t i = 0; i < s->devices_count; i++) {
        uint32_t left = left_of(s->devices[i], held, held_count);
        most = left > most ? left : most;
        if (left >= s->part_each && left < least) {
            least = left;
            out->device = s->devices[i];
            out->part = s->part_each;
        }
    }
    if (s->devices_count > 0 && out->device == SHARES_NO_DEVICE) {
        (void)status_fail(
            why, STATUS_LIMIT, "none of %u GPUs has %.3g left: the freest has %.3g of it",
            s->devices_count, (double)s->part_each / SHARES_WHOLE, (double)most / SHARES_WHOLE);
        return false;
    }
    out->cpus = pick_cpus(s, held, held_count);
    return true;
}

uint32_t shares_room(const shares *s, const shares_part *held, uint32_t held_count) {
    if (s->devices_count == 0) {
        return UINT32_MAX;
    }
    uint32_t room = 0;
    for (uint32_t i = 0; i < s->devices_count; i++) {
        room += left_of(s->devices[i], held, held_count) / s->part_each;
    }
    return room;
}

static bool has_device(const shares *s, int64_t device) {
    for (uint32_t i = 0; i < s->devices_count; i++) {
        if (s->devices[i] == device) {
            return true;
        }
    }
    return false;
}

status shares_read_devices(shares *s, const char *text, diag *d) {
    s->devices_count = 0;
    for (const char *at = text;; at++) {
        size_t bytes = strcspn(at, ",");
        int64_t device;
        if (!str_to_i64(str_of(at, bytes), 0, SHARES_DEVICE_NUMBERS - 1, &device) ||
            has_device(s, device) || s->devices_count == SHARES_DEVICES_MAX) {
            return status_fail(d, STATUS_INVALID,
                               "\"%.64s\": numbers of at most %d GPUs are wanted, as 0,1,3", text,
                               SHARES_DEVICES_MAX);
        }
        s->devices[s->devices_count++] = (uint16_t)device;
        at += bytes;
        if (*at == 0) {
            return STATUS_OK;
        }
    }
}
