/* pool.h -- the workers of this gateway: links, who they are, how they are.
 *
 * Purpose    Keeps a slot a worker: its wire, its HELLO, its last HEARTBEAT, the metrics it sent;
 *            introduces prefill and decode workers to each other, with a socket for each pair of
 *            this machine and by address elsewhere;
 *            notices workers that have gone silent.
 * Ownership  A slot owns its wire until pool_drop.
 * Threads    The gateway's thread.
 * Limits     LIMIT_WORKERS slots, numbered as the workers are.
 */
#ifndef SERVER_GATEWAY_POOL_H
#define SERVER_GATEWAY_POOL_H

#include "engine/base/wire.h"
#include "engine/core/hello.h"
#include "server/gateway/router.h"

typedef struct {
    bool used;   /* a wire is there */
    bool joined; /* its HELLO has come and fits */
    bool writing;
    bool unmet;  /* not all that it is to know are introduced: there was no room */
    bool remote; /* reached over TCP: not a child of this process */
    wire *wire;
    uint64_t epoch;  /* remote: of the life that was dialled; else 0 until it joins */
    hello_kept kept; /* its HELLO */
    message_hello hello;
    message_heartbeat heartbeat;
    int64_t heard_us; /* the last message */
    int64_t since_us; /* the wire */
    strbuf metrics;   /* its last snapshot */
    char label[48];   /* role="prefill",worker="0" */
} pool_worker;

typedef struct {
    pool_worker workers[LIMIT_WORKERS];
    router_view views[LIMIT_WORKERS];
    uint32_t count; /* slots ever used */
    int epoll_fd;
    strbuf encoded;
    int64_t rejoined_us[LIMIT_WORKERS][LIMIT_WORKERS]; /* lower number first; 0: never */
    bool met[LIMIT_WORKERS][LIMIT_WORKERS];            /* introduced; lower number first */
    uint32_t roles_wanted; /* ready means that each of these has joined */
    uint64_t model_hash;   /* what a worker's must be; 0: that of the first to join */
    bool holds;            /* ready without any: requests are held until workers have started */
    bool by_address;       /* no sockets for any pair: KV moves over TCP on this machine too */
} pool;

/* epoll_data of a worker's wire is its number; others use POOL_TAG and up. */
enum { POOL_TAG = 1 << 16, POOL_OUT_BYTES_MAX = 256 << 20 };

MUST_USE status pool_open(pool *p, diag *d);
void pool_close(pool *p);

/* A worker's socket; its HELLO is still to come. */
MUST_USE status pool_add(pool *p, uint32_t worker, int fd, int64_t now_us);

/* The same for a worker of another host, that life of it. */
MUST_USE status pool_add_remote(pool *p, uint32_t worker, uint64_t epoch, int fd,
                                const seal_keys *keys, int64_t now_us);
void pool_drop(pool *p, uint32_t worker);

/* Sends a message. False when the link is broken: drop it when no gate action is under way. */
bool pool_send(pool *p, uint32_t worker, const message *m);

/* Writes what waits on all links and polls for the rest. */
void pool_flush(pool *p);

/* Says why its link ends. */
void pool_goodbye(pool *p, uint32_t worker, const char *why);

/* HELLO: joined if it fits, and introduced to every worker of the other role. */
MUST_USE status pool_join(pool *p, uint32_t worker, const message_hello *hello, diag *d);

/* The worker has that role now: it meets those that it had no work with. */
void pool_role(pool *p, uint32_t worker, uint32_t roles);

/* A worker has lost its link to `peer`, and both may be well: they get a new one, at most once a
 * second. Whoever still has the old link drops it when it takes the new. */
void pool_rejoin(pool *p, uint32_t worker, uint32_t peer, int64_t now_us);

void pool_heartbeat(pool *p, uint32_t worker, const message_heartbeat *h, int64_t now_us);
void pool_metrics(pool *p, uint32_t worker, str snapshot);

/* The first worker not heard of for `silence_us` (or, of this machine, not joined after `join_us`:
 * it has a model to load), or LIMIT_WORKERS. */
uint32_t pool_silent(const pool *p, int64_t now_us, int64_t silence_us, int64_t join_us);

/* A request could be served now, the way this gateway is set up. */
bool pool_ready(const pool *p);

const char *pool_role_name(uint32_t roles);

#endif
