/* hosts.c -- connections of the mesh become peers.
 *
 * A peer exists from the moment a gateway introduces it, so that a request which follows finds it;
 * its wire and its KV channel get their connections when those stand. Whoever prefills dials, first
 * for messages, then for pages; a token made from the first connection's secret says which link the
 * second belongs to. */
#define _GNU_SOURCE
#include "engine/worker/hosts.h"

#include <string.h>
#include <unistd.h>

#include "engine/base/clock.h"
#include "engine/base/failpoint.h"
#include "engine/base/log.h"
#include "engine/base/mem.h"
#include "engine/net/member.h"
#include "engine/worker/channels.h"

enum {
    YOUNG_US = 1000000, /* a link this new is not made anew because an old one was lost */
    PURPOSES = 4
};

struct hosts {
    mesh *mesh;
    member *member; /* NULL: does not join */
    char address[HOSTPORT_TEXT_BYTES];
    bool had_roster;
};

/* ---- opening -------------------------------------------------------------------------------- */

static handshake_ident self_of(const worker_state *w) {
    return (handshake_ident){HANDSHAKE_WORKER, message_roles_able(w->options->roles), w->number,
                             w->epoch};
}

static void fill_hello(void *self, message_hello *out) {
    *out = workstate_hello(self);
    channels_tell(self, PEERS_MAX, out);
}

/* For the controller, which sizes the pools by it. */
static void fill_beat(void *self, message *out) {
    const worker_state *w = self;
    out->heartbeat = core_get_heartbeat(w->core);
}

/* Where others find this worker: as it listens, or, when that is everywhere, as the hub sees it. */
static void find_address(worker_state *w) {
    hosts *h = w->hosts;
    hostport mine = mesh_address(h->mesh);
    hostport toward;
    if (hostport_is_any(&mine) && w->options->joins &&
        hostport_toward(&w->options->hubs.list[0], &toward) == STATUS_OK) {
        hostport_set_port(&toward, hostport_port(&mine));
        mine = toward;
    }
    hostport_print(&mine, h->address);
    w->address = str_from(h->address);
}

static status listen_somewhere(worker_state *w) {
    hostport at = w->options->listen;
    if (!w->options->listens && hostport_toward(&w->options->hubs.list[0], &at) != STATUS_OK) {
        return status_fail_errno(w->d, STATUS_IO, "no way to the hub");
    }
    TRY(mesh_listen(w->hosts->mesh, &at, w->d));
    find_address(w);
    return STATUS_OK;
}

status hosts_open(worker_state *w) {
    const worker_options *o = w->options;
    if (!o->joins && !o->listens) {
        return STATUS_OK;
    }
    w->hosts = mem_calloc(1, sizeof *w->hosts);
    if (!w->hosts) {
        return status_fail(w->d, STATUS_NOMEM, "no memory for links to other hosts");
    }
    mesh_options mo = {
        .self = self_of(w), .version_min = MESSAGE_VERSION_MIN, .version_max = MESSAGE_VERSION};
    memcpy(mo.key, o->key.key, sizeof mo.key);
    TRY(mesh_open(&mo, &w->hosts->mesh, w->d));
    TRY(listen_somewhere(w));
    LOG(INFO, "hosts", "listening", "address=%s", w->hosts->address);
    if (!o->joins) {
        return STATUS_OK;
    }
    member_options me = {
        .hubs = o->hubs, .mesh = w->hosts->mesh, .hello = fill_hello, .beat = fill_beat, .self = w};
    return member_open(&me, &w->hosts->member, w->d);
}

void hosts_close(worker_state *w) {
    if (w->hosts) {
        member_close(w->hosts->member);
        mesh_close(w->hosts->mesh);
        mem_free(w->hosts);
        w->hosts = NULL;
    }
}

int hosts_fd(const worker_state *w) {
    return w->hosts ? mesh_fd(w->hosts->mesh) : -1;
}

void hosts_greet(worker_state *w) {
    if (w->hosts && w->hosts->member) {
        member_greet(w->hosts->member);
    }
}

void hosts_leave(worker_state *w) {
    if (w->hosts && w->hosts->member) {
        member_leave(w->hosts->member);
    }
}

/* ---- peers ---------------------------------------------------------------------------------- */

/* Which connection a call was for: the slot, its use, the purpose. */
static uint64_t call_tag(const worker_state *w, uint32_t slot, handshake_purpose purpose) {
    return (uint64_t)w->peers.slots[slot].serial << 32 | (uint64_t)slot * PURPOSES |
           (uint64_t)purpose;
}

static void dial(worker_state *w, uint32_t slot, const hostport *address,
                 handshake_purpose purpose) {
    peer *p = &w->peers.slots[slot];
    mesh_call call = {.address = *address,
                      .purpose = purpose,
                      .expects = true,
                      .expected = {HANDSHAKE_WORKER, p->roles, p->worker, p->epoch},
                      .tag = call_tag(w, slot, purpose)};
    if (purpose != HANDSHAKE_CONTROL) {
        handshake_kv_token(p->secret, purpose, call.token);
    }
    p->address = *address;
    if (mesh_dial(w->hosts->mesh, &call, clock_now_us()) != STATUS_OK) {
        p->doomed = true;
    }
}

