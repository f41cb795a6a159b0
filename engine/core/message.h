/* message.h -- what gateways, prefill and decode workers say to each other.
 *
 * Purpose    The message types of the request protocol (engine/core/README.md has the state x
 *            message table), as one struct, with an encoder and a decoder that checks every field.
 * Ownership  Pointers inside a decoded message borrow from the bytes it was decoded from, or from
 *            the scratch space given to the decoder; they are valid until either changes.
 * Threads    Pure functions.
 * Limits     A message is at most LIMIT_MESSAGE_BYTES. Counts are checked before use.
 * Format     Little-endian, fixed field order, lengths before arrays; a version in HELLO.
 */
#ifndef ENGINE_CORE_MESSAGE_H
#define ENGINE_CORE_MESSAGE_H

#include "engine/base/str.h"
#include "engine/core/request.h"
#include "engine/core/stepmodel.h"
#include "engine/core/waste.h"

enum { MESSAGE_VERSION = 5, MESSAGE_VERSION_MIN = 5 };

#define MESSAGE_NO_WORKER UINT32_MAX

enum {
    MESSAGE_TOKENS_MAX = 4096,  /* of one TOKENS or SCORES; a longer replay is several messages */
    MESSAGE_LEASES_MAX = 65536, /* of one LEASES */
    MESSAGE_NUMERICS_BYTES = 128,
    MESSAGE_LAYOUT_BYTES = 64,
    MESSAGE_ADDRESS_BYTES = 63,
    MESSAGE_GOODBYE_BYTES = 256,
    MESSAGE_CACHED_MAX = 16384, /* pages of one CACHED */
    MESSAGE_LATENCIES_MAX = 64, /* requests of one LOAD */
    MESSAGE_METRICS_BYTES = 1 << 20
};

typedef enum {
    MESSAGE_HELLO = 1,       /* first on every link, both ways */
    MESSAGE_PEER,            /* G > worker: here is, or how to get, a link to another worker */
    MESSAGE_HEARTBEAT,       /* worker > G, hub, P <> D: alive, and how loaded */
    MESSAGE_LEASES,          /* G > worker: the (request, attempt) pairs still wanted */
    MESSAGE_DRAIN,           /* G, hub > worker: take no new work; exit when empty */
    MESSAGE_METRICS,         /* worker > G: a snapshot for /metrics */
    MESSAGE_ROSTER,          /* hub > member: all workers of the cluster */
    MESSAGE_GOODBYE,         /* any > any: this link ends now, and why */
    MESSAGE_SUBMIT,          /* G > P */
    MESSAGE_RESERVE,         /* G > D */
    MESSAGE_GRANT,           /* D > P */
    MESSAGE_QUEUED,          /* D > P */
    MESSAGE_REFUSED,         /* D > G (a copy to P is a hint) */
    MESSAGE_ANNOUNCE,        /* P > D */
    MESSAGE_POSTED,          /* D > P */
    MESSAGE_HANDOFF,         /* P > D */
    MESSAGE_ADOPTED,         /* D > P, D > G */
    MESSAGE_ALREADY_ADOPTED, /* D > G */
    MESSAGE_TOKENS,          /* P > G, D > G */
    MESSAGE_SCORES,          /* P > G, D > G: logprobs of prompt tokens */
    MESSAGE_CANCEL,          /* G > P, G > D: this attempt and all older ones */
    MESSAGE_PREEMPTED,       /* D > G */
    MESSAGE_LINK_LOST,       /* P > G, D > G */
    MESSAGE_REJECT,          /* any > any: refused in this state, with a reason */
    /* What follows is of links again, like all before SUBMIT. */
    MESSAGE_CACHED, /* worker > G: pages its prefix cache has gained and lost */
    MESSAGE_RESYNC, /* G > worker: a CACHED is missing, tell everything again */
    MESSAGE_ROLE, /* G, hub > worker: new requests are of this role from now on; worker > G: it has
                   * that role now */
    MESSAGE_LOAD, /* G > hub: what has come in there, for whoever sizes the pools */
    MESSAGE_LAST = MESSAGE_LOAD
} message_type;

