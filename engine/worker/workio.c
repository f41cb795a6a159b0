/* workio.c -- messages in and out, KV pages in and out. */
#define _GNU_SOURCE
#include "engine/worker/workio.h"

#include <inttypes.h>
#include <unistd.h>

#include "engine/base/check.h"
#include "engine/base/clock.h"
#include "engine/base/failpoint.h"
#include "engine/base/log.h"
#include "engine/core/hello.h"
#include "engine/worker/channels.h"
#include "engine/worker/hosts.h"
#include "engine/worker/workpoints.h"

enum { WORKIO_METRICS_US = 1000000 };

/* ---- messages out --------------------------------------------------------------------------- */

static void send_message(worker_state *w, uint32_t slot, const message *m) {
    strbuf_clear(&w->encoded);
    if (message_encode(m, &w->encoded) != STATUS_OK) {
        w->peers.slots[slot].doomed = true;
        return;
    }
    peers_send(&w->peers, slot, strbuf_str(&w->encoded));
}

void workio_send_hello(worker_state *w, uint32_t slot) {
    message m = {.type = MESSAGE_HELLO, .hello = workstate_hello(w)};
    channels_tell(w, slot, &m.hello);
    send_message(w, slot, &m);
}

void workio_send_metrics(worker_state *w, int64_t now_us) {
    channels_count(w);
    workstats_refresh(w->stats, w->core, now_us);
    workstats_waste(w->stats, &w->waste, now_us);
    strbuf_clear(&w->snapshot);
    workstats_snapshot(w->stats, &w->snapshot);
    if (!w->snapshot.failed) {
        message m = {.type = MESSAGE_METRICS, .metrics = strbuf_str(&w->snapshot)};
        for (uint32_t i = 0; i < w->peers.count; i++) {
            if (w->peers.slots[i].used && w->peers.slots[i].kind == CORE_GATEWAY) {
                send_message(w, i, &m);
            }
        }
    }
    w->metrics_due_us = now_us + WORKIO_METRICS_US;
}

/* ---- actions -------------------------------------------------------------------------------- */

static kvt_job job_of(const core_transfer *t) {
    kvt_job j = {.request = t->request,
                 .attempt = t->attempt,
                 .group = t->group,
                 .sequence = t->sequence,
                 .layer_first = t->layer_first,
                 .layers = t->layers,
                 .pages_count = t->junk ? 0 : t->pages_count,
                 .junk = t->junk};
    CHECK_LE(j.pages_count, KVT_JOB_PAGES);
    for (uint32_t i = 0; i < j.pages_count; i++) {
        j.pages[i] = t->pages[i];
    }
    return j;
}

static void act_send(worker_state *w, const core_action *a) {
    peer *p = &w->peers.slots[a->peer];
    if (a->message.type == MESSAGE_HANDOFF) {
        workstats_handed(w->stats, a->message.request, a->message.attempt, clock_now_us());
    }
    if (workpoints_before(core_roles(w->core), &a->message)) {
        p->doomed = true;
        return;
    }
    send_message(w, a->peer, &a->message);
    if (FAILPOINT_ARMED) {
        peers_flush(&w->peers); /* after: when it can be read, not when it waits to be written */
        p->doomed = workpoints_after(core_roles(w->core), &a->message) || p->doomed;
    }
}

static void act_one(worker_state *w, const core_action *a) {
    peer *p = &w->peers.slots[a->peer];
    if (!p->used || p->doomed) {
        return; /* the core hears of its end next */
    }
    kvt_job job;
    switch (a->kind) {
        case CORE_SEND:
            act_send(w, a);
            break;
        case CORE_TRANSFER_SEND:
            job = job_of(&a->transfer);
            if (FAILPOINT("prefill.before_group")) {
                p->doomed = true;
                break;
            }
            peers_push(&w->peers, a->peer, &job);
            break;
        case CORE_TRANSFER_RECEIVE:
            job = job_of(&a->transfer);
            if (!p->receiver || FAILPOINT("decode.before_post") ||
                kvt_post(p->receiver, &job) != KVT_DONE) {
                p->doomed = true;
            }
            break;
        case CORE_CLOSE:
            p->doomed = true;
            break;
    }
}

