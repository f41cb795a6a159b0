/* peers.c -- slots, epoll registration, sends that wait for room. */
#define _GNU_SOURCE
#include "engine/worker/peers.h"

#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "engine/base/check.h"
#include "engine/base/log.h"
#include "engine/base/mem.h"

status peers_open(peers *p, diag *d) {
    *p = (peers){.epoll_fd = epoll_create1(EPOLL_CLOEXEC)};
    if (p->epoll_fd < 0) {
        return status_fail_errno(d, STATUS_IO, "epoll");
    }
    return STATUS_OK;
}

void peers_close(peers *p) {
    for (uint32_t i = 0; i < p->count; i++) {
        if (p->slots[i].used) {
            peers_drop(p, i);
        }
    }
    (void)close(p->epoll_fd);
}

status peers_watch(peers *p, uint32_t slot, peers_event event, int fd) {
    struct epoll_event e = {.events = EPOLLIN, .data.u64 = peers_tag(slot, event)};
    return epoll_ctl(p->epoll_fd, EPOLL_CTL_ADD, fd, &e) == 0 ? STATUS_OK : STATUS_IO;
}

/* A free slot with all but its wire. */
static status take_slot(peers *p, core_peer_kind kind, const message_peer *who, uint32_t *slot,
                        diag *d) {
    uint32_t i = 0;
    while (i < PEERS_MAX && p->slots[i].used) {
        i++;
    }
    if (i == PEERS_MAX) {
        return status_fail(d, STATUS_LIMIT, "more than %d links", PEERS_MAX);
    }
    peer *s = &p->slots[i];
    *s = (peer){.used = true,
                .kind = kind,
                .worker = who->worker,
                .epoch = who->epoch,
                .roles = who->roles,
                .serial = ++p->serial};
    shm_pending_clear(&s->offer);
    s->waiting = kind == CORE_WORKER ? mem_alloc(KVT_JOBS_MAX, sizeof *s->waiting) : NULL;
    if (kind == CORE_WORKER && !s->waiting) {
        *s = (peer){0};
        return status_fail(d, STATUS_NOMEM, "no memory for a link");
    }
    if (i >= p->count) {
        p->count = i + 1;
    }
    *slot = i;
    return STATUS_OK;
}

static status no_wire(peer *s, diag *d) {
    mem_free(s->waiting);
    *s = (peer){0};
    return status_fail(d, STATUS_NOMEM, "no memory for a link");
}

status peers_add(peers *p, int fd, core_peer_kind kind, const message_peer *who, uint32_t *slot,
                 diag *d) {
    status taken = take_slot(p, kind, who, slot, d);
    if (taken != STATUS_OK) {
        (void)close(fd);
        return taken;
    }
    peer *s = &p->slots[*slot];
    if (wire_open(fd, PEERS_OUT_BYTES_MAX, &s->wire) != STATUS_OK) {
        (void)close(fd);
        return no_wire(s, d);
    }
    if (peers_watch(p, *slot, PEERS_WIRE, wire_fd(s->wire)) != STATUS_OK) {
        peers_drop(p, *slot);
        return status_fail_errno(d, STATUS_IO, "polling a link");
    }
    return STATUS_OK;
}

status peers_add_waiting(peers *p, core_peer_kind kind, const message_peer *who, uint32_t *slot,
                         diag *d) {
    TRY(take_slot(p, kind, who, slot, d));
    peer *s = &p->slots[*slot];
    s->remote = true;
    return wire_open_waiting(PEERS_OUT_BYTES_MAX, &s->wire) == STATUS_OK ? STATUS_OK
                                                                         : no_wire(s, d);
}

status peers_attach(peers *p, uint32_t slot, int fd, const seal_keys *keys,
                    const uint8_t secret[HANDSHAKE_KEY_BYTES]) {
    peer *s = &p->slots[slot];
    CHECK(s->used && s->remote);
    memcpy(s->secret, secret, sizeof s->secret);
    TRY(wire_attach(s->wire, fd, keys));
    return peers_watch(p, slot, PEERS_WIRE, fd);
}

