/* channels.h -- which transport carries a pair's KV, and how the channel gets its connection.
 *
 * Purpose    A worker says in its HELLO what may carry its KV; when the other's has come, both take
 *            the same (hello_carries) and open their sides. On shm the ring is offered on the link;
 *            tcp, ipc and nccl have a connection of their own, which hosts.c dials or accepts.
 * Ownership  worker_state has one; the channels are the slots' (peers.h).
 * Threads    The owner thread.
 * Limits     worker_options.kv_pairs_max communicators, as soon as enough pairs are idle.
 */
#ifndef ENGINE_WORKER_CHANNELS_H
#define ENGINE_WORKER_CHANNELS_H

#include "engine/net/mesh.h"
#include "engine/worker/workstate.h"

enum {
    CHANNELS_REFUSED_MAX = 64, /* lives whose pair never came up: their next link is tcp */
    CHANNELS_IDLE_US = 2000000 /* a pair gives its communicator up no sooner */
};

/* Before the model, whose devices may use NCCL: it reads the host's name once. */
void channels_prepare(const worker_state *w);

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

/* The link is about to end: its numbers are counted, and what failed is said. */
void channels_settle(worker_state *w, uint32_t slot);

/* P: D has adopted a request that this link carried, `exposed_us` after its last group had left. */
void channels_adopted(worker_state *w, uint32_t slot, const message_adopted *a, int64_t exposed_us);

/* A step with chunks of prompts was computed: what transfers hide behind. */
void channels_stepped(worker_state *w, int32_t rows, int64_t computed_us);

/* Looks after what no single link owns: how many communicators there are (one too many is marked,
 * for workio_act to drop); ends the process when an abort hangs. */
void channels_turn(worker_state *w, int64_t now_us);

/* Numbers for the metrics, before they are sent. */
void channels_count(worker_state *w);

#endif