static void drain_actions(worker_state *w) {
    core_action a;
    while (core_next(w->core, &a)) {
        act_one(w, &a);
    }
}

void workio_drop(worker_state *w, uint32_t slot) {
    peer *p = &w->peers.slots[slot];
    LOG(INFO, "peers", "link ended", "slot=%u kind=%s worker=%u", slot,
        p->kind == CORE_GATEWAY ? "gateway" : "worker", p->worker);
    w->ended = w->ended || p->parent;
    channels_settle(w, slot);
    peers_drop(&w->peers, slot);
    w->held.used = w->held.used && w->held.slot != slot;
    core_link_down(w->core, slot, clock_now_us());
    drain_actions(w);
}

/* Carries out what the core wants, and tells it of the links that broke meanwhile. */
void workio_act(worker_state *w) {
    drain_actions(w);
    for (uint32_t i = 0; i < w->peers.count; i++) {
        if (w->peers.slots[i].used && w->peers.slots[i].doomed) {
            workio_drop(w, i);
            i = UINT32_MAX; /* dropping one may doom another */
        }
    }
}

/* ---- messages in ---------------------------------------------------------------------------- */

/* The gateway passes a socket to another worker. */
static void on_peer(worker_state *w, const message *m, int fd) {
    diag d;
    uint32_t slot;
    if (FAILPOINT("worker.on_peer")) {
        (void)close(fd);
        return;
    }
    uint32_t old = peers_find(&w->peers, m->peer.worker);
    if (old < PEERS_MAX) {
        workio_drop(w, old); /* its next life has come before the end of this one was read */
    }
    if (peers_add(&w->peers, fd, CORE_WORKER, &m->peer, &slot, &d) != STATUS_OK) {
        LOG(ERROR, "peers", "cannot join a worker", "worker=%u why=\"%s\"", m->peer.worker, d.text);
        return;
    }
    workio_send_hello(w, slot);
    core_link_up(w->core, slot, CORE_WORKER, m->peer.worker, m->peer.epoch, clock_now_us());
}

static void on_hello(worker_state *w, uint32_t slot, const message *m) {
    peer *p = &w->peers.slots[slot];
    message_hello mine = workstate_hello(w);
    diag d;
    if (m->hello.worker != p->worker || m->hello.epoch != p->epoch) {
        LOG(WARN, "peers", "not who was announced", "worker=%u", p->worker);
        p->doomed = true;
    } else if (hello_fits(&mine, &m->hello, &d) != STATUS_OK) {
        LOG(ERROR, "peers", "cannot work together", "worker=%u why=\"%s\"", p->worker, d.text);
        p->doomed = true;
    } else if (p->greeted) {
        LOG(WARN, "peers", "greets twice", "worker=%u", p->worker);
        p->doomed = true;
    } else {
        p->greeted = true;
        channels_join(w, slot, &m->hello);
        if (!p->doomed) {
            if (!p->converts && !hello_rounds_alike(&mine, &m->hello)) {
                LOG(INFO, "peers", "rounds sums elsewhere: its model is on other devices",
                    "worker=%u here=\"%s\" there=\"%.*s\"", p->worker, w->info->numerics,
                    (int)m->hello.numerics.bytes, m->hello.numerics.data);
            }
            LOG(INFO, "peers", "joined", "worker=%u epoch=%llu transport=%s why=%s", p->worker,
                (unsigned long long)p->epoch, hello_transport_name(p->transport),
                hello_reason_name(p->reason));
        }
    }
}

/* The role is data: new requests are of the new one from the next message on. Who asks tells by its
 * token that no newer controller has spoken; every gateway hears of it on its own link, in order.
 */
