/* sim.h -- a cluster in one thread: the production gate, router and core on a virtual clock.
 *
 * Purpose    Gateways and workers, each the pure core of the real thing with a small shell around
 *            it (the same order of calls as server/gateway/gateway.c and engine/worker/worker.c),
 *            each with a clock of its own; links with delays, cuts and half-open ends; page
 *            transfers; clients that know every token they must get. All from one seed, so a run
 *            repeats byte for byte.
 * Ownership  A `sim` owns everything until sim_close.
 * Threads    One.
 * Limits     The SIM_ constants; more is a failure of the run, not of memory.
 */
#ifndef TESTS_SIM_SIM_H
#define TESTS_SIM_SIM_H

#include <stdio.h>

#include "engine/base/arena.h"
#include "engine/core/core.h"
#include "engine/core/gate.h"
#include "server/gateway/router.h"
#include "tests/support/hashmodel.h"

enum {
    SIM_WORKERS_MAX = 6,
    SIM_GATEWAYS_MAX = 3,
    SIM_WORLD = SIM_WORKERS_MAX + SIM_GATEWAYS_MAX, /* node number: clients, faults, checks */
    SIM_NODES,
    SIM_SLOTS = SIM_WORKERS_MAX + SIM_GATEWAYS_MAX, /* of a worker */
    SIM_LINKS_MAX = 8192,
    SIM_REQUESTS_MAX = 48,
    SIM_TOKENS_MAX = 512, /* context */
    SIM_PAGES_MAX = 64,   /* of one transfer */
    SIM_POSTS_MAX = 512   /* receives posted on a link at once */
};

/* ---- time ----------------------------------------------------------------------------------- */

typedef enum {
    SIM_MESSAGE,     /* bytes, or the end of the link, reach an end */
    SIM_DATA_READ,   /* P's transfer reads its pages */
    SIM_DATA_SENT,   /* P's transfer is complete */
    SIM_DATA_ARRIVE, /* the bytes are written to D's pages */
    SIM_DATA_DONE,   /* D hears that they are all there */
    SIM_LAYER,       /* a step has finished a layer */
    SIM_DEADLINE,    /* of a worker's drain; then of its leaving */
    SIM_TICK,
    SIM_START, /* a process starts */
    SIM_DIAL,  /* a worker looks for a gateway */
    SIM_FLIP,  /* a worker gets the other role */
    SIM_THAW,
    SIM_WALK, /* a gateway looks at what waits */
    SIM_OPEN, /* a client sends its request */
    SIM_LEAVE,
    SIM_FAULT,
    SIM_GONE, /* a gateway died a second ago: nobody may hold anything for it */
    SIM_EVENTS
} sim_event_type;

typedef struct sim_data {
    uint32_t sequence;
    uint32_t layer_first, layers, pages_count;
    uint32_t pages[SIM_PAGES_MAX];
    bool junk, damaged;
    bool again;        /* these bytes have come before */
    uint64_t *content; /* [pages_count, layers, LIMIT_PAGE_TOKENS] */
} sim_data;

typedef struct {
    int64_t at_us;
    uint64_t order; /* ties go first come, first served */
    sim_event_type type;
    uint32_t node, life; /* whose event; of another life: dropped */
    uint32_t link, end;
    uint64_t number; /* of its direction of the link */
    uint32_t index;  /* of the request; kind of the fault; gateway; lane */
    char *bytes;     /* MESSAGE: NULL is the link's end */
    size_t bytes_count;
    uint32_t carried; /* MESSAGE: PEER carries the end of another link; UINT32_MAX: none */
    sim_data *data;
} sim_event;

/* ---- links ---------------------------------------------------------------------------------- */

typedef struct {
    uint32_t node, life;
    bool attached;      /* the node reads it */
    bool closed;        /* the node has closed it, or died */
    uint32_t slot;      /* of the node */
    int64_t last_us;    /* when the last thing sent to this end arrives */
    uint64_t sent, got; /* messages to this end */
    uint64_t lost_from; /* number of the first message that never arrives */
    bool data_lost;     /* what was on its way here on the data path is lost */
    sim_event *held;    /* [held_count] arrived before it was attached */
    uint32_t held_count, held_capacity;
} sim_end;

typedef struct {
    sim_end ends[2];
    int64_t delay_us;     /* typical */
    int64_t data_last_us; /* FIFO on the data path too, each direction alike */
} sim_link;

/* ---- nodes ---------------------------------------------------------------------------------- */

typedef struct {
    bool used, doomed;
    core_peer_kind kind;
    uint32_t link, end;
    uint32_t worker, gateway;
    uint64_t epoch;   /* of a worker */
    int64_t since_us; /* the link to a worker stands */
    struct {
        uint32_t sequence;
        bool open;
        core_transfer transfer;
        uint32_t pages[SIM_PAGES_MAX];
    } * posts; /* [SIM_POSTS_MAX] by sequence */
} sim_slot;

