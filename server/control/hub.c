/* hub.c -- a thread with a mesh, a table of members, and one message to all: the roster. */
#define _GNU_SOURCE
#include "server/control/hub.h"

#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "engine/base/check.h"
#include "engine/base/clock.h"
#include "engine/base/log.h"
#include "engine/base/mem.h"
#include "engine/base/wire.h"
#include "engine/core/hello.h"
#include "engine/net/mesh.h"
#include "server/control/hubnumbers.h"

enum {
    MEMBERS_MAX = LIMIT_WORKERS + LIMIT_GATEWAYS,
    OUT_BYTES_MAX = 1 << 20,
    BEAT_US = 1000000,
    GOODBYE_US = 1000000, /* a refused member gets this long to read why */
    TURN_MS = 100
};

typedef enum { FREE, GREETING, WAITING, MEMBER, LEAVING } place;

/* A connection, and the worker or gateway behind it. */
typedef struct {
    place place;
    wire *link;
    handshake_ident who;
    uint32_t number; /* of a worker that is MEMBER */
    bool knows;      /* that it has this number: only then do others hear of it */
    hello_kept hello;
    hostport address; /* of a worker */
    message_heartbeat beat;
    int64_t heard_us, due_us; /* due: of the end when LEAVING */
} seat;

struct hub {
    hub_options options;
    mesh *mesh;
    pthread_t thread;
    int stop_fd;
    pthread_mutex_t lock; /* of all below */
    bool open, holds;
    hubload load;
    uint64_t latencies_seen;
    int64_t started_us, beat_us;
    hubnumbers numbers;
    bool changed;
    message_scratch *scratch;
    strbuf encoded;
    seat seats[MEMBERS_MAX];
};

static const char *name_of(const seat *s, char out[32]) {
    if (s->who.kind == HANDSHAKE_WORKER && s->place == MEMBER) {
        (void)snprintf(out, 32, "worker-%u", s->number);
    } else {
        (void)snprintf(out, 32, "%s", handshake_kind_name(s->who.kind));
    }
    return out;
}

static void give_up_place(hub *h, seat *s) {
    if (s->place == MEMBER && s->who.kind == HANDSHAKE_GATEWAY) {
        hubload_left(&h->load, s->who.epoch);
    }
    if (s->place == MEMBER && s->who.kind == HANDSHAKE_WORKER) {
        hubnumbers_leave(&h->numbers, s->number, clock_now_us());
        h->changed = true;
    }
    s->place = LEAVING;
}

static void leave(hub *h, seat *s) {
    give_up_place(h, s);
    mesh_unwatch(h->mesh, wire_fd(s->link));
    wire_close(s->link);
    s->link = NULL;
    s->place = FREE;
}

static void tell(hub *h, seat *s, const message *m) {
    strbuf_clear(&h->encoded);
    if (message_encode(m, &h->encoded) == STATUS_OK &&
        wire_send(s->link, strbuf_str(&h->encoded), -1) == STATUS_OK) {
        (void)wire_flush(s->link); /* one that never reads is found silent */
    }
}

/* Refuses, with the reason at both ends; the connection stays open until that was read. */
static void refuse(hub *h, seat *s, int64_t now_us, const char *why) {
    char name[32];
    LOG(WARN, "hub", "refused", "who=%s epoch=%llu why=\"%s\"", name_of(s, name),
        (unsigned long long)s->who.epoch, why);
    message m = {.type = MESSAGE_GOODBYE, .goodbye = str_from(why)};
    if (m.goodbye.bytes > MESSAGE_GOODBYE_BYTES) {
        m.goodbye.bytes = MESSAGE_GOODBYE_BYTES;
    }
    tell(h, s, &m);
    give_up_place(h, s);
    s->due_us = now_us + GOODBYE_US;
    (void)shutdown(wire_fd(s->link), SHUT_WR);
}

/* ---- registering ---------------------------------------------------------------------------- */

static seat *holder(hub *h, uint32_t number) {
    for (int i = 0; i < MEMBERS_MAX; i++) {
        seat *s = &h->seats[i];
        if (s->place == MEMBER && s->who.kind == HANDSHAKE_WORKER && s->number == number) {
            return s;
        }
    }
    return NULL;
}