/* Not about a request. */
static inline bool message_of_link(message_type t) {
    return t < MESSAGE_SUBMIT || t > MESSAGE_REJECT;
}

typedef enum {
    MESSAGE_REASON_NONE,
    MESSAGE_REASON_FULL,     /* queue or pool full */
    MESSAGE_REASON_DEADLINE, /* waited too long for room */
    MESSAGE_REASON_LEASE,    /* the lease ended */
    MESSAGE_REASON_LAYOUT,   /* KV layouts do not fit together */
    MESSAGE_REASON_GONE,     /* no such request any more */
    MESSAGE_REASON_STATE,    /* impossible in this state */
    MESSAGE_REASON_CHECKSUM, /* transferred bytes are not what was sent */
    MESSAGE_REASON_PAGES,    /* out of KV pages while decoding */
    MESSAGE_REASON_LIMIT,    /* can never fit this worker */
    MESSAGE_REASON_DRAINING,
    MESSAGE_REASON_ROLE /* it takes no requests of that role: it was given another */
} message_reason;

/* What a worker takes new requests for, and whether that can be changed while it runs. */
enum { MESSAGE_ROLE_PREFILL = 1, MESSAGE_ROLE_DECODE = 2, MESSAGE_ROLE_FLIPS = 4 };

/* What it may have requests of, now or later: links between workers are made for that. */
static inline uint32_t message_roles_able(uint32_t roles) {
    return roles & MESSAGE_ROLE_FLIPS
               ? (uint32_t)(MESSAGE_ROLE_PREFILL | MESSAGE_ROLE_DECODE | MESSAGE_ROLE_FLIPS)
               : roles;
}

typedef struct {
    uint32_t version;
    uint32_t worker; /* MESSAGE_NO_WORKER from a gateway */
    uint64_t epoch;  /* one life of a worker; grows */
    uint32_t roles;  /* MESSAGE_ROLE_* bits */
    uint32_t pid;
    uint64_t model_hash;
    uint32_t layers;
    uint32_t block_tokens; /* that it hands KV out in; not what a page or kv_layer_page_bytes has */
    uint64_t kv_layer_page_bytes;
    uint32_t pages; /* in its pool */
    uint32_t context_tokens;
    uint32_t vocab;
    str numerics;  /* numerics class; <= 128 bytes */
    str kv_layout; /* layout and dtype of a page; <= 64 bytes */
    str address;   /* numeric HOST:PORT where other workers and gateways reach it; "": nowhere */
    uint32_t transports; /* that may carry its KV: bits of hello.h; 0 from a gateway */
    uint64_t device; /* what holds its KV: 32 bits name the host, 32 the device; 0: host memory */
} message_hello;

typedef enum {
    MESSAGE_PEER_SOCKET, /* the link is the file descriptor that comes along */
    MESSAGE_PEER_DIAL,   /* dial `address` */
    MESSAGE_PEER_AWAIT   /* it will dial */
} message_peer_how;

typedef struct {
    uint32_t worker;
    uint64_t epoch;
    uint32_t roles;
    message_peer_how how;
    bool mend;   /* DIAL, AWAIT: the link there was is broken for one side: make a new one */
    str address; /* DIAL */
} message_peer;

typedef struct {
    uint32_t roles; /* without MESSAGE_ROLE_FLIPS */
    uint64_t token; /* of the controller that says so; 0 from a worker */
} message_role;

typedef struct {
    uint64_t token;    /* as a ROLE's; 0 from the gateway that started it */
    uint32_t limit_ms; /* what is left then goes to others; 0: the worker's own limit */
} message_drain;

/* Whether a controller's order may take effect: none newer has been heard of. `newest` is the token
 * of the newest that did. */
