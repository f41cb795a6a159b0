/* sweeper_table.h -- the connections of a server, shared by the sweeper's files.
 *
 * Purpose    The slots and what may happen to one: sweeper.c has the thread and what MHD calls,
 *            sweeper_slots.c takes, watches, shuts and frees, sweeper_heads.c reads heads.
 * Ownership  As sweeper.h.
 * Threads    Everything in a sweeper behind `lock`. Functions that take a slot want it held; what
 *            must wait until it is released goes into a sweeper_after.
 * Limits     As sweeper.h.
 */
#ifndef SERVER_HTTP_SWEEPER_TABLE_H
#define SERVER_HTTP_SWEEPER_TABLE_H

#include <pthread.h>
#include <stdatomic.h>
#include <sys/socket.h>

#include "engine/base/check.h"
#include "server/http/sweeper.h"

/* Peeks at one head as bytes come; after that many, at most one a tick. */
enum { SWEEPER_PEEKS_MAX = 32 };

typedef enum {
    SWEEPER_FREE,
    SWEEPER_HEAD,   /* the sweeper waits for a head on a new socket */
    SWEEPER_IDLE,   /* the same on a kept connection, suspended in MHD */
    SWEEPER_BODY,   /* MHD reads head and body, or sends an answer made at once */
    SWEEPER_SERVE,  /* `served` is being worked on */
    SWEEPER_LINGER, /* refused: the answer is out, the client's bytes are thrown away */
    SWEEPER_CLOSING /* shut down; MHD will close it */
} sweeper_state;

struct sweeper_slot {
    int fd;
    uint32_t generation;
    sweeper_state state;
    struct MHD_Connection *connection; /* NULL until MHD has begun with it */
    exchange *served;                  /* a reference while in SWEEPER_SERVE */
    int64_t deadline_us;               /* 0: none */
    uint32_t peeks;                    /* of the head now awaited */
    bool partial;                      /* some of the head is there */
    bool half_closed;                  /* the client sends no more */
    bool early;                        /* bytes came while no head was awaited */
    bool passed;                       /* `head` is good for one sweeper_take_head */
    guard_head head;
    uint8_t address[16];
};

struct sweeper {
    sweeper_options options;
    struct MHD_Daemon *daemon;
    bool runs;          /* the daemon, on this thread */
    bool resumed;       /* on this thread, since the daemon's last turn began */
    bool pending;       /* the daemon has more to do at once */
    _Atomic bool woken; /* by another thread, since that turn began */
    int listen_fd;
    int epoll_fd;
    int wake_fd;
    pthread_t thread;
    bool thread_started;
    char *peeked;    /* [LIMIT_HEADER_BYTES] */
    uint64_t *again; /* [slots_count] kept connections whose next head came early; this thread's */
    uint32_t again_count;

    pthread_mutex_t lock;
    sweeper_slot *slots; /* [slots_count] */
    uint32_t slots_count;
    bool draining;
    bool stopping;
    bool ended;
    sweeper_counts counts;
};

/* What is left to do once the lock is released. */
typedef struct {
    struct MHD_Connection *resume;
    int hand_fd;    /* to MHD_add_connection, or -1 */
    exchange *left; /* exchange_leave, then exchange_drop */
} sweeper_after;

static inline void sweeper_table_lock(sweeper *s) {
    CHECK_EQ(pthread_mutex_lock(&s->lock), 0);
}

static inline void sweeper_table_unlock(sweeper *s) {
    CHECK_EQ(pthread_mutex_unlock(&s->lock), 0);
}

/* What its events say whose it is. */
static inline uint64_t sweeper_slot_id(const sweeper *s, const sweeper_slot *slot) {
    return ((uint64_t)slot->generation << 32) | (uint64_t)(slot - s->slots);
}

/* Watches the socket for `events` from now on; an event that is there already comes again. */
void sweeper_slots_watch(sweeper *s, sweeper_slot *slot, int operation, uint32_t events);

/* A slot for a new socket, or its refusal. Takes the lock itself. */
void sweeper_slots_take(sweeper *s, int fd, const struct sockaddr_storage *from);

/* The connection is over as far as the sweeper goes: MHD closes what it has. */
void sweeper_slots_shut(sweeper *s, sweeper_slot *slot, sweeper_after *a);

/* The socket is the caller's to close. */
void sweeper_slots_free(sweeper *s, sweeper_slot *slot);

/* Does what had to wait; the lock is not held. */
void sweeper_slots_after(sweeper *s, sweeper_after *a);

/* Something happened on the socket. */
void sweeper_heads_event(sweeper *s, sweeper_slot *slot, uint32_t events, sweeper_after *a);

/* Looks at what has come of a head. */
void sweeper_heads_peek(sweeper *s, sweeper_slot *slot, sweeper_after *a);

/* The slot's deadline has passed. */
void sweeper_heads_expire(sweeper *s, sweeper_slot *slot, sweeper_after *a);

/* Writes a whole answer by hand, then throws away what the client still sends. */
void sweeper_heads_refuse(sweeper *s, sweeper_slot *slot, int code, const char *reason);

#endif
