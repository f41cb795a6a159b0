/* driver_spawn.c -- processes by number, each behind a descriptor that no later process has. */
#define _GNU_SOURCE
#include "server/drivers/driver_spawn.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "engine/base/check.h"
#include "engine/base/clock.h"
#include "engine/base/log.h"
#include "engine/base/mem.h"

extern char **environ;

enum { PROGRAM_BYTES = 4096, OWN_ARGS = 9 };

typedef struct {
    pid_t pid; /* 0: no process */
    int pidfd;
    bool child; /* of this process, to be reaped */
    bool joined;
    bool stopping;
    int64_t kill_us; /* 0: not to be killed */
    scaler_pool pool;
} process;

typedef struct {
    driver base;
    driver_spawn_options options;
    char program[PROGRAM_BYTES];
    process list[LIMIT_WORKERS];
} spawned;

static int open_pid(pid_t pid) {
    return (int)syscall(SYS_pidfd_open, pid, 0);
}

static void forget(process *p) {
    (void)close(p->pidfd);
    *p = (process){.pid = 0};
}

static void send_signal(const process *p, int number) {
    (void)syscall(SYS_pidfd_send_signal, p->pidfd, number, NULL, 0);
}

/* ---- starting ------------------------------------------------------------------------------- */

static int spawn(const spawned *s, uint32_t number, scaler_pool pool, pid_t *pid) {
    const driver_spawn_options *o = &s->options;
    char text[16];
    (void)snprintf(text, sizeof text, "%u", number);
    const char *args[OWN_ARGS + DRIVER_SPAWN_ARGS_MAX + 1] = {
        "weir",    "worker", "--role", scaler_pool_name(pool), "--worker", text,
        "--flips", "--join", o->join};
    CHECK_LE(o->args_count, DRIVER_SPAWN_ARGS_MAX);
    for (uint32_t i = 0; i < o->args_count; i++) {
        args[OWN_ARGS + i] = o->args[i];
    }
    posix_spawnattr_t attributes;
    posix_spawn_file_actions_t actions;
    sigset_t none, all;
    (void)sigemptyset(&none);
    (void)sigfillset(&all);
    int error = posix_spawn_file_actions_init(&actions);
    if (error) {
        return error;
    }
    error = posix_spawnattr_init(&attributes);
    if (!error) {
        (void)posix_spawnattr_setsigmask(&attributes, &none);
        (void)posix_spawnattr_setsigdefault(&attributes, &all);
        (void)posix_spawnattr_setflags(
            &attributes, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETSID);
        error = posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", 0, 0);
        if (!error) {
            /* posix_spawn takes arguments it does not change as char *const. */
            char *words[OWN_ARGS + DRIVER_SPAWN_ARGS_MAX + 1];
            memcpy(words, args, sizeof words);
            error = posix_spawn(pid, s->program, &actions, &attributes, words, environ);
        }
        (void)posix_spawnattr_destroy(&attributes);
    }
    (void)posix_spawn_file_actions_destroy(&actions);
    return error;
}

static uint32_t roles_of(const spawned *s, uint32_t number) {
    return s->options.hub.roles(s->options.hub.self, number);
}

static driver_result spawned_start(driver *d, uint64_t token, scaler_pool pool, uint32_t *id,
                                   diag *why) {
    spawned *s = (spawned *)d;
    (void)token;
    uint32_t i = 0;
    while (i < s->options.workers && (s->list[i].pid || roles_of(s, i))) {
        i++;
    }
    if (i == s->options.workers) {
        (void)status_fail(why, STATUS_LIMIT, "all %u workers are in use", s->options.workers);
        return DRIVER_REFUSED;
    }
    process *p = &s->list[i];
    pid_t pid = 0;
    int error = spawn(s, i, pool, &pid);
    if (error) {
        (void)status_fail(why, STATUS_IO, "cannot start a worker: %s", strerror(error));
        return DRIVER_REFUSED;
    }
    *p = (process){.pid = pid, .pidfd = open_pid(pid), .child = true, .pool = pool};
    LOG(INFO, "local", "started", "worker=%u pid=%d", i, (int)pid);
    *id = i;
    return DRIVER_ASKED;
}

/* ---- what runs ------------------------------------------------------------------------------ */

/* A worker with one of our numbers that we did not start: of a controller before this one. */
static void adopt(spawned *s, uint32_t number) {
    uint32_t pid = s->options.hub.pid(s->options.hub.self, number);
    char link[32], program[PROGRAM_BYTES];
    (void)snprintf(link, sizeof link, "/proc/%u/exe", pid);
    int fd = pid > 1 && pid <= INT32_MAX ? open_pid((pid_t)pid) : -1;
    ssize_t n = fd < 0 ? -1 : readlink(link, program, sizeof program - 1);
    program[n > 0 ? n : 0] = 0;
    if (n <= 0 || strcmp(program, s->program) != 0) {
        if (fd >= 0) {
            (void)close(fd);
        }
        return; /* of another host, or not ours to end: the cluster's driver lists it */
    }
    uint32_t role = roles_of(s, number) & (MESSAGE_ROLE_PREFILL | MESSAGE_ROLE_DECODE);
    s->list[number] =
        (process){.pid = (pid_t)pid,
                  .pidfd = fd,
                  .joined = true,
                  .pool = role == MESSAGE_ROLE_PREFILL ? SCALER_PREFILL : SCALER_DECODE};
    LOG(INFO, "local", "found", "worker=%u pid=%u", number, pid);
}

