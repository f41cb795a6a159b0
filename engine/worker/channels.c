/* channels.c -- choosing, opening and connecting KV channels. */
#define _GNU_SOURCE
#include "engine/worker/channels.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "engine/base/clock.h"
#include "engine/base/failpoint.h"
#include "engine/base/log.h"
#include "engine/base/mem.h"
#include "engine/core/hello.h"
#include "engine/worker/hosts.h"
#include "engine/worker/kvstats.h"
#include "engine/worker/pacing.h"
#include "kvtransfer/ipc.h"
#include "kvtransfer/nccl.h"
#include "kvtransfer/ncclprobe.h"
#include "kvtransfer/shm.h"
#include "kvtransfer/tcp.h"

enum { SENDER, RECEIVER, SIDES, LOOK_US = 500000 };

/* A link between devices, as it was when last looked at. */
typedef struct {
    uint32_t serial;              /* of the link */
    devpair_times counted[SIDES]; /* what the metrics have */
    pacing pacing;                /* of what is sent on it */
    int64_t used_us;              /* since when no group has moved */
} pair_use;

struct channels {
    uint32_t may;    /* HELLO_BITs */
    uint64_t device; /* as HELLO's */
    kvstats stats;
    pacing pacing;         /* of a link that nothing is known of yet */
    uint32_t layers_least; /* of all links */
    pair_use uses[PEERS_MAX];
    struct {
        uint64_t epoch;
        hello_transport transport;
    } refused[CHANNELS_REFUSED_MAX]; /* peers of which a pair never came up */
    uint32_t refused_next;
    int64_t look_us; /* when the pairs are looked at next */
};

/* ---- what this worker can ------------------------------------------------------------------- */

static status probe(worker_state *w, uint64_t *device, diag *d) {
    if (!w->model || model_kv_on_host(w->model)) {
        return status_fail(d, STATUS_INVALID, "the KV cache is in host memory");
    }
    if (w->options->kv_transports == HELLO_BIT(HELLO_NCCL)) {
        TRY(ncclprobe_opens(d));
    }
    return ncclprobe_device(w->options->device, device, d);
}

enum { BETWEEN_DEVICES = HELLO_BIT(HELLO_IPC) | HELLO_BIT(HELLO_NCCL) };

/* Only dialled links carry such a channel's own connection: without them there is nothing to find.
 */
static bool wants_device(const worker_options *o, bool forced) {
    uint32_t may = o->kv_transports;
    return forced || ((!may || (may & BETWEEN_DEVICES)) && (o->joins || o->listens));
}

/* What can move this worker's pages without host memory. */
static uint32_t find_device(worker_state *w, diag *why) {
    uint32_t wanted = w->options->kv_transports, able = 0;
    if (probe(w, &w->channels->device, why) != STATUS_OK) {
        return 0;
    }
    able |= ncclprobe_opens(why) == STATUS_OK ? HELLO_BIT(HELLO_NCCL) : 0;
    able |= ipc_available(why) == STATUS_OK ? HELLO_BIT(HELLO_IPC) : 0;
    return wanted ? able & wanted : able;
}

void channels_prepare(const worker_state *w) {
    if (w->options->kv_transports == HELLO_BIT(HELLO_NCCL) && w->options->gateway_fd >= 0) {
        char name[32]; /* its siblings are on the same GPU */
        (void)snprintf(name, sizeof name, "weir-%016llx", (unsigned long long)w->epoch);
        ncclprobe_apart(name);
    }
}

status channels_open(worker_state *w) {
    const worker_options *o = w->options;
    uint32_t both = MESSAGE_ROLE_PREFILL | MESSAGE_ROLE_DECODE;
    channels *c = w->channels = mem_calloc(1, sizeof *c);
    if (!c) {
        return status_fail(w->d, STATUS_NOMEM, "no memory for KV channels");
    }
    kvstats_open(workstats_registry(w->stats), o->kv_pairs_max, &c->stats);
    c->pacing = pacing_make((uint32_t)w->info->layers, w->group_layers_max, w->group_layers,
                            w->info->kv_layer_page_bytes, LIMIT_PAGE_TOKENS);
    bool forced = o->kv_transports && !(o->kv_transports & ~(uint32_t)BETWEEN_DEVICES);
    uint32_t able = HELLO_BIT(HELLO_LOCAL) | HELLO_BIT(HELLO_SHM) | HELLO_BIT(HELLO_TCP);
    diag why = {.text = ""};
    if (wants_device(o, forced)) {
        uint32_t found = find_device(w, &why);
        able |= found;
        if (forced && !found) {
            return status_fail(w->d, STATUS_UNSUPPORTED, "--kv-transport %s: %s",
                               o->kv_transports & HELLO_BIT(HELLO_IPC) ? "ipc" : "nccl", why.text);
        }
        if (!found && w->model && !model_kv_on_host(w->model)) {
            LOG(INFO, "kvt", "KV moves through host memory", "why=\"%s\"", why.text);
        }
    }
    c->may = o->kv_transports ? able & o->kv_transports : able;
    if (c->may == HELLO_BIT(HELLO_LOCAL) && (message_roles_able(o->roles) & both) != both) {
        return status_fail(w->d, STATUS_INVALID,
                           "--kv-transport local: a worker of one role has to move its KV");
    }
    return STATUS_OK;
}

