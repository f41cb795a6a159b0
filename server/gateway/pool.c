/* pool.c -- worker slots at the gateway. */
#define _GNU_SOURCE
#include "server/gateway/pool.h"

#include <stdio.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "engine/base/check.h"
#include "engine/base/log.h"

enum {
    METRICS_BYTES_MAX = 1 << 20,
    REJOIN_US = 1000000, /* between two introductions of a pair whose link was lost */
    BOTH = MESSAGE_ROLE_PREFILL | MESSAGE_ROLE_DECODE
};

const char *pool_role_name(uint32_t roles) {
    roles &= BOTH;
    return roles == BOTH ? "both" : roles == MESSAGE_ROLE_PREFILL ? "prefill" : "decode";
}

status pool_open(pool *p, diag *d) {
    *p = (pool){.epoll_fd = epoll_create1(EPOLL_CLOEXEC),
                .encoded = strbuf_make(LIMIT_MESSAGE_BYTES)};
    return p->epoll_fd < 0 ? status_fail_errno(d, STATUS_IO, "epoll") : STATUS_OK;
}

void pool_close(pool *p) {
    for (uint32_t i = 0; i < p->count; i++) {
        if (p->workers[i].used) {
            pool_drop(p, i);
        }
    }
    strbuf_close(&p->encoded);
    if (p->epoll_fd >= 0) {
        (void)close(p->epoll_fd);
    }
}

/* A wire for the slot; the descriptor is taken over either way. */
static status take_wire(pool *p, uint32_t worker, int fd, const seal_keys *keys) {
    pool_worker *w = &p->workers[worker];
    if (wire_open_waiting(POOL_OUT_BYTES_MAX, &w->wire) != STATUS_OK) {
        (void)close(fd);
        *w = (pool_worker){0};
        return STATUS_NOMEM;
    }
    struct epoll_event e = {.events = EPOLLIN, .data.u64 = worker};
    if (wire_attach(w->wire, fd, keys) != STATUS_OK ||
        epoll_ctl(p->epoll_fd, EPOLL_CTL_ADD, fd, &e) != 0) {
        pool_drop(p, worker);
        return STATUS_IO;
    }
    if (worker >= p->count) {
        p->count = worker + 1;
    }
    return STATUS_OK;
}

static pool_worker *take_slot(pool *p, uint32_t worker, int64_t now_us) {
    CHECK_LT(worker, LIMIT_WORKERS);
    pool_worker *w = &p->workers[worker];
    CHECK(!w->used);
    *w = (pool_worker){.used = true,
                       .heard_us = now_us,
                       .since_us = now_us,
                       .metrics = strbuf_make(METRICS_BYTES_MAX)};
    p->views[worker] = (router_view){0};
    return w;
}

status pool_add(pool *p, uint32_t worker, int fd, int64_t now_us) {
    (void)take_slot(p, worker, now_us);
    return take_wire(p, worker, fd, NULL);
}

status pool_add_remote(pool *p, uint32_t worker, uint64_t epoch, int fd, const seal_keys *keys,
                       int64_t now_us) {
    pool_worker *w = take_slot(p, worker, now_us);
    w->remote = true;
    w->epoch = epoch;
    return take_wire(p, worker, fd, keys);
}

void pool_drop(pool *p, uint32_t worker) {
    pool_worker *w = &p->workers[worker];
    CHECK(w->used);
    (void)epoll_ctl(p->epoll_fd, EPOLL_CTL_DEL, wire_fd(w->wire), NULL);
    wire_close(w->wire);
    strbuf_close(&w->metrics);
    *w = (pool_worker){0};
    p->views[worker] = (router_view){0};
}

static bool send_with(pool *p, uint32_t worker, const message *m, int fd) {
    pool_worker *w = &p->workers[worker];
    strbuf_clear(&p->encoded);
    return w->used && message_encode(m, &p->encoded) == STATUS_OK &&
           wire_send(w->wire, strbuf_str(&p->encoded), fd) == STATUS_OK;
}

bool pool_send(pool *p, uint32_t worker, const message *m) {
    return send_with(p, worker, m, -1);
}

static void flush_wires(pool *p) {
    for (uint32_t i = 0; i < p->count; i++) {
        pool_worker *w = &p->workers[i];
        if (!w->used || !wire_flush(w->wire)) {
            continue; /* a broken wire is noticed by the read, after what it still has to say */
        }
        bool want = wire_wants_write(w->wire);
        if (want != w->writing) {
            struct epoll_event e = {.events = EPOLLIN | (want ? (uint32_t)EPOLLOUT : 0u),
                                    .data.u64 = i};
            (void)epoll_ctl(p->epoll_fd, EPOLL_CTL_MOD, wire_fd(w->wire), &e);
            w->writing = want;
        }
    }
}