static bool has_ended(const process *p, int *how) {
    struct pollfd f = {p->pidfd, POLLIN, 0};
    *how = 0;
    return p->child ? waitpid(p->pid, how, WNOHANG) != 0 : poll(&f, 1, 0) != 0;
}

static void spawned_turn(driver *d, int64_t now_us) {
    spawned *s = (spawned *)d;
    for (uint32_t i = 0; i < s->options.workers; i++) {
        process *p = &s->list[i];
        int how;
        if (p->pid && has_ended(p, &how)) {
            LOG(INFO, "local", "ended", "worker=%u pid=%d how=%d", i, (int)p->pid, how);
            forget(p);
        } else if (p->pid) {
            p->joined = p->joined || roles_of(s, i);
            if (p->kill_us && now_us >= p->kill_us) {
                send_signal(p, SIGKILL);
            }
        } else if (roles_of(s, i)) {
            adopt(s, i);
        }
    }
}

static process *known(spawned *s, uint32_t id, diag *why) {
    if (id < s->options.workers && s->list[id].pid) {
        return &s->list[id];
    }
    (void)status_fail(why, STATUS_NOTFOUND, "there is no worker %u", id);
    return NULL;
}

static driver_result spawned_stop(driver *d, uint64_t token, uint32_t id, int64_t drain_us,
                                  diag *why) {
    spawned *s = (spawned *)d;
    process *p = known(s, id, why);
    message m = {.type = MESSAGE_DRAIN, .drain = {.token = token}};
    if (!p) {
        return DRIVER_REFUSED;
    }
    bool told = drain_us > 0 && s->options.hub.tell(s->options.hub.self, id, &m);
    if (!told) {
        /* Not at the hub: it has joined nobody yet, or lost the hub and may have requests. */
        send_signal(p, p->joined && drain_us > 0 ? SIGTERM : SIGKILL);
    }
    p->stopping = true;
    p->kill_us = clock_now_us() + drain_us;
    return DRIVER_ASKED;
}

/* The message goes by way of the hub; only a later start would be of this pool. */
static driver_result spawned_flip(driver *d, uint64_t token, uint32_t id, scaler_pool pool,
                                  diag *why) {
    process *p = known((spawned *)d, id, why);
    (void)token;
    if (!p || p->stopping) {
        return DRIVER_REFUSED;
    }
    p->pool = pool;
    return DRIVER_ASKED;
}

static uint32_t spawned_list(driver *d, driver_worker out[LIMIT_WORKERS]) {
    spawned *s = (spawned *)d;
    uint32_t count = 0;
    for (uint32_t i = 0; i < s->options.workers; i++) {
        const process *p = &s->list[i];
        if (p->pid) {
            out[count++] = (driver_worker){.id = i,
                                           .worker = i,
                                           .pool = p->pool,
                                           .phase = p->stopping      ? SCALER_STOPPING
                                                    : roles_of(s, i) ? SCALER_SERVING
                                                                     : SCALER_STARTING,
                                           .flips = true};
        }
    }
    return count;
}

static uint32_t spawned_capacity(driver *d) {
    const spawned *s = (const spawned *)d;
    uint32_t count = 0;
    for (uint32_t i = 0; i < s->options.workers; i++) {
        count += s->list[i].pid == 0 && roles_of(s, i) == 0;
    }
    return count;
}

static void spawned_close(driver *d) {
    spawned *s = (spawned *)d;
    for (uint32_t i = 0; i < s->options.workers; i++) {
        if (s->list[i].pid) {
            forget(&s->list[i]);
        }
    }
    mem_free(s);
}

status driver_spawn_open(const driver_spawn_options *options, driver **out, diag *d) {
    static const driver_table table = {.name = "local",
                                       .start = spawned_start,
                                       .stop = spawned_stop,
                                       .flip = spawned_flip,
                                       .list = spawned_list,
                                       .capacity = spawned_capacity,
                                       .turn = spawned_turn,
                                       .close = spawned_close};
    spawned *s = mem_calloc(1, sizeof *s);
    if (!s) {
        return status_fail(d, STATUS_NOMEM, "no memory for the local driver");
    }
    CHECK_LE(options->workers, LIMIT_WORKERS);
    s->base.table = &table;
    s->options = *options;
    ssize_t n = readlink("/proc/self/exe", s->program, sizeof s->program - 1);
    if (n <= 0) {
        mem_free(s);
        return status_fail_errno(d, STATUS_IO, "/proc/self/exe");
    }
    *out = &s->base;
    return STATUS_OK;
}
