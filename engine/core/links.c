/* links.c -- the worker's links, and the transfers under way on them. */
#include "engine/core/links.h"

#include <string.h>

#include "engine/base/check.h"

uint64_t links_bytes(uint32_t count_max) {
    CHECK(count_max > 0);
    return (uint64_t)count_max *
               (sizeof(links_link) +
                (LINKS_SENDS_MAX + LINKS_RECEIVES_MAX) * sizeof(links_transfer) + 128) +
           128;
}

status links_open(links *l, arena *a, uint32_t count_max) {
    CHECK(count_max > 0);
    l->list = ARENA_TAKE(a, count_max, links_link);
    l->count_max = count_max;
    if (!l->list) {
        return STATUS_NOMEM;
    }
    for (uint32_t i = 0; i < count_max; i++) {
        l->list[i].sends = ARENA_TAKE(a, LINKS_SENDS_MAX, links_transfer);
        l->list[i].receives = ARENA_TAKE(a, LINKS_RECEIVES_MAX, links_transfer);
        if (!l->list[i].sends || !l->list[i].receives) {
            return STATUS_NOMEM;
        }
    }
    return STATUS_OK;
}

links_link *links_get(const links *l, uint32_t peer) {
    if (peer >= l->count_max || !l->list[peer].up || l->list[peer].closing) {
        return NULL;
    }
    return &l->list[peer];
}

uint32_t links_find(const links *l, uint32_t worker, uint64_t epoch) {
    for (uint32_t i = 0; i < l->count_max; i++) {
        const links_link *k = links_get(l, i);
        if (k && k->kind == CORE_WORKER && k->worker == worker && k->epoch == epoch) {
            return i;
        }
    }
    return LINKS_NONE;
}

static links_transfer *links_add(links_transfer *list, uint32_t count, uint32_t *next) {
    links_transfer *t = &list[*next % count];
    if (t->state != LINKS_FREE) {
        return NULL;
    }
    /* The page ids need no zeroing: pages_count says how many are meant. */
    memset(t, 0, offsetof(links_transfer, pages));
    t->sequence = (*next)++;
    return t;
}

links_transfer *links_send_add(links_link *k) {
    CHECK(k->up);
    return links_add(k->sends, LINKS_SENDS_MAX, &k->send_next);
}

links_transfer *links_receive_add(links_link *k) {
    CHECK(k->up);
    return links_add(k->receives, LINKS_RECEIVES_MAX, &k->receive_next);
}

links_transfer *links_send_find(links_link *k, uint32_t sequence) {
    links_transfer *t = &k->sends[sequence % LINKS_SENDS_MAX];
    return t->state != LINKS_FREE && t->sequence == sequence ? t : NULL;
}

links_transfer *links_receive_find(links_link *k, uint32_t sequence) {
    links_transfer *t = &k->receives[sequence % LINKS_RECEIVES_MAX];
    return t->state != LINKS_FREE && t->sequence == sequence ? t : NULL;
}

void links_pin(const links_transfer *t, blocks *b) {
    CHECK_EQ(t->state, LINKS_MOVING);
    CHECK(!t->junk);
    for (uint32_t i = 0; i < t->pages_count; i++) {
        blocks_pin(b, t->pages[i]);
    }
}

void links_finish(links_transfer *t, blocks *b) {
    CHECK(t->state != LINKS_FREE);
    if (t->state == LINKS_MOVING && !t->junk) {
        for (uint32_t i = 0; i < t->pages_count; i++) {
            blocks_unpin(b, t->pages[i]);
        }
    }
    t->state = LINKS_FREE;
}

void links_finish_all(links_link *k, blocks *b) {
    CHECK(k->up);
    for (uint32_t i = 0; i < LINKS_SENDS_MAX; i++) {
        if (k->sends[i].state != LINKS_FREE) {
            links_finish(&k->sends[i], b);
        }
    }
    for (uint32_t i = 0; i < LINKS_RECEIVES_MAX; i++) {
        if (k->receives[i].state != LINKS_FREE) {
            links_finish(&k->receives[i], b);
        }
    }
}