static void set_role(worker_state *w, const message_role *role) {
    bool flips = w->options->roles & MESSAGE_ROLE_FLIPS;
    if (!flips || w->draining || !message_order_fits(&w->order_token, role->token)) {
        LOG(WARN, "worker", "role refused", "roles=%u token=%llu why=\"%s\"", role->roles,
            (unsigned long long)role->token,
            !flips        ? "it was started for one role"
            : w->draining ? "it is draining"
                          : "the token is stale");
        return;
    }
    if (role->roles != core_roles(w->core)) {
        LOG(INFO, "worker", "role changed", "roles=%u token=%llu", role->roles,
            (unsigned long long)role->token);
        core_set_roles(w->core, role->roles);
        hosts_greet(w);
    }
    message m = {.type = MESSAGE_ROLE, .role.roles = role->roles};
    for (uint32_t i = 0; i < w->peers.count; i++) {
        if (w->peers.slots[i].used && w->peers.slots[i].kind == CORE_GATEWAY) {
            send_message(w, i, &m);
        }
    }
}

void workio_drain(worker_state *w) {
    w->draining = true;
    hosts_leave(w);
    core_drain(w->core);
}

void workio_order(worker_state *w, const message *m) {
    if (m->type == MESSAGE_ROLE) {
        set_role(w, &m->role);
    } else if (!message_order_fits(&w->order_token, m->drain.token)) {
        LOG(WARN, "worker", "drain refused", "token=%llu why=\"the token is stale\"",
            (unsigned long long)m->drain.token);
    } else {
        LOG(INFO, "worker", "draining", "token=%llu", (unsigned long long)m->drain.token);
        if (m->drain.limit_ms > 0) {
            w->hand_back_us = clock_now_us() + (int64_t)m->drain.limit_ms * 1000;
        }
        workio_drain(w);
    }
}

static void on_message(worker_state *w, uint32_t slot, const message *m, int fd) {
    peer *p = &w->peers.slots[slot];
    if (m->type == MESSAGE_PEER && p->kind == CORE_GATEWAY) {
        bool by_socket = m->peer.how == MESSAGE_PEER_SOCKET && fd >= 0;
        if (by_socket && m->peer.worker != w->number) {
            on_peer(w, m, fd);
            return;
        }
        if (!by_socket && m->peer.how != MESSAGE_PEER_SOCKET && m->peer.worker != w->number) {
            hosts_introduce(w, &m->peer);
            return;
        }
    }
    if (m->type == MESSAGE_SUBMIT || m->type == MESSAGE_RESERVE) {
        LOG(DEBUG, "worker", m->type == MESSAGE_SUBMIT ? "submitted" : "reserved",
            "request=%" PRIu64 " attempt=%u trace=%016" PRIx64 "%016" PRIx64, m->request,
            m->attempt, m->submit.trace[0], m->submit.trace[1]);
    }
    if (fd >= 0) {
        (void)close(fd);
    }
    if (workpoints_on(core_roles(w->core), m)) {
        p->doomed = true;
        return;
    }
    if (m->type == MESSAGE_HELLO) {
        if (p->kind == CORE_WORKER) {
            on_hello(w, slot, m);
        }
        return;
    }
    if (m->type == MESSAGE_ROLE && p->parent) {
        workio_order(w, m);
        return;
    }
    if (m->type == MESSAGE_GOODBYE) {
        LOG(WARN, "peers", "the other side ends the link", "slot=%u why=\"%.*s\"", slot,
            (int)m->goodbye.bytes, m->goodbye.data);
    }
    if (m->type == MESSAGE_PEER || m->type == MESSAGE_METRICS || m->type == MESSAGE_ROSTER ||
        m->type == MESSAGE_GOODBYE || m->type == MESSAGE_ROLE ||
        (p->kind == CORE_WORKER && !p->greeted)) {
        p->doomed = true;
        return;
    }
    if (m->type == MESSAGE_ADOPTED) {
        int64_t now = clock_now_us();
        int64_t exposed_us = workstats_adopted(w->stats, m->request, m->attempt, now);
        channels_adopted(w, slot, &m->adopted, exposed_us);
        trace_span(w->trace.trace, m->request, "exposed transfer", now - exposed_us, now, 1);
    }
    if (m->type == MESSAGE_CANCEL) {
        LOG(DEBUG, "worker", "cancelled", "request=%" PRIu64 " now_us=%" PRId64, m->request,
            clock_now_us());
    }
    if (m->type == MESSAGE_DRAIN) {
        if (p->kind == CORE_GATEWAY && p->remote) {
            return; /* one gateway of several: this worker is not its to end */
        }
        w->draining = true;
        hosts_leave(w);
    }
    core_message(w->core, slot, m, clock_now_us());
}