/* A device is not closed under an abort; one that hangs would hold up the closing for ever. */
void channels_close(worker_state *w) {
    int64_t until = clock_now_us() + NCCL_ABORT_US;
    bool hung = false;
    while (nccl_aborting(&hung) > 0 && !hung && clock_now_us() < until) {
        (void)usleep(1000);
    }
    if (nccl_aborting(&hung) > 0) {
        LOG(ERROR, "kvt", "the end does not wait for an abort that hangs", "%s", "");
        _exit(w->failed == STATUS_OK ? 0 : 1);
    }
    mem_free(w->channels);
    w->channels = NULL;
}

void channels_tell(worker_state *w, uint32_t slot, message_hello *hello) {
    hello->transports = w->channels->may;
    hello->device = w->channels->device;
    if (slot == PEERS_MAX) {
        return;
    }
    peer *p = &w->peers.slots[slot];
    for (uint32_t i = 0; i < CHANNELS_REFUSED_MAX; i++) {
        bool refused = p->epoch && w->channels->refused[i].epoch == p->epoch;
        if (refused && (hello->transports & HELLO_BIT(HELLO_TCP))) {
            hello->transports &= ~HELLO_BIT(w->channels->refused[i].transport);
        }
    }
    p->transports = hello->transports;
}

/* ---- opening -------------------------------------------------------------------------------- */

static status open_side(worker_state *w, peer *p, bool receiver, kvt **out, diag *d) {
    kvt_pool pool = workstate_pool(w);
    uint64_t generation = receiver ? p->epoch : w->epoch;
    if (HELLO_BIT(p->transport) & BETWEEN_DEVICES) {
        bool convert = receiver && p->converts;
        devpair_options o = {.device = w->options->device, .stage_bytes = w->group_bytes_max};
        if (convert) { /* groups come as large as they are there */
            o.stage_bytes = w->group_bytes_max / pool.layer_page_bytes * p->kv_page_bytes;
            pool.layer_page_bytes = p->kv_page_bytes;
        }
        TRY((p->transport == HELLO_IPC ? ipc_open : nccl_open)(&pool, &o, generation, receiver, out,
                                                               d));
        if (convert) {
            workstate_convert(*out, p->kv_type);
        } else {
            workstate_channel(w, *out, true);
        }
        return STATUS_OK;
    }
    TRY(p->transport == HELLO_TCP
            ? tcp_open(&pool, generation, receiver, out, d)
            : shm_offer(&pool, w->options->ring_bytes, generation, p->wire, out, d));
    workstate_channel(w, *out, false);
    return STATUS_OK;
}

static status watch(worker_state *w, uint32_t slot, peers_event event, const kvt *k, diag *d) {
    return peers_watch(&w->peers, slot, event, kvt_event_fd(k)) == STATUS_OK
               ? STATUS_OK
               : status_fail(d, STATUS_IO, "polling a channel");
}

/* The sides this worker has. On shm whoever sends offers, and the other side follows it. */
static status open_sides(worker_state *w, uint32_t slot, diag *d) {
    peer *p = &w->peers.slots[slot];
    uint32_t mine = message_roles_able(w->options->roles), theirs = message_roles_able(p->roles);
    if ((mine & MESSAGE_ROLE_PREFILL) && (theirs & MESSAGE_ROLE_DECODE)) {
        TRY(open_side(w, p, false, &p->sender, d));
        TRY(watch(w, slot, PEERS_SENDER, p->sender, d));
    }
    if ((mine & MESSAGE_ROLE_DECODE) && (theirs & MESSAGE_ROLE_PREFILL) &&
        p->transport != HELLO_SHM) {
        TRY(open_side(w, p, true, &p->receiver, d));
        TRY(watch(w, slot, PEERS_RECEIVER, p->receiver, d));
    }
    return STATUS_OK;
}

