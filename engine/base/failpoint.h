/* failpoint.h -- named places where a test may make weir fail.
 *
 * Purpose    Fault tests kill, stop, delay or fail a process at an exact point:
 *                if (FAILPOINT("prefill.before_handoff")) { return STATUS_IO; }
 *            Armed by WEIR_FAILPOINTS, a list parted by `;` of  name=action[:count][@skip]
 *            with the actions
 *                kill       SIGKILL to itself
 *                stop       SIGSTOP to itself (goes on after SIGCONT)
 *                error      FAILPOINT is true
 *                delay_N    sleeps N milliseconds, then FAILPOINT is false
 *            `count`: how often it acts (default: always); `skip`: how many passes go by first.
 *            WEIR_FAILPOINTS_DIR lets a test arm one process while it runs: each process then reads
 *            lists like the above, a line each, from the FIFO of its name in that folder
 *            (`prefill-0`, `gateway`). A line replaces what was armed. What is armed and what acts
 *            (delays aside) is logged first, so that a test knows instead of guessing.
 * Ownership  failpoint_listen: a thread and a descriptor, until the process ends.
 * Threads    Any.
 * Limits     FAILPOINT_MAX points armed at once. Unarmed, a point is one predictable branch.
 */
#ifndef ENGINE_BASE_FAILPOINT_H
#define ENGINE_BASE_FAILPOINT_H

#include <stdbool.h>
#include <stdint.h>

#include "engine/base/status.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { FAILPOINT_MAX = 32, FAILPOINT_NAME_BYTES = 64 };

/* True when any point is armed. Written by failpoint_setup only; read without a lock. */
extern bool failpoint_armed;

#define FAILPOINT_ARMED __builtin_expect(__atomic_load_n(&failpoint_armed, __ATOMIC_RELAXED), 0)

#define FAILPOINT(name) (FAILPOINT_ARMED && failpoint_hit(name))

/* A point whose name has two parts, a place and what passes there: FAILPOINT_AT("gateway.before_",
 * "SUBMIT") is gateway.before_submit. `what` is looked at only when something is armed. */
#define FAILPOINT_AT(place, what) (FAILPOINT_ARMED && failpoint_hit_at(place, what))

/* Arms the points of `spec` (NULL or "" disarms all). A malformed spec is refused whole. */
MUST_USE status failpoint_setup(const char *spec, diag *d);

/* As failpoint_setup, from the environment variable WEIR_FAILPOINTS. */
MUST_USE status failpoint_setup_env(diag *d);

/* Takes orders from the FIFO WEIR_FAILPOINTS_DIR/process from now on; does nothing without that
 * variable. Malformed lines are logged and change nothing. */
MUST_USE status failpoint_listen(const char *process, diag *d);

/* FAILPOINT's slow half: acts if `name` is armed; true for the action `error`. */
bool failpoint_hit(const char *name);
bool failpoint_hit_at(const char *place, const char *what);

/* Passes through an armed point so far, skipped ones included; 0 when it is not armed. */
uint64_t failpoint_passes(const char *name);

#ifdef __cplusplus
}
#endif
#endif