static inline bool message_order_fits(uint64_t *newest, uint64_t token) {
    bool fits = token >= *newest;
    *newest = fits ? token : *newest;
    return fits;
}

/* How one request was served. */
typedef struct {
    uint32_t ttft_us, tpot_us; /* tpot_us 0: it had one token */
} message_latency;

/* Sums since this gateway began, so that a LOAD that is lost is made good by the next. */
typedef struct {
    uint64_t requests;        /* that came in */
    uint64_t prompt_tokens;   /* of them, those to be computed */
    uint64_t prompt_squares;  /* sum of the squares of each request's prompt_tokens */
    uint64_t finished;        /* requests that ended with an answer */
    uint64_t finished_tokens; /* of those answers */
    uint32_t held;            /* requests that no worker has yet */
    uint32_t latencies_count;
    const message_latency *latencies; /* [latencies_count] the latest that ended since the last */
} message_load;

/* A worker of a roster. */
typedef struct {
    uint32_t worker;
    uint64_t epoch;
    uint32_t roles;
    str address;
} message_member;

/* Where the time went for which it has its device; sums of this life. */
typedef struct {
    waste_unit unit;
    uint32_t share_milli;
    uint64_t us[WASTE_POOLS][WASTE_STATES];
} message_waste;

typedef struct {
    uint64_t steps;      /* engine steps so far: a frozen engine shows */
    uint32_t pages_free; /* free or only held by the prefix cache */
    uint32_t pages_total;
    uint32_t running;           /* requests with work now */
    uint32_t waiting;           /* requests queued */
    uint64_t queued_tokens;     /* prompt tokens not yet computed */
    uint32_t step_us;           /* smoothed time of a step */
    uint32_t tokens_per_second; /* smoothed prefill speed, 0 when not known */
    uint32_t chunk_tokens;      /* most rows of a prompt in a step */
    uint64_t queued_us;         /* predicted time of queued_tokens; 0 when not known */
    stepmodel_fit prefill_fit;  /* measured here, without cold starts */
    stepmodel_fit decode_fit;
    message_waste waste;
    uint64_t cached_sequence; /* of this link's last CACHED: a loss shows though none follows */
} message_heartbeat;

/* Changes of a worker's prefix cache, or (with `snapshot`) a part of all it has; pages are named as
 * engine/core/pagename.h says. */
typedef struct {
    uint64_t sequence; /* of the CACHED messages of this link, from 1, without gaps */
    bool snapshot;     /* the first of a snapshot: forget what was told before */
    uint32_t count;
    const uint64_t *pages; /* [count] a page's name, bit 0 set: gained, clear: lost */
} message_cached;

/* One lease: a request some worker holds things for. */
typedef struct {
    request_id request;
    uint32_t attempt;
} message_lease;

/* SUBMIT and RESERVE carry the same things, so that either worker can do the whole job. The next
 * token of the (then only) choice has index tokens_count - prompt_count; max_tokens counts from
 * index 0, so the last index is max_tokens - 1 whatever was delivered before. */
typedef struct {
    uint32_t peer_worker; /* SUBMIT: the D; RESERVE: the P; MESSAGE_NO_WORKER: none */
    uint64_t peer_epoch;
    bool local;            /* RESERVE: D computes the prompt itself, no transfer */
    uint64_t salt;         /* keyed tenant hash: prefix pages are shared only inside it */
    uint64_t trace[2];     /* trace id, high half first, for logs; 0, 0: none */
    int32_t prompt_count;  /* tokens of the caller's prompt */
    int32_t tokens_count;  /* prompt_count + delivered */
    const int32_t *tokens; /* [tokens_count] prompt, then what the client already has */
    const request_params *params;
} message_submit;

typedef struct {
    uint32_t sequence; /* of this P-D channel, from 0, without gaps */
    uint32_t group;    /* of this attempt, from 0, without gaps */
    uint32_t layer_first, layers;
    uint32_t page_first, pages; /* indexes into the request's block table */
} message_announce;

