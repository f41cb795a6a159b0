/* links_test.c -- links and the transfers under way on them. */
#include "engine/core/links.h"

#include <criterion/criterion.h>

typedef struct {
    arena a;
    links l;
    blocks *b;
} world;

static world make(void) {
    world w;
    cr_assert_eq(arena_open(&w.a, links_bytes(3) + blocks_bytes(8)), STATUS_OK);
    cr_assert_eq(links_open(&w.l, &w.a, 3), STATUS_OK);
    cr_assert_eq(blocks_create(&w.a, 8, 1, &w.b), STATUS_OK);
    w.l.list[1] = (links_link){.up = true,
                               .kind = CORE_WORKER,
                               .worker = 7,
                               .epoch = 2,
                               .sends = w.l.list[1].sends,
                               .receives = w.l.list[1].receives};
    return w;
}

Test(links, are_found_by_worker_and_life_while_they_are_up) {
    world w = make();
    cr_assert_eq(links_find(&w.l, 7, 2), 1);
    cr_assert_eq(links_find(&w.l, 7, 1), LINKS_NONE, "another life of that worker");
    cr_assert_null(links_get(&w.l, 0));
    cr_assert_null(links_get(&w.l, LINKS_NONE));
    w.l.list[1].closing = true;
    cr_assert_eq(links_find(&w.l, 7, 2), LINKS_NONE);
    arena_close(&w.a);
}

Test(links, window_opens_in_the_order_of_numbers) {
    world w = make();
    links_link *k = links_get(&w.l, 1);
    for (uint32_t i = 0; i < LINKS_SENDS_MAX; i++) {
        links_transfer *t = links_send_add(k);
        cr_assert_eq(t->sequence, i);
        t->state = LINKS_ANNOUNCED;
    }
    cr_assert_null(links_send_add(k));
    links_finish(links_send_find(k, 1), w.b);
    cr_assert_null(links_send_add(k), "number 0 is unfinished");
    links_finish(links_send_find(k, 0), w.b);
    cr_assert_eq(links_send_add(k)->sequence, LINKS_SENDS_MAX);
    cr_assert_null(links_send_find(k, 0), "the slot has another number now");
    arena_close(&w.a);
}

Test(links, end_of_a_link_ends_its_transfers_and_frees_their_pages) {
    world w = make();
    links_link *k = links_get(&w.l, 1);
    uint32_t ids[3];
    cr_assert(blocks_take(w.b, 3, ids));
    for (int i = 0; i < 2; i++) {
        links_transfer *t = i == 0 ? links_send_add(k) : links_receive_add(k);
        t->state = LINKS_MOVING;
        t->pages_count = 2;
        t->pages[0] = ids[0];
        t->pages[1] = ids[1 + i];
        links_pin(t, w.b);
    }
    cr_assert_eq(blocks_pins(w.b, ids[0]), 2);
    links_transfer *junk = links_send_add(k);
    junk->state = LINKS_MOVING;
    junk->junk = true;
    junk->pages_count = 1;
    for (int i = 0; i < 3; i++) {
        blocks_drop(w.b, ids[i]);
    }
    cr_assert_eq(blocks_count(w.b).quarantined, 3);
    links_finish_all(k, w.b);
    cr_assert_eq(blocks_count(w.b).free, 8);
    blocks_validate(w.b);
    arena_close(&w.a);
}
