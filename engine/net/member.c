/* member.c -- one link, one roster, a back-off. */
#define _GNU_SOURCE
#include "engine/net/member.h"

#include <string.h>
#include <unistd.h>

#include "engine/base/check.h"
#include "engine/base/log.h"
#include "engine/base/mem.h"

enum {
    BACKOFF_FIRST_US = 50000,
    BACKOFF_MAX_US = 500000,
    REFUSED_US = 2000000,
    SILENCE_US = 5000000,
    OUT_BYTES_MAX = 1 << 20
};

struct member {
    member_options options;
    wire *link;   /* NULL: none */
    uint32_t hub; /* of options.hubs: the one that is dialled, or there */
    bool dialling, left, changed, holds, lost_said;
    bool ordered;
    message order;
    int64_t dial_us, beat_us, heard_us, backoff_us;
    hostport local;
    message_scratch *scratch;
    strbuf encoded;
    member_entry roster[LIMIT_WORKERS];
    uint32_t roster_count;
    bool refused;
    diag why;
};

status member_hubs_read(const clusterkey *key, const char *text, const char *what, member_hubs *out,
                        diag *d) {
    *out = (member_hubs){.count = 0};
    for (str rest = str_from(text); out->count == 0 || rest.bytes > 0;) {
        char one[HOSTPORT_TEXT_BYTES + 256];
        const char *comma = memchr(rest.data, ',', rest.bytes);
        size_t bytes = comma ? (size_t)(comma - rest.data) : rest.bytes;
        if (out->count == MEMBER_HUBS_MAX || bytes >= sizeof one) {
            return status_fail(d, STATUS_INVALID, "--%s: at most %d addresses HOST:PORT", what,
                               MEMBER_HUBS_MAX);
        }
        memcpy(one, rest.data, bytes);
        one[bytes] = 0;
        TRY(clusterkey_address(key, one, what, &out->list[out->count], d));
        out->count++;
        bytes += comma ? 1 : 0;
        rest = str_of(rest.data + bytes, rest.bytes - bytes);
    }
    return STATUS_OK;
}

status member_open(const member_options *options, member **out, diag *d) {
    member *m = mem_calloc(1, sizeof *m);
    if (!m || message_scratch_open(&m->scratch) != STATUS_OK) {
        mem_free(m);
        return status_fail(d, STATUS_NOMEM, "no memory for the link to the hub");
    }
    m->options = *options;
    m->backoff_us = BACKOFF_FIRST_US;
    m->encoded = strbuf_make(LIMIT_MESSAGE_BYTES);
    *out = m;
    return STATUS_OK;
}

static void drop(member *m) {
    if (m->link) {
        mesh_unwatch(m->options.mesh, wire_fd(m->link));
        wire_close(m->link);
        m->link = NULL;
    }
}

void member_close(member *m) {
    if (m) {
        drop(m);
        message_scratch_close(m->scratch);
        strbuf_close(&m->encoded);
        mem_free(m);
    }
}

void member_leave(member *m) {
    m->left = true;
    drop(m);
}

const message *member_order(const member *m) {
    return &m->order;
}

bool member_holds(const member *m) {
    return m->holds;
}

bool member_connected(const member *m) {
    return m->link != NULL;
}

hostport member_local(const member *m) {
    return m->local;
}

const member_entry *member_roster(const member *m, uint32_t *count) {
    *count = m->roster_count;
    return m->roster;
}

static void send_message(member *m, const message *what) {
    strbuf_clear(&m->encoded);
    if (message_encode(what, &m->encoded) != STATUS_OK ||
        wire_send(m->link, strbuf_str(&m->encoded), -1) != STATUS_OK) {
        drop(m);
    }
}

void member_greet(member *m) {
    message hello = {.type = MESSAGE_HELLO};
    m->options.hello(m->options.self, &hello.hello);
    if (m->link) {
        send_message(m, &hello);
    }
}

static void lost(member *m, int64_t now_us, const char *why) {
    if (!m->lost_said) {
        m->lost_said = true;
        LOG(WARN, "member", "no link to the hub: going on without, and dialling", "why=\"%s\"",
            why);
    }
    drop(m);
    m->hub = (m->hub + 1) % m->options.hubs.count;
    m->dial_us = now_us + m->backoff_us;
    m->backoff_us = m->backoff_us * 2 < BACKOFF_MAX_US ? m->backoff_us * 2 : BACKOFF_MAX_US;
}