void pool_goodbye(pool *p, uint32_t worker, const char *why) {
    message m = {.type = MESSAGE_GOODBYE, .goodbye = str_from(why)};
    if (m.goodbye.bytes > MESSAGE_GOODBYE_BYTES) {
        m.goodbye.bytes = MESSAGE_GOODBYE_BYTES;
    }
    if (pool_send(p, worker, &m)) {
        (void)wire_flush(p->workers[worker].wire);
    }
}

static message_peer peer_of(const pool *p, uint32_t worker) {
    const message_hello *h = &p->workers[worker].hello;
    return (message_peer){
        .worker = h->worker, .epoch = h->epoch, .roles = message_roles_able(h->roles)};
}

static void introduced(bool told, uint32_t prefill, uint32_t decode) {
    if (!told) {
        LOG(WARN, "pool", "cannot introduce a pair", "prefill=%u decode=%u", prefill, decode);
    }
}

/* One socket for the pair, an end to each. False: not now, so many are on their way. */
static bool introduce_by_socket(pool *p, uint32_t prefill, uint32_t decode) {
    int fds[2];
    if (!wire_takes_fd(p->workers[prefill].wire) || !wire_takes_fd(p->workers[decode].wire)) {
        return false;
    }
    if (wire_pair(fds) != STATUS_OK) {
        LOG(ERROR, "pool", "no socket for a pair", "prefill=%u decode=%u", prefill, decode);
        return true;
    }
    const uint32_t pair[2] = {prefill, decode};
    for (int i = 0; i < 2; i++) {
        message m = {.type = MESSAGE_PEER, .peer = peer_of(p, pair[1 - i])};
        introduced(send_with(p, pair[i], &m, fds[i]), prefill, decode);
        (void)close(fds[i]); /* the wire has a copy of its own */
    }
    return true;
}

/* D is told first: it may then wait, rather than be surprised. */
static void introduce_by_address(pool *p, uint32_t prefill, uint32_t decode, bool mend) {
    message to_decode = {.type = MESSAGE_PEER, .peer = peer_of(p, prefill)};
    message to_prefill = {.type = MESSAGE_PEER, .peer = peer_of(p, decode)};
    to_decode.peer.how = MESSAGE_PEER_AWAIT;
    to_prefill.peer.how = MESSAGE_PEER_DIAL;
    to_prefill.peer.address = p->workers[decode].hello.address;
    to_decode.peer.mend = to_prefill.peer.mend = mend;
    introduced(to_prefill.peer.address.bytes && pool_send(p, decode, &to_decode) &&
                   pool_send(p, prefill, &to_prefill),
               prefill, decode);
}

static bool *met(pool *p, uint32_t a, uint32_t b) {
    return a < b ? &p->met[a][b] : &p->met[b][a];
}

/* Devices reach each other without host memory over a connection of the pair's own. */
static bool by_address(const pool *p, const pool_worker *prefill, const pool_worker *decode) {
    return p->by_address || prefill->remote || decode->remote ||
           (decode->hello.address.bytes > 0 &&
            hello_between_devices(&prefill->hello, &decode->hello));
}

/* False: not now; meet_rest tries again. */
static bool introduce(pool *p, uint32_t prefill, uint32_t decode, bool mend) {
    bool done = true;
    if (by_address(p, &p->workers[prefill], &p->workers[decode])) {
        introduce_by_address(p, prefill, decode, mend);
    } else {
        done = introduce_by_socket(p, prefill, decode);
    }
    *met(p, prefill, decode) = done;
    p->workers[prefill].unmet = p->workers[prefill].unmet || !done;
    return done;
}

/* Introduces them if one can prefill for the other. Where both can, every gateway must let the same
 * one dial: the lower number. True when they are. */
static bool introduce_pair(pool *p, uint32_t a, uint32_t b, bool mend) {
    uint32_t low = a < b ? a : b, high = a < b ? b : a;
    uint32_t low_roles = p->workers[low].hello.roles;
    uint32_t high_roles = p->workers[high].hello.roles;
    if ((low_roles & MESSAGE_ROLE_PREFILL) && (high_roles & MESSAGE_ROLE_DECODE)) {
        return introduce(p, low, high, mend);
    }
    if ((low_roles & MESSAGE_ROLE_DECODE) && (high_roles & MESSAGE_ROLE_PREFILL)) {
        return introduce(p, high, low, mend);
    }
    return false;
}

void pool_rejoin(pool *p, uint32_t worker, uint32_t peer, int64_t now_us) {
    if (peer >= p->count || peer == worker || !p->workers[worker].joined ||
        !p->workers[peer].joined) {
        return; /* the other has died: it is introduced when it is back */
    }
    int64_t *last = &p->rejoined_us[worker < peer ? worker : peer][worker < peer ? peer : worker];
    if (now_us - *last >= REJOIN_US) {
        *last = now_us;
        LOG(INFO, "pool", "a pair gets a new link", "workers=%u,%u", worker, peer);
        (void)introduce_pair(p, worker, peer, true);
    }
}

