/* supervisor.c -- posix_spawn, SIGCHLD through a signalfd, exponential back-off.
 *
 * One that keeps dying waits twice as long each time, up to BACKOFF_MAX_US; each BACKOFF_HALVED_US
 * of useful life halves that. A worker that something killed is so back at once, however often that
 * happens; one that cannot live is tried less and less. */
#define _GNU_SOURCE
#include "server/drivers/supervisor.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include "engine/base/check.h"
#include "engine/base/clock.h"
#include "engine/base/log.h"
#include "engine/base/mem.h"
#include "engine/base/wire.h"

extern char **environ;

enum { BACKOFF_FIRST_US = 100000, BACKOFF_MAX_US = 5000000, BACKOFF_HALVED_US = 250000 };

typedef struct {
    char *args[SUPERVISOR_ARGS_MAX + 2]; /* "weir", args, NULL */
    pid_t pid;                           /* 0: not running */
    int64_t useful_us;                   /* since when it has been of use; 0: not yet */
    int64_t due_us;                      /* of the next start */
    int64_t kill_us;                     /* of the kill it has coming; 0: none */
    int64_t backoff_us;
    uint64_t epoch;
    char role[16]; /* what "{role}" stands for */
    bool unwanted; /* not to be started (again) */
} child_record;

struct supervisor {
    child_record children[LIMIT_WORKERS];
    uint32_t children_count;
    int signal_fd;
    int shared_fd; /* -1: none */
    bool stopping;
    uint64_t restarts;
    char program[4096];
};

status supervisor_open(supervisor **out, diag *d) {
    supervisor *s = mem_calloc(1, sizeof *s);
    if (!s) {
        return status_fail(d, STATUS_NOMEM, "no memory for the supervisor");
    }
    s->shared_fd = -1;
    ssize_t n = readlink("/proc/self/exe", s->program, sizeof s->program - 1);
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGCHLD);
    if (n <= 0 || pthread_sigmask(SIG_BLOCK, &set, NULL) != 0 ||
        (s->signal_fd = signalfd(-1, &set, SFD_NONBLOCK | SFD_CLOEXEC)) < 0) {
        mem_free(s);
        return status_fail_errno(d, STATUS_IO, "starting the supervisor");
    }
    *out = s;
    return STATUS_OK;
}

/* A copy far from 3 and 4: the child's descriptors are set one after the other, and the first must
 * not overwrite the second's source. */
void supervisor_share(supervisor *s, int fd) {
    s->shared_fd = fcntl(fd, F_DUPFD_CLOEXEC, 16);
}

status supervisor_add(supervisor *s, const char *const *args, uint32_t args_count, uint32_t *child,
                      diag *d) {
    if (s->children_count == LIMIT_WORKERS || args_count > SUPERVISOR_ARGS_MAX) {
        return status_fail(d, STATUS_LIMIT, "more than %d workers, or too many arguments",
                           LIMIT_WORKERS);
    }
    child_record *c = &s->children[s->children_count];
    c->args[0] = "weir"; /* as the process list shows it */
    for (uint32_t i = 0; i < args_count; i++) {
        c->args[1 + i] = mem_dup(args[i], strlen(args[i]));
        if (!c->args[1 + i]) {
            return status_fail(d, STATUS_NOMEM, "no memory for a worker's arguments");
        }
    }
    *child = s->children_count++;
    return STATUS_OK;
}

/* The child sees its socket as descriptor 3 and nothing else of ours (all else is close-on-exec).
 * Signals are as a fresh process has them, not blocked as here. */
static int spawn_child(supervisor *s, child_record *c, int child_fd) {
    posix_spawn_file_actions_t actions;
    posix_spawnattr_t attributes;
    sigset_t none;
    sigset_t all;
    char epoch[24];
    char *args[SUPERVISOR_ARGS_MAX + 2];
    (void)snprintf(epoch, sizeof epoch, "%llu", (unsigned long long)c->epoch);
    for (int i = 0; i < SUPERVISOR_ARGS_MAX + 2; i++) {
        bool is_epoch = c->args[i] && strcmp(c->args[i], "{epoch}") == 0;
        bool is_role = c->args[i] && strcmp(c->args[i], "{role}") == 0;
        args[i] = is_epoch ? epoch : is_role ? c->role : c->args[i];
    }
    sigemptyset(&none);
    sigfillset(&all);
    int error = posix_spawn_file_actions_init(&actions);
    if (error) {
        return error;
    }
    error = posix_spawnattr_init(&attributes);
    if (!error) {
        (void)posix_spawnattr_setsigmask(&attributes, &none);
        (void)posix_spawnattr_setsigdefault(&attributes, &all);
        (void)posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
        error = posix_spawn_file_actions_adddup2(&actions, child_fd, SUPERVISOR_CHILD_FD);
        if (!error && s->shared_fd >= 0) {
            error = posix_spawn_file_actions_adddup2(&actions, s->shared_fd, SUPERVISOR_SHARED_FD);
        }
        if (!error) {
            error = posix_spawn(&c->pid, s->program, &actions, &attributes, args, environ);
        }
        (void)posix_spawnattr_destroy(&attributes);
    }
    (void)posix_spawn_file_actions_destroy(&actions);
    return error;
}