static void refused(member *m, int64_t now_us, const char *why) {
    m->refused = true;
    (void)status_fail(&m->why, STATUS_MISMATCH, "%s", why);
    drop(m);
    m->hub = (m->hub + 1) % m->options.hubs.count;
    m->dial_us = now_us + REFUSED_US;
}

void member_event(member *m, const mesh_event *e, int64_t now_us) {
    CHECK(e->tag == MEMBER_TAG);
    m->dialling = false;
    if (e->type == MESH_FAILED) {
        if (e->refused) {
            refused(m, now_us, e->why.text);
        } else {
            lost(m, now_us, e->why.text);
        }
        return;
    }
    if (m->left || wire_open_waiting(OUT_BYTES_MAX, &m->link) != STATUS_OK) {
        (void)close(e->fd);
        return;
    }
    if (wire_attach(m->link, e->fd, &e->keys) != STATUS_OK ||
        hostport_local(e->fd, &m->local) != STATUS_OK || !mesh_watch(m->options.mesh, e->fd)) {
        lost(m, now_us, "no memory");
        return;
    }
    m->heard_us = m->beat_us = now_us;
    member_greet(m);
}

static void take_roster(member *m, const message *r) {
    m->roster_count = 0;
    for (uint32_t i = 0; i < r->roster.count; i++) {
        const message_member *w = &r->roster.list[i];
        member_entry *entry = &m->roster[m->roster_count];
        *entry = (member_entry){.worker = w->worker, .epoch = w->epoch, .roles = w->roles};
        if (hostport_parse(w->address, true, &entry->address, NULL) == STATUS_OK) {
            m->roster_count++;
        }
    }
    m->holds = r->roster.holds;
    m->changed = true;
    if (m->lost_said) {
        m->lost_said = false;
        LOG(INFO, "member", "back at the hub", "workers=%u", m->roster_count);
    }
    m->backoff_us = BACKOFF_FIRST_US; /* only now is the hub of use again */
}

/* False when the link has ended. Stops at an order, which is to be carried out before the next. */
static bool read_link(member *m, int64_t now_us) {
    str bytes;
    int fd;
    wire_result r = WIRE_AGAIN;
    while (!m->ordered && (r = wire_receive(m->link, &bytes, &fd)) == WIRE_MESSAGE) {
        message got;
        diag d;
        m->heard_us = now_us;
        if (message_decode(bytes, m->scratch, &got, &d) != STATUS_OK) {
            lost(m, now_us, d.text);
            return false;
        }
        if (got.type == MESSAGE_ROSTER) {
            take_roster(m, &got);
        } else if (got.type == MESSAGE_ROLE || got.type == MESSAGE_DRAIN) {
            m->order = got; /* plain values */
            m->ordered = true;
        } else if (got.type == MESSAGE_GOODBYE) {
            char text[MESSAGE_GOODBYE_BYTES + 1] = "";
            memcpy(text, got.goodbye.data, got.goodbye.bytes);
            refused(m, now_us, text);
            return false;
        }
    }
    if (r == WIRE_CLOSED || now_us - m->heard_us > SILENCE_US) {
        lost(m, now_us, r == WIRE_CLOSED ? "it hung up" : "it is silent");
        return false;
    }
    return true;
}

static void dial(member *m, int64_t now_us) {
    mesh_call call = {
        .address = m->options.hubs.list[m->hub], .purpose = HANDSHAKE_CONTROL, .tag = MEMBER_TAG};
    m->dialling = mesh_dial(m->options.mesh, &call, now_us) == STATUS_OK;
    if (!m->dialling) {
        lost(m, now_us, "too many connections under way");
    }
}

member_news member_poll(member *m, int64_t now_us, diag *why) {
    if (!m->link && !m->dialling && !m->left && now_us >= m->dial_us) {
        dial(m, now_us);
    }
    if (m->link && read_link(m, now_us)) {
        if (now_us >= m->beat_us) {
            m->beat_us = now_us + MEMBER_BEAT_US;
            message beat = {.type = MESSAGE_HEARTBEAT};
            if (m->options.beat) {
                m->options.beat(m->options.self, &beat);
            }
            send_message(m, &beat);
        }
        if (m->link) {
            (void)wire_flush(m->link);
        }
    }
    if (m->refused) {
        m->refused = false;
        *why = m->why;
        return MEMBER_REFUSED;
    }
    if (m->changed) {
        m->changed = false;
        return MEMBER_ROSTER;
    }
    if (m->ordered) {
        m->ordered = false;
        return MEMBER_ORDER;
    }
    return MEMBER_NOTHING;
}
