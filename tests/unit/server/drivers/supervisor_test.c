/* supervisor_test.c -- children are this program itself: the constructor below plays their part.
 *
 * Time is the test's: supervisor_poll is told what it is. Only deaths are waited for. */
#define _GNU_SOURCE
#include "server/drivers/supervisor.h"

#include <criterion/criterion.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#define CHILD_MARK "--a-child-of-supervisor_test"

enum { SECOND = 1000000, QUARTER = SECOND / 4 };

/* What a child can say of itself over its socket: arguments, open descriptors, blocked signals. */
static void report(int argc, char **argv) {
    char text[1024];
    int used = snprintf(text, sizeof text, "name=%s", argv[0]);
    for (int i = 2; i < argc; i++) {
        used += snprintf(text + used, sizeof text - (size_t)used, " %s", argv[i]);
    }
    used += snprintf(text + used, sizeof text - (size_t)used, " fds=");
    for (int fd = 3; fd < 256; fd++) {
        if (fcntl(fd, F_GETFD) >= 0) {
            used += snprintf(text + used, sizeof text - (size_t)used, "%d,", fd);
        }
    }
    sigset_t blocked;
    sigprocmask(SIG_SETMASK, NULL, &blocked);
    int count = 0;
    for (int s = 1; s < 32; s++) {
        count += sigismember(&blocked, s) == 1;
    }
    used += snprintf(text + used, sizeof text - (size_t)used, " blocked=%d", count);
    (void)!write(SUPERVISOR_CHILD_FD, text, (size_t)used);
}

__attribute__((constructor)) static void be_a_child(int argc, char **argv) {
    if (argc < 3 || strcmp(argv[1], CHILD_MARK) != 0) {
        return;
    }
    char byte;
    if (strcmp(argv[2], "report") == 0) {
        report(argc, argv);
    } else if (strcmp(argv[2], "exit7") == 0) {
        _exit(7);
    }
    while (read(SUPERVISOR_CHILD_FD, &byte, 1) > 0) {
    }
    _exit(0); /* the parent's end is closed */
}

static supervisor *open_one(const char *what) {
    supervisor *s = NULL;
    uint32_t child;
    diag d;
    const char *args[] = {CHILD_MARK, what, "{epoch}"};
    for (int fd = 3; fd < 256; fd++) { /* the test runner's own */
        (void)fcntl(fd, F_SETFD, FD_CLOEXEC);
    }
    cr_assert_eq(supervisor_open(&s, &d), STATUS_OK);
    cr_assert_eq(supervisor_add(s, args, 3, &child, &d), STATUS_OK);
    cr_assert_eq(child, 0);
    return s;
}

/* Sleeps until a child has ended: the only wait on real time, with a hang guard. */
static supervisor_event wait_event(supervisor *s, int64_t now_us) {
    supervisor_event e;
    while (!supervisor_poll(s, now_us, &e)) {
        struct pollfd p = {supervisor_fd(s), POLLIN, 0};
        cr_assert_eq(poll(&p, 1, 60000), 1);
    }
    return e;
}

static supervisor_event start(supervisor *s, int64_t now_us) {
    supervisor_event e = wait_event(s, now_us);
    cr_assert_eq(e.type, SUPERVISOR_STARTED);
    cr_assert_gt(e.pid, 0);
    cr_assert_eq(supervisor_pid(s, e.child), e.pid);
    return e;
}

static uint64_t read_epoch(int fd, char *text, size_t bytes) {
    ssize_t n = recv(fd, text, bytes - 1, 0);
    cr_assert_gt(n, 0);
    text[n] = 0;
    unsigned long long epoch = 0;
    cr_assert_eq(sscanf(text, "name=weir report %llu", &epoch), 1, "%s", text);
    return epoch;
}

Test(supervisor, a_child_has_its_socket_its_epoch_and_nothing_else) {
    int stray = open("/dev/null", O_RDONLY | O_CLOEXEC);
    supervisor *s = open_one("report");
    char text[1024];
    uint64_t last = 0;
    for (int life = 0; life < 3; life++) {
        supervisor_event e = start(s, life * 100 * SECOND);
        uint64_t epoch = read_epoch(e.fd, text, sizeof text);
        cr_assert_gt(epoch, last);
        last = epoch;
        cr_assert(strstr(text, " fds=3, blocked=0") != NULL, "%s", text);
        close(e.fd);
        e = wait_event(s, life * 100 * SECOND + 50 * SECOND);
        cr_assert_eq(e.type, SUPERVISOR_ENDED);
        cr_assert(WIFEXITED(e.status) && WEXITSTATUS(e.status) == 0);
    }
    cr_assert_eq(supervisor_restarts(s), 3);
    supervisor_close(s);
    close(stray);
}

Test(supervisor, a_shared_descriptor_is_in_every_child) {
    int pair[2];
    cr_assert_eq(pipe2(pair, O_CLOEXEC), 0);
    supervisor *s = open_one("report");
    supervisor_share(s, pair[1]);
    close(pair[0]);
    close(pair[1]);
    char text[1024];
    supervisor_event e = start(s, 0);
    (void)read_epoch(e.fd, text, sizeof text);
    cr_assert(strstr(text, " fds=3,4, ") != NULL, "%s", text);
    close(e.fd);
    supervisor_close(s);
}

