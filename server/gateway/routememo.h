/* routememo.h -- what a router did lately: pages it expects workers to have, workers of sessions.
 *
 * Purpose    A worker tells what its cache has gained only after it has computed it (and then the
 *            page index knows it). Until then, requests with the same beginning must go the same
 *            way: what was sent is expected there for a short time. And a session's requests
 *            prefer the workers it had.
 * Ownership  Memory is the arena's.
 * Threads    One thread.
 * Limits     Direct-mapped tables: of two names, or sessions, in one place the newer stays.
 *            ROUTEMEMO_WAYS workers a page.
 */
#ifndef SERVER_GATEWAY_ROUTEMEMO_H
#define SERVER_GATEWAY_ROUTEMEMO_H

#include "server/gateway/pageindex.h"

enum { ROUTEMEMO_WAYS = 4, ROUTEMEMO_SESSIONS = 4096, ROUTEMEMO_NOBODY = UINT16_MAX };

typedef struct {
    uint64_t name; /* 0: empty */
    uint16_t workers[ROUTEMEMO_WAYS];
    uint32_t until_ms[ROUTEMEMO_WAYS];
} routememo_page;

typedef struct {
    uint64_t session; /* 0: empty */
    uint16_t prefill, decode;
} routememo_session;

typedef struct {
    routememo_page *pages; /* [pages_count] a power of two */
    routememo_session *sessions;
    uint32_t pages_count;
} routememo;

/* `pages_max` is rounded up to a power of two. */
uint64_t routememo_bytes(uint32_t pages_max);
MUST_USE status routememo_open(routememo *m, arena *a, uint32_t pages_max);

void routememo_expect(routememo *m, uint64_t name, uint32_t worker, int64_t now_us,
                      int64_t until_us);

/* Adds the workers that are expected to have the page. */
void routememo_holders(const routememo *m, uint64_t name, int64_t now_us, pageindex_set *out);
void routememo_prefetch(const routememo *m, uint64_t name);

/* The session's workers; ROUTEMEMO_NOBODY: none known. */
routememo_session routememo_session_of(const routememo *m, uint64_t session);
void routememo_session_set(routememo *m, routememo_session s);

/* The worker restarted. */
void routememo_forget(routememo *m, uint32_t worker);

#endif
