/* lease.h -- which controller acts: one holds the lease, with a token that grows.
 *
 * Purpose    One controller of several holds the lease until it stops renewing it. Each change of
 *            hands makes a new token, greater than all before. It is in a file, for controllers of
 *            one host, or in etcd (lease_etcd.h). An action is bracketed by lease_begin and
 *            lease_end: between them the file is locked and the token is known to be the newest,
 *            so nobody can take over in the middle of it; with etcd that cannot be had, and whoever
 *            carries the action out looks at the token.
 * Ownership  lease_open takes what lease_close gives back; the file stays, with its token.
 * Threads    One.
 * Limits     A file: controllers of one host (its monotonic clock and its file locks), on a local
 *            file system.
 * Source     Fencing tokens: Kleppmann, "How to do distributed locking", 2016.
 */
#ifndef SERVER_CONTROL_LEASE_H
#define SERVER_CONTROL_LEASE_H

#include <stdbool.h>
#include <stdint.h>

#include "engine/base/status.h"

/* What the file holds. */
typedef struct {
    uint64_t token;
    uint64_t holder;  /* 0: nobody has had it */
    int64_t until_us; /* clock_now_us */
} lease_record;

/* Takes or renews it if that is possible; pure. A time further away than `ttl_us` is of an earlier
 * boot. */
bool lease_take(lease_record *r, uint64_t holder, int64_t now_us, int64_t ttl_us);

typedef struct lease lease;

typedef struct {
    bool (*turn)(lease *l, int64_t now_us);
    bool (*others)(const lease *l);
    uint64_t (*token)(const lease *l);
    bool (*begin)(lease *l, int64_t now_us);
    void (*end)(lease *l);
    void (*close)(lease *l);
} lease_table;

/* First in the struct of each kind. */
struct lease {
    const lease_table *table;
};

/* `where` is a path, or "etcd://HOST:PORT[,HOST:PORT...]/KEY" ("etcds:" over TLS). `holder` is
 * another number in each process, and not 0. */
MUST_USE status lease_open(const char *where, uint64_t holder, int64_t ttl_us, lease **out,
                           diag *d);
void lease_close(lease *l); /* gives it back, if it has it */

/* Takes or renews it when due; whether it is held. */
bool lease_turn(lease *l, int64_t now_us);

/* Whether another controller is known to have it now. */
bool lease_others(const lease *l);

/* Of the last time that it was taken; 0: never. */
uint64_t lease_token(const lease *l);

/* True: it is held, nobody else can take it until lease_end. */
bool lease_begin(lease *l, int64_t now_us);
void lease_end(lease *l);

#endif