/* What the link itself lets through: descriptors on this host's sockets only. */
static uint32_t reach_of(const peer *p) {
    return p->remote ? BETWEEN_DEVICES | HELLO_BIT(HELLO_TCP) : HELLO_BIT(HELLO_SHM);
}

static status (*attach(hello_transport t))(kvt *, int, const seal_keys *, diag *) {
    return HELLO_BIT(t) & BETWEEN_DEVICES ? devpair_attach : tcp_attach;
}

static void connect_channel(worker_state *w, uint32_t slot, kvt *k, const peers_early *kept,
                            handshake_purpose purpose) {
    diag d = {.text = "nobody asked for it"};
    peer *p = &w->peers.slots[slot];
    if (!k) {
        (void)close(kept->fd);
    }
    if (!k || attach(p->transport)(k, kept->fd, &kept->keys, &d) != STATUS_OK) {
        LOG(WARN, "kvt", "channel refused", "worker=%u purpose=%d why=\"%s\"", p->worker,
            (int)purpose, d.text);
        p->doomed = true;
    }
}

static kvt *side_of(const peer *p, handshake_purpose purpose, bool dialler) {
    return (purpose == HANDSHAKE_PUSH) == dialler ? p->sender : p->receiver;
}

/* Both ends know the transport: who dials does, and what came early is taken. */
static void connect_sides(worker_state *w, uint32_t slot) {
    peer *p = &w->peers.slots[slot];
    for (int i = 0; i < 2; i++) {
        handshake_purpose purpose = i == 0 ? HANDSHAKE_PUSH : HANDSHAKE_PULL;
        if (p->dials && side_of(p, purpose, true)) {
            hosts_dial_channel(w, slot, purpose);
        } else if (p->early[i].there) {
            peers_early kept = p->early[i];
            p->early[i].there = false;
            connect_channel(w, slot, side_of(p, purpose, false), &kept, purpose);
        }
    }
}

/* What comes of another type has to be as large as pages of that type are here. */
static status note_type(const worker_state *w, peer *p, const message_hello *theirs, diag *d) {
    message_hello mine = workstate_hello(w);
    str name = hello_kv_type(theirs);
    backend_kv_type type = 0;
    p->converts = hello_converts(&mine, theirs);
    if (!p->converts) {
        return STATUS_OK;
    }
    while (type < BACKEND_KV_TYPES && !str_equal(name, str_from(backend_kv_type_name(type)))) {
        type++;
    }
    p->kv_type = type;
    p->kv_page_bytes = backend_kv_head_bytes(type, w->info->head_dim) * (uint64_t)w->info->kv_heads;
    if (type == BACKEND_KV_TYPES || p->kv_page_bytes != theirs->kv_layer_page_bytes) {
        return status_fail_param(d, STATUS_MISMATCH, "KV layout",
                                 "%.*s with %llu bytes a layer page is not known here",
                                 (int)theirs->kv_layout.bytes, theirs->kv_layout.data,
                                 (unsigned long long)theirs->kv_layer_page_bytes);
    }
    LOG(INFO, "kvt", "KV of another type", "worker=%u there=%.*s", p->worker, (int)name.bytes,
        name.data);
    return STATUS_OK;
}

void channels_join(worker_state *w, uint32_t slot, const message_hello *theirs) {
    peer *p = &w->peers.slots[slot];
    message_hello mine = workstate_hello(w);
    mine.transports = p->transports;
    mine.device = w->channels->device;
    diag d = {.text = ""};
    status s = hello_carries(&mine, theirs, reach_of(p), &p->transport, &d);
    if (s == STATUS_OK) {
        p->reason = hello_why(&mine, theirs, p->transport);
        s = note_type(w, p, theirs, &d);
    }
    if (s == STATUS_OK) {
        s = open_sides(w, slot, &d);
    }
    if (s != STATUS_OK) {
        LOG(ERROR, "kvt", "no channel to a worker", "worker=%u why=\"%s\"", p->worker, d.text);
        p->doomed = true;
        return;
    }
    if (p->remote) {
        connect_sides(w, slot);
    }
}

