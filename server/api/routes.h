/* routes.h -- which request goes where: default deny.
 *
 * Purpose    The table of paths and methods; keys are checked before a body is read; bodies are
 *            parsed on the HTTP thread, so the gateway only sees requests that make sense.
 * Ownership  routes borrows everything in its options until http_close has returned.
 * Threads    Called by http from its threads; the options are never changed after routes_open.
 * Limits     Those of http and openai.
 */
#ifndef SERVER_API_ROUTES_H
#define SERVER_API_ROUTES_H

#include <stdbool.h>
#include <stdint.h>

#include "engine/base/status.h"
#include "server/api/openai.h"
#include "server/http/apikeys.h"
#include "server/http/exchange.h"
#include "server/http/http.h"

typedef enum {
    ROUTES_CHAT,             /* POST /v1/chat/completions */
    ROUTES_COMPLETIONS,      /* POST /v1/completions */
    ROUTES_EXPLAIN,          /* POST /debug/route/explain: {prompt | messages} */
    ROUTES_TOKENIZE,         /* POST /tokenize */
    ROUTES_DETOKENIZE,       /* POST /detokenize */
    ROUTES_HEALTH,           /* GET /health: open to all, also when there are keys */
    ROUTES_READY,            /* GET /ready: the same */
    ROUTES_METRICS,          /* GET /metrics: keyed unless metrics_open */
    ROUTES_DECISIONS,        /* GET /debug/route */
    ROUTES_MODELS,           /* GET /v1/models: answered here */
    ROUTES_MODEL,            /* GET /v1/models/{id}: answered here */
    ROUTES_CONTROLLER,       /* GET /controller/state: pools, workers, decisions */
    ROUTES_CONTROLLER_DRAIN, /* POST /controller/drain */
    ROUTES_CONTROLLER_FLIP,  /* POST /controller/flip */
    ROUTES_CONTROLLER_SCALE, /* POST /controller/scale */
    ROUTES_DASHBOARD,        /* GET /dashboard: open to all, answered here */
    ROUTES_VERSION           /* GET /version: answered here */
} routes_route;

typedef struct {
    const openai_limits *limits;
    const apikeys *keys; /* NULL: no keys, everything is open */
    bool metrics_open;   /* /metrics needs no key */
    const char *version;
    int64_t started_s; /* wall time, `created` of the models */

    void *self;
    /* The gateway's part. Both references (exchange_release, openai_free) are the callee's. `r` is
     * NULL for ROUTES_HEALTH, ROUTES_READY, ROUTES_METRICS and ROUTES_DECISIONS. Called on an HTTP
     * thread: hand it over and return. */
    void (*request)(void *self, routes_route route, exchange *x, openai_request *r);
    void (*gone)(void *self, exchange *x);
} routes_options;

typedef struct routes routes;

MUST_USE status routes_open(const routes_options *options, routes **out, diag *d);
void routes_close(routes *r);

/* What http_open wants. */
http_handlers routes_handlers(routes *r);

/* Answers with an error object. retry_after_s > 0 adds Retry-After. False when the client left. */
bool routes_refuse(exchange *x, int http_code, const diag *d, int32_t retry_after_s);

/* Answers 200 application/json. */
bool routes_answer(exchange *x, const strbuf *json);

#endif
