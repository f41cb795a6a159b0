/* mesh.h -- a process's connections to other hosts, from dialling to authenticated.
 *
 * Purpose    Listens, accepts and dials without blocking, runs the handshakes, and hands over
 *            connections whose other end has proved the cluster's key. What comes of a connection
 *            then is the caller's business.
 * Ownership  mesh_open takes what mesh_close gives back. A connection handed over in an event is
 *            the caller's.
 * Threads    One thread.
 * Limits     MESH_HALF_OPEN accepted connections may be in their handshake; one more ends the
 *            oldest. MESH_CALLS dialled ones. A handshake has MESH_HANDSHAKE_US, a dial with its
 *            handshake MESH_CALL_US.
 */
#ifndef ENGINE_NET_MESH_H
#define ENGINE_NET_MESH_H

#include "engine/base/hostport.h"
#include "engine/net/handshake.h"

enum { MESH_HALF_OPEN = 32, MESH_CALLS = 160, MESH_HANDSHAKE_US = 3000000, MESH_CALL_US = 4000000 };

typedef struct mesh mesh;

typedef struct {
    handshake_ident self;
    uint8_t key[HANDSHAKE_KEY_BYTES];
    uint16_t version_min, version_max;
} mesh_options;

/* What a call is for. */
typedef struct {
    hostport address;
    handshake_purpose purpose;
    uint8_t token[HANDSHAKE_TOKEN_BYTES];
    bool expects;
    handshake_ident expected;
    uint64_t tag; /* the caller's: comes back in the event */
} mesh_call;

typedef enum {
    MESH_ACCEPTED,  /* someone dialled us */
    MESH_CONNECTED, /* the call of `tag` is through */
    MESH_FAILED     /* the call of `tag` is not: `why` */
} mesh_event_type;

typedef struct {
    mesh_event_type type;
    uint64_t tag; /* CONNECTED, FAILED */
    int fd;       /* ACCEPTED, CONNECTED: the caller's from now on */
    handshake_ident peer;
    handshake_purpose purpose;
    uint16_t version;
    uint8_t token[HANDSHAKE_TOKEN_BYTES]; /* ACCEPTED */
    seal_keys keys;
    uint8_t secret[HANDSHAKE_KEY_BYTES];
    bool refused; /* FAILED: the other end answered, and will answer the same again */
    diag why;
} mesh_event;

/* The epoch of a process that nobody numbers: from wall time, so that it grows, and random below,
 * so that no two are alike. Where a clock went back, the hub sees to it that the lives of one
 * number have growing epochs (server/control/hubnumbers.h). */
uint64_t mesh_new_epoch(void);

MUST_USE status mesh_open(const mesh_options *options, mesh **out, diag *d);
void mesh_close(mesh *m);

/* Who this process is may become known, or change, after the start. */
void mesh_set_self(mesh *m, const handshake_ident *self);

/* Accepts connections from now on. */
MUST_USE status mesh_listen(mesh *m, const hostport *address, diag *d);

/* The address listened on, with the port that was taken. Port 0 when it does not listen. */
hostport mesh_address(const mesh *m);

/* Dials; the event comes later. STATUS_LIMIT when too many calls are under way. */
MUST_USE status mesh_dial(mesh *m, const mesh_call *call, int64_t now_us);

/* Readable when mesh_next is worth a call; call it every MESH_TURN_US or so too: deadlines. */
int mesh_fd(const mesh *m);
enum { MESH_TURN_US = 250000 };

/* mesh_fd becomes readable too when this socket can be read or written anew (edge-triggered), so
 * that an owner polls one descriptor: read the socket to its end after every turn. */
MUST_USE bool mesh_watch(mesh *m, int fd);
void mesh_unwatch(mesh *m, int fd); /* before it is closed */

/* The next event; false when there is none. */
bool mesh_next(mesh *m, int64_t now_us, mesh_event *out);

/* Counts since the start. */
typedef struct {
    uint64_t accepted, connected, refused, timed_out, crowded_out;
} mesh_counts;
mesh_counts mesh_get_counts(const mesh *m);

#endif
