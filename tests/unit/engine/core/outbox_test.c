/* outbox_test.c -- actions wait in order, their tokens with them. */
#include "engine/core/outbox.h"

#include <criterion/criterion.h>

Test(outbox, gives_actions_back_in_order_and_its_room_when_empty) {
    arena a;
    outbox o;
    cr_assert_eq(arena_open(&a, outbox_bytes(3, 4)), STATUS_OK);
    cr_assert_eq(outbox_open(&o, &a, 3, 4), STATUS_OK);
    for (int round = 0; round < 3; round++) {
        cr_assert(outbox_is_empty(&o));
        outbox_add(&o, CORE_SEND, 1)->message.attempt = 7;
        request_token *t = outbox_tokens(&o, 4);
        cr_assert_eq(t[3].token, 0, "room is clean again");
        t[3].token = 5;
        outbox_add(&o, CORE_CLOSE, 2);
        const core_action *first = outbox_take(&o);
        cr_assert(first->kind == CORE_SEND && first->message.attempt == 7);
        outbox_add(&o, CORE_SEND, 3);
        cr_assert_eq(outbox_take(&o)->kind, CORE_CLOSE);
        cr_assert_eq(outbox_take(&o)->peer, 3);
        cr_assert_null(outbox_take(&o));
    }
    arena_close(&a);
}
