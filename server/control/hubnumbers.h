/* hubnumbers.h -- which worker number goes to which life of which worker (pure).
 *
 * Purpose    To everybody in a cluster a life of a worker is (number, epoch), and of one number the
 *            higher epoch is the later life. Epochs come from wall clocks, which jump. So the hub
 *            gives a number only to an epoch above every one it has seen with it: a host whose
 *            clock went back gets another number, and no old life is ever taken for a new one.
 * Ownership  A plain value.
 * Threads    The owner's.
 * Limits     LIMIT_WORKERS numbers. What a number was used for is forgotten HUBNUMBERS_MEMORY_US
 *            after its holder left: leases, tombstones and links of that life are over by then.
 */
#ifndef SERVER_CONTROL_HUBNUMBERS_H
#define SERVER_CONTROL_HUBNUMBERS_H

#include <stdbool.h>
#include <stdint.h>

#include "engine/base/limits.h"
#include "engine/base/status.h"

#define HUBNUMBERS_MEMORY_US INT64_C(120000000)

typedef struct {
    uint32_t reserved; /* numbers below this are only for those that ask for them */
    struct {
        uint64_t epoch; /* of the latest life; 0: none yet */
        bool held;
        int64_t left_us; /* not held: since when */
    } list[LIMIT_WORKERS];
} hubnumbers;

/* Whether this life takes the number from its holder: it is the next one of a reserved number, or
 * the same one over a new connection. The holder has to leave first. */
bool hubnumbers_replaces(const hubnumbers *n, uint32_t wanted, uint64_t epoch);

/* The number of this life: the one it wants if it can have it (`wanted` >= LIMIT_WORKERS: any), or
 * another. */
MUST_USE status hubnumbers_give(hubnumbers *n, uint32_t wanted, uint64_t epoch, int64_t now_us,
                                uint32_t *out, diag *d);

void hubnumbers_leave(hubnumbers *n, uint32_t number, int64_t now_us);

#endif