/* Everybody of the other role whom it does not know yet. True: to some of them. */
static bool meet_others(pool *p, uint32_t worker) {
    bool any = false;
    for (uint32_t i = 0; i < p->count; i++) {
        if (i != worker && p->workers[i].joined && !*met(p, worker, i)) {
            any = introduce_pair(p, worker, i, false) || any;
        }
    }
    return any;
}

/* Pairs for whose sockets there was no room: most of a large pool that starts at once. */
static bool meet_rest(pool *p) {
    bool any = false;
    for (uint32_t i = 0; i < p->count; i++) {
        pool_worker *w = &p->workers[i];
        if (w->unmet && w->joined && wire_takes_fd(w->wire)) {
            w->unmet = false;
            any = meet_others(p, i) || any;
        }
    }
    return any;
}

/* What is flushed makes room for further introductions. */
void pool_flush(pool *p) {
    do {
        flush_wires(p);
    } while (meet_rest(p));
}

static void take_role(pool *p, uint32_t worker) {
    pool_worker *w = &p->workers[worker];
    (void)snprintf(w->label, sizeof w->label, "role=\"%s\",worker=\"%u\"",
                   pool_role_name(w->hello.roles), worker);
    p->views[worker].roles = w->hello.roles & BOTH;
}

void pool_role(pool *p, uint32_t worker, uint32_t roles) {
    pool_worker *w = &p->workers[worker];
    w->hello.roles = (roles & BOTH) | (w->hello.roles & MESSAGE_ROLE_FLIPS);
    take_role(p, worker);
    (void)meet_others(p, worker);
}

status pool_join(pool *p, uint32_t worker, const message_hello *hello, diag *d) {
    pool_worker *w = &p->workers[worker];
    if (hello->version != MESSAGE_VERSION) {
        return status_fail(d, STATUS_MISMATCH, "it speaks protocol %u, not %u", hello->version,
                           MESSAGE_VERSION);
    }
    if (hello->worker != worker || w->joined || !(hello->roles & BOTH)) {
        return status_fail(d, STATUS_MISMATCH, "it says it is worker %u with roles %u",
                           hello->worker, hello->roles);
    }
    if (p->model_hash && hello->model_hash != p->model_hash) {
        return status_fail(d, STATUS_MISMATCH, "it serves another model");
    }
    if (w->remote && hello->epoch != w->epoch) {
        return status_fail(d, STATUS_MISMATCH, "it is of another epoch than it was dialled as");
    }
    for (uint32_t i = 0; i < p->count; i++) {
        if (p->workers[i].joined) {
            TRY(hello_fits(&p->workers[i].kept.hello, hello, d));
        }
    }
    p->model_hash = hello->model_hash;
    hello_keep(&w->kept, hello);
    w->hello = w->kept.hello;
    w->epoch = hello->epoch;
    w->joined = true;
    p->views[worker] = (router_view){.up = true,
                                     .roles = hello->roles & BOTH,
                                     .pages_total = hello->pages,
                                     .pages_free = hello->pages,
                                     .context_tokens = hello->context_tokens};
    take_role(p, worker);
    for (uint32_t i = 0; i < LIMIT_WORKERS; i++) {
        *met(p, worker, i) = false;
    }
    (void)meet_others(p, worker);
    return STATUS_OK;
}

void pool_heartbeat(pool *p, uint32_t worker, const message_heartbeat *h, int64_t now_us) {
    p->workers[worker].heartbeat = *h;
    routecost_told(&p->views[worker], h, now_us);
}

void pool_metrics(pool *p, uint32_t worker, str snapshot) {
    strbuf *kept = &p->workers[worker].metrics;
    strbuf_clear(kept);
    strbuf_append_str(kept, snapshot);
}

uint32_t pool_silent(const pool *p, int64_t now_us, int64_t silence_us, int64_t join_us) {
    for (uint32_t i = 0; i < p->count; i++) {
        const pool_worker *w = &p->workers[i];
        if (w->used && (w->joined || w->remote ? now_us - w->heard_us > silence_us
                                               : now_us - w->since_us > join_us)) {
            return i;
        }
    }
    return LIMIT_WORKERS;
}

bool pool_ready(const pool *p) {
    uint32_t roles = 0;
    for (uint32_t i = 0; i < p->count; i++) {
        if (p->workers[i].joined && !p->views[i].draining) {
            roles |= p->workers[i].hello.roles;
        }
    }
    return p->holds || (roles && (roles & p->roles_wanted) == p->roles_wanted);
}