void hosts_dial_channel(worker_state *w, uint32_t slot, handshake_purpose purpose) {
    hostport address = w->peers.slots[slot].address;
    dial(w, slot, &address, purpose);
}

/* A worker on another host, its connection still to come. PEERS_MAX when there is no room. */
static uint32_t add_worker(worker_state *w, const message_peer *who, bool dials) {
    diag d = {.text = ""};
    uint32_t slot;
    if (peers_add_waiting(&w->peers, CORE_WORKER, who, &slot, &d) != STATUS_OK) {
        LOG(ERROR, "hosts", "cannot join a worker", "worker=%u why=\"%s\"", who->worker, d.text);
        return PEERS_MAX;
    }
    peer *p = &w->peers.slots[slot];
    p->dials = dials;
    p->since_us = clock_now_us();
    workio_send_hello(w, slot);
    core_link_up(w->core, slot, CORE_WORKER, who->worker, who->epoch, p->since_us);
    return slot;
}

void hosts_introduce(worker_state *w, const message_peer *who) {
    bool dials = who->how == MESSAGE_PEER_DIAL;
    hostport address;
    diag d;
    if (!w->hosts || (dials && hostport_parse(who->address, true, &address, &d) != STATUS_OK)) {
        LOG(WARN, "hosts", "cannot reach a worker", "worker=%u why=\"%s\"", who->worker,
            w->hosts ? d.text : "this worker does not listen");
        return;
    }
    uint32_t old = peers_find(&w->peers, who->worker);
    if (old < PEERS_MAX) {
        const peer *p = &w->peers.slots[old];
        bool young = clock_now_us() - p->since_us < YOUNG_US;
        if (who->epoch < p->epoch) {
            LOG(WARN, "hosts", "introduced to an earlier life", "worker=%u epoch=%llu known=%llu",
                who->worker, (unsigned long long)who->epoch, (unsigned long long)p->epoch);
            return;
        }
        if (who->epoch == p->epoch && !p->doomed &&
            (!who->mend || young || !peers_attached(&w->peers, old))) {
            return; /* another gateway has introduced them */
        }
        workio_drop(w, old);
    }
    uint32_t slot = add_worker(w, who, dials);
    if (slot < PEERS_MAX && dials) {
        dial(w, slot, &address, HANDSHAKE_CONTROL);
    }
}

static void attach(worker_state *w, uint32_t slot, const mesh_event *e) {
    peer *p = &w->peers.slots[slot];
    p->since_us = clock_now_us();
    if (peers_attach(&w->peers, slot, e->fd, &e->keys, e->secret) != STATUS_OK) {
        p->doomed = true;
    }
}

/* ---- who dials us --------------------------------------------------------------------------- */

static void accept_gateway(worker_state *w, const mesh_event *e) {
    diag d;
    uint32_t slot = peers_find_gateway(&w->peers, e->peer.epoch);
    if (slot < PEERS_MAX) {
        workio_drop(w, slot); /* it has lost that link, and knows it before we do */
    }
    message_peer who = {.worker = MESSAGE_NO_WORKER, .epoch = e->peer.epoch};
    if (peers_add_waiting(&w->peers, CORE_GATEWAY, &who, &slot, &d) != STATUS_OK) {
        LOG(ERROR, "hosts", "cannot serve a gateway", "why=\"%s\"", d.text);
        (void)close(e->fd);
        return;
    }
    attach(w, slot, e);
    LOG(INFO, "hosts", "gateway joined", "slot=%u epoch=%llu", slot,
        (unsigned long long)e->peer.epoch);
    workio_send_hello(w, slot);
    core_link_up(w->core, slot, CORE_GATEWAY, MESSAGE_NO_WORKER, 0, clock_now_us());
    w->metrics_due_us = 0; /* it has none of this worker's numbers yet */
}

/* Its dial may come before the gateway's PEER that announces it. */
static void accept_worker(worker_state *w, const mesh_event *e) {
    const handshake_ident *who = &e->peer;
    uint32_t slot = peers_find(&w->peers, who->worker);
    if (slot < PEERS_MAX) {
        const peer *p = &w->peers.slots[slot];
        if (who->epoch < p->epoch || !p->remote) {
            LOG(WARN, "hosts", "an earlier life was refused", "worker=%u epoch=%llu known=%llu",
                who->worker, (unsigned long long)who->epoch, (unsigned long long)p->epoch);
            (void)close(e->fd);
            return;
        }
        if (who->epoch == p->epoch && !p->doomed && !p->dials && !peers_attached(&w->peers, slot)) {
            attach(w, slot, e);
            return;
        }
        workio_drop(w, slot); /* who dials has no link, whatever it looks like from here */
    }
    message_peer peer_of = {.worker = who->worker, .epoch = who->epoch, .roles = who->roles};
    slot = who->worker < LIMIT_WORKERS ? add_worker(w, &peer_of, false) : PEERS_MAX;
    if (slot == PEERS_MAX) {
        (void)close(e->fd);
        return;
    }
    attach(w, slot, e);
}

