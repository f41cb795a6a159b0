/* sweeper_slots.c -- takes, watches, shuts and frees the slots of connections. */
#define _GNU_SOURCE
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "engine/base/clock.h"
#include "engine/base/log.h"
#include "server/http/sweeper_table.h"

/* Watches for `events` from now on; an event that is there already comes again. */
void sweeper_slots_watch(sweeper *s, sweeper_slot *slot, int operation, uint32_t events) {
    struct epoll_event e = {.events = events | EPOLLET};
    e.data.u64 = sweeper_slot_id(s, slot);
    if (epoll_ctl(s->epoll_fd, operation, slot->fd, &e) != 0) {
        LOG(ERROR, "http", "epoll_ctl failed", "fd=%d errno=%d", slot->fd, errno);
    }
}

/* The lock is held; the socket is the caller's to close. */
void sweeper_slots_free(sweeper *s, sweeper_slot *slot) {
    (void)epoll_ctl(s->epoll_fd, EPOLL_CTL_DEL, slot->fd, NULL);
    uint32_t generation = slot->generation + 1;
    memset(slot, 0, sizeof *slot);
    slot->generation = generation;
    slot->fd = -1;
    s->counts.connections--;
}

/* MHD has refused a socket and closed it. */
static void sweeper_slots_forget(sweeper *s, int fd) {
    sweeper_table_lock(s);
    for (uint32_t i = 0; i < s->slots_count; i++) {
        sweeper_slot *slot = &s->slots[i];
        if (slot->fd == fd && slot->state != SWEEPER_FREE && slot->connection == NULL) {
            sweeper_slots_free(s, slot);
        }
    }
    sweeper_table_unlock(s);
}

void sweeper_slots_after(sweeper *s, sweeper_after *a) {
    if (a->left != NULL) {
        exchange_leave(a->left);
        exchange_drop(a->left);
    }
    if (a->resume != NULL) {
        sweeper_resume(s, a->resume);
    }
    if (a->hand_fd >= 0) {
        struct sockaddr_in any = {.sin_family = AF_INET};
        if (MHD_add_connection(s->daemon, a->hand_fd, (struct sockaddr *)&any, sizeof any) !=
            MHD_YES) {
            LOG(ERROR, "http", "connection not taken", "fd=%d", a->hand_fd);
            sweeper_slots_forget(s, a->hand_fd);
        }
    }
}

/* The lock is held. The connection is over as far as the sweeper goes: MHD closes what it has. */
void sweeper_slots_shut(sweeper *s, sweeper_slot *slot, sweeper_after *a) {
    (void)shutdown(slot->fd, SHUT_RDWR);
    if (slot->connection == NULL &&
        (slot->state == SWEEPER_HEAD || slot->state == SWEEPER_LINGER)) {
        int fd = slot->fd;
        sweeper_slots_free(s, slot);
        (void)close(fd);
        return;
    }
    /* Suspended in these two states, so MHD must be woken to see the end. */
    bool suspended = slot->state == SWEEPER_IDLE || slot->state == SWEEPER_LINGER;
    if (suspended) {
        a->resume = slot->connection;
    }
    slot->state = SWEEPER_CLOSING;
    slot->deadline_us = 0;
}

/* The address without its port, in IPv6 form. */
static void sweeper_slots_address(const struct sockaddr_storage *from, uint8_t out[16]) {
    memset(out, 0, 16);
    if (from->ss_family == AF_INET6) {
        memcpy(out, &((const struct sockaddr_in6 *)from)->sin6_addr, 16);
    } else if (from->ss_family == AF_INET) {
        memset(out + 10, 0xFF, 2);
        memcpy(out + 12, &((const struct sockaddr_in *)from)->sin_addr, 4);
    }
}

/* The lock is held. */
static bool sweeper_slots_have_room(const sweeper *s, const uint8_t address[16]) {
    uint32_t served = 0;
    uint32_t same = 0;
    for (uint32_t i = 0; i < s->slots_count; i++) {
        const sweeper_slot *slot = &s->slots[i];
        if (slot->state != SWEEPER_FREE && slot->state != SWEEPER_LINGER) {
            served++;
            same += memcmp(slot->address, address, 16) == 0;
        }
    }
    return served < s->options.connections_max &&
           (s->options.per_address_max == 0 || same < s->options.per_address_max);
}

void sweeper_slots_take(sweeper *s, int fd, const struct sockaddr_storage *from) {
    uint8_t address[16];
    sweeper_slots_address(from, address);
    /* Without it each event of a stream waits for the last one's acknowledgement: 40 ms. */
    int one = 1;
    (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    sweeper_table_lock(s);
    s->counts.accepted++;
    bool room = sweeper_slots_have_room(s, address);
    s->counts.refused_full += !room;
    sweeper_slot *slot = NULL;
    for (uint32_t i = 0; slot == NULL && i < s->slots_count; i++) {
        slot = s->slots[i].state == SWEEPER_FREE ? &s->slots[i] : NULL;
    }
    if (slot != NULL) {
        s->counts.connections++;
        slot->fd = fd;
        slot->state = SWEEPER_HEAD;
        slot->deadline_us = clock_now_us() + s->options.head_deadline_us;
        memcpy(slot->address, address, 16);
        sweeper_slots_watch(s, slot, EPOLL_CTL_ADD, EPOLLIN | EPOLLRDHUP);
        if (!room) {
            sweeper_heads_refuse(s, slot, 503, "too many connections");
        }
    }
    sweeper_table_unlock(s);
    if (slot == NULL) {
        (void)close(fd);
    }
}
