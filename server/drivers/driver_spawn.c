/* driver_spawn.c -- processes by number, each behind a descriptor that no later process has. */
#define _GNU_SOURCE
#include "server/drivers/driver_spawn.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "engine/base/check.h"
#include "engine/base/clock.h"
#include "engine/base/log.h"
#include "engine/base/mem.h"
#include "engine/base/str.h"
#include "server/drivers/hostshares.h"

extern char **environ;

enum { OWN_ARGS = 15, DEVICE_ARGS = 6 };

/* Of a GPU's memory, what a worker alone takes: its --memory-fraction when it is not told. */
static const double memory_whole = 0.9;

/* What MPS lets a process have of a GPU's SMs. */
static const char sms_name[] = "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE";

typedef struct {
    pid_t pid; /* 0: no process */
    int pidfd;
    bool child; /* of this process, to be reaped */
    bool joined;
    bool stopping;
    int64_t kill_us; /* 0: not to be killed */
    scaler_pool pool;
    shares_part part;
} process;

typedef struct {
    driver base;
    driver_spawn_options options;
    char program[HOSTPROCS_PATH_BYTES];
    hostprocs_words words; /* of the process that is looked at */
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

/* ---- finding --------------------------------------------------------------------------------- */

static uint32_t roles_of(const spawned *s, uint32_t number) {
    return s->options.hub.roles(s->options.hub.self, number);
}

static scaler_pool pool_of(uint32_t roles) {
    uint32_t role = roles & (MESSAGE_ROLE_PREFILL | MESSAGE_ROLE_DECODE);
    return role == MESSAGE_ROLE_PREFILL ? SCALER_PREFILL : SCALER_DECODE;
}

/* A process of our program becomes worker `number`. It may have requests, so it is drained as one
 * that has joined. */
static void adopt(spawned *s, uint32_t number, pid_t pid, scaler_pool pool) {
    int fd = open_pid(pid); /* first: what is read from here on is of this process */
    if (fd < 0 || !hostprocs_runs(pid, s->program) || !hostprocs_read(pid, &s->words)) {
        if (fd >= 0) {
            (void)close(fd);
        }
        return; /* of another host, or not ours to end: the cluster's driver lists it */
    }
    s->list[number] = (process){.pid = pid,
                                .pidfd = fd,
                                .joined = true,
                                .pool = pool,
                                .part = hostshares_held(pid, &s->words, &s->options.shares)};
    LOG(INFO, "local", "found", "worker=%u pid=%d", number, (int)pid);
}

/* A worker at the hub with one of our numbers that we did not start. */
static void adopt_member(spawned *s, uint32_t number) {
    uint32_t pid = s->options.hub.pid(s->options.hub.self, number);
    if (pid > 1 && pid <= INT32_MAX) {
        adopt(s, number, (pid_t)pid, pool_of(roles_of(s, number)));
    }
}

/* A worker of a controller before this one, which was started for the same hubs. */
static void look_at(void *self, pid_t pid) {
    spawned *s = self;
    if (!hostprocs_runs(pid, s->program) || !hostprocs_read(pid, &s->words)) {
        return;
    }
    const char *command = hostprocs_word(&s->words, 1);
    const char *join = hostprocs_value(&s->words, "--join");
    const char *text = hostprocs_value(&s->words, "--worker");
    const char *role = hostprocs_value(&s->words, "--role");
    int64_t number;
    if (command && strcmp(command, "worker") == 0 && join && strcmp(join, s->options.join) == 0 &&
        role && text && str_to_i64(str_from(text), 0, (int64_t)s->options.workers - 1, &number) &&
        s->list[number].pid == 0) {
        scaler_pool pool =
            strcmp(role, scaler_pool_name(SCALER_PREFILL)) == 0 ? SCALER_PREFILL : SCALER_DECODE;
        adopt(s, (uint32_t)number, pid, pool);
    }
}

/* ---- starting ------------------------------------------------------------------------------- */

/* The words of a worker, ended by NULL, in `out`; the numbers among them as text in `texts`. */
typedef struct {
    const char *list[OWN_ARGS + DRIVER_SPAWN_ARGS_MAX + 1];
    char number[16], device[16], memory[16], share[16];
} arguments;

static void write_arguments(const spawned *s, uint32_t number, scaler_pool pool,
                            const shares_part *part, arguments *out) {
    const driver_spawn_options *o = &s->options;
    double share = (double)part->part / SHARES_WHOLE;
    (void)snprintf(out->number, sizeof out->number, "%u", number);
    (void)snprintf(out->device, sizeof out->device, "%d", (int)part->device);
    (void)snprintf(out->memory, sizeof out->memory, "%.4f", memory_whole * share);
    (void)snprintf(out->share, sizeof out->share, "%.3f", share);
    const char *own[OWN_ARGS] = {"weir",      "worker",         "--role",    scaler_pool_name(pool),
                                 "--worker",  out->number,      "--flips",   "--join",
                                 o->join,     "--device",       out->device, "--memory-fraction",
                                 out->memory, "--device-share", out->share};
    uint32_t count = part->device == SHARES_NO_DEVICE ? OWN_ARGS - DEVICE_ARGS : OWN_ARGS;
    memcpy(out->list, own, count * sizeof own[0]);
    CHECK_LE(o->args_count, DRIVER_SPAWN_ARGS_MAX);
    for (uint32_t i = 0; i < o->args_count; i++) {
        out->list[count++] = o->args[i];
    }
    out->list[count] = NULL;
}

/* This process's environment and `setting`, to be freed; NULL: no memory. */
static char **environment_with(char *setting) {
    size_t count = 0;
    while (environ[count]) {
        count++;
    }
    char **out = mem_alloc(count + 2, sizeof *out);
    if (out) {
        memcpy(out, environ, count * sizeof *out);
        out[count] = setting;
        out[count + 1] = NULL;
    }
    return out;
}

/* In a session of its own, with signals as a fresh process has them, and nothing to read. */
static int spawn_with(const spawned *s, const arguments *a, char *const *environment, pid_t *pid) {
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
            memcpy(words, a->list, sizeof words);
            error = posix_spawn(pid, s->program, &actions, &attributes, words, environment);
        }
        (void)posix_spawnattr_destroy(&attributes);
    }
    (void)posix_spawn_file_actions_destroy(&actions);
    return error;
}

