/* sideline.h -- a channel's own connection, and the tick while something is under way.
 *
 * Purpose    What transports between devices have beside the device: messages to the other side of
 *            the channel, sealed, and one descriptor that is readable when a look is worth it.
 * Ownership  The caller's struct; sideline_close gives back what it holds.
 * Threads    One at a time.
 * Limits     SIDELINE_BYTES_MAX of messages wait.
 */
#ifndef KVTRANSFER_SIDELINE_H
#define KVTRANSFER_SIDELINE_H

#include <stdbool.h>

#include "engine/base/seal.h"
#include "engine/base/status.h"
#include "engine/base/wire.h"

enum { SIDELINE_BYTES_MAX = 1 << 16, SIDELINE_TICK_US = 500 };

typedef struct {
    wire *wire; /* NULL until it is attached */
    int epoll_fd, timer_fd;
    bool ticking;
} sideline;

/* After a failure too sideline_close has to be called. */
MUST_USE status sideline_open(sideline *s);
void sideline_close(sideline *s);

/* The connected socket, taken over either way. `who` begins the reason. */
MUST_USE status sideline_attach(sideline *s, int fd, const seal_keys *keys, const char *who,
                                diag *d);

/* False: the peer has gone. */
bool sideline_say(sideline *s, str text);

/* Begins or ends the tick. */
void sideline_tick(sideline *s, bool on);

/* Readable when something was said, or the tick has come. */
int sideline_event_fd(const sideline *s);
void sideline_event_clear(const sideline *s);

#endif
