/* workstate.h -- a worker as its files share it: its parts, who it is, its pages.
 *
 * Purpose    One struct, so that messages (workio.c), links to other hosts (hosts.c) and channels
 *            of KV (channels.c) are functions on the same state. Only this folder includes it.
 * Ownership  worker_state is worker.c's; everything in it lives as long as worker_run.
 * Threads    The owner thread.
 * Limits     Those of its parts.
 */
#ifndef ENGINE_WORKER_WORKSTATE_H
#define ENGINE_WORKER_WORKSTATE_H

#include "engine/base/cores.h"
#include "engine/base/tracefile.h"
#include "engine/worker/lanes.h"
#include "engine/worker/peers.h"
#include "engine/worker/stepper.h"
#include "engine/worker/worker.h"
#include "engine/worker/workstats.h"
#include "models/arch/model.h"

typedef struct hosts hosts;
typedef struct channels channels;

/* KV that has come in less time than the profile of the timed backend wants: nothing else is
 * received until it counts. */
typedef struct {
    bool used;
    uint32_t slot;
    uint32_t sequence;
    core_received_result result;
    int64_t due_us;
} workio_held;

typedef struct {
    const worker_options *options;
    backend *backend;
    backend *others[BACKEND_RANKS_MAX - 1]; /* with several devices, the further ranks' */
    model *model;                           /* or */
    timed *timed;                           /* one of the two is NULL */
    const model_info *info;
    arena arena;
    core *core;
    stepper *stepper; /* the first lane's */
    lanes lanes;      /* the second's, if there is one */
    workio_held held; /* timed backend */
    waste waste;      /* where the time goes */
    workstats *stats;
    cores cores;
    tracefile trace;
    peers peers;
    hosts *hosts;             /* hosts.h; NULL: this machine only */
    channels *channels;       /* channels.h */
    uint32_t block_pages;     /* of the KV pool that are handed out together */
    uint64_t group_bytes_max; /* of KV in one transfer group */
    uint32_t group_layers;    /* of a group, at first; and at most, of whole chunks */
    uint32_t group_layers_max;
    uint32_t number; /* of this worker */
    uint64_t epoch;  /* of this life */
    str address;     /* where other hosts reach it; "": nowhere */
    message_scratch *scratch;
    strbuf encoded;
    strbuf snapshot;
    int signal_fd;
    int32_t step_rows[CORE_LANES];
    bool step_prompts[CORE_LANES]; /* it has chunks of prompts */
    bool lending; /* the next step waits, for the cores compute another worker's prompts */
    int64_t step_began_us;
    int64_t metrics_due_us;
    bool was_busy, was_idle;
    bool prompts_apart; /* core_options.prompts_apart */
    bool draining;
    uint64_t order_token; /* of the newest controller that has ordered something */
    int64_t hand_back_us; /* when the drain has lasted long enough; 0: not set yet */
    bool handed_back;
    bool ended; /* the gateway is gone, or a step failed */
    status failed;
    diag *d;
} worker_state;

/* Who this worker is, as it is now. */
message_hello workstate_hello(const worker_state *w);

/* Its pages, as a channel reads and writes them. */
kvt_pool workstate_pool(const worker_state *w);
/* Before a new channel's first job. */
void workstate_channel(const worker_state *w, kvt *k, bool between_devices);
/* What a new channel between devices receives is of that type, and not the pool's. */
void workstate_convert(kvt *k, backend_kv_type type);

#endif