void workio_read(worker_state *w, uint32_t slot) {
    for (int i = 0; i < WORKIO_FRAMES_PER_TURN; i++) {
        peer *p = &w->peers.slots[slot];
        str bytes;
        int fd;
        if (!p->used || p->doomed) {
            return;
        }
        wire_result r = wire_receive(p->wire, &bytes, &fd);
        if (r == WIRE_AGAIN) {
            return;
        }
        if (r == WIRE_CLOSED || (p->parent && FAILPOINT("worker.gateway_link"))) {
            p->doomed = true;
        } else if (shm_is_offer(bytes)) {
            channels_offered(w, slot, bytes, fd);
        } else {
            message m;
            diag d;
            if (message_decode(bytes, w->scratch, &m, &d) != STATUS_OK) {
                LOG(WARN, "peers", "malformed message", "slot=%u why=\"%s\"", slot, d.text);
                p->doomed = true;
                if (fd >= 0) {
                    (void)close(fd);
                }
            } else {
                on_message(w, slot, &m, fd);
            }
        }
        workio_act(w);
    }
}

/* ---- pages ---------------------------------------------------------------------------------- */

static void take_sent(worker_state *w, uint32_t slot) {
    uint32_t sequence;
    while (w->peers.slots[slot].used && w->peers.slots[slot].sender &&
           kvt_sent(w->peers.slots[slot].sender, &sequence)) {
        if (FAILPOINT("prefill.after_group")) {
            w->peers.slots[slot].doomed = true;
            workio_act(w);
            return;
        }
        core_sent(w->core, slot, sequence, clock_now_us());
        workio_act(w);
    }
}

/* True while KV of the timed backend is still on its simulated way. */
static bool held_back(worker_state *w) {
    workio_held held = w->held;
    if (!held.used || clock_now_us() < held.due_us) {
        return held.used;
    }
    w->held.used = false;
    core_received(w->core, held.slot, held.sequence, held.result, clock_now_us());
    workio_act(w);
    return false;
}

static void take_received(worker_state *w, uint32_t slot) {
    static const core_received_result results[] = {[KVT_ARRIVED] = CORE_RECEIVED_OK,
                                                   [KVT_JUNK] = CORE_RECEIVED_JUNK,
                                                   [KVT_DAMAGED] = CORE_RECEIVED_DAMAGED};
    for (;;) {
        peer *p = &w->peers.slots[slot];
        kvt_arrival arrival;
        if (!p->used || p->doomed || !p->receiver || held_back(w)) {
            return;
        }
        kvt_result r = kvt_receive(p->receiver, &arrival);
        if (r == KVT_AGAIN) {
            return;
        }
        if (r == KVT_FAILED || FAILPOINT("decode.on_group")) {
            p->doomed = true;
        } else {
            int64_t now = clock_now_us();
            workstats_copied(w->stats, arrival.bytes, arrival.copy_us);
            trace_span(w->trace.trace, 0, "copy group", now - arrival.copy_us, now, 1);
            w->held = (workio_held){true, slot, arrival.sequence, results[arrival.outcome], now};
            if (w->timed) {
                w->held.due_us += timedprofile_transfer_us(
                    timed_profile(w->timed), (int64_t)(arrival.bytes / sizeof(uint64_t)));
            }
            (void)held_back(w);
        }
        workio_act(w);
    }
}

/* Sends may have completed and posts may have met data that was there already. */
void workio_move_pages(worker_state *w) {
    for (uint32_t i = 0; i < w->peers.count; i++) {
        peer *p = &w->peers.slots[i];
        if (p->used && p->kind == CORE_WORKER) {
            if (p->sender) {
                peers_retry(&w->peers, i);
                workio_act(w);
                take_sent(w, i);
                if (p->used && p->sender && kvt_failed(p->sender)) {
                    p->doomed = true;
                    workio_act(w);
                }
            }
            take_received(w, i);
        }
    }
}
