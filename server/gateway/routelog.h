/* routelog.h -- the router's latest decisions, with every term, for whoever asks why.
 *
 * Purpose    Keeps the last ROUTELOG_DECISIONS decisions and all candidates they were made from,
 *            and writes them as JSON (GET /debug/route; one alone for POST /debug/route/explain) or
 *            as one line of the log.
 * Ownership  Memory is the arena's; candidates are copied.
 * Threads    The gateway's thread.
 * Limits     LIMIT_WORKERS candidates a side. No token of a prompt is kept.
 */
#ifndef SERVER_GATEWAY_ROUTELOG_H
#define SERVER_GATEWAY_ROUTELOG_H

#include "engine/base/str.h"
#include "server/gateway/router.h"

enum { ROUTELOG_DECISIONS = 32 };

typedef struct routelog routelog;

/* What a decision was about. */
typedef struct {
    request_id request; /* 0: only asked for */
    uint32_t attempt;
    int32_t prompt_tokens;
    int32_t max_tokens;
    bool session;   /* it belongs to one */
    int64_t now_us; /* of the decision */
} routelog_about;

MUST_USE status routelog_create(arena *a, routelog **out);

/* Keeps it, and says it in the log at level debug. */
void routelog_add(routelog *l, const routelog_about *about, const router_explanation *e);

/* One decision as a JSON object. */
void routelog_write_one(strbuf *out, const routelog_about *about, const router_explanation *e,
                        int64_t now_us);

/* All of them, the latest first, with what the index holds. */
void routelog_write(const routelog *l, strbuf *out, const char *policy, pageindex_counts index,
                    int64_t now_us);

#endif
