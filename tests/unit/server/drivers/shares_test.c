/* shares_test.c -- cores and parts of GPUs, against a count of what was given out. */
#include "server/drivers/shares.h"

#include <criterion/criterion.h>
#include <string.h>

#include "engine/base/rng.h"

static shares machine(uint32_t cpus, uint32_t each, const char *devices, uint32_t part) {
    shares s = {.cpus_each = each, .part_each = part};
    diag d;
    for (uint32_t i = 0; i < cpus; i++) {
        shares_add_cpu(&s.cpus, i);
    }
    if (devices) {
        cr_assert_eq(shares_read_devices(&s, devices, &d), STATUS_OK, "%s", d.text);
    }
    return s;
}

static shares_cpus set_of(const uint32_t *list, uint32_t count) {
    shares_cpus set = {{0}};
    for (uint32_t i = 0; i < count; i++) {
        shares_add_cpu(&set, list[i]);
    }
    return set;
}

static bool same(const shares_cpus *a, const shares_cpus *b) {
    return memcmp(a, b, sizeof *a) == 0;
}

Test(shares, workers_get_cores_of_their_own_until_there_are_too_few) {
    shares s = machine(5, 2, NULL, 0);
    shares_part held[3];
    diag why;
    for (uint32_t i = 0; i < 3; i++) {
        cr_assert(shares_pick(&s, held, i, &held[i], &why));
        cr_assert_eq(held[i].device, SHARES_NO_DEVICE);
    }
    shares_cpus first = set_of((const uint32_t[]){0, 1}, 2);
    shares_cpus second = set_of((const uint32_t[]){2, 3}, 2);
    cr_assert(same(&held[0].cpus, &first) && same(&held[1].cpus, &second));
    cr_assert_eq(shares_count_cpus(&held[2].cpus), 0, "one is left, and two were wanted");
    /* The first ends: its cores are free again. */
    shares_part next;
    cr_assert(shares_pick(&s, held + 1, 2, &next, &why));
    cr_assert(same(&next.cpus, &first));
}

Test(shares, neighbours_are_preferred_and_scattered_cores_are_taken_too) {
    shares s = machine(0, 2, NULL, 0);
    const uint32_t cores[] = {1, 3, 5, 700, 701, 1023};
    s.cpus = set_of(cores, 6);
    shares_part held[3];
    diag why;
    for (uint32_t i = 0; i < 3; i++) {
        cr_assert(shares_pick(&s, held, i, &held[i], &why));
    }
    shares_cpus next_to = set_of(cores + 3, 2), low = set_of(cores, 2);
    shares_cpus rest = set_of((const uint32_t[]){5, 1023}, 2);
    cr_assert(same(&held[0].cpus, &next_to));
    cr_assert(same(&held[1].cpus, &low));
    cr_assert(same(&held[2].cpus, &rest));
}

Test(shares, gpus_are_filled_one_after_the_other) {
    shares s = machine(0, 0, "1,4", 500);
    shares_part held[4];
    const int32_t want[4] = {1, 1, 4, 4};
    diag why;
    cr_assert_eq(shares_room(&s, NULL, 0), 4);
    for (uint32_t i = 0; i < 4; i++) {
        cr_assert(shares_pick(&s, held, i, &held[i], &why));
        cr_assert_eq(held[i].device, want[i]);
        cr_assert_eq(held[i].part, 500);
        cr_assert_eq(shares_room(&s, held, i + 1), 3 - i);
    }
    shares_part none;
    cr_assert_not(shares_pick(&s, held, 4, &none, &why));
    cr_assert(strstr(why.text, "none of 2 GPUs has 0.5 left"), "%s", why.text);
    /* The third goes: there is room again, where it was. */
    held[2] = held[3];
    cr_assert(shares_pick(&s, held, 3, &none, &why));
    cr_assert_eq(none.device, 4);
}

Test(shares, what_was_given_out_with_other_settings_counts_as_it_is) {
    shares s = machine(0, 0, "0,1", 300);
    const shares_part held[] = {{.device = 0, .part = 250},
                                {.device = 1, .part = 700},
                                {.device = 7, .part = 1000},
                                {.device = SHARES_NO_DEVICE}};
    shares_part got;
    diag why;
    cr_assert_eq(shares_room(&s, held, 4), 3);
    cr_assert(shares_pick(&s, held, 4, &got, &why));
    cr_assert_eq(got.device, 1, "the one with the least that is enough");
}

Test(shares, lists_of_gpus_that_make_no_sense_are_refused) {
    static const char *const bad[] = {"", ",", "0,", ",1", "a", "0;1", "-1", "1024", "0,0", "1 "};
    shares s;
    diag d;
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        cr_assert_eq(shares_read_devices(&s, bad[i], &d), STATUS_INVALID, "\"%s\"", bad[i]);
    }
}

/* Workers come and go at random: nothing is ever given out twice, nothing free is refused. */
Test(shares, nothing_is_given_out_twice) {
    enum { WORKERS = 24, STEPS = 4000, GPUS = 3 };
    uint64_t random = 7;
    for (uint32_t each = 1; each <= 4; each++) {
        for (uint32_t part = 100; part <= 1000; part += 150) {
            shares s = machine(11, each, "0,1,2", part);
            shares_part held[WORKERS];
            uint32_t count = 0;
            for (int step = 0; step < STEPS / 28; step++) {
                random = rng_mix(random);
                if (count > 0 && (count == WORKERS || random % 3 == 0)) {
                    held[random / 3 % count] = held[count - 1];
                    count--;
                    continue;
                }
                diag why;
                shares_part got;
                uint32_t used[GPUS] = {0}, cores = 0, most = 0;
                for (uint32_t i = 0; i < count; i++) {
                    used[held[i].device] += held[i].part;
                    cores += shares_count_cpus(&held[i].cpus);
                }
                for (int g = 0; g < GPUS; g++) {
                    cr_assert_leq(used[g], SHARES_WHOLE);
                    most = SHARES_WHOLE - used[g] > most ? SHARES_WHOLE - used[g] : most;
                }
                cr_assert_eq(shares_pick(&s, held, count, &got, &why), most >= part);
                cr_assert_eq(shares_room(&s, held, count) > 0, most >= part);
                if (most < part) {
                    continue;
                }
                cr_assert_eq(shares_count_cpus(&got.cpus), cores + each <= 11 ? each : 0);
                for (uint32_t c = 0; c < SHARES_CPUS_MAX; c++) {
                    for (uint32_t i = 0; i < count && shares_has_cpu(&got.cpus, c); i++) {
                        cr_assert_not(shares_has_cpu(&held[i].cpus, c));
                    }
                }
                held[count++] = got;
            }
        }
    }
}
