/* protomodel.h -- the request protocol as a finite machine, small enough to look at every state.
 *
 * Purpose    States of gateways, prefill and decode workers, their messages and their pages; what
 *            each message does (protogate, protoprefill, protodecode); every move that can come
 *            next (protomoves); the search through all of them (protosearch). README.md tells how
 *            to read it.
 * Ownership  A `state` is plain bytes, copied freely. The search owns those that it keeps.
 * Threads    One.
 * Limits     The _MAX constants. A run that meets one says so: it is a violation, not a cut-off.
 */
#ifndef TESTS_MODEL_PROTOMODEL_H
#define TESTS_MODEL_PROTOMODEL_H

#include <stdbool.h>
#include <stdint.h>

enum {
    GATEWAYS_MAX = 2,
    PREFILLS_MAX = 2,
    DECODES_MAX = 2,
    WORKERS_MAX = PREFILLS_MAX + DECODES_MAX,
    FIRST_P = GATEWAYS_MAX, /* node numbers: gateways, then P, then D */
    FIRST_D = FIRST_P + PREFILLS_MAX,
    NODES = FIRST_D + DECODES_MAX,
    REQUESTS_MAX = 2,
    PROMPT_PAGES_MAX = 2, /* one group of a transfer each */
    PAGES_MAX = 4,        /* of a pool */
    QUEUE_MAX = 16,       /* messages on a connection */
    ATTEMPTS_MAX = 14,
    NOBODY = 255
};

/* ---- what a run is about -------------------------------------------------------------------- */

/* A rule of the protocol; without it something goes wrong, and the search shows how. */
#define RULES(X)                                                                       \
    X(PARK, "R1: P parks a grant that is ahead of its SUBMIT")                         \
    X(FIRST, "R2: D sends the first token too")                                        \
    X(REPLAY, "R3: ALREADY_ADOPTED is followed by what the client lacks")              \
    X(BUMP, "R4: P hears GRANT and ADOPTED of its own attempt only")                   \
    X(JUNK, "R5: every POSTED is answered by one send")                                \
    X(REFUSEG, "R6: REFUSED goes to the gateway")                                      \
    X(EVICT, "R7: pages that lost their grant can be evicted, finished or not")        \
    X(SUPERSEDE, "R8: a newer attempt reserves afresh, the old pages are quarantined") \
    X(TELLLEASE, "R9: the gateway is told of a lease that ends")                       \
    X(FULLSUBMIT, "R10: a retarget is a full SUBMIT")                                  \
    X(TEAR, "R11: a quarantine that lasts ends with its channel")                      \
    X(SOURCEPIN, "R12: P's pages are pinned while they are sent")                      \
    X(ADOPTALL, "R13: D adopts when every group has arrived")                          \
    X(AGE, "N1: never evict an older request for a younger, ungranted one")            \
    X(HOLD, "N2: a shared prefix page is counted by each that uses it")                \
    X(COMPLETE, "N3: only pages whose content is complete are found as a prefix")      \
    X(FORGET, "N4: a page that is taken anew is no longer found as what it was")       \
    X(ALLORNONE, "N5: D takes all pages of a prompt at once or none")                  \
    X(PROGRESS, "N6: an attempt makes a token that the client lacks, or ends")         \
    X(DRAINED, "N7: a worker that said it drains is not asked again")

#define RULE_ENUM(name, text) RULE_##name,
typedef enum { RULES(RULE_ENUM) RULES_COUNT } rule;
#undef RULE_ENUM

/* Things that go wrong, each as often as its budget says and all of them together `faults` times.
 */
typedef enum {
    FAULT_CRASH,
    FAULT_FREEZE,
    FAULT_LINK,
    FAULT_CANCEL,
    FAULT_PREEMPT,
    FAULT_LEASE, /* of a record that the gateway still renews */
    FAULT_REFUSE,
    FAULT_GATEWAY, /* death of one */
    FAULT_DRAIN,   /* a worker hands back what it has, and ends */
    FAULTS_COUNT
} fault;

typedef struct {
    int gateways, prefills, decodes;
    int requests;
    int prompt_pages;
    int pool_p, pool_d; /* pages */
    int tokens;         /* of each request */
    int grow_at;        /* D needs a page more for this token; 0: never */
    int shared;         /* bits of the requests whose first prompt page is the same, and kept */
    bool local;         /* D may compute the prompt itself */
    bool keep_p;        /* a new attempt stays at a P that is still there */
    uint8_t budget[FAULTS_COUNT];
    uint8_t faults;
    uint32_t off; /* bits of rules */
} config;

