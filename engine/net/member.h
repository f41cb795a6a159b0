/* member.h -- a process's place in the cluster: its link to the hub, and the roster that comes.
 *
 * Purpose    Dials the hub, registers with this process's HELLO, keeps the newest roster, says how
 *            loaded it is, hands the controller's orders over, dials again with back-off when the
 *            link is lost. Where there are several hubs, one acts and the others hang up: it goes
 *            from one to the next. Losing the hub stops nothing: the roster stays as it was.
 * Ownership  member_open takes what member_close gives back; the mesh is the caller's, who hands
 *            every event with MEMBER_TAG to member_event, and calls member_poll whenever mesh_fd
 *            was readable and every MESH_TURN_US or so.
 * Threads    One thread.
 * Limits     LIMIT_WORKERS entries of a roster.
 */
#ifndef ENGINE_NET_MEMBER_H
#define ENGINE_NET_MEMBER_H

#include "engine/base/wire.h"
#include "engine/core/message.h"
#include "engine/net/clusterkey.h"
#include "engine/net/mesh.h"

/* The tag of the calls made here; the owner's own calls use others. */
#define MEMBER_TAG UINT64_MAX

enum { MEMBER_BEAT_US = 1000000 };

typedef struct member member;

enum { MEMBER_HUBS_MAX = 4 };

/* Where a hub may be. */
typedef struct {
    hostport list[MEMBER_HUBS_MAX]; /* [count] */
    uint32_t count;
} member_hubs;

/* Reads flag `what`: "HOST:PORT[,HOST:PORT...]". */
MUST_USE status member_hubs_read(const clusterkey *key, const char *text, const char *what,
                                 member_hubs *out, diag *d);

typedef struct {
    member_hubs hubs;
    mesh *mesh;
    /* Fills in this process's HELLO, as it is now; it is sent after each dial. */
    void (*hello)(void *self, message_hello *out);
    /* What is said every MEMBER_BEAT_US: a HEARTBEAT or a LOAD. NULL: an empty HEARTBEAT. */
    void (*beat)(void *self, message *out);
    void *self;
} member_options;

typedef struct {
    uint32_t worker;
    uint64_t epoch;
    uint32_t roles;
    hostport address;
} member_entry;

typedef enum {
    MEMBER_NOTHING,
    MEMBER_ROSTER, /* member_roster has changed */
    MEMBER_ORDER,  /* member_order has come: the controller wants something */
    MEMBER_REFUSED /* the hub will not have this process as it is: `why`; it goes on asking, less
                    * often */
} member_news;

MUST_USE status member_open(const member_options *options, member **out, diag *d);
void member_close(member *m);

/* An event of the mesh tagged MEMBER_TAG. */
void member_event(member *m, const mesh_event *e, int64_t now_us);

/* Dials when it is time, reads what has come, says that it is alive. Call until MEMBER_NOTHING. */
member_news member_poll(member *m, int64_t now_us, diag *why);

/* Says HELLO again: this process has changed (it knows its number now). */
void member_greet(member *m);

/* Leaves the cluster: the link is closed and not dialled again. */
void member_leave(member *m);

/* Every worker known, [*count]; valid until the next member_poll. */
const member_entry *member_roster(const member *m, uint32_t *count);

/* The newest order, a ROLE or a DRAIN: valid until the next member_poll. */
const message *member_order(const member *m);

/* Gateways take requests although there are no workers yet: the last roster says so. */
bool member_holds(const member *m);

bool member_connected(const member *m);

/* This side's address on the link to the hub: where others reach this host. Port 0 before the first
 * link. */
hostport member_local(const member *m);

#endif
