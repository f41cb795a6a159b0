/* workio.h -- a worker's messages and pages: what comes in goes to the core, what the core wants
 * goes out.
 *
 * Purpose    The half of the worker that faces its peers. Every call into the core is followed by
 *            workio_act, which carries out its actions; a link that breaks meanwhile is only
 *            marked, and dropped between two core calls, because the core wants all its actions
 *            taken before it hears of anything new.
 * Ownership  None of its own: all state is worker_state.
 * Threads    The owner thread.
 * Limits     WORKIO_FRAMES_PER_TURN messages are read from one link before the others get a turn.
 */
#ifndef ENGINE_WORKER_WORKIO_H
#define ENGINE_WORKER_WORKIO_H

#include "engine/worker/workstate.h"

enum { WORKIO_FRAMES_PER_TURN = 64 };

/* Carries out what the core wants, and tells it of the links that broke meanwhile. */
void workio_act(worker_state *w);

/* Reads what a link has. */
void workio_read(worker_state *w, uint32_t slot);

/* Completes sends and receives of KV pages. */
void workio_move_pages(worker_state *w);

/* Ends a link here and in the core. No core action may be under way. */
void workio_drop(worker_state *w, uint32_t slot);

void workio_send_hello(worker_state *w, uint32_t slot);
void workio_send_metrics(worker_state *w, int64_t now_us);

/* Takes nothing new from now on, and ends when it has nothing. */
void workio_drain(worker_state *w);

/* A ROLE or a DRAIN of the controller, by way of the hub or of the gateway that started it. */
void workio_order(worker_state *w, const message *m);

#endif
