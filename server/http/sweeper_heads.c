/* sweeper_heads.c -- reads heads without taking them, and refuses what the guard does not pass. */
#define _GNU_SOURCE
#include <errno.h>
#include <string.h>
#include <sys/epoll.h>

#include "engine/base/clock.h"
#include "server/http/refusal.h"
#include "server/http/sweeper_table.h"

enum {
    SWEEPER_HEADS_RECEIVES = 64, /* of a refused client's bytes in a row */
    SWEEPER_RETRY_AFTER_S = 1
};

/* The lock is held. Writes a whole answer by hand, then throws away what the client still sends:
 * closing at once would reset the connection and lose the answer on its way. */
void sweeper_heads_refuse(sweeper *s, sweeper_slot *slot, int code, const char *reason) {
    diag d;
    (void)status_fail(&d, STATUS_INVALID, "%s", reason);
    strbuf body = strbuf_make(4096);
    strbuf text = strbuf_make(8192);
    refusal_write(&body, code, &d);
    strbuf_printf(&text,
                  "HTTP/1.1 %d %s\r\nContent-Type: application/json\r\nContent-Length: %zu\r\n"
                  "Connection: close\r\n",
                  code, refusal_phrase(code), body.bytes);
    if (code == 503) {
        strbuf_printf(&text, "Retry-After: %d\r\n", SWEEPER_RETRY_AFTER_S);
    }
    strbuf_append_z(&text, "\r\n");
    strbuf_append_str(&text, strbuf_str(&body));
    ssize_t n = text.failed ? -1 : send(slot->fd, text.data, text.bytes, MSG_NOSIGNAL);
    (void)n; /* it fits an empty send buffer, or the client is gone */
    strbuf_close(&body);
    strbuf_close(&text);
    (void)shutdown(slot->fd, SHUT_WR);
    slot->state = SWEEPER_LINGER;
    slot->deadline_us = clock_now_us() + SWEEPER_LINGER_US;
    sweeper_slots_watch(s, slot, EPOLL_CTL_MOD, EPOLLIN | EPOLLRDHUP);
}

/* The lock is held. Nobody peeks now: what came is remembered, for it comes only once. */
static void sweeper_heads_note(sweeper_slot *slot, uint32_t events) {
    slot->early = slot->early || (events & EPOLLIN) != 0;
    slot->half_closed = (events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR)) != 0;
}

static void sweeper_heads_linger(sweeper *s, sweeper_slot *slot, sweeper_after *a) {
    for (int i = 0; i < SWEEPER_HEADS_RECEIVES; i++) {
        ssize_t n = recv(slot->fd, s->peeked, LIMIT_HEADER_BYTES, MSG_DONTWAIT);
        if (n < 0 && (errno == EAGAIN || errno == EINTR)) {
            return;
        }
        if (n <= 0) {
            break;
        }
    }
    sweeper_slots_shut(s, slot, a);
}

/* `seen` bytes of the socket begin with this head. */
static void sweeper_heads_pass(sweeper *s, sweeper_slot *slot, const guard_head *head, size_t seen,
                               sweeper_after *a) {
    slot->head = *head;
    /* MHD would read what is behind this request, and nobody serve it. */
    slot->head.keep = head->keep && (int64_t)(seen - head->bytes) <= head->body_bytes;
    slot->head.method = str_of(NULL, 0); /* they point into the peek buffer */
    slot->head.target = str_of(NULL, 0);
    slot->passed = true;
    slot->partial = false;
    slot->peeks = 0;
    slot->deadline_us = clock_now_us() + s->options.body_deadline_us;
    slot->early = false;
    if (slot->state == SWEEPER_HEAD) {
        a->hand_fd = slot->fd;
    } else {
        a->resume = slot->connection;
    }
    slot->state = SWEEPER_BODY;
}

/* The lock is held. Looks at what has come of a head. */
void sweeper_heads_peek(sweeper *s, sweeper_slot *slot, sweeper_after *a) {
    ssize_t n = recv(slot->fd, s->peeked, LIMIT_HEADER_BYTES, MSG_PEEK | MSG_DONTWAIT);
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) {
        return;
    }
    if (n <= 0) {
        sweeper_slots_shut(s, slot, a);
        return;
    }
    if (!slot->partial) {
        slot->partial = true;
        if (slot->state == SWEEPER_IDLE) {
            slot->deadline_us = clock_now_us() + s->options.head_deadline_us;
        }
    }
    slot->peeks++;
    guard_head head;
    switch (guard_read(s->peeked, (size_t)n, &head)) {
        case GUARD_MORE:
            break;
        case GUARD_PASS:
            sweeper_heads_pass(s, slot, &head, (size_t)n, a);
            break;
        case GUARD_REFUSE:
            s->counts.refused_head++;
            sweeper_heads_refuse(s, slot, head.code, head.reason);
            break;
    }
}

/* The lock is held. */
void sweeper_heads_event(sweeper *s, sweeper_slot *slot, uint32_t events, sweeper_after *a) {
    switch (slot->state) {
        case SWEEPER_HEAD:
        case SWEEPER_IDLE:
            if (slot->peeks < SWEEPER_PEEKS_MAX || (events & (EPOLLRDHUP | EPOLLHUP)) != 0) {
                sweeper_heads_peek(s, slot, a);
            }
            slot->half_closed = (events & (EPOLLRDHUP | EPOLLHUP)) != 0;
            if (slot->half_closed && (slot->state == SWEEPER_HEAD || slot->state == SWEEPER_IDLE)) {
                sweeper_slots_shut(s, slot, a); /* the rest of this head will never come */
            }
            break;
        case SWEEPER_LINGER:
            sweeper_heads_linger(s, slot, a);
            break;
        case SWEEPER_SERVE:
            sweeper_heads_note(slot, events);
            if (slot->half_closed) {
                exchange_hold(slot->served);
                a->left = slot->served;
            }
            break;
        case SWEEPER_BODY:
            sweeper_heads_note(slot, events);
            break;
        case SWEEPER_FREE:
        case SWEEPER_CLOSING:
            break;
    }
}

/* The lock is held. A deadline has passed. */
void sweeper_heads_expire(sweeper *s, sweeper_slot *slot, sweeper_after *a) {
    bool partial_head =
        slot->partial && (slot->state == SWEEPER_HEAD || slot->state == SWEEPER_IDLE);
    if (slot->state != SWEEPER_LINGER) {
        s->counts.expired++;
    }
    if (slot->state == SWEEPER_BODY && slot->connection == NULL) {
        /* MHD had no memory to begin with it, and has closed it. */
        sweeper_slots_free(s, slot);
    } else if (partial_head) {
        sweeper_heads_refuse(s, slot, 408, "the request head did not arrive in time");
    } else {
        sweeper_slots_shut(s, slot, a);
    }
}