void channels_offered(worker_state *w, uint32_t slot, str bytes, int fd) {
    peer *p = &w->peers.slots[slot];
    kvt_pool pool = workstate_pool(w);
    kvt *channel;
    diag d;
    if (p->receiver || p->kind != CORE_WORKER || !p->greeted || p->transport != HELLO_SHM ||
        FAILPOINT("decode.on_offer")) {
        (void)close(fd);
        p->doomed = true;
        return;
    }
    if (shm_accept(&p->offer, &pool, bytes, fd, &channel, &d) != STATUS_OK) {
        LOG(WARN, "kvt", "channel refused", "worker=%u why=\"%s\"", p->worker, d.text);
        p->doomed = true;
    } else if (channel) {
        p->receiver = channel;
        workstate_channel(w, channel, false);
        p->doomed = watch(w, slot, PEERS_RECEIVER, channel, &d) != STATUS_OK;
    }
}

void channels_attach(worker_state *w, uint32_t slot, const mesh_event *e, bool dialler) {
    peer *p = &w->peers.slots[slot];
    peers_early kept = {true, e->fd, e->keys};
    if (p->greeted) {
        connect_channel(w, slot, side_of(p, e->purpose, dialler), &kept, e->purpose);
        return;
    }
    peers_early *into = &p->early[e->purpose == HANDSHAKE_PULL];
    if (into->there) {
        (void)close(e->fd);
        p->doomed = true;
    } else {
        *into = kept;
    }
}

/* ---- pairs ---------------------------------------------------------------------------------- */

static const kvt *side(const peer *p, int which) {
    return which == SENDER ? p->sender : p->receiver;
}

static bool is_up(const pair_use *u) {
    return u->counted[SENDER].setup_us > 0 || u->counted[RECEIVER].setup_us > 0;
}

/* Brings the metrics up to what a link's channels have moved. */
static void count_pair(worker_state *w, uint32_t slot, int64_t now_us) {
    const peer *p = &w->peers.slots[slot];
    pair_use *u = &w->channels->uses[slot];
    if (u->serial != p->serial) {
        *u = (pair_use){.serial = p->serial, .pacing = w->channels->pacing, .used_us = now_us};
    }
    for (int i = 0; i < SIDES; i++) {
        devpair_times t;
        if (side(p, i)) {
            devpair_get_times(side(p, i), &t);
            bool posted = i == RECEIVER && side(p, i)->posted_count > 0;
            if (posted || p->waiting_count > 0 || t.groups != u->counted[i].groups) {
                u->used_us = now_us;
            }
            kvstats_moved(&w->channels->stats, p->worker, i == SENDER, &u->counted[i], &t);
            if (i == SENDER) {
                pacing_moved(&u->pacing, &u->counted[i], &t);
            }
            u->counted[i] = t;
        }
    }
}

static bool over_device(const peer *p) {
    return p->used && p->greeted && (HELLO_BIT(p->transport) & BETWEEN_DEVICES);
}

/* A pair, which may be a communicator, holds device memory as long as it lives. With more of them
 * than there may be, the link that has moved nothing for longest is ended: its gateway makes a new
 * one, which holds nothing until something is sent. */
static void bound_pairs(worker_state *w, int64_t now_us) {
    uint32_t up = 0, oldest = PEERS_MAX;
    int64_t since = now_us - CHANNELS_IDLE_US;
    for (uint32_t i = 0; i < w->peers.count; i++) {
        const pair_use *u = &w->channels->uses[i];
        if (!over_device(&w->peers.slots[i]) || !is_up(u)) {
            continue;
        }
        up++;
        if (u->used_us <= since) {
            since = u->used_us;
            oldest = i;
        }
    }
    kvstats_pairs(&w->channels->stats, up);
    if (up > w->options->kv_pairs_max && w->options->kv_pairs_max > 0 && oldest < PEERS_MAX) {
        LOG(INFO, "kvt", "a pair gives its communicator up", "worker=%u pairs=%u",
            w->peers.slots[oldest].worker, up);
        w->peers.slots[oldest].doomed = true;
    }
}

/* What is this side's own failure, and not that the peer went. */
static bool is_refusal(const worker_state *w, uint32_t slot, const char *why) {
    return !is_up(&w->channels->uses[slot]) && why[0] && !strstr(why, ": the peer has gone");
}