Test(supervisor, what_keeps_dying_is_started_less_and_less_often) {
    supervisor *s = open_one("exit7");
    static const int64_t waits_us[] = {100000,  200000,  400000,  800000,
                                       1600000, 3200000, 5000000, 5000000};
    int64_t now = 5 * SECOND;
    supervisor_event e;
    for (size_t i = 0; i < sizeof waits_us / sizeof waits_us[0]; i++) {
        e = start(s, now);
        close(e.fd);
        cr_assert_eq(supervisor_running(s), 1);
        e = wait_event(s, now);
        cr_assert_eq(e.type, SUPERVISOR_ENDED);
        cr_assert(WIFEXITED(e.status) && WEXITSTATUS(e.status) == 7);
        cr_assert_eq(supervisor_running(s), 0);
        cr_assert_eq(supervisor_next_us(s), now + waits_us[i], "start %zu", i);
        cr_assert_not(supervisor_poll(s, now + waits_us[i] - 1, &e));
        now += waits_us[i];
    }
    /* A long life that was of no use changes nothing; a useful one halves the wait every quarter
     * second. */
    e = start(s, now);
    close(e.fd);
    (void)wait_event(s, now + 100 * SECOND);
    now += 100 * SECOND;
    cr_assert_eq(supervisor_next_us(s), now + 5 * SECOND);
    now += 5 * SECOND;
    e = start(s, now);
    close(e.fd);
    supervisor_useful(s, 0, now);
    (void)wait_event(s, now + 3 * QUARTER);
    now += 3 * QUARTER;
    cr_assert_eq(supervisor_next_us(s), now + 10 * SECOND / 8);
    supervisor_close(s);
}

Test(supervisor, what_was_useful_before_it_died_is_back_at_once_every_time) {
    supervisor *s = open_one("exit7");
    int64_t now = 5 * SECOND;
    for (int i = 0; i < 20; i++) {
        supervisor_event e = start(s, now);
        close(e.fd);
        supervisor_useful(s, 0, now);
        now += QUARTER;
        (void)wait_event(s, now);
        cr_assert_eq(supervisor_next_us(s), now, "life %d", i);
    }
    /* A death that no use came before is waited for. */
    supervisor_event e = start(s, now);
    close(e.fd);
    (void)wait_event(s, now);
    cr_assert_eq(supervisor_next_us(s), now + 100000);
    supervisor_close(s);
}

Test(supervisor, a_child_is_killed_at_once_or_at_its_time) {
    supervisor *s = open_one("wait");
    supervisor_event first = start(s, 0), e;
    supervisor_kill(s, 0, 0);
    e = wait_event(s, 1);
    cr_assert_eq(e.pid, first.pid);
    cr_assert(WIFSIGNALED(e.status) && WTERMSIG(e.status) == SIGKILL);
    close(first.fd);

    first = start(s, SECOND);
    supervisor_kill(s, 0, 3 * SECOND);
    cr_assert_eq(supervisor_next_us(s), 3 * SECOND);
    cr_assert_not(supervisor_poll(s, 3 * SECOND - 1, &e));
    cr_assert_eq(kill(first.pid, 0), 0);
    e = wait_event(s, 3 * SECOND);
    cr_assert(WIFSIGNALED(e.status));
    close(first.fd);

    /* The next life does not inherit the sentence. */
    first = start(s, 10 * SECOND);
    cr_assert_not(supervisor_poll(s, 20 * SECOND, &e));
    close(first.fd);
    supervisor_close(s);
}

Test(supervisor, stopping_starts_nothing_again) {
    supervisor *s = open_one("wait");
    supervisor_event e = start(s, 0);
    supervisor_stop(s);
    close(e.fd);
    e = wait_event(s, 1);
    cr_assert_eq(e.type, SUPERVISOR_ENDED);
    cr_assert_not(supervisor_poll(s, 100 * SECOND, &e));
    cr_assert_eq(supervisor_next_us(s), INT64_MAX);
    cr_assert_eq(supervisor_restarts(s), 0);
    cr_assert_eq(supervisor_running(s), 0);
    supervisor_close(s);
}

Test(supervisor, closing_kills_and_reaps_what_runs) {
    supervisor *s = open_one("wait");
    supervisor_event e = start(s, 0);
    supervisor_close(s);
    cr_assert_eq(kill(e.pid, 0), -1);
    cr_assert_eq(waitpid(e.pid, NULL, 0), -1);
    close(e.fd);
    supervisor_close(NULL);
}

Test(supervisor, has_room_for_so_many_children_and_arguments) {
    supervisor *s = NULL;
    diag d;
    uint32_t child;
    const char *args[SUPERVISOR_ARGS_MAX + 1];
    for (int i = 0; i <= SUPERVISOR_ARGS_MAX; i++) {
        args[i] = "x";
    }
    cr_assert_eq(supervisor_open(&s, &d), STATUS_OK);
    cr_assert_eq(supervisor_add(s, args, SUPERVISOR_ARGS_MAX + 1, &child, &d), STATUS_LIMIT);
    for (uint32_t i = 0; i < LIMIT_WORKERS; i++) {
        cr_assert_eq(supervisor_add(s, args, SUPERVISOR_ARGS_MAX, &child, &d), STATUS_OK);
        cr_assert_eq(child, i);
    }
    cr_assert_eq(supervisor_add(s, args, 1, &child, &d), STATUS_LIMIT);
    supervisor_close(s);
}