bool peers_attached(const peers *p, uint32_t slot) {
    return wire_fd(p->slots[slot].wire) >= 0;
}

/* Descriptors leave the epoll set before they are closed: a socket that was passed on lives in
 * another process too, and would go on being reported. */
static void unwatch(const peers *p, int fd) {
    (void)epoll_ctl(p->epoll_fd, EPOLL_CTL_DEL, fd, NULL);
}

void peers_drop(peers *p, uint32_t slot) {
    peer *s = &p->slots[slot];
    CHECK(s->used);
    if (wire_fd(s->wire) >= 0) {
        unwatch(p, wire_fd(s->wire));
    }
    if (s->sender) {
        unwatch(p, kvt_event_fd(s->sender));
        kvt_close(s->sender);
    }
    if (s->receiver) {
        unwatch(p, kvt_event_fd(s->receiver));
        kvt_close(s->receiver);
    }
    for (int i = 0; i < 2; i++) {
        if (s->early[i].there) {
            (void)close(s->early[i].fd);
        }
    }
    shm_pending_clear(&s->offer);
    wire_close(s->wire);
    mem_free(s->waiting);
    *s = (peer){0};
}

uint32_t peers_find(const peers *p, uint32_t worker) {
    for (uint32_t i = 0; i < p->count; i++) {
        const peer *s = &p->slots[i];
        if (s->used && s->kind == CORE_WORKER && s->worker == worker) {
            return i;
        }
    }
    return PEERS_MAX;
}

uint32_t peers_find_gateway(const peers *p, uint64_t epoch) {
    for (uint32_t i = 0; i < p->count; i++) {
        const peer *s = &p->slots[i];
        if (s->used && s->kind == CORE_GATEWAY && s->remote && s->epoch == epoch) {
            return i;
        }
    }
    return PEERS_MAX;
}

void peers_send(peers *p, uint32_t slot, str bytes) {
    peer *s = &p->slots[slot];
    if (!s->used || s->doomed) {
        return;
    }
    status sent = wire_send(s->wire, bytes, -1);
    if (sent != STATUS_OK) {
        LOG(WARN, "peers", "cannot send, dropping the link", "slot=%u why=\"%s\"", slot,
            status_text(sent));
        s->doomed = true;
    }
}

void peers_flush(peers *p) {
    for (uint32_t i = 0; i < p->count; i++) {
        peer *s = &p->slots[i];
        if (!s->used || s->doomed) {
            continue;
        }
        if (!wire_flush(s->wire)) {
            /* What the peer said before it went is still to be read: the read ends the link. */
            continue;
        }
        bool want = wire_wants_write(s->wire);
        if (wire_fd(s->wire) >= 0 && want != s->writing) {
            struct epoll_event e = {.events = EPOLLIN | (want ? (uint32_t)EPOLLOUT : 0u),
                                    .data.u64 = peers_tag(i, PEERS_WIRE)};
            (void)epoll_ctl(p->epoll_fd, EPOLL_CTL_MOD, wire_fd(s->wire), &e);
            s->writing = want;
        }
    }
}

void peers_push(peers *p, uint32_t slot, const kvt_job *job) {
    peer *s = &p->slots[slot];
    if (!s->sender || s->waiting_count == KVT_JOBS_MAX) {
        s->doomed = true;
        return;
    }
    s->waiting[(s->waiting_first + s->waiting_count) % KVT_JOBS_MAX] = *job;
    s->waiting_count++;
    peers_retry(p, slot);
}

void peers_retry(peers *p, uint32_t slot) {
    peer *s = &p->slots[slot];
    while (s->waiting_count > 0 && !s->doomed) {
        kvt_result r = kvt_send(s->sender, &s->waiting[s->waiting_first]);
        if (r == KVT_AGAIN) {
            return;
        }
        if (r == KVT_FAILED) {
            s->doomed = true;
            return;
        }
        s->waiting_first = (s->waiting_first + 1) % KVT_JOBS_MAX;
        s->waiting_count--;
    }
}
