/* hosts.h -- a worker's links to other hosts.
 *
 * Purpose    Joins the cluster, answers gateways and prefill workers that dial, dials decode
 *            workers when a gateway introduces them, attaches KV connections to the links they
 *            belong to.
 * Ownership  hosts_open takes what hosts_close gives back. The links are the peers'.
 * Threads    The owner thread.
 * Limits     Those of engine/net/mesh.h and of peers.h.
 */
#ifndef ENGINE_WORKER_HOSTS_H
#define ENGINE_WORKER_HOSTS_H

#include "engine/worker/workio.h"

/* Does nothing for a worker that neither joins nor listens. */
MUST_USE status hosts_open(worker_state *w);
void hosts_close(worker_state *w);

/* Readable when hosts_turn is worth a call, or -1; call it every MESH_TURN_US or so too. */
int hosts_fd(const worker_state *w);

/* Carries out what has happened. No core action may be under way. */
void hosts_turn(worker_state *w, int64_t now_us);

/* A gateway's PEER without a socket: dial that worker, or await its dial. */
void hosts_introduce(worker_state *w, const message_peer *who);

/* Dials the connection of a channel of that link, which this side dialled. */
void hosts_dial_channel(worker_state *w, uint32_t slot, handshake_purpose purpose);

/* Tells the hub anew what this worker is. */
void hosts_greet(worker_state *w);

/* Leaves the cluster: no gateway will come any more. */
void hosts_leave(worker_state *w);

#endif
