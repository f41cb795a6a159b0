/* channels.h -- which transport carries a pair's KV, and how the channel gets its connection.
 *
 * Purpose    A worker says in its HELLO what may carry its KV; when the other's has come, both take
 *            the same (hello_carries) and open their sides. On shm the ring is offered on the link;
 *            tcp and nccl have a connection each of their own, which hosts.c dials or accepts.
 * Ownership  worker_state has one; the channels are the slots' (peers.h).
 * Threads    The owner thread.
 * Limits     CHANNELS_REFUSED_MAX pairs are remembered whose communicator never formed.
 */
#ifndef ENGINE_WORKER_CHANNELS_H
#define ENGINE_WORKER_CHANNELS_H

#include "engine/net/mesh.h"
#include "engine/worker/workio.h"

enum { CHANNELS_REFUSED_MAX = 64 };

/* What this worker can, once it has its model. Fails where a transport was demanded that it
 * can not have; the diag says why. */
MUST_USE status channels_open(worker_state *w);

/* Waits for aborts under way: until they are over, their device is not to be closed. */
void channels_close(worker_state *w);

/* Fills in what this worker can, to that peer (PEERS_MAX: to anybody). */
void channels_tell(worker_state *w, uint32_t slot, message_hello *hello);

/* The peer's HELLO has come: opens the channels of the link. A failure dooms the peer. */
void channels_join(worker_state *w, uint32_t slot, const message_hello *theirs);

/* A ring was offered on the link. */
void channels_offered(worker_state *w, uint32_t slot, str bytes, int fd);

/* The connection of a channel of that link; `dialler`: it was this side that dialled. One that is
 * there before the HELLO, which another connection brings, is kept until then. */
void channels_attach(worker_state *w, uint32_t slot, const mesh_event *e, bool dialler);

/* A channel of the link has failed: says why, and remembers what not to try again. */
void channels_broken(worker_state *w, uint32_t slot, const kvt *k);

/* Looks after what no single link owns: ends the process when an abort hangs. */
void channels_turn(worker_state *w, int64_t now_us);

/* Numbers for the metrics, before they are sent. */
void channels_count(worker_state *w);

#endif