/* Whether it can be among those that are here. */
static status check_fits(hub *h, seat *s, diag *d) {
    const message_hello *hello = &s->hello.hello;
    if (hello->epoch != s->who.epoch) {
        return status_fail(d, STATUS_MISMATCH, "its HELLO is not of the epoch that dialled");
    }
    if (s->who.kind == HANDSHAKE_WORKER &&
        (!hello->roles || hostport_parse(hello->address, true, &s->address, d) != STATUS_OK)) {
        return status_fail(d, STATUS_MISMATCH, "a worker needs a role and an address");
    }
    for (int i = 0; i < MEMBERS_MAX; i++) {
        const seat *other = &h->seats[i];
        if (other->place != MEMBER || other == s || other->who.epoch == s->who.epoch ||
            (other->who.kind == HANDSHAKE_WORKER && other->number == hello->worker)) {
            continue;
        }
        if (s->who.kind == HANDSHAKE_WORKER && other->who.kind == HANDSHAKE_WORKER) {
            TRY(hello_fits(&other->hello.hello, hello, d));
            continue;
        }
        if (hello->model_hash != other->hello.hello.model_hash) {
            return status_fail(d, STATUS_MISMATCH,
                               "not the same model file: its hash is %016llx here, %016llx there",
                               (unsigned long long)other->hello.hello.model_hash,
                               (unsigned long long)hello->model_hash);
        }
    }
    return STATUS_OK;
}

/* The number a worker has, gets back, or gets. */
static status give_number(hub *h, seat *s, int64_t now_us, diag *d) {
    uint32_t wanted = s->hello.hello.worker;
    if (hubnumbers_replaces(&h->numbers, wanted, s->who.epoch)) {
        seat *old = holder(h, wanted);
        CHECK(old != NULL);
        leave(h, old); /* its next life, or the same one over a new connection */
    }
    return hubnumbers_give(&h->numbers, wanted, s->who.epoch, now_us, &s->number, d);
}

static void seat_member(hub *h, seat *s, int64_t now_us) {
    char name[32];
    diag d;
    bool worker = s->who.kind == HANDSHAKE_WORKER;
    if (check_fits(h, s, &d) != STATUS_OK ||
        (worker && give_number(h, s, now_us, &d) != STATUS_OK)) {
        refuse(h, s, now_us, d.text);
        return;
    }
    s->place = MEMBER;
    s->knows = worker && s->hello.hello.worker == s->number;
    h->changed = true;
    LOG(INFO, "hub", "joined", "who=%s epoch=%llu address=%s", name_of(s, name),
        (unsigned long long)s->who.epoch, s->hello.address);
}

static void on_hello(hub *h, seat *s, const message_hello *hello, int64_t now_us) {
    hello_keep(&s->hello, hello);
    /* A hub that has just started does not know who has which number: those who had one say so
     * within the grace. */
    bool new_worker = s->who.kind == HANDSHAKE_WORKER && hello->worker == MESSAGE_NO_WORKER;
    if (new_worker && now_us < h->started_us + HUB_GRACE_US) {
        s->place = WAITING;
    } else {
        seat_member(h, s, now_us);
    }
}

/* ---- links ---------------------------------------------------------------------------------- */

static void accept_link(hub *h, const mesh_event *e, int64_t now_us) {
    seat *s = NULL;
    for (int i = 0; i < MEMBERS_MAX && !s; i++) {
        s = h->seats[i].place == FREE ? &h->seats[i] : NULL;
    }
    bool fits = e->purpose == HANDSHAKE_CONTROL && e->peer.kind != HANDSHAKE_HUB;
    wire *link;
    if (!h->open) {
        (void)close(e->fd);
        return;
    }
    if (!s || !fits || wire_open_waiting(OUT_BYTES_MAX, &link) != STATUS_OK) {
        LOG(WARN, "hub", "connection dropped", "who=%s why=\"%s\"",
            handshake_kind_name(e->peer.kind), fits ? "no room" : "no member");
        (void)close(e->fd);
        return;
    }
    if (wire_attach(link, e->fd, &e->keys) != STATUS_OK || !mesh_watch(h->mesh, e->fd)) {
        wire_close(link);
        return;
    }
    *s = (seat){.place = GREETING, .link = link, .who = e->peer, .heard_us = now_us};
}