typedef struct {
    uint32_t sequence;
    uint32_t group;
} message_posted;

typedef struct {
    uint32_t groups;             /* how many groups make the whole */
    int32_t tokens_count;        /* first tokens: one a choice */
    const request_token *tokens; /* [tokens_count] */
} message_handoff;

typedef struct {
    int32_t cached_tokens; /* prompt tokens found in a prefix cache */
    bool done;             /* nothing more follows: every choice has ended */
    /* With the first tokens of an attempt, from the worker that computed the prompt: how long it
     * lay there, and how long it took. Else 0. */
    uint32_t waited_us, computed_us;
    /* choice numbers are absolute: choice_first .. choice_first + choices - 1 */
    int32_t tokens_count;
    const request_token *tokens; /* [tokens_count] */
} message_tokens;

/* For traces: how long D had no room, and how long the pages took from the first on. */
typedef struct {
    uint32_t waited_us, moved_us;
} message_adopted;

typedef struct {
    int32_t position_first; /* position of the first scored token, >= 1 */
    int32_t scores_count;
    const request_token *scores; /* [scores_count]: token, logprob, top; choice and index 0 */
} message_scores;

typedef struct {
    message_type type;
    request_id request; /* 0 on link-level messages */
    uint32_t attempt;
    message_reason reason; /* REFUSED, PREEMPTED, REJECT */
    message_type about;    /* REJECT: the refused message's type */
    uint32_t worker;       /* LINK_LOST: the peer */
    uint32_t prefix_pages; /* GRANT: leading pages D already holds; P sends the rest */
    uint32_t pages;        /* GRANT: pages reserved for the prompt */
    uint32_t deadline_ms;  /* QUEUED */
    union {
        message_hello hello;
        message_peer peer;
        message_heartbeat heartbeat;
        struct {
            const message_lease *list; /* [count] */
            uint32_t count;
        } leases;
        str metrics; /* METRICS: engine/base/metrics.h snapshot */
        str goodbye; /* GOODBYE: a sentence */
        message_cached cached;
        message_role role;
        message_drain drain;
        message_load load;
        struct {
            const message_member *list; /* [count] */
            uint32_t count;             /* <= LIMIT_WORKERS */
            bool holds; /* gateways take requests although there is no worker: some will start */
        } roster;
        message_submit submit;     /* SUBMIT, RESERVE */
        message_announce announce; /* ANNOUNCE, and REJECT about one */
        message_posted posted;
        message_handoff handoff;
        message_adopted adopted;
        message_tokens tokens;
        message_scores scores;
    };
} message;

/* Space a decoded message's arrays are unpacked into. */
typedef struct message_scratch message_scratch;
MUST_USE status message_scratch_open(message_scratch **out);
void message_scratch_close(message_scratch *s);

/* Appends the encoded message to `out`. Fails only when `out` is full or memory is. */
MUST_USE status message_encode(const message *m, strbuf *out);

/* Decodes exactly `bytes`. Every count, enum, flag and number is checked against its limit; the
 * diag names the field. Arrays and params point into `scratch`, strings into `bytes`. */
MUST_USE status message_decode(str bytes, message_scratch *scratch, message *out, diag *d);

/* The ranges that request.h states; the diag names the parameter. For the gateway, which checks
 * callers with it, and for the decoder, which checks gateways. */
MUST_USE status message_params_check(const request_params *p, diag *d);

const char *message_type_name(message_type t);
/* What a message is in the life of its request, for fault points: "SUBMIT", "ALREADY_ADOPTED"; a
 * TOKENS is a "FIRST_TOKEN" (index 0), a "LAST_TOKEN" (nothing follows) or just a "TOKEN". */
const char *message_event_name(const message *m);
const char *message_reason_name(message_reason r);

#endif