/* The link a KV connection belongs to is the one whose secret makes its token. */
static void accept_channel(worker_state *w, const mesh_event *e) {
    for (uint32_t i = 0; i < w->peers.count; i++) {
        peer *p = &w->peers.slots[i];
        uint8_t token[HANDSHAKE_TOKEN_BYTES];
        if (!p->used || !p->remote || p->doomed || p->kind != CORE_WORKER || p->dials ||
            !peers_attached(&w->peers, i)) {
            continue;
        }
        handshake_kv_token(p->secret, e->purpose, token);
        if (seal_equal(token, e->token)) {
            channels_attach(w, i, e, false);
            return;
        }
    }
    LOG(INFO, "kvt", "channel of a link that has ended", "worker=%u", e->peer.worker);
    (void)close(e->fd);
}

/* ---- whom we dialled ------------------------------------------------------------------------ */

static void on_call(worker_state *w, const mesh_event *e) {
    uint32_t slot = (uint32_t)(e->tag & UINT32_MAX) / PURPOSES;
    handshake_purpose purpose = (handshake_purpose)(e->tag % PURPOSES);
    peer *p = &w->peers.slots[slot];
    bool current = p->used && !p->doomed && p->serial == e->tag >> 32;
    if (e->type == MESH_FAILED) {
        if (current) {
            LOG(WARN, "hosts", "no connection to a worker", "worker=%u why=\"%s\"", p->worker,
                e->why.text);
            p->doomed = true;
        }
        return;
    }
    if (!current) {
        (void)close(e->fd);
    } else if (purpose != HANDSHAKE_CONTROL) {
        channels_attach(w, slot, e, true);
    } else {
        attach(w, slot, e); /* the channels are dialled when its HELLO says what carries them */
    }
}

/* ---- the cluster ---------------------------------------------------------------------------- */

/* The number is the hub's to give. Should it give another one (it had started anew, and this
 * worker's went to someone else meanwhile), all links are to somebody who is no more. */
static void take_number(worker_state *w, uint32_t number) {
    if (w->number == number) {
        return;
    }
    LOG(INFO, "hosts", "joined the cluster", "worker=%u epoch=%llu", number,
        (unsigned long long)w->epoch);
    for (uint32_t i = 0; i < w->peers.count; i++) {
        w->peers.slots[i].doomed = w->peers.slots[i].used && !w->peers.slots[i].parent;
    }
    w->number = number;
    handshake_ident self = self_of(w);
    mesh_set_self(w->hosts->mesh, &self);
    member_greet(w->hosts->member);
}

static void follow_roster(worker_state *w, int64_t now_us) {
    hosts *h = w->hosts;
    diag why;
    for (member_news n; (n = member_poll(h->member, now_us, &why)) != MEMBER_NOTHING;) {
        if (n == MEMBER_REFUSED) {
            LOG(ERROR, "hosts", "the hub refuses this worker", "why=\"%s\"", why.text);
            if (!h->had_roster) {
                w->failed =
                    status_fail(w->d, STATUS_MISMATCH, "the hub refuses this worker: %s", why.text);
                w->ended = true;
                return;
            }
            continue;
        }
        if (n == MEMBER_ORDER) {
            workio_order(w, member_order(h->member));
            workio_act(w);
            continue;
        }
        uint32_t count;
        const member_entry *list = member_roster(h->member, &count);
        for (uint32_t i = 0; i < count; i++) {
            if (list[i].epoch == w->epoch && list[i].worker < LIMIT_WORKERS) {
                h->had_roster = true;
                take_number(w, list[i].worker);
            }
        }
    }
}

void hosts_turn(worker_state *w, int64_t now_us) {
    mesh_event e;
    if (!w->hosts) {
        return;
    }
    while (mesh_next(w->hosts->mesh, now_us, &e)) {
        if (e.type != MESH_ACCEPTED) {
            if (e.tag == MEMBER_TAG) {
                member_event(w->hosts->member, &e, now_us);
            } else {
                on_call(w, &e);
            }
        } else if (FAILPOINT("worker.on_accept")) {
            (void)close(e.fd);
        } else if (e.purpose != HANDSHAKE_CONTROL) {
            accept_channel(w, &e);
        } else if (e.peer.kind == HANDSHAKE_GATEWAY) {
            accept_gateway(w, &e);
        } else if (e.peer.kind == HANDSHAKE_WORKER) {
            accept_worker(w, &e);
        } else {
            (void)close(e.fd);
        }
        workio_act(w);
    }
    if (w->hosts->member) {
        follow_roster(w, now_us);
        workio_act(w);
    }
}