static void on_message(hub *h, seat *s, str bytes, int64_t now_us) {
    message m;
    diag d;
    s->heard_us = now_us;
    if (s->place == LEAVING) {
        return;
    }
    if (message_decode(bytes, h->scratch, &m, &d) != STATUS_OK) {
        refuse(h, s, now_us, d.text);
    } else if (m.type == MESSAGE_HELLO && s->place == GREETING) {
        on_hello(h, s, &m.hello, now_us);
    } else if (m.type == MESSAGE_HELLO && s->place == MEMBER) {
        s->knows = m.hello.worker == s->number;
        s->hello.hello.roles = m.hello.roles ? m.hello.roles : s->hello.hello.roles;
        h->changed = true;
    } else if (m.type == MESSAGE_HEARTBEAT) {
        s->beat = m.heartbeat;
    } else if (m.type == MESSAGE_LOAD && s->who.kind == HANDSHAKE_GATEWAY) {
        hubload_told(&h->load, s->who.epoch, &m.load, now_us);
    } else {
        refuse(h, s, now_us, "not a message for a hub");
    }
}

static void serve_seat(hub *h, seat *s, int64_t now_us) {
    char name[32];
    str bytes;
    int fd;
    wire_result r;
    while ((r = wire_receive(s->link, &bytes, &fd)) == WIRE_MESSAGE) {
        on_message(h, s, bytes, now_us);
    }
    bool silent = now_us - s->heard_us > HUB_SILENCE_US;
    if (r == WIRE_CLOSED || silent || (s->place == LEAVING && now_us >= s->due_us)) {
        if (s->place != LEAVING) {
            LOG(INFO, "hub", "left", "who=%s why=%s", name_of(s, name),
                silent ? "silent" : "closed");
        }
        leave(h, s);
        return;
    }
    if (s->place == WAITING && now_us >= h->started_us + HUB_GRACE_US) {
        seat_member(h, s, now_us);
    }
    (void)wire_flush(s->link);
}

/* To a worker that does not know its number yet, the roster has itself in it too. */
static void tell_roster(hub *h, seat *to) {
    message_member list[LIMIT_WORKERS];
    message m = {.type = MESSAGE_ROSTER};
    m.roster.list = list;
    m.roster.holds = h->holds;
    for (int i = 0; i < MEMBERS_MAX; i++) {
        const seat *s = &h->seats[i];
        if (s->place == MEMBER && s->who.kind == HANDSHAKE_WORKER && (s->knows || s == to)) {
            list[m.roster.count++] = (message_member){s->number, s->who.epoch, s->hello.hello.roles,
                                                      s->hello.hello.address};
        }
    }
    tell(h, to, &m);
}

static void broadcast(hub *h) {
    for (int i = 0; i < MEMBERS_MAX; i++) {
        if (h->seats[i].place == MEMBER) {
            tell_roster(h, &h->seats[i]);
        }
    }
}

/* ---- the thread ----------------------------------------------------------------------------- */

static void turn(hub *h, int64_t now_us) {
    mesh_event e;
    while (mesh_next(h->mesh, now_us, &e)) {
        if (e.type == MESH_ACCEPTED) {
            accept_link(h, &e, now_us);
        }
    }
    for (int i = 0; i < MEMBERS_MAX; i++) {
        if (h->seats[i].place != FREE) {
            serve_seat(h, &h->seats[i], now_us);
        }
    }
    /* Members hear of the hub every second, changed or not: that is its heartbeat. */
    if (h->changed || now_us >= h->beat_us) {
        h->changed = false;
        h->beat_us = now_us + BEAT_US;
        broadcast(h);
    }
}

static void *hub_thread(void *argument) {
    hub *h = argument;
    (void)pthread_setname_np(pthread_self(), "weir-hub");
    for (;;) {
        struct pollfd p[2] = {{mesh_fd(h->mesh), POLLIN, 0}, {h->stop_fd, POLLIN, 0}};
        (void)poll(p, 2, TURN_MS);
        if (p[1].revents) {
            return NULL;
        }
        (void)pthread_mutex_lock(&h->lock);
        turn(h, clock_now_us());
        (void)pthread_mutex_unlock(&h->lock);
    }
}

/* ---- other threads -------------------------------------------------------------------------- */