typedef struct {
    bool running;
    uint32_t life; /* also its epoch */
    bool frozen;
    int64_t thaw_us; /* the last */
} sim_process;

typedef struct {
    sim_process process;
    uint32_t roles; /* it may have requests of these */
    uint32_t role;  /* new ones are of these; the same but where roles are flipped */
    uint32_t pages;
    bool draining;
    bool handed_back; /* the drain took too long */
    bool stone;       /* frozen for longer than the run: nobody waits for it */
    bool ended;       /* its gateway link is gone: the process ends when the event is over */
    arena memory;
    core *core;
    core_options options;
    hashmodel model;
    message_scratch *scratch;
    sim_slot slots[SIM_SLOTS];
    core_batch batches[CORE_LANES];
    bool stepping[CORE_LANES];
    uint32_t layers_done[CORE_LANES];
    int64_t layer_us;
    uint64_t ticks;
} sim_worker;

typedef struct {
    sim_process process;
    gate *gate;
    arena memory;
    router *router;
    message_scratch *scratch;
    router_view views[SIM_WORKERS_MAX];
    struct {
        bool used, joined, broken;
        uint32_t link, end;
        uint64_t epoch;
        int64_t heard_us;
    } peers[SIM_WORKERS_MAX];
    uint64_t chargeable; /* messages that may cost a retry: all but those of workers that drain */
    int64_t paired_us[SIM_WORKERS_MAX][SIM_WORKERS_MAX]; /* last introduction; 0: never */
    bool walking;
} sim_gateway;

typedef enum {
    SIM_NEW,
    SIM_OPENED,
    SIM_DONE,
    SIM_FAILED,
    SIM_LEFT,
    SIM_ORPHANED /* its gateway died: the stream has ended, as it must */
} sim_request_state;

typedef struct {
    sim_request_state state;
    request_id id;
    uint32_t gateway;
    int64_t open_us;
    int32_t stop_choice; /* ended by the client after stop_after tokens; -1: none */
    int32_t stop_after;
    uint64_t salt;
    request_params params;
    int32_t prompt_count;
    int32_t prompt[SIM_TOKENS_MAX];
    request_token *expected[LIMIT_CHOICES]; /* [expected_count] */
    int32_t expected_count[LIMIT_CHOICES];
    int32_t got[LIMIT_CHOICES];
    int32_t scores;
} sim_request;

typedef struct {
    uint64_t events, messages, transfers, faults, attempts;
    uint64_t done, failed, left, orphaned;
    uint64_t handed_back, preemptions, evictions, replays, adoptions, splits, retries, junk, cached;
    uint64_t flips;
    uint64_t resyncs;  /* asked for after a CACHED was lost */
    uint64_t crowd_us; /* for so long P and D had no room at once */
} sim_counts;

typedef struct {
    uint64_t seed;
    bool trace;
    bool crowd; /* far more requests than two small pools hold, and nothing goes wrong */
} sim_options;

struct sim;
typedef struct sim sim;

struct sim {
    sim_options options;
    uint64_t rng;
    int64_t now_us;
    uint64_t order;
    sim_event *heap; /* [heap_count] */
    uint32_t heap_count, heap_capacity;
    sim_link *links; /* [links_count] */
    uint32_t links_count;
    sim_worker workers[SIM_WORKERS_MAX];
    uint32_t workers_count;
    sim_gateway gateways[SIM_GATEWAYS_MAX];
    uint32_t gateways_count;
    struct {
        int64_t offset_us;
        int64_t rate_ppm; /* 1000000: as fast as real time */
    } clocks[SIM_NODES];
    sim_request requests[SIM_REQUESTS_MAX];
    uint32_t requests_count;
    uint32_t ended_count;
    struct {
        request_id id;
        int32_t choice;
    } stops[SIM_REQUESTS_MAX];
    uint32_t stops_count;
    hashmodel_options model;
    uint32_t layers;
    uint32_t group_pages; /* of a transfer of all layers */
    uint32_t fault_kinds; /* bits */
    int64_t faults_end_us;
    int64_t healed_us;        /* when the last effect of a fault that ends by itself ends */
    bool dial;                /* workers outlive their link to a gateway, and dial again */
    bool shuffled, repeating; /* the data path keeps no order; delivers some bytes twice */
    int32_t local_prefill_max;
    int64_t drain_us; /* of a worker; what is left then is handed back */
    int64_t queue_us;
    int64_t delay_us, layer_us, lease_us, worker_lease_us;
    uint32_t damage_next; /* this many transfers arrive damaged */
    struct {
        bool armed;
        message_type type; /* the next worker that says this meets its fate */
        uint32_t fate;
    } ambush;
    bool strict;   /* budgets so large that every request must succeed */
    bool thorough; /* all accounting is checked after every event of a worker, not every tick */
    gate_options gate_options;
    strbuf encoded;
    sim_counts counts;
    uint64_t hash; /* of everything that happened */
    char failure[256];
};

/* ---- sim.c: the run ------------------------------------------------------------------------- */

