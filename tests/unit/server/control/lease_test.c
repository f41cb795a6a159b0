/* lease_test.c -- who acts: in files, and in 10,000 interleavings of two controllers. */
#define _GNU_SOURCE
#include "server/control/lease.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine/base/rng.h"
#include "engine/core/message.h"
#include "server/drivers/driver_cluster.h"

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

/* ---- orders by way of hubs ------------------------------------------------------------------ */

enum { FLEET = 4, ON_THE_WAY = 32 };

/* Workers, what is on its way to them from two hubs (in any order), and what they did. */
static struct {
    uint64_t known[FLEET], last[FLEET];
    struct {
        uint32_t worker;
        uint64_t token;
    } sent[ON_THE_WAY];
    uint32_t sent_count;
    bool fenced, stale;
    uint32_t obeyed, refused;
} fleet;

static bool send_order(void *self, uint32_t worker, const message *m) {
    (void)self;
    if (fleet.sent_count == ON_THE_WAY) {
        return false;
    }
    uint64_t token = m->type == MESSAGE_ROLE ? m->role.token : m->drain.token;
    fleet.sent[fleet.sent_count].worker = worker;
    fleet.sent[fleet.sent_count++].token = token;
    return true;
}

static void deliver(uint64_t bits) {
    uint32_t i = (uint32_t)(bits % fleet.sent_count);
    uint32_t w = fleet.sent[i].worker;
    uint64_t token = fleet.sent[i].token;
    fleet.sent[i] = fleet.sent[--fleet.sent_count];
    if (fleet.fenced && !message_order_fits(&fleet.known[w], token)) {
        fleet.refused++;
        return;
    }
    fleet.stale = fleet.stale || token < fleet.last[w];
    fleet.last[w] = token;
    fleet.obeyed++;
}

static uint32_t has_role(void *self, uint32_t worker) {
    (void)self;
    return worker < FLEET ? MESSAGE_ROLE_DECODE | MESSAGE_ROLE_FLIPS : 0u;
}

static uint32_t no_pid(void *self, uint32_t worker) {
    (void)self;
    (void)worker;
    return 0;
}

/* Each controller has a driver and a hub of its own: what one knows does not stop the other. */
static void order_about(uint64_t seed, bool fenced) {
    static const driver_cluster_hub hub = {NULL, send_order, has_role, no_pid, NULL};
    lease_record r = {0};
    actor actors[2] = {{.holder = 1}, {.holder = 2}};
    driver *drivers[2];
    driver_worker list[LIMIT_WORKERS];
    diag why;
    int64_t now_us = 1000;
    memset(fleet.known, 0, sizeof fleet.known);
    memset(fleet.last, 0, sizeof fleet.last);
    fleet.sent_count = 0;
    fleet.fenced = fenced;
    for (int i = 0; i < 2; i++) {
        cr_assert_eq(driver_cluster_open(&hub, NULL, &drivers[i], &why), STATUS_OK);
    }
    for (uint64_t i = 0; i < 200; i++) {
        uint64_t bits = rng_at(seed, 4, i);
        actor *a = &actors[bits & 1];
        now_us += (int64_t)(bits >> 8) % (TTL / 4);
        if (bits >> 5 & 1 && fleet.sent_count > 0) {
            deliver(bits >> 9);
        }
        if (now_us < a->asleep_us) {
            continue;
        }
        if (bits >> 1 & 1) {
            a->asleep_us = (bits >> 2) % 8 == 0 ? now_us + 3 * TTL : 0;
        } else if (!a->decided) {
            a->decided = lease_take(&r, a->holder, now_us, TTL);
            a->token = a->decided ? r.token : a->token;
        } else {
            driver *d = drivers[bits & 1];
            uint32_t id = DRIVER_CLUSTER_OTHERS + (uint32_t)(bits >> 16) % FLEET;
            a->decided = false;
            (void)driver_list(d, list);
            (void)(bits >> 6 & 1 ? driver_flip(d, a->token, id, SCALER_PREFILL, &why)
                                 : driver_stop(d, a->token, id, TTL, &why));
        }
    }
    for (int i = 0; i < 2; i++) {
        driver_close(drivers[i]);
    }
}

Test(lease, no_worker_obeys_a_stale_order_in_10000_interleavings) {
    for (uint64_t seed = 1; seed <= 10000; seed++) {
        order_about(seed, true);
        cr_assert_not(fleet.stale, "seed %llu", (unsigned long long)seed);
    }
    cr_assert_gt(fleet.obeyed, 50000);
    cr_assert_gt(fleet.refused, 1000, "and stale ones were tried");
}

Test(lease, without_the_fence_they_would_obey) {
    for (uint64_t seed = 1; seed <= 10000 && !fleet.stale; seed++) {
        order_about(seed, false);
    }
    cr_assert(fleet.stale, "the planted bug is found");
}