/* An operator's own setting of the share of SMs stays. */
static int spawn(const spawned *s, uint32_t number, scaler_pool pool, const shares_part *part,
                 pid_t *pid) {
    arguments a = {.list = {NULL}};
    char sms[64];
    bool divided = part->device != SHARES_NO_DEVICE && part->part < SHARES_WHOLE &&
                   hostshares_has_mps() && !getenv(sms_name);
    write_arguments(s, number, pool, part, &a);
    (void)snprintf(sms, sizeof sms, "%s=%u", sms_name,
                   (part->part * 100 + SHARES_WHOLE - 1) / SHARES_WHOLE);
    char **environment = divided ? environment_with(sms) : environ;
    if (!environment) {
        return ENOMEM;
    }
    shares_cpus mine = hostshares_cpus();
    hostshares_pin(&part->cpus); /* which the worker inherits */
    int error = spawn_with(s, &a, environment, pid);
    hostshares_pin(&mine);
    if (divided) {
        mem_free(environment);
    }
    return error;
}

/* What those that run hold; `out` [LIMIT_WORKERS]. */
static uint32_t parts_held(const spawned *s, shares_part *out) {
    uint32_t count = 0;
    for (uint32_t i = 0; i < s->options.workers; i++) {
        if (s->list[i].pid) {
            out[count++] = s->list[i].part;
        }
    }
    return count;
}

static void say_started(uint32_t number, const process *p) {
    char device[32] = "-";
    if (p->part.device != SHARES_NO_DEVICE) {
        (void)snprintf(device, sizeof device, "%d:%.3f", (int)p->part.device,
                       (double)p->part.part / SHARES_WHOLE);
    }
    LOG(INFO, "local", "started", "worker=%u pid=%d cpus=%u gpu=%s", number, (int)p->pid,
        shares_count_cpus(&p->part.cpus), device);
}

static driver_result spawned_start(driver *d, uint64_t token, scaler_pool pool, uint32_t *id,
                                   diag *why) {
    spawned *s = (spawned *)d;
    shares_part held[LIMIT_WORKERS], part;
    (void)token;
    hostprocs_each(look_at, s); /* another controller may have led until now */
    uint32_t i = 0;
    while (i < s->options.workers && (s->list[i].pid || roles_of(s, i))) {
        i++;
    }
    if (i == s->options.workers) {
        (void)status_fail(why, STATUS_LIMIT, "all %u workers are in use", s->options.workers);
        return DRIVER_REFUSED;
    }
    if (!shares_pick(&s->options.shares, held, parts_held(s, held), &part, why)) {
        return DRIVER_REFUSED;
    }
    process *p = &s->list[i];
    pid_t pid = 0;
    int error = spawn(s, i, pool, &part, &pid);
    if (error) {
        (void)status_fail(why, STATUS_IO, "cannot start a worker: %s", strerror(error));
        return DRIVER_REFUSED;
    }
    *p = (process){.pid = pid, .pidfd = open_pid(pid), .child = true, .pool = pool, .part = part};
    say_started(i, p);
    *id = i;
    return DRIVER_ASKED;
}

/* ---- what runs ------------------------------------------------------------------------------ */

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
            adopt_member(s, i);
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
    shares_part held[LIMIT_WORKERS];
    uint32_t room = shares_room(&s->options.shares, held, parts_held(s, held));
    return count < room ? count : room;
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
    if (!hostprocs_self(s->program)) {
        mem_free(s);
        return status_fail_errno(d, STATUS_IO, "/proc/self/exe");
    }
    hostprocs_each(look_at, s);
    *out = &s->base;
    return STATUS_OK;
}