/* True when every invariant held. */
bool sim_run(sim *s);
void sim_close(sim *s);
void sim_fail(sim *s, const char *format, ...) PRINTF_LIKE(2, 3);
void sim_trace(sim *s, const char *format, ...) PRINTF_LIKE(2, 3);
uint64_t sim_below(sim *s, uint64_t bound);
bool sim_chance(sim *s, uint64_t percent);
/* `typical` with some noise, now and then much more. */
int64_t sim_delay(sim *s, int64_t typical_us);

/* What the clock of a node shows now, and when it will show `node_us`. */
int64_t sim_clock(const sim *s, uint32_t node);
int64_t sim_when(const sim *s, uint32_t node, int64_t node_us);
sim_process *sim_process_of(sim *s, uint32_t node);
static inline uint32_t sim_gateway_node(uint32_t g) {
    return SIM_WORKERS_MAX + g;
}
/* Stops a process for a while; what comes for it waits. */
void sim_freeze(sim *s, uint32_t node);

/* ---- simnet.c: events and links ------------------------------------------------------------- */

sim_event *simnet_at(sim *s, int64_t at_us, sim_event_type type, uint32_t node);
bool simnet_next(sim *s, sim_event *out);
void simnet_event_free(sim_event *e);
uint32_t simnet_link(sim *s, uint32_t node_a, uint32_t node_b);
void simnet_send(sim *s, uint32_t link, uint32_t from_end, const message *m, uint32_t carried);
/* The node reads from now on; what came before is delivered now. */
void simnet_attach(sim *s, uint32_t link, uint32_t end, uint32_t slot);
/* Closes an end; what it sent still arrives, or (lossy) some of it. */
void simnet_close_end(sim *s, uint32_t link, uint32_t end, bool lossy);
/* Both ends see the end of the link, and some of what was under way is lost. */
void simnet_cut(sim *s, uint32_t link);
/* The message event may be delivered: its end is open and has not lost it. */
bool simnet_arrives(sim *s, sim_event *e);
void simnet_close(sim *s);

/* ---- simworker.c ---------------------------------------------------------------------------- */

void simworker_kill(sim *s, uint32_t w, bool lossy, int64_t restart_after_us);
void simworker_event(sim *s, uint32_t w, sim_event *e);
bool simworker_idle(const sim *s, uint32_t w);

/* ---- simgate.c ------------------------------------------------------------------------------ */

void simgate_close(sim *s);
void simgate_kill(sim *s, uint32_t g, bool lossy, int64_t restart_after_us);
void simgate_event(sim *s, uint32_t g, sim_event *e);
/* A worker dials: here is the gateway's end of its link. */
void simgate_joined(sim *s, uint32_t g, uint32_t w, uint32_t link, uint32_t end);
/* The supervisor saw the process end. */
void simgate_died(sim *s, uint32_t g, uint32_t w);
void simgate_drain(sim *s, uint32_t w);

/* ---- simcheck.c: what must hold ------------------------------------------------------------- */

void simcheck_worker(sim *s, uint32_t w);
/* The core must have promised that nobody else gets these pages [I4]. */
/* A step in flight touches only pages that somebody holds, or that wait for its end. */
void simcheck_stepping(sim *s, uint32_t w, const core_batch *b);
void simcheck_pinned(sim *s, uint32_t w, const uint32_t *pages, uint32_t count, const char *what);
/* A second after the death of that life of a gateway. */
void simcheck_gone(sim *s, uint32_t g, uint32_t life, int64_t died_us);
void simcheck_gate(sim *s, uint32_t g);
void simcheck_index(sim *s, uint32_t g);

/* ---- simcrowd.c ------------------------------------------------------------------------------ */

/* Called between what is drawn: before the clients, and once for every event. */
void simcrowd_shape(sim *s);
void simcrowd_measure(sim *s, int64_t until_us);

/* ---- simclient.c ---------------------------------------------------------------------------- */

void simclient_make(sim *s);
/* At a gateway that runs; later, when there is none. */
void simclient_event(sim *s, sim_event *e);
void simclient_open(sim *s, uint32_t g, uint32_t index);
void simclient_token(sim *s, const gate_action *a);
void simclient_score(sim *s, const gate_action *a);
void simclient_done(sim *s, const gate_action *a);
void simclient_failed(sim *s, const gate_action *a);
/* False: it had ended already. */
bool simclient_left(sim *s, uint32_t index);
/* A gateway has died. */
void simclient_orphan(sim *s, uint32_t g);
/* The gate hears now that the client wants no more of a choice; false: the request has ended. */
bool simclient_stopped(sim *s, request_id id, int32_t choice);
void simclient_close(sim *s);

/* ---- simfault.c ----------------------------------------------------------------------------- */

void simfault_plan(sim *s);
void simfault_do(sim *s, const sim_event *e);
/* A worker has just said something: an ambush may have waited for it. */
void simfault_said(sim *s, uint32_t w, uint32_t slot, const message *m);

#endif
