/* gateway.h -- the gateway's loop: the I/O around the pure gate.
 *
 * Purpose    Takes requests from the intake, asks the router for workers, carries out the gate's
 *            actions, feeds tokens to sessions, supervises local workers, serves health and
 *            metrics, drains on SIGTERM and SIGINT.
 * Ownership  gateway_run borrows everything in its options for the call.
 * Threads    The calling thread owns all gateway state.
 * Limits     gateway_options.requests_max sessions.
 */
#ifndef SERVER_GATEWAY_GATEWAY_H
#define SERVER_GATEWAY_GATEWAY_H

#include "engine/base/cores.h"
#include "engine/base/hash.h"
#include "engine/base/trace.h"
#include "server/control/scaler.h"
#include "server/drivers/supervisor.h"
#include "server/gateway/cluster.h"
#include "server/gateway/intake.h"
#include "server/gateway/reqtrace.h"
#include "server/gateway/router.h"
#include "server/http/apikeys.h"
#include "server/http/http.h"

/* How the local workers are scaled: of `local` children so many run at first. */
typedef struct {
    scaler_options scaler;
    uint32_t first[SCALER_POOLS];
    const char *lease_path; /* NULL: no other controller can act */
} gateway_scale;

typedef struct {
    intake *intake;
    http *http;
    supervisor *supervisor; /* its children are workers 0, 1, ... */
    uint32_t local;         /* so many */
    cluster *cluster;       /* NULL: no workers but those */
    const char *model_name; /* as clients call it */
    uint64_t model_hash;    /* of the model file that the tokenizer is of */
    bool kv_by_address;     /* KV moves over TCP between workers of this machine too */
    const tokenizer *tokenizer;
    cores *cores;          /* the board of its workers; NULL: none */
    uint32_t roles_wanted; /* ready when each of these has joined */
    const apikeys *keys;   /* of the HTTP side; NULL: none */
    hash_key salt_key;     /* secret of prefix cache salts; gateways that have the same share */
    uint32_t requests_max;
    uint32_t key_requests_max; /* of those, one API key's */
    int64_t ttft_slo_us;       /* what would begin later is refused; 0: nothing is */
    int32_t local_prefill_max; /* router_options */
    router_policy route;
    int64_t silence_us;           /* a worker this quiet is fenced and killed */
    int64_t join_us;              /* a worker must say HELLO within this */
    int64_t pending_us;           /* a request waits this long for workers, then 503 */
    int64_t drain_us;             /* requests under way get this long to end */
    bool shared_port;             /* of `http`: it is left before the drain */
    trace *trace;                 /* spans of requests; NULL: off */
    reqtrace *traces;             /* of the requests of `http` */
    const gateway_scale *scale;   /* NULL: the number of local workers does not change */
    void (*on_ready)(void *self); /* once, when the first request would succeed */
    void *self;
} gateway_options;

/* Keeps the signals that ask to stop for gateway_run. Call before any thread starts: a thread that
 * does not block them would take them and end the process. */
void gateway_block_signals(void);

/* Runs until a signal asks it to stop and the drain is over. */
MUST_USE status gateway_run(const gateway_options *options, diag *d);

#endif
