/* sweeper.h -- the table of connections, and the thread that watches what MHD does not.
 *
 * Purpose    Accepts connections; reads each request's head with MSG_PEEK and hands the socket to
 *            libmicrohttpd only when the guard passed it; answers what is refused; enforces
 *            deadlines; notices clients that leave while their connection is suspended.
 * Ownership  The sweeper owns a socket until it hands it to MHD, which then closes it; the slot
 *            stays with the sweeper until sweeper_closed.
 * Threads    Its own thread, and the functions below from MHD's threads. One lock for the table;
 *            MHD and the gateway are never called with it held.
 * Limits     sweeper_options.connections_max served, SWEEPER_REFUSED_MAX more being refused.
 * States     HEAD -> BODY -> SERVE -> IDLE -> HEAD ..., and LINGER, CLOSING from any.
 */
#ifndef SERVER_HTTP_SWEEPER_H
#define SERVER_HTTP_SWEEPER_H

#include <microhttpd.h>
#include <stdbool.h>
#include <stdint.h>

#include "engine/base/status.h"
#include "server/http/exchange_inner.h"
#include "server/http/guard.h"

enum { SWEEPER_REFUSED_MAX = 64, SWEEPER_TICK_US = 50000, SWEEPER_LINGER_US = 1000000 };

typedef struct sweeper sweeper;
typedef struct sweeper_slot sweeper_slot;

typedef struct {
    int listen_fd; /* the sweeper's from now on */
    bool later;    /* it does not listen before sweeper_listen */
    uint32_t connections_max;
    uint32_t per_address_max; /* 0: no limit */
    int64_t head_deadline_us;
    int64_t idle_deadline_us;
    int64_t body_deadline_us;
} sweeper_options;

typedef struct {
    uint64_t accepted;
    uint64_t refused_full;
    uint64_t refused_head;
    uint64_t expired;
    uint32_t connections;
} sweeper_counts;

MUST_USE status sweeper_open(const sweeper_options *options, sweeper **out, diag *d);

/* Starts the thread; sockets go to `daemon`. `runs`: it has no thread of its own, and the sweeper's
 * runs it. */
MUST_USE status sweeper_start(sweeper *s, struct MHD_Daemon *daemon, bool runs, diag *d);

/* Takes connections, where `options.later` made it wait. */
MUST_USE status sweeper_listen(sweeper *s, diag *d);

/* Leaves the port to others (listener.h); what has begun is still taken, until sweeper_drain. */
MUST_USE status sweeper_leave(sweeper *s, diag *d);

/* No new connections; idle ones are closed, others after their answer. */
void sweeper_drain(sweeper *s);

/* Wakes and shuts every connection, waits up to `wait_us` for MHD to let them go, and ends the
 * thread. */
void sweeper_stop(sweeper *s, int64_t wait_us);

/* After the daemon has stopped. */
void sweeper_close(sweeper *s);

void sweeper_count(sweeper *s, sweeper_counts *out);

/* MHD_resume_connection, from any thread. */
void sweeper_resume(sweeper *s, struct MHD_Connection *connection);

/* MHD has begun to work with a socket: its slot; NULL when it is not known any more. */
sweeper_slot *sweeper_started(sweeper *s, int fd, struct MHD_Connection *connection);

/* MHD is about to close the socket. */
void sweeper_closed(sweeper *s, sweeper_slot *slot);

/* MHD has parsed a head of `bytes` bytes. True when it is the one the guard passed, with what the
 * guard read in it; each pass is good once. */
bool sweeper_take_head(sweeper *s, sweeper_slot *slot, size_t bytes, guard_head *out);

/* The exchange the connection now waits for (a reference is held meanwhile). False when the
 * server is closing. */
bool sweeper_serving(sweeper *s, sweeper_slot *slot, exchange *x);

/* The answer is out, in MHD's completion callback. `keep`: MHD will keep the connection open; it
 * is suspended here and resumed when the next head has passed. */
void sweeper_finished(sweeper *s, sweeper_slot *slot, bool keep);

#endif
