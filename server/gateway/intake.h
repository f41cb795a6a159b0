/* intake.h -- from HTTP threads to the gateway's thread.
 *
 * Purpose    Takes parsed requests from HTTP threads, renders and tokenises them on threads of its
 *            own (CPU work that would hold up every stream), answers what needs no worker
 *            (/tokenize, /detokenize, what does not fit), and queues the rest for the gateway.
 * Ownership  An item's exchange, request and prompts are the reader's once popped.
 * Threads    intake_request and intake_gone: any. intake_next: the gateway's.
 * Limits     intake_options.waiting_max requests waiting; more are answered 503 at once. News of
 *            clients that left is never refused: there are at most as many as connections.
 */
#ifndef SERVER_GATEWAY_INTAKE_H
#define SERVER_GATEWAY_INTAKE_H

#include "server/api/prepare.h"
#include "server/api/routes.h"

typedef struct intake intake;

typedef struct {
    prepare_model model;
    uint32_t threads;
    uint32_t waiting_max;
    uint32_t connections_max;
} intake_options;

typedef enum {
    INTAKE_START, /* exchange, route, request, prompts */
    INTAKE_PLAIN, /* exchange, route: health, ready, metrics, decisions */
    INTAKE_GONE   /* exchange: its client left; a reference that the reader releases */
} intake_kind;

typedef struct {
    intake_kind kind;
    routes_route route;
    exchange *exchange;
    openai_request *request;
    prepare_result prompts;
} intake_item;

MUST_USE status intake_open(const intake_options *options, intake **out, diag *d);

/* Stops the threads and answers what is left with 503. Call after http_close. */
void intake_close(intake *i);

/* The routes_options callbacks; `self` is the intake. */
void intake_request(void *self, routes_route route, exchange *x, openai_request *r);
void intake_gone(void *self, exchange *x);

/* Gives back what an item holds; its exchange is answered before, or gets a 500. */
void intake_discard(intake_item *item);

/* The next item; false when there is none. */
bool intake_next(intake *i, intake_item *out);

/* Readable while intake_next has something. */
int intake_fd(const intake *i);

#endif