extern config now;
static inline bool on(rule r) {
    return (now.off >> r & 1) == 0;
}

/* ---- state ---------------------------------------------------------------------------------- */

typedef enum {
    MSG_NONE,
    MSG_SUBMIT,   /* x: delivered; y: D */
    MSG_RESERVE,  /* x: delivered; y: P, or NOBODY: local */
    MSG_GRANT,    /* x: prefix pages held */
    MSG_REFUSED,  /* x: its sender drains; REJECT and PREEMPTED as well */
    MSG_ANNOUNCE, /* x: group */
    MSG_POSTED,   /* x: group; y: page at D */
    MSG_DATA,     /* x: group, flags; y: page at D; z: page at P, or its content */
    MSG_HANDOFF,  /* x: first index */
    MSG_ADOPTED,
    MSG_ALREADY_ADOPTED,
    MSG_TOKEN, /* x: index; y: it is wrong */
    MSG_CANCEL,
    MSG_PREEMPTED,
    MSG_LINK_LOST,
    MSG_REJECT,
    MSG_END, /* the connection's: nothing comes behind it */
    MSG_TYPES
} msg_type;

enum { DATA_JUNK = 64, DATA_LEFT = 128 /* its sender is dead, the bytes are on the wire */ };

typedef struct {
    uint8_t type, request, attempt;
    uint8_t x, y, z;
} msg;

typedef struct {
    uint8_t count;
    msg list[QUEUE_MAX];
} queue;

typedef enum { G_NEW, G_PENDING, G_RUNNING, G_DONE, G_CANCELLED, G_ORPHANED } g_state;

typedef struct {
    uint8_t state, attempt, p, d, adopted, delivered;
    uint8_t early; /* bits: tokens that came before their turn */
    uint8_t was_adopted;
} g_record;

typedef struct {
    uint8_t used, attempt, d;
    uint8_t first;    /* index of the token it will sample */
    uint8_t computed; /* pages */
    uint8_t sampled, granted, was_granted, prefix, announced, handed;
    uint8_t pages[PROMPT_PAGES_MAX]; /* page + 1; 0: none */
    uint8_t park_attempt, park_d, park_prefix;
} p_record;

typedef enum { D_NONE, D_QUEUED, D_RESERVED, D_DECODING } d_state;

typedef struct {
    uint8_t state, attempt, p;                   /* p: NOBODY: local */
    uint8_t first, next;                         /* token indexes; next: to be made */
    uint8_t prefix, arrived, announced, handoff; /* arrived, announced: bits of groups */
    uint8_t computed;                            /* local: pages */
    uint8_t pages[PROMPT_PAGES_MAX + 1];         /* page + 1 */
} d_record;

/* FREE: no holders, no pins. QUARANTINED: pins only. */
typedef struct {
    uint8_t holders;
    uint8_t pins[2]; /* by peer: transfers that touch it */
    uint8_t content; /* 0: nothing of worth */
    uint8_t found;   /* as a prefix */
    uint8_t posted;  /* D: request + 1 << 4 | attempt that last posted a receive into it */
} page;

typedef struct {
    g_record g[REQUESTS_MAX];
    uint8_t up[GATEWAYS_MAX];     /* bits of workers that this gateway counts on */
    uint8_t alive, frozen;        /* bits of nodes */
    uint8_t draining;             /* bits of workers that have handed everything back */
    uint8_t drains[GATEWAYS_MAX]; /* those that this gateway knows of */
    uint8_t budget[FAULTS_COUNT], faults;
    p_record p[PREFILLS_MAX][REQUESTS_MAX];
    d_record d[DECODES_MAX][REQUESTS_MAX];
    page pages[WORKERS_MAX][PAGES_MAX];
    queue wires[NODES][NODES];
    queue data[PREFILLS_MAX][DECODES_MAX];
} state;

static inline bool is_g(int n) {
    return n < FIRST_P;
}
static inline bool is_p(int n) {
    return n >= FIRST_P && n < FIRST_D;
}
static inline bool is_d(int n) {
    return n >= FIRST_D;
}
static inline bool has(uint8_t bits, int n) {
    return (bits >> n & 1) != 0;
}
static inline bool runs(const state *s, int n) {
    return has(s->alive, n) && !has(s->frozen, n);
}
/* Two nodes that have a connection. */
static inline bool joined(int a, int b) {
    return is_g(a) != is_g(b) || (!is_g(a) && !is_g(b) && is_p(a) != is_p(b));
}
static inline int gateway_of(int request) {
    return request % now.gateways;
}

