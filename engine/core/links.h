/* links.h -- the worker's links, and the transfers under way on them.
 *
 * Purpose    One slot a link: who is at its other end, whether it still talks, and for worker links
 *            the announced groups, each from ANNOUNCE until nothing touches its pages any more. A
 *            link that ends takes all its transfers with it.
 * Ownership  Memory is the arena's. A transfer keeps copies of its page ids, because its request
 *            may leave long before it does.
 * Threads    The owner thread of the core.
 * Limits     LINKS_SENDS_MAX announced groups a link are unfinished at once (the sender waits); a
 *            receiver takes LINKS_RECEIVES_MAX, since the two ends finish at different times.
 */
#ifndef ENGINE_CORE_LINKS_H
#define ENGINE_CORE_LINKS_H

#include "engine/base/slab.h"
#include "engine/core/blocks.h"
#include "engine/core/cachelog.h"
#include "engine/core/core.h"

enum {
    LINKS_NONE = UINT32_MAX,
    LINKS_SENDS_MAX = 32,
    LINKS_RECEIVES_MAX = 256,
    LINKS_GROUP_PAGES_MAX = 256 /* page ids of a transfer */
};

typedef enum {
    LINKS_FREE,
    LINKS_ANNOUNCED, /* send: waits for POSTED */
    LINKS_MOVING     /* POSTED sent or received: pages are pinned, unless junk */
} links_state;

typedef struct {
    links_state state;
    bool junk; /* send: of a request that is gone; pins nothing */
    uint32_t sequence;
    slab_handle record;
    request_id request;
    uint32_t attempt;
    uint32_t group;
    uint32_t layer_first, layers;
    uint32_t page_first, pages_count;
    int64_t deadline_us; /* its request is gone: until then it may take; 0: still wanted */
    uint32_t pages[LINKS_GROUP_PAGES_MAX];
} links_transfer;

typedef struct {
    bool up;
    bool closing; /* CORE_CLOSE was asked for */
    core_peer_kind kind;
    uint32_t worker;
    uint64_t epoch;
    int64_t heard_us;
    uint32_t send_next, receive_next; /* sequence numbers */
    uint32_t group_layers;            /* pushed at once while later ones compute */
    cachelog_reader reader;           /* a gateway's: of the prefix cache */
    links_transfer *sends;            /* [LINKS_SENDS_MAX] by sequence */
    links_transfer *receives;         /* [LINKS_RECEIVES_MAX] by sequence */
} links_link;

typedef struct {
    links_link *list; /* [count_max] */
    uint32_t count_max;
} links;

uint64_t links_bytes(uint32_t count_max);
MUST_USE status links_open(links *l, arena *a, uint32_t count_max);

/* The link, or NULL when it is down, being torn down, or no such slot. */
links_link *links_get(const links *l, uint32_t peer);

/* The slot of the link to that life of that worker, or LINKS_NONE. */
uint32_t links_find(const links *l, uint32_t worker, uint64_t epoch);

/* A transfer for the next sequence number of the link, zeroed; NULL when too many are unfinished.
 */
links_transfer *links_send_add(links_link *k);
links_transfer *links_receive_add(links_link *k);

/* The unfinished transfer of that number, or NULL. */
links_transfer *links_send_find(links_link *k, uint32_t sequence);
links_transfer *links_receive_find(links_link *k, uint32_t sequence);

void links_pin(const links_transfer *t, blocks *b);

/* The transfer is over: its pages are unpinned. */
void links_finish(links_transfer *t, blocks *b);

/* All transfers of the link are over. */
void links_finish_all(links_link *k, blocks *b);

#endif
