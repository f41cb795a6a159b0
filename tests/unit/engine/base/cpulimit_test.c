/* cpulimit_test.c -- quotas as the kernel writes them, in groups within groups. */
#define _GNU_SOURCE
#include "engine/base/cpulimit.h"

#include <criterion/criterion.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static char mount_point[128];

static void make_mount(void) {
    (void)snprintf(mount_point, sizeof mount_point, "/tmp/cpulimit_test.%d", (int)getpid());
    cr_assert_eq(mkdir(mount_point, 0700), 0);
}

static void put(const char *name, const char *text) {
    char path[256];
    (void)snprintf(path, sizeof path, "%s/%s", mount_point, name);
    for (char *at = path + strlen(mount_point) + 1; (at = strchr(at, '/')) != NULL; at++) {
        *at = 0;
        (void)mkdir(path, 0700);
        *at = '/';
    }
    FILE *f = fopen(path, "w");
    cr_assert_not_null(f);
    (void)fputs(text, f);
    (void)fclose(f);
}

/* Names in the order in which they can go. */
static void clean(const char *const names[]) {
    for (size_t i = 0; names[i] != NULL; i++) {
        char path[256];
        (void)snprintf(path, sizeof path, "%s/%s", mount_point, names[i]);
        (void)remove(path);
    }
    (void)remove(mount_point);
}

Test(cpulimit, the_quota_of_a_group_is_rounded_up) {
    make_mount();
    static const struct {
        const char *text;
        int32_t cpus;
    } cases[] = {{"200000 100000\n", 2},
                 {"150000 100000\n", 2},
                 {"1000 100000\n", 1},
                 {"max 100000\n", 0},
                 {"", 0},
                 {"junk", 0},
                 {"100000 0\n", 0},
                 {"-1 100000\n", 0},
                 {"9223372036854775807 1\n", INT32_MAX}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        put("cpu.max", cases[i].text);
        cr_expect_eq(cpulimit_quota("0::/\n", mount_point), cases[i].cpus, "%s", cases[i].text);
    }
    clean((const char *const[]){"cpu.max", NULL});
}

Test(cpulimit, the_smallest_quota_on_the_way_up_counts) {
    make_mount();
    put("a/cpu.max", "300000 100000\n");
    put("a/b/cpu.max", "max 100000\n");
    put("a/b/c/cpu.max", "800000 100000\n");
    cr_expect_eq(cpulimit_quota("0::/a/b/c\n", mount_point), 3);
    cr_expect_eq(cpulimit_quota("0::/a/b\n", mount_point), 3);
    cr_expect_eq(cpulimit_quota("0::/\n", mount_point), 0);
    clean((const char *const[]){"a/b/c/cpu.max", "a/b/c", "a/b/cpu.max", "a/b", "a/cpu.max", "a",
                                NULL});
}

Test(cpulimit, version_1_has_two_files_and_minus_one_for_none) {
    make_mount();
    put("cpu/cpu.cfs_quota_us", "-1\n");
    put("cpu/cpu.cfs_period_us", "100000\n");
    put("cpu/g/cpu.cfs_quota_us", "250000\n");
    put("cpu/g/cpu.cfs_period_us", "50000\n");
    cr_expect_eq(cpulimit_quota("3:cpuset:/x\n2:cpu,cpuacct:/g\n0::/\n", mount_point), 5);
    cr_expect_eq(cpulimit_quota("2:cpuacct,cpu:/g/not/seen/here", mount_point), 5);
    cr_expect_eq(cpulimit_quota("2:cpu:/\n", mount_point), 0);
    cr_expect_eq(cpulimit_quota("2:cpuacct:/g\n3:cpuset:/g\n", mount_point), 0);
    clean((const char *const[]){"cpu/g/cpu.cfs_quota_us", "cpu/g/cpu.cfs_period_us", "cpu/g",
                                "cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us", "cpu", NULL});
}

Test(cpulimit, lines_that_are_none_are_no_limit) {
    static const char *const lines[] = {"", "\n\n", "0", "0:", "0::", ":", "::", "cpu", "a:cpu"};
    for (size_t i = 0; i < sizeof lines / sizeof lines[0]; i++) {
        cr_expect_eq(cpulimit_quota(lines[i], "/nowhere"), 0, "%s", lines[i]);
    }
}

Test(cpulimit, a_mask_of_one_cpu_leaves_one) {
    cpu_set_t set, one;
    cr_assert_eq(sched_getaffinity(0, sizeof set, &set), 0);
    cr_expect_geq(cpulimit_cpus(), 1);
    cr_expect_leq(cpulimit_cpus(), CPU_COUNT(&set));
    CPU_ZERO(&one);
    for (size_t cpu = 0; cpu < CPU_SETSIZE && CPU_COUNT(&one) == 0; cpu++) {
        if (CPU_ISSET(cpu, &set)) {
            CPU_SET(cpu, &one);
        }
    }
    cr_assert_eq(sched_setaffinity(0, sizeof one, &one), 0);
    cr_expect_eq(cpulimit_cpus(), 1);
}
