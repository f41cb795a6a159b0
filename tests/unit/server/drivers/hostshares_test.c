/* hostshares_test.c -- this machine's cores, GPUs that the environment names, a child's part. */
#define _GNU_SOURCE
#include "server/drivers/hostshares.h"

#include <criterion/criterion.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static hostprocs_words words_of(const char *text, size_t bytes) {
    hostprocs_words w = {.bytes = bytes};
    memcpy(w.text, text, bytes);
    return w;
}

#define WORDS(text) words_of(text, sizeof(text)) /* with the last zero byte */

Test(hostshares, values_of_a_command_line) {
    hostprocs_words w = WORDS(
        "weir\0worker\0--worker\0"
        "3\0--trace\0\0--worker\0"
        "9");
    cr_assert_str_eq(hostprocs_word(&w, 1), "worker");
    cr_assert_str_eq(hostprocs_value(&w, "--worker"), "3");
    cr_assert_str_eq(hostprocs_value(&w, "--trace"), "");
    cr_assert_null(hostprocs_value(&w, "9"), "nothing comes after it");
    cr_assert_null(hostprocs_value(&w, "--role"));
    cr_assert_null(hostprocs_word(&w, 8));
    hostprocs_words none = {.bytes = 0};
    cr_assert_null(hostprocs_word(&none, 0));
}

static void see(void *self, pid_t pid) {
    *(bool *)self = *(bool *)self || pid == getpid();
}

Test(hostshares, this_process_is_found_and_known) {
    char program[HOSTPROCS_PATH_BYTES];
    hostprocs_words w;
    bool seen = false;
    cr_assert(hostprocs_self(program));
    cr_assert(hostprocs_runs(getpid(), program));
    cr_assert_not(hostprocs_runs(getpid(), "/bin/sh"));
    cr_assert(hostprocs_read(getpid(), &w) && hostprocs_word(&w, 0));
    hostprocs_each(see, &seen);
    cr_assert(seen);
}

Test(hostshares, gpus_are_those_that_cuda_would_show) {
    static const struct {
        const char *list;
        uint32_t count;
    } cases[] = {{"", 0}, {"-1", 0}, {"3", 1}, {"2,5,7", 3}, {"0,-1,2", 1}, {"GPU-1c2f,GPU-77", 2}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        shares s = {.devices_count = 9};
        (void)setenv("CUDA_VISIBLE_DEVICES", cases[i].list, 1);
        hostshares_find_devices(&s);
        cr_assert_eq(s.devices_count, cases[i].count, "\"%s\"", cases[i].list);
        for (uint32_t k = 0; k < s.devices_count; k++) {
            cr_assert_eq(s.devices[k], k);
        }
    }
}

Test(hostshares, mps_is_there_where_its_control_file_is) {
    char folder[] = "/tmp/weir-mps-XXXXXX", path[64];
    cr_assert(mkdtemp(folder));
    (void)setenv("CUDA_MPS_PIPE_DIRECTORY", folder, 1);
    cr_assert_not(hostshares_has_mps());
    (void)snprintf(path, sizeof path, "%s/control", folder);
    cr_assert_eq(mkfifo(path, 0600), 0);
    cr_assert(hostshares_has_mps());
    (void)unlink(path);
    (void)rmdir(folder);
}

/* A child that waits until it is killed. */
static pid_t child(void) {
    pid_t pid = fork();
    if (pid == 0) {
        for (;;) {
            (void)pause();
        }
    }
    return pid;
}

static void end(pid_t pid) {
    (void)kill(pid, SIGKILL);
    (void)waitpid(pid, NULL, 0);
}

Test(hostshares, children_inherit_the_cores_and_hold_them) {
    shares s = {.cpus = hostshares_cpus()};
    if (shares_count_cpus(&s.cpus) < 2) {
        cr_skip_test("one core only");
    }
    hostprocs_words w = WORDS(
        "weir\0worker\0--device\0"
        "2\0--device-share\0"
        "0.250");
    pid_t free = child();
    shares_part held = hostshares_held(free, &w, &s);
    end(free);
    cr_assert_eq(shares_count_cpus(&held.cpus), 0, "it may run anywhere");
    cr_assert_eq(held.device, 2);
    cr_assert_eq(held.part, 250);
    shares_cpus one = {{0}};
    for (uint32_t i = 0; shares_count_cpus(&one) == 0; i++) {
        if (shares_has_cpu(&s.cpus, i)) {
            shares_add_cpu(&one, i);
        }
    }
    hostshares_pin(&one);
    pid_t pinned = child();
    hostshares_pin(&s.cpus);
    hostprocs_words without = WORDS(
        "weir\0worker\0--device\0"
        "2\0--device-share\0"
        "1e9");
    held = hostshares_held(pinned, &without, &s);
    end(pinned);
    cr_assert(memcmp(&held.cpus, &one, sizeof one) == 0);
    cr_assert_eq(held.device, SHARES_NO_DEVICE, "no share that makes sense");
    shares_cpus now = hostshares_cpus();
    cr_assert(memcmp(&now, &s.cpus, sizeof now) == 0, "it was for the child only");
}