static bool start_child(supervisor *s, uint32_t index, int64_t now_us, supervisor_event *out) {
    child_record *c = &s->children[index];
    int fds[2];
    if (wire_pair(fds) != STATUS_OK) {
        c->due_us = now_us + BACKOFF_MAX_US;
        LOG(ERROR, "supervisor", "no socket for a worker", "child=%u", index);
        return false;
    }
    /* Epochs must grow over the lives of this process too: they start from wall time. */
    c->epoch = c->epoch ? c->epoch + 1 : (uint64_t)clock_wall_us();
    int error = spawn_child(s, c, fds[1]);
    (void)close(fds[1]);
    if (error) {
        (void)close(fds[0]);
        c->pid = 0;
        c->due_us = now_us + BACKOFF_MAX_US;
        LOG(ERROR, "supervisor", "cannot start a worker", "child=%u error=\"%s\"", index,
            strerror(error));
        return false;
    }
    c->useful_us = 0;
    c->kill_us = 0;
    *out = (supervisor_event){SUPERVISOR_STARTED, index, c->pid, fds[0], 0};
    return true;
}

static int64_t backoff_after(const child_record *c, int64_t now_us) {
    int64_t backoff = c->backoff_us ? c->backoff_us * 2 : BACKOFF_FIRST_US;
    int64_t useful = c->useful_us ? now_us - c->useful_us : 0;
    for (; useful >= BACKOFF_HALVED_US && backoff; useful -= BACKOFF_HALVED_US) {
        backoff /= 2;
    }
    if (backoff < BACKOFF_FIRST_US) {
        return 0;
    }
    return backoff < BACKOFF_MAX_US ? backoff : BACKOFF_MAX_US;
}

static bool reap_child(supervisor *s, uint32_t index, int64_t now_us, supervisor_event *out) {
    child_record *c = &s->children[index];
    int how;
    if (waitpid(c->pid, &how, WNOHANG) != c->pid) {
        return false;
    }
    c->backoff_us = backoff_after(c, now_us);
    c->due_us = now_us + c->backoff_us;
    s->restarts += s->stopping || c->unwanted ? 0 : 1;
    *out = (supervisor_event){SUPERVISOR_ENDED, index, c->pid, -1, how};
    c->pid = 0;
    return true;
}

bool supervisor_poll(supervisor *s, int64_t now_us, supervisor_event *out) {
    struct signalfd_siginfo drained;
    while (read(s->signal_fd, &drained, sizeof drained) > 0) {
    }
    for (uint32_t i = 0; i < s->children_count; i++) {
        child_record *c = &s->children[i];
        if (c->pid) {
            if (reap_child(s, i, now_us, out)) {
                return true;
            }
            if (c->kill_us && now_us >= c->kill_us) {
                (void)kill(c->pid, SIGKILL);
            }
        } else if (!s->stopping && !c->unwanted && now_us >= c->due_us) {
            if (start_child(s, i, now_us, out)) {
                return true;
            }
        }
    }
    return false;
}

int64_t supervisor_next_us(const supervisor *s) {
    int64_t next = INT64_MAX;
    for (uint32_t i = 0; i < s->children_count && !s->stopping; i++) {
        const child_record *c = &s->children[i];
        int64_t start = c->unwanted ? INT64_MAX : c->due_us;
        int64_t due = !c->pid ? start : c->kill_us ? c->kill_us : INT64_MAX;
        next = due < next ? due : next;
    }
    return next;
}

void supervisor_set_role(supervisor *s, uint32_t child, const char *role) {
    CHECK_LT(child, s->children_count);
    (void)snprintf(s->children[child].role, sizeof s->children[child].role, "%s", role);
}

void supervisor_want(supervisor *s, uint32_t child, bool wanted) {
    CHECK_LT(child, s->children_count);
    child_record *c = &s->children[child];
    if (wanted && c->unwanted) {
        c->due_us = c->backoff_us = 0; /* it did not die: it was not needed */
    }
    c->unwanted = !wanted;
}

bool supervisor_wanted(const supervisor *s, uint32_t child) {
    CHECK_LT(child, s->children_count);
    return !s->children[child].unwanted;
}

int supervisor_fd(const supervisor *s) {
    return s->signal_fd;
}

void supervisor_kill(supervisor *s, uint32_t child, int64_t at_us) {
    CHECK_LT(child, s->children_count);
    child_record *c = &s->children[child];
    if (c->pid && at_us == 0) {
        (void)kill(c->pid, SIGKILL);
    } else if (c->pid) {
        c->kill_us = at_us;
    }
}

void supervisor_useful(supervisor *s, uint32_t child, int64_t now_us) {
    if (child < s->children_count) {
        s->children[child].useful_us = now_us;
    }
}

void supervisor_stop(supervisor *s) {
    s->stopping = true;
}

uint32_t supervisor_running(const supervisor *s) {
    uint32_t running = 0;
    for (uint32_t i = 0; i < s->children_count; i++) {
        running += s->children[i].pid != 0;
    }
    return running;
}

pid_t supervisor_pid(const supervisor *s, uint32_t child) {
    CHECK_LT(child, s->children_count);
    return s->children[child].pid;
}

uint64_t supervisor_restarts(const supervisor *s) {
    return s->restarts;
}

void supervisor_close(supervisor *s) {
    if (!s) {
        return;
    }
    for (uint32_t i = 0; i < s->children_count; i++) {
        child_record *c = &s->children[i];
        if (c->pid) {
            (void)kill(c->pid, SIGKILL);
            while (waitpid(c->pid, NULL, 0) < 0 && errno == EINTR) {
            }
        }
        for (int a = 1; c->args[a]; a++) {
            mem_free(c->args[a]);
        }
    }
    (void)close(s->signal_fd);
    if (s->shared_fd >= 0) {
        (void)close(s->shared_fd);
    }
    mem_free(s);
}
