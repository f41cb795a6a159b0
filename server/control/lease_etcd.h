/* lease_etcd.h -- the lease as a key in etcd, bound to a lease of etcd's.
 *
 * Purpose    The key can be made while it is not there; it goes when its maker is not heard of for
 *            the lease's time. The revision at which it was made is the token: etcd's revisions
 *            only grow. Time is counted from before each renewal was sent, and less than all of it
 *            is used: the holder stops to act before etcd lets somebody else in, also when etcd
 *            cannot be reached any more.
 * Ownership  As lease.h; lease_close gives the key back.
 * Threads    One of its own speaks to etcd; the functions of lease.h never wait for it.
 * Limits     LEASE_ETCD_HOSTS addresses, asked in turn when one does not answer. No user names.
 * Source     etcd 3.4's JSON gateway (/v3/lease/grant, /v3/lease/keepalive, /v3/kv/txn).
 */
#ifndef SERVER_CONTROL_LEASE_ETCD_H
#define SERVER_CONTROL_LEASE_ETCD_H

#include "server/control/lease.h"

enum { LEASE_ETCD_HOSTS = 8 };

/* Whether that names a lease of this kind. */
bool lease_etcd_named(const char *where);

MUST_USE status lease_etcd_open(const char *where, uint64_t holder, int64_t ttl_us, lease **out,
                                diag *d);

#endif