/* ---- protowires.c: connections and pages
 * --------------------------------------------------------- */

/* The first violation of a move; NULL: none. */
extern const char *violation;
void violate(const char *what);

void say(state *s, int from, int to, msg m);
msg take(queue *q);
void end_wire(queue *q); /* all on it is lost, its end is read next */
bool has_end(const queue *q);

static inline page *page_at(state *s, int worker, int index) {
    return &s->pages[worker - FIRST_P][index];
}
bool page_free(const page *p);
int pages_free(const state *s, int worker);
int page_take(state *s, int worker);                  /* its index, or -1 */
void page_drop(state *s, int worker, uint8_t id);     /* id: index + 1 */
int page_find_prefix(state *s, int worker, int r);    /* held now; or -1 */
int pages_missing(const state *s, int worker, int r); /* free ones that a prompt needs there */
void page_unpin(page *p, int peer);
uint8_t content_of(int request, int index); /* what prompt page `index` must hold */
/* Holders of each page are those who name it. */
void pages_recount(const state *s);

/* ---- protogate.c, protoprefill.c, protodecode.c: the three columns of the table
 * ---------------------- */

void g_new_attempt(state *s, int r);
void g_dispatch(state *s, int r, int p, int d);
void g_hear(state *s, int g, int from, msg m);
void g_worker_down(state *s, int g, int worker);
bool g_counts_on(const state *s, int g, int worker);
bool g_may_ask(const state *s, int g, int worker);
/* Its sender drains. */
bool g_told_to_drain(msg m);

void p_hear(state *s, int w, int from, msg m);
bool p_may_start(const state *s, int w, int r);
void p_start(state *s, int w, int r);
void p_compute(state *s, int w, int r);
void p_leave(state *s, int w, int r);
void p_hand_back(state *s, int w);
void p_reset(state *s, int w);
void p_link_end(state *s, int w, int d);

void d_hear(state *s, int w, int from, msg m, bool refuse);
void d_data(state *s, int p, int w, msg m);
bool d_may_grant(const state *s, int w, int r);
void d_grant(state *s, int w, int r);
void d_compute(state *s, int w, int r);
void d_decode(state *s, int w, int r);
void d_preempt(state *s, int w, int r);
void d_leave(state *s, int w, int r);
void d_hand_back(state *s, int w);
void d_reset(state *s, int w);
void d_link_end(state *s, int w, int p);

/* A worker learns that gateway g has let go of it: everything of that gateway goes; if it was
 * fenced (it is alive), so do its channels. */
void worker_gateway_end(state *s, int w, int g);

/* ---- protomoves.c
 * -------------------------------------------------------------------------------- */

typedef enum {
    MOVE_START,
    MOVE_DISPATCH,
    MOVE_DELIVER,
    MOVE_REFUSE,
    MOVE_DATA,
    MOVE_TAKE_PAGES,
    MOVE_COMPUTE,
    MOVE_GRANT,
    MOVE_DECODE,
    MOVE_PREEMPT,
    MOVE_CANCEL,
    MOVE_CRASH,
    MOVE_RESTART,
    MOVE_FREEZE,
    MOVE_THAW,
    MOVE_FENCE,
    MOVE_CUT,
    MOVE_TEAR,
    MOVE_LEASE_P,
    MOVE_LEASE_D,
    MOVE_LEASE_PARKED,
    MOVE_GATEWAY_DIES,
    MOVE_HAND_BACK,
    MOVE_LEAVE,
    MOVES_COUNT
} move_type;

typedef struct {
    uint8_t type, a, b, c;
} move;

/* A fault may happen; of the others one always must, or nothing is left to do. A thaw is neither:
 * a frozen worker need not wake up. */
typedef enum { KIND_STEP, KIND_FAULT, KIND_THAW } move_kind;

typedef void moves_visit(const state *next, move m, move_kind kind);
void moves_all(const state *s, moves_visit *visit);
void moves_print(const state *before, move m);
state moves_first(void);
bool all_ended(const state *s);
bool all_clean(const state *s);

/* ---- protosearch.c
 * ------------------------------------------------------------------------------- */

typedef struct {
    bool finished; /* every state was seen */
    uint32_t states;
    uint64_t moves;
    const char *violation; /* NULL: none */
} search_result;

/* Prints the shortest way to a violation. */
search_result search_run(uint32_t states_max, bool print);
void print_state(const state *s);

#endif