static void settle_side(worker_state *w, uint32_t slot, const kvt *k) {
    const peer *p = &w->peers.slots[slot];
    channels *c = w->channels;
    if (!k || !kvt_failed(k)) {
        return;
    }
    const char *why = HELLO_BIT(p->transport) & BETWEEN_DEVICES ? devpair_reason(k) : "";
    kvstats_broken(&c->stats, p->transport, p->worker);
    LOG(WARN, "kvt", "channel broken", "worker=%u transport=%s why=\"%s\"", p->worker, kvt_name(k),
        why);
    if (is_refusal(w, slot, why)) {
        uint32_t at = c->refused_next++ % CHANNELS_REFUSED_MAX;
        c->refused[at].epoch = p->epoch;
        c->refused[at].transport = p->transport;
    }
}

void channels_settle(worker_state *w, uint32_t slot) {
    const peer *p = &w->peers.slots[slot];
    if (over_device(p)) {
        count_pair(w, slot, clock_now_us());
        const devpair_times *t = w->channels->uses[slot].counted;
        LOG(INFO, "kvt", "pair ended",
            "worker=%u sent_bytes=%llu received_bytes=%llu handshake_us=%lld wire_us=%lld",
            p->worker, (unsigned long long)t[SENDER].bytes, (unsigned long long)t[RECEIVER].bytes,
            (long long)(t[SENDER].setup_us + t[RECEIVER].setup_us),
            (long long)(t[SENDER].wire_us + t[RECEIVER].wire_us));
    }
    settle_side(w, slot, p->sender);
    settle_side(w, slot, p->receiver);
}

void channels_adopted(worker_state *w, uint32_t slot, const message_adopted *a,
                      int64_t exposed_us) {
    const peer *p = &w->peers.slots[slot];
    kvstats_adopted(&w->channels->stats, p->transport, p->worker, a->waited_us, a->moved_us,
                    exposed_us);
}

/* ---- the size of groups --------------------------------------------------------------------- */

void channels_stepped(worker_state *w, int32_t rows, int64_t computed_us) {
    channels *c = w->channels;
    pacing_step(&c->pacing, rows, computed_us);
    for (uint32_t i = 0; i < w->peers.count; i++) {
        if (over_device(&w->peers.slots[i])) {
            pacing_step(&c->uses[i].pacing, rows, computed_us);
        }
    }
}

/* Each link has groups of its own size; the step tells of its layers as often as the smallest asks.
 */
static void pace(worker_state *w) {
    channels *c = w->channels;
    uint32_t least = 0;
    for (uint32_t i = 0; i < w->peers.count; i++) {
        pacing *p = &c->uses[i].pacing;
        const peer *to = &w->peers.slots[i];
        if (!over_device(to) || !to->sender || c->uses[i].serial != to->serial) {
            continue;
        }
        if (pacing_weigh(p)) {
            core_set_group_layers(w->core, i, p->layers_now);
            LOG(INFO, "kvt", "groups have another size",
                "worker=%u layers=%u layer_us=%.0f link_gbps=%.3f", to->worker, p->layers_now,
                p->layer_us, p->bytes_per_us / 1000);
        }
        least = least == 0 || p->layers_now < least ? p->layers_now : least;
    }
    least = least ? least : c->pacing.layers_now;
    if (least != c->layers_least) {
        c->layers_least = least;
        stepper_wake(w->stepper, (int32_t)least);
    }
    kvstats_paced(&c->stats, least);
}

/* ---- failures and numbers ------------------------------------------------------------------- */

void channels_turn(worker_state *w, int64_t now_us) {
    channels *c = w->channels;
    bool hung = false;
    if (now_us < c->look_us) {
        return;
    }
    c->look_us = now_us + LOOK_US;
    for (uint32_t i = 0; i < w->peers.count; i++) {
        if (over_device(&w->peers.slots[i])) {
            count_pair(w, i, now_us);
        }
    }
    pace(w);
    bound_pairs(w, now_us);
    if (nccl_aborting(&hung) > 0 && hung) {
        /* Nothing on the device can be freed any more, so this does not try to. */
        LOG(ERROR, "kvt", "an NCCL abort hangs: this worker ends", "after_ms=%d",
            NCCL_ABORT_US / 1000);
        _exit(1);
    }
}

void channels_count(worker_state *w) {
    kvstats_chosen links = {0};
    for (uint32_t i = 0; i < w->peers.count; i++) {
        const peer *p = &w->peers.slots[i];
        links[p->transport][p->reason] += p->used && p->greeted && (p->sender || p->receiver);
    }
    bool hung;
    kvstats_links(&w->channels->stats, links);
    kvstats_held(&w->channels->stats, nccl_staged(), nccl_aborting(&hung));
}
