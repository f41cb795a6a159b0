/* cores.h -- workers of one machine lend each other their cores.
 *
 * Purpose    Prefill and decode workers share a machine's cores. Each has a share of its own; while
 *            the others are idle it may use theirs too, and gives them back within one operator of
 *            a step when they wake. A board in shared memory says who is busy, and with what.
 * Ownership  cores_create makes the board (the parent keeps it open); cores_open joins it.
 * Threads    cores_work and cores_threads: one thread a worker. cores_clear: the parent.
 * Limits     LIMIT_WORKERS workers. The board is advice: a wrong entry costs time only.
 */
#ifndef ENGINE_BASE_CORES_H
#define ENGINE_BASE_CORES_H

#include <stdbool.h>
#include <stdint.h>

#include "engine/base/limits.h"
#include "engine/base/status.h"

typedef struct cores_board cores_board;

typedef struct {
    cores_board *board; /* NULL: no board, nothing is lent */
    int fd;             /* of the board; to be passed to children */
    uint32_t worker;
    int32_t own;   /* threads when everybody is busy */
    int32_t total; /* threads when nobody else is */
} cores;

/* A new board with everybody idle. */
MUST_USE status cores_create(cores *c, diag *d);

/* Joins the board behind `fd`, which is taken over. */
MUST_USE status cores_open(cores *c, int fd, uint32_t worker, int32_t own, int32_t total, diag *d);
void cores_close(cores *c);

typedef enum {
    CORES_IDLE,
    CORES_DECODES, /* one row of each sequence */
    CORES_PROMPTS  /* more of some */
} cores_load;

/* This worker's step begins, with such rows, or ends. */
void cores_work(cores *c, cores_load load);

/* Whether another worker computes prompts now: it would take this worker's cores too. */
bool cores_wanted(const cores *c);

/* Threads this worker may use now: its own, and those of workers that are idle. */
int32_t cores_threads(const cores *c);

/* A worker has died: it is not busy any more. NULL is fine. */
void cores_clear(cores *c, uint32_t worker);

#endif
