/* failpoint_test.c -- what arms a point, and when it acts. */
#define _GNU_SOURCE
#include "engine/base/failpoint.h"

#include <criterion/criterion.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "engine/base/clock.h"

Test(failpoint, nothing_happens_unarmed) {
    cr_assert_eq(failpoint_setup(NULL, NULL), STATUS_OK);
    cr_assert_not(failpoint_armed);
    cr_assert_not(FAILPOINT("a.b"));
    cr_assert_eq(failpoint_passes("a.b"), 0);
}

Test(failpoint, error_acts_count_times_after_skip_passes) {
    static const struct {
        const char *spec;
        const char *pattern; /* of the first passes: x acts */
    } rows[] = {
        {"p=error", "xxxxxx"},           {"p=error:2", "xx...."},  {"p=error@3", "...xxx"},
        {"p=error:1@2", "..x..."},       {"p=error:0", "......"},  {"q=error", "......"},
        {"q=error;p=error:1", "x....."}, {";p=error;;", "xxxxxx"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        cr_assert_eq(failpoint_setup(rows[i].spec, NULL), STATUS_OK);
        for (const char *p = rows[i].pattern; *p; p++) {
            cr_assert_eq(FAILPOINT("p"), *p == 'x', "%s", rows[i].spec);
        }
    }
    cr_assert_eq(failpoint_passes("p"), 6);
}

Test(failpoint, delay_waits_and_goes_on) {
    cr_assert_eq(failpoint_setup("p=delay_20", NULL), STATUS_OK);
    int64_t start_us = clock_now_us();
    cr_assert_not(FAILPOINT("p"));
    cr_assert_geq(clock_now_us() - start_us, 20000);
}

Test(failpoint, kill_and_stop_reach_the_process_itself) {
    pid_t child = fork();
    if (child == 0) {
        _exit(failpoint_setup("die=kill;halt=stop", NULL) == STATUS_OK && !FAILPOINT("halt") &&
                      !FAILPOINT("die")
                  ? 0
                  : 1);
    }
    int how;
    cr_assert_eq(waitpid(child, &how, WUNTRACED), child);
    cr_assert(WIFSTOPPED(how) && WSTOPSIG(how) == SIGSTOP);
    cr_assert_eq(kill(child, SIGCONT), 0);
    cr_assert_eq(waitpid(child, &how, 0), child);
    cr_assert(WIFSIGNALED(how) && WTERMSIG(how) == SIGKILL);
}

Test(failpoint, malformed_specs_are_refused_whole) {
    static const char *const bad[] = {
        "p",
        "=kill",
        "p=",
        "p=explode",
        "p=error:",
        "p=error:x",
        "p=error@-1",
        "p=delay_",
        "p=delay_1s",
        "ok=kill;p=",
        "p=error@1:2x",
        "nnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnn=kill",
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        diag d = {0};
        cr_assert_eq(failpoint_setup(bad[i], &d), STATUS_INVALID, "%s", bad[i]);
        cr_assert_not(failpoint_armed);
        cr_assert(d.text[0]);
    }
    char many[40 * 8] = "";
    for (int i = 0; i < FAILPOINT_MAX + 1; i++) {
        (void)snprintf(many + strlen(many), sizeof many - strlen(many), "p=kill;");
    }
    cr_assert_eq(failpoint_setup(many, NULL), STATUS_INVALID);
}

Test(failpoint, the_environment_arms_points) {
    cr_assert_eq(setenv("WEIR_FAILPOINTS", "env.point=error", 1), 0);
    cr_assert_eq(failpoint_setup_env(NULL), STATUS_OK);
    cr_assert(FAILPOINT("env.point"));
}

/* Writes an order to the FIFO and waits until it is taken: a hang guard, not a timing. */
static bool order(const char *path, const char *line, const char *point) {
    int fd = open(path, O_WRONLY | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0 || write(fd, line, strlen(line)) != (ssize_t)strlen(line)) {
        return false;
    }
    close(fd);
    for (int i = 0; i < 60000; i++) {
        if (!point || FAILPOINT(point)) {
            return true;
        }
        clock_sleep_us(1000);
    }
    return false;
}

Test(failpoint, a_running_process_takes_orders_from_its_fifo) {
    char folder[] = "/tmp/failpoint-test-XXXXXX";
    char path[64];
    cr_assert_not_null(mkdtemp(folder));
    (void)snprintf(path, sizeof path, "%s/worker-7", folder);
    cr_assert_eq(setenv("WEIR_FAILPOINTS_DIR", folder, 1), 0);
    cr_assert_eq(failpoint_listen("worker-7", NULL), STATUS_OK);
    cr_assert_not(FAILPOINT("a"));
    cr_assert(order(path, "a=error\n", "a"));
    cr_assert_not(FAILPOINT("b"));
    /* A line replaces what was armed, in order, though it comes in pieces; nonsense does not. */
    cr_assert(order(path, "b=explode\n", NULL));
    cr_assert(order(path, "b=err", NULL));
    cr_assert(order(path, "or;c=error\n", "c"));
    cr_assert(FAILPOINT("b"));
    cr_assert_not(FAILPOINT("a"));
    cr_assert_eq(unlink(path), 0);
    cr_assert_eq(rmdir(folder), 0);
}

Test(failpoint, nobody_listens_unless_a_folder_is_named) {
    cr_assert_eq(unsetenv("WEIR_FAILPOINTS_DIR"), 0);
    cr_assert_eq(failpoint_listen("worker-7", NULL), STATUS_OK);
    cr_assert_eq(setenv("WEIR_FAILPOINTS_DIR", "/nowhere/at/all", 1), 0);
    diag d;
    cr_assert_eq(failpoint_listen("worker-7", &d), STATUS_IO);
}