static void look_at(hub *h, hub_view *out) {
    *out = (hub_view){.counters = h->load.sums, .held = hubload_held(&h->load)};
    for (int i = 0; i < MEMBERS_MAX; i++) {
        const seat *s = &h->seats[i];
        if (s->place != MEMBER) {
            continue;
        }
        if (s->who.kind == HANDSHAKE_GATEWAY) {
            out->gateways++;
        } else if (s->knows) {
            out->workers[s->number].joined = true;
            out->workers[s->number].roles = s->hello.hello.roles;
            out->workers[s->number].pid = s->hello.hello.pid;
            out->workers[s->number].address = s->address;
            out->workers[s->number].beat = s->beat;
        }
    }
    uint64_t fresh = h->load.latencies_count - h->latencies_seen;
    out->latencies_count = fresh < HUBLOAD_LATENCIES ? (uint32_t)fresh : HUBLOAD_LATENCIES;
    for (uint32_t i = 0; i < out->latencies_count; i++) {
        uint64_t at = h->load.latencies_count - out->latencies_count + i;
        out->latencies[i] = h->load.latencies[at % HUBLOAD_LATENCIES];
    }
    h->latencies_seen = h->load.latencies_count;
}

void hub_look(hub *h, hub_view *out) {
    (void)pthread_mutex_lock(&h->lock);
    look_at(h, out);
    (void)pthread_mutex_unlock(&h->lock);
}

bool hub_tell(hub *h, uint32_t worker, const message *m) {
    (void)pthread_mutex_lock(&h->lock);
    seat *s = holder(h, worker);
    bool there = s != NULL && s->knows;
    if (there) {
        tell(h, s, m);
    }
    (void)pthread_mutex_unlock(&h->lock);
    return there;
}

void hub_set_open(hub *h, bool open) {
    (void)pthread_mutex_lock(&h->lock);
    for (int i = 0; i < MEMBERS_MAX && h->open && !open; i++) {
        if (h->seats[i].place != FREE) {
            leave(h, &h->seats[i]);
        }
    }
    if (open && !h->open) {
        h->started_us = clock_now_us(); /* those that come have numbers, as after a start */
    }
    h->open = open;
    (void)pthread_mutex_unlock(&h->lock);
}

void hub_set_holds(hub *h, bool holds) {
    (void)pthread_mutex_lock(&h->lock);
    h->changed = h->changed || h->holds != holds;
    h->holds = holds;
    (void)pthread_mutex_unlock(&h->lock);
}

static void give_back(hub *h) {
    for (int i = 0; i < MEMBERS_MAX; i++) {
        if (h->seats[i].place != FREE) {
            leave(h, &h->seats[i]);
        }
    }
    mesh_close(h->mesh);
    message_scratch_close(h->scratch);
    strbuf_close(&h->encoded);
    (void)pthread_mutex_destroy(&h->lock);
    if (h->stop_fd >= 0) {
        (void)close(h->stop_fd);
    }
    mem_free(h);
}

status hub_start(const hub_options *options, hub **out, diag *d) {
    hub *h = mem_calloc(1, sizeof *h);
    if (!h) {
        return status_fail(d, STATUS_NOMEM, "no memory for the hub");
    }
    (void)pthread_mutex_init(&h->lock, NULL);
    h->options = *options;
    h->open = !options->closed;
    h->numbers.reserved = options->reserved;
    h->encoded = strbuf_make(LIMIT_MESSAGE_BYTES);
    h->started_us = clock_now_us();
    mesh_options mo = {.self = {HANDSHAKE_HUB, 0, UINT32_MAX, mesh_new_epoch()},
                       .version_min = MESSAGE_VERSION_MIN,
                       .version_max = MESSAGE_VERSION};
    memcpy(mo.key, options->key.key, sizeof mo.key);
    h->stop_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    status s = h->stop_fd < 0 ? status_fail_errno(d, STATUS_IO, "eventfd") : STATUS_OK;
    if (s == STATUS_OK) {
        s = message_scratch_open(&h->scratch);
    }
    if (s == STATUS_OK) {
        s = mesh_open(&mo, &h->mesh, d);
    }
    if (s == STATUS_OK) {
        s = mesh_listen(h->mesh, &options->address, d);
    }
    if (s == STATUS_OK && pthread_create(&h->thread, NULL, hub_thread, h) != 0) {
        s = status_fail(d, STATUS_NOMEM, "no thread for the hub");
    }
    if (s != STATUS_OK) {
        give_back(h);
        return s;
    }
    *out = h;
    return STATUS_OK;
}

hostport hub_address(const hub *h) {
    return mesh_address(h->mesh);
}

void hub_stop(hub *h) {
    if (h) {
        uint64_t one = 1;
        ssize_t n = write(h->stop_fd, &one, sizeof one);
        (void)n; /* a full counter wakes it all the same */
        (void)pthread_join(h->thread, NULL);
        give_back(h);
    }
}
