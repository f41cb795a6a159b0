/* waste.h -- where the time goes for which a worker has its device.
 *
 * Purpose    Every microsecond from the process's start belongs to one pool and one state: the
 *            device computes, or it waits, and for what. They add up to the time allocated, always:
 *            a state lasts until the next one is entered. What a share of a device is worth
 *            (device-seconds) is left to whoever shows the numbers.
 * Ownership  Plain values.
 * Threads    The owner thread of the core.
 * Limits     None. A clock that goes back is taken to stand still.
 */
#ifndef ENGINE_CORE_WASTE_H
#define ENGINE_CORE_WASTE_H

#include <stdint.h>

struct core;

typedef enum {
    WASTE_BUSY,      /* it computes */
    WASTE_NO_WORK,   /* there are no requests */
    WASTE_NO_ROOM,   /* there are, and none has the KV pages that it needs */
    WASTE_PREFILL,   /* decode: what was promised a place is still computed by another worker */
    WASTE_TRANSFER,  /* pages of what was promised a place are on their way here */
    WASTE_CPU_STAGE, /* there is work, and the host plans, samples, or commits */
    WASTE_START,     /* the model is loaded */
    WASTE_STATES
} waste_state;

/* By the role that the worker had: a role can change. */
typedef enum { WASTE_POOL_PREFILL, WASTE_POOL_DECODE, WASTE_POOL_BOTH, WASTE_POOLS } waste_pool;

/* What is counted. A worker on a CPU has cores; one of the timed backend imitates a device. */
typedef enum { WASTE_GPU, WASTE_CORE, WASTE_TIMED, WASTE_UNITS } waste_unit;

typedef struct {
    waste_unit unit;
    uint32_t share_milli; /* thousandths of a unit that it has: 500 half a GPU, 2000 two cores */
    int64_t since_us;     /* accounted for until here */
    waste_pool pool;
    waste_state state; /* from there on */
    uint64_t us[WASTE_POOLS][WASTE_STATES];
} waste;

/* From now on it loads its model. `unit` and `share_milli` can be filled in when they are known. */
void waste_begin(waste *w, waste_pool pool, int64_t now_us);

/* Until now it was in the state it was in; from now on it is in this one. */
void waste_enter(waste *w, waste_pool pool, waste_state state, int64_t now_us);

/* A step has ended of which the device computed for so long; the rest was the host's. What comes
 * next is the host's too, until something is entered. */
void waste_stepped(waste *w, int64_t computed_us, int64_t now_us);

/* The sums as of now. */
void waste_total(const waste *w, int64_t now_us, uint64_t us[WASTE_POOLS][WASTE_STATES]);

/* Why an engine that has just planned no step has nothing to run. */
waste_state waste_stall(const struct core *c);

waste_pool waste_pool_of(uint32_t roles); /* MESSAGE_ROLE_* bits */
const char *waste_state_name(waste_state s);
const char *waste_pool_name(waste_pool p);
const char *waste_unit_name(waste_unit u);

#endif
