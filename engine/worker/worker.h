/* worker.h -- one model replica as a process: the loop around the pure engine.
 *
 * Purpose    Joins the core (decisions), the model (compute, on the step thread), the wires
 *            (messages) and the KV channels (pages). Reads what has come, moves pages, plans the
 *            next step, commits the last one, writes what goes out.
 * Ownership  worker_run holds everything until it returns.
 * Threads    The calling thread is the owner of all engine state; the step thread computes.
 * Limits     worker_options; all memory for serving is taken before the worker says HELLO.
 */
#ifndef ENGINE_WORKER_WORKER_H
#define ENGINE_WORKER_WORKER_H

#include "engine/core/core.h"
#include "engine/net/member.h"
#include "kernels/backend.h"
#include "models/arch/model.h"

/* The pool in host memory when nobody says how large. */
#define WORKER_KV_BYTES (UINT64_C(1) << 30)

typedef struct {
    const char *model_path;
    const char *backend;      /* "auto", "cpu", "cuda"; "timed": sleeps instead (timed.h) */
    int32_t device;           /* which GPU */
    int32_t ranks;            /* GPUs, from that one on, that share the model; 0, 1: it alone */
    double memory_fraction;   /* of it, for this worker */
    bool deterministic;       /* as backend_options */
    const char *profile_path; /* of the timed backend; NULL or "": its default */
    double device_share;      /* of a GPU, or cores, for the accounts; 0: what follows from
                               * memory_fraction or threads_own */
    const char *price_table;  /* pricetable.h; NULL or "": none */
    uint32_t roles;           /* MESSAGE_ROLE_* bits; with MESSAGE_ROLE_FLIPS they can change */
    uint32_t worker;          /* its number; MESSAGE_NO_WORKER: the hub gives it one */
    uint64_t epoch;           /* 0: makes one */
    int gateway_fd; /* the socket of the gateway that started it, taken over; -1: none did */
    bool joins;     /* a cluster, at one of `hubs` */
    bool listens;   /* at `listen`; one that joins listens anyway */
    member_hubs hubs;
    hostport listen;
    clusterkey key;
    int32_t threads;         /* most compute threads; 0: one a core */
    int32_t threads_own;     /* of them when every worker on this machine is busy */
    int cores_fd;            /* engine/base/cores.h board, taken over; -1: none */
    bool multiplex;          /* prompts and decoding in two lanes (lanes.h); both roles */
    int32_t decode_percent;  /* ... of a GPU's multiprocessors, decoding's alone; 0: none are */
    int64_t pace_us;         /* between steps of decoding while others on it compute prompts */
    backend_kv_type kv_type; /* or BACKEND_KV_TYPES: the backend's choice */
    model_weights weights;
    backend_activations activations;
    uint64_t kv_bytes;      /* of the page pool; at least one whole context is taken. 0: what
                             * memory_fraction leaves of a GPU, WORKER_KV_BYTES of host memory */
    int32_t context_tokens; /* 0: what the model was trained for */
    uint32_t block_tokens;  /* KV handed out and shared together: a multiple of LIMIT_PAGE_TOKENS;
                             * 0: one page */
    int32_t seqs_max;
    int32_t prefill_chunk_tokens;
    int64_t queue_us;            /* a request waits this long for KV pages, then it is refused */
    int64_t drain_us;            /* of a drain; what is left then is handed back */
    uint32_t kv_transports;      /* what may carry KV: bits of hello.h; 0: whatever can */
    uint32_t kv_pairs_max;       /* communicators, when enough pairs are idle; 0: no limit */
    uint64_t ring_bytes;         /* of the shm ring to each decode peer */
    uint64_t group_bytes;        /* of KV in one transfer group */
    const char *trace_directory; /* NULL or "": no trace */
    const char *name;            /* "prefill-0" */
    const int32_t *eog;          /* [eog_count] */
    int32_t eog_count;
} worker_options;

/* Serves until a drain has finished, or, when a gateway started it, until that one's link ends.
 * STATUS_OK on either; else `d` says what failed. */
MUST_USE status worker_run(const worker_options *options, diag *d);

#endif
