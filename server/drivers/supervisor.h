/* supervisor.h -- starts, watches and restarts worker processes on this machine.
 *
 * Purpose    Keeps a fixed set of children alive: each is started with one end of a socket pair as
 *            descriptor SUPERVISOR_CHILD_FD, restarted with back-off when it ends, and ended with
 *            its parent, however that ends.
 * Ownership  supervisor_open holds the table; supervisor_close kills what is left and reaps it.
 *            The parent's end of a child's socket is the caller's once handed out.
 * Threads    One thread, the one that called supervisor_open (children ask the kernel to die with
 *            that thread).
 * Limits     LIMIT_WORKERS children.
 */
#ifndef SERVER_DRIVERS_SUPERVISOR_H
#define SERVER_DRIVERS_SUPERVISOR_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "engine/base/limits.h"
#include "engine/base/status.h"

enum { SUPERVISOR_CHILD_FD = 3, SUPERVISOR_SHARED_FD = 4, SUPERVISOR_ARGS_MAX = 80 };

typedef struct supervisor supervisor;

typedef enum {
    SUPERVISOR_STARTED, /* `fd` is the parent's end of the child's socket */
    SUPERVISOR_ENDED    /* reaped; it will be started again after the back-off */
} supervisor_event_type;

typedef struct {
    supervisor_event_type type;
    uint32_t child;
    pid_t pid;
    int fd;     /* STARTED */
    int status; /* ENDED: as waitpid gives it */
} supervisor_event;

MUST_USE status supervisor_open(supervisor **out, diag *d);

/* Every child started from now on gets `fd` as SUPERVISOR_SHARED_FD; it stays the caller's. */
void supervisor_share(supervisor *s, int fd);

/* Adds a child, to be started by the next supervisor_poll. `args` [args_count] is copied: the
 * program is this executable, args are what follows its name; "{epoch}" as an argument becomes the
 * child's epoch, which grows with each start. */
MUST_USE status supervisor_add(supervisor *s, const char *const *args, uint32_t args_count,
                               uint32_t *child, diag *d);

/* "{role}" among a child's arguments becomes this from its next start on. */
void supervisor_set_role(supervisor *s, uint32_t child, const char *role);

/* Whether the child is to run: one that is not is left to end by itself, and not started again.
 * All are wanted at first. */
void supervisor_want(supervisor *s, uint32_t child, bool wanted);
bool supervisor_wanted(const supervisor *s, uint32_t child);

/* Starts what is due, reaps what has ended. True with one event; call until false. */
bool supervisor_poll(supervisor *s, int64_t now_us, supervisor_event *out);

/* When the next start or kill is due, INT64_MAX when none is. */
int64_t supervisor_next_us(const supervisor *s);

/* Readable when a child has ended (a signalfd for SIGCHLD, which supervisor_open blocks). */
int supervisor_fd(const supervisor *s);

/* Kills a child that has not ended by itself at `at_us` (0: now); it is reaped and restarted like
 * any other. */
void supervisor_kill(supervisor *s, uint32_t child, int64_t at_us);

/* The child has begun to work (it has joined): its life from now on counts against the back-off.
 * Other workers than children are nothing to it. */
void supervisor_useful(supervisor *s, uint32_t child, int64_t now_us);

/* No more restarts. */
void supervisor_stop(supervisor *s);

/* Children that run. */
uint32_t supervisor_running(const supervisor *s);
pid_t supervisor_pid(const supervisor *s, uint32_t child);
uint64_t supervisor_restarts(const supervisor *s);

void supervisor_close(supervisor *s);

#endif
