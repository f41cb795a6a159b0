/* lease_test.c -- who acts: in files, and in 10,000 interleavings of two controllers. */
#define _GNU_SOURCE
#include "server/control/lease.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "engine/base/rng.h"
#include "server/drivers/driver.h"

enum { TTL = 1000000 };

static void name_file(char path[64]) {
    (void)snprintf(path, 64, "/tmp/weir-lease-XXXXXX");
    int fd = mkstemp(path);
    cr_assert_geq(fd, 0);
    (void)close(fd);
}

Test(lease, one_of_two_has_it_and_the_other_gets_it_with_a_greater_token) {
    char path[64];
    lease *a, *b;
    diag d;
    name_file(path);
    cr_assert_eq(lease_open(path, 1, TTL, &a, &d), STATUS_OK);
    cr_assert_eq(lease_open(path, 2, TTL, &b, &d), STATUS_OK);
    cr_assert(lease_turn(a, 10));
    cr_assert_not(lease_turn(b, 10));
    cr_assert(lease_turn(a, 10 + TTL / 2), "renewed");
    cr_assert_not(lease_turn(b, 10 + TTL));
    uint64_t first = lease_token(a);
    cr_assert(lease_turn(b, 10 + TTL / 2 + 2 * TTL), "a has gone quiet");
    cr_assert_gt(lease_token(b), first);
    cr_assert_not(lease_begin(a, 10 + TTL / 2 + 2 * TTL + 1), "and acts no more");
    cr_assert(lease_begin(b, 10 + TTL / 2 + 2 * TTL + 1));
    lease_end(b);
    lease_close(b);
    cr_assert(lease_turn(a, 10 + TTL / 2 + 3 * TTL), "given back");
    lease_close(a);
    (void)unlink(path);
}

Test(lease, a_time_of_an_earlier_boot_is_over) {
    lease_record r = {.token = 5, .holder = 1, .until_us = INT64_MAX / 2};
    cr_assert(lease_take(&r, 2, 100, TTL));
    cr_assert_eq(r.token, 6);
    cr_assert_not(lease_take(&r, 1, 200, TTL));
}

Test(lease, a_damaged_file_is_nobodys) {
    char path[64];
    lease *a;
    diag d;
    name_file(path);
    FILE *f = fopen(path, "w");
    cr_assert_not_null(f);
    (void)fputs("junk", f);
    (void)fclose(f);
    cr_assert_eq(lease_open(path, 1, TTL, &a, &d), STATUS_OK);
    cr_assert(lease_turn(a, 10));
    lease_close(a);
    (void)unlink(path);
    cr_assert_neq(lease_open("/nonexistent/lease", 1, TTL, &a, &d), STATUS_OK);
}

/* ---- interleavings -------------------------------------------------------------------------- */

/* A controller takes the lease, decides, and acts, and may sleep between any two of these. */
typedef struct {
    uint64_t holder, token;
    bool decided;
    int64_t asleep_us;
} actor;

static uint64_t last_done;
static uint32_t done, refused;

static driver_result note_start(driver *d, uint64_t token, scaler_pool pool, uint32_t *id,
                                diag *why) {
    (void)pool;
    (void)why;
    (void)d;
    *id = done++;
    cr_assert_geq(token, last_done, "an action with an older token took effect");
    last_done = token;
    return DRIVER_ASKED;
}

static const driver_table notes = {.name = "notes", .start = note_start};

/* True when a stale action took effect. `fenced` false: the planted bug, tokens are not looked at.
 */
static bool interleave(uint64_t seed, bool fenced) {
    lease_record r = {0};
    actor actors[2] = {{.holder = 1}, {.holder = 2}};
    driver d = {.table = &notes};
    uint64_t newest = 0;
    bool stale = false;
    int64_t now_us = 1000;
    last_done = 0;
    for (uint64_t i = 0; i < 200; i++) {
        uint64_t bits = rng_at(seed, 3, i);
        actor *a = &actors[bits & 1];
        now_us += (int64_t)(bits >> 8) % (TTL / 4);
        if (now_us < a->asleep_us) {
            continue;
        }
        if (bits >> 1 & 1) {
            a->asleep_us = (bits >> 2) % 8 == 0 ? now_us + 3 * TTL : 0; /* frozen, perhaps */
        } else if (!a->decided) {
            a->decided = lease_take(&r, a->holder, now_us, TTL);
            a->token = a->decided ? r.token : a->token;
        } else {
            uint32_t id;
            diag why;
            a->decided = false;
            if (!fenced) {
                stale = stale || a->token < newest;
                newest = a->token > newest ? a->token : newest;
            } else if (driver_start(&d, a->token, SCALER_PREFILL, &id, &why) == DRIVER_REFUSED) {
                refused++;
            }
        }
    }
    return stale;
}

Test(lease, no_stale_action_takes_effect_in_10000_interleavings) {
    for (uint64_t seed = 1; seed <= 10000; seed++) {
        (void)interleave(seed, true);
    }
    cr_assert_gt(done, 100000);
    cr_assert_gt(refused, 1000, "and stale ones were tried");
}

Test(lease, without_the_fence_they_would) {
    uint64_t seed = 1;
    while (seed <= 10000 && !interleave(seed, false)) {
        seed++;
    }
    cr_assert_leq(seed, 10000, "the planted bug is found");
}
