/* cluster.c -- roster in, dials out. */
#define _GNU_SOURCE
#include "server/gateway/cluster.h"

#include <string.h>
#include <unistd.h>

#include "engine/base/check.h"
#include "engine/base/clock.h"
#include "engine/base/log.h"
#include "engine/base/mem.h"

enum { BACKOFF_FIRST_US = 100000, BACKOFF_MAX_US = 2000000 };

typedef struct {
    bool named, calling, failed_said;
    member_entry entry;
    int64_t due_us, backoff_us;
} target;

struct cluster {
    cluster_options options;
    uint64_t epoch;
    mesh *mesh;
    member *member;
    bool had_roster;
    cluster_load *load; /* NULL: none yet */
    void *load_self;
    target targets[LIMIT_WORKERS];
};

static void fill_hello(void *self, message_hello *out) {
    const cluster *c = self;
    *out = (message_hello){.version = MESSAGE_VERSION,
                           .worker = MESSAGE_NO_WORKER,
                           .epoch = c->epoch,
                           .pid = (uint32_t)getpid(),
                           .model_hash = c->options.model_hash};
}

static void fill_beat(void *self, message *out) {
    const cluster *c = self;
    if (c->load) {
        *out = (message){.type = MESSAGE_LOAD};
        c->load(c->load_self, &out->load);
    }
}

void cluster_tell(cluster *c, cluster_load *load, void *self) {
    c->load = load;
    c->load_self = self;
}

bool cluster_holds(const cluster *c) {
    return member_holds(c->member);
}

status cluster_open(const cluster_options *options, cluster **out, diag *d) {
    cluster *c = mem_calloc(1, sizeof *c);
    if (!c) {
        return status_fail(d, STATUS_NOMEM, "no memory for the cluster");
    }
    c->options = *options;
    c->epoch = mesh_new_epoch();
    mesh_options mo = {.self = {HANDSHAKE_GATEWAY, 0, UINT32_MAX, c->epoch},
                       .version_min = MESSAGE_VERSION_MIN,
                       .version_max = MESSAGE_VERSION};
    memcpy(mo.key, options->key.key, sizeof mo.key);
    status s = mesh_open(&mo, &c->mesh, d);
    if (s == STATUS_OK) {
        member_options me = {.hubs = options->hubs,
                             .mesh = c->mesh,
                             .hello = fill_hello,
                             .beat = fill_beat,
                             .self = c};
        s = member_open(&me, &c->member, d);
    }
    if (s != STATUS_OK) {
        cluster_close(c);
        return s;
    }
    *out = c;
    return STATUS_OK;
}

void cluster_close(cluster *c) {
    if (c) {
        member_close(c->member);
        mesh_close(c->mesh);
        mem_free(c);
    }
}

int cluster_fd(const cluster *c) {
    return mesh_fd(c->mesh);
}

static void take_roster(cluster *c) {
    uint32_t count;
    const member_entry *list = member_roster(c->member, &count);
    c->had_roster = true;
    for (uint32_t i = 0; i < LIMIT_WORKERS; i++) {
        c->targets[i].named = false;
    }
    for (uint32_t i = 0; i < count; i++) {
        target *t = &c->targets[list[i].worker];
        if (t->entry.epoch != list[i].epoch) {
            *t = (target){.calling = t->calling, .backoff_us = BACKOFF_FIRST_US};
        }
        t->entry = list[i];
        t->named = list[i].worker >= c->options.local;
    }
}

static bool on_call(cluster *c, const mesh_event *e, int64_t now_us, cluster_event *out) {
    CHECK_LT(e->tag, LIMIT_WORKERS);
    target *t = &c->targets[e->tag];
    t->calling = false;
    if (e->type == MESH_CONNECTED) {
        *out = (cluster_event){CLUSTER_LINK, (uint32_t)e->tag, e->peer.epoch,
                               e->fd,        e->keys,          {.text = ""}};
        t->failed_said = false;
        t->backoff_us = BACKOFF_FIRST_US;
        t->due_us = now_us + BACKOFF_FIRST_US; /* should it end at once */
        return true;
    }
    if (!t->failed_said) {
        t->failed_said = true;
        LOG(WARN, "cluster", "no connection to a worker", "worker=%u why=\"%s\"", (uint32_t)e->tag,
            e->why.text);
    }
    t->due_us = now_us + t->backoff_us;
    t->backoff_us = t->backoff_us * 2 < BACKOFF_MAX_US ? t->backoff_us * 2 : BACKOFF_MAX_US;
    return false;
}

static void dial(cluster *c, uint32_t worker, int64_t now_us) {
    target *t = &c->targets[worker];
    mesh_call call = {
        .address = t->entry.address,
        .purpose = HANDSHAKE_CONTROL,
        .expects = true,
        .expected = {HANDSHAKE_WORKER, message_roles_able(t->entry.roles), worker, t->entry.epoch},
        .tag = worker};
    t->calling = mesh_dial(c->mesh, &call, now_us) == STATUS_OK;
}

bool cluster_next(cluster *c, const uint64_t *linked, int64_t now_us, cluster_event *out) {
    mesh_event e;
    while (mesh_next(c->mesh, now_us, &e)) {
        if (e.tag == MEMBER_TAG) {
            member_event(c->member, &e, now_us);
        } else if (on_call(c, &e, now_us, out)) {
            return true;
        }
    }
    diag why;
    for (member_news n; (n = member_poll(c->member, now_us, &why)) != MEMBER_NOTHING;) {
        if (n == MEMBER_ROSTER) {
            take_roster(c);
        }
        if (n != MEMBER_REFUSED) {
            continue; /* orders are for workers */
        }
        LOG(ERROR, "cluster", "the hub refuses this gateway", "why=\"%s\"", why.text);
        if (!c->had_roster) {
            *out = (cluster_event){.type = CLUSTER_REFUSED, .fd = -1, .why = why};
            return true;
        }
    }
    for (uint32_t i = 0; i < LIMIT_WORKERS; i++) {
        target *t = &c->targets[i];
        if (!t->named || t->calling) {
            continue;
        }
        if (linked[i] && linked[i] != t->entry.epoch) {
            *out = (cluster_event){.type = CLUSTER_STALE, .worker = i, .fd = -1};
            return true;
        }
        if (!linked[i] && now_us >= t->due_us) {
            dial(c, i, now_us);
        }
    }
    return false;
}
