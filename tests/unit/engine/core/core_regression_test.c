/* core_regression_test.c -- what the simulator found in the core, each as the shortest case. */
#include "engine/core/core.h"

#include <criterion/criterion.h>

#include "tests/support/corenet.h"

enum { P = 0, D = 1, FROM_D = CORENET_FIRST + D };

/* Request 1 loses its pages to request 2, which is granted sooner, and is granted then. It is the
 * older one and finds no pages; request 2 must be computed all the same, or both wait for ever. */
Test(core_regression, prompt_without_pages_does_not_stop_a_younger_one_that_has_its_own) {
    corenet_options o = corenet_defaults();
    o.core.pages = 6;
    corenet *n = corenet_open(&o);
    int32_t prompt[160];
    for (int32_t i = 0; i < 160; i++) {
        prompt[i] = i;
    }
    request_params params = corenet_params(8);
    corenet_submit(n, P, 1, 1, D, prompt, 80, 80, &params);
    cr_assert(corenet_step(n, P));
    corenet_submit(n, P, 2, 1, D, prompt + 80, 80, 80, &params);
    message grant = {.type = MESSAGE_GRANT, .request = 2, .attempt = 1, .pages = 6};
    corenet_say(n, P, FROM_D, &grant);
    cr_assert(corenet_step(n, P));
    cr_assert_eq(corenet_stats(n, P).evictions, 1);
    grant.request = 1;
    corenet_say(n, P, FROM_D, &grant);
    while (corenet_step(n, P)) {
    }
    cr_assert_eq(corenet_queued(n, P, D, MESSAGE_HANDOFF), 1);
    cr_assert_eq(corenet_stats(n, P).handoffs, 1);
    corenet_close(n);
}

/* A worker that turns requests away used to keep their early grants for a lease, and these pushed
 * out the grant of a request that it had taken: D waited for pages, P for the grant, for ever. */
Test(core_regression, grants_of_requests_turned_away_do_not_push_out_others) {
    corenet_options o = corenet_defaults();
    o.core.seqs_max = 2;
    o.core.queue_max = 1;
    o.core.tombstones_max = 1;
    corenet *n = corenet_open(&o);
    int32_t prompt[20] = {1, 2, 3};
    request_params params = corenet_params(8);
    message grant = {.type = MESSAGE_GRANT, .attempt = 1, .pages = 2};
    for (request_id id = 1; id <= 4; id++) {
        corenet_submit(n, P, id, 1, D, prompt, 20, 20, &params); /* full from here on */
    }
    grant.request = 50;
    corenet_say(n, P, FROM_D, &grant);
    for (request_id id = 100; id < 130; id++) {
        grant.request = id;
        corenet_say(n, P, FROM_D, &grant);
        corenet_submit(n, P, id, 1, D, prompt, 20, 20, &params);
    }
    cr_assert_eq(corenet_stats(n, P).rejects, 30);
    cr_assert_eq(corenet_stats(n, P).parked_grants, 1);
    for (request_id id = 1; id <= 4; id++) {
        corenet_cancel(n, P, id, 1);
    }
    corenet_submit(n, P, 50, 1, D, prompt, 20, 20, &params);
    while (corenet_step(n, P)) {
    }
    cr_assert_eq(corenet_stats(n, P).handoffs, 1);
    corenet_close(n);
}

/* More early grants than can be kept: the link ends, so that the gateway tries again. */
Test(core_regression, grant_that_cannot_be_kept_ends_the_link) {
    corenet_options o = corenet_defaults();
    o.core.seqs_max = 1;
    o.core.queue_max = 0;
    o.core.tombstones_max = 1;
    corenet *n = corenet_open(&o);
    message grant = {.type = MESSAGE_GRANT, .attempt = 1, .pages = 2};
    while (!corenet_asked_close(n, P, FROM_D)) {
        grant.request++;
        cr_assert_lt(grant.request, 100);
        corenet_say(n, P, FROM_D, &grant);
    }
    cr_assert_eq(corenet_stats(n, P).parked_grants, grant.request - 1);
    corenet_close(n);
}

/* P works for request 1 up to a transfer under way, on a pool that holds one prompt of five pages.
 */
static corenet *one_in_transfer(void) {
    static int32_t prompt[80];
    corenet_options o = corenet_defaults();
    o.core.pages = 6;
    corenet *n = corenet_open(&o);
    request_params params = corenet_params(8);
    corenet_submit(n, P, 1, 1, D, prompt, 80, 80, &params);
    corenet_reserve(n, D, 1, 1, P, prompt, 80, 80, &params);
    while (corenet_step(n, P)) {
    }
    while (corenet_flying(n, P, D) == 0) {
        cr_assert(corenet_deliver(n, D, P) || corenet_deliver(n, P, D));
    }
    return n;
}

/* A younger request that its D has granted gets the pages of request 1. */
static void check_pages_can_be_taken(corenet *n) {
    int32_t other[80] = {1, 2, 3};
    request_params params = corenet_params(8);
    while (corenet_land(n, P, D, false) || corenet_deliver(n, P, D) || corenet_deliver(n, D, P)) {
    }
    corenet_submit(n, P, 2, 1, D, other, 80, 80, &params);
    message grant = {.type = MESSAGE_GRANT, .request = 2, .attempt = 1, .pages = 6};
    corenet_say(n, P, FROM_D, &grant);
    cr_assert(corenet_step(n, P));
    cr_assert_eq(corenet_stats(n, P).evictions, 1);
    corenet_close(n);
}

/* D gives up a reservation and only the gateway hears of it. The gateway, which has no other D just
 * then, waits; so did P's pages, up to a lease, while the requests of others needed them. */
Test(core_regression, r7_pages_do_not_wait_for_a_grant_that_a_damaged_transfer_ended) {
    corenet *n = one_in_transfer();
    cr_assert(corenet_land(n, P, D, true));
    cr_assert_eq(corenet_count(n, D, MESSAGE_REJECT), 1);
    cr_assert_eq(corenet_queued(n, D, P, MESSAGE_REFUSED), 1);
    check_pages_can_be_taken(n);
}

Test(core_regression, r7_pages_do_not_wait_for_a_grant_that_went_with_the_gateways_link) {
    corenet *n = one_in_transfer();
    corenet_gateway_cut(n, D, CORENET_GATEWAY);
    cr_assert_eq(corenet_queued(n, D, P, MESSAGE_REFUSED), 1);
    check_pages_can_be_taken(n);
}

/* Two workers that have changed roles: each has reserved its room for a request whose prompt the
 * other has, and neither prompt finds pages. Leases are renewed, so both waited for ever. The
 * second request's reservation makes way for the first one's prompt, and never the other way. */
Test(core_regression, reservations_of_workers_that_changed_roles_do_not_wait_in_a_circle) {
    corenet_options o = corenet_defaults();
    o.core.pages = 6;
    o.roles[P] = o.roles[D] = MESSAGE_ROLE_PREFILL | MESSAGE_ROLE_DECODE;
    corenet *n = corenet_open(&o);
    int32_t prompt[80] = {1, 2, 3};
    int32_t other[80] = {4, 5, 6};
    request_params params = corenet_params(8);
    corenet_reserve(n, D, 1, 1, P, prompt, 80, 80, &params);
    corenet_reserve(n, P, 2, 1, D, other, 80, 80, &params);
    corenet_submit(n, P, 1, 1, D, prompt, 80, 80, &params);
    corenet_submit(n, D, 2, 1, P, other, 80, 80, &params);
    corenet_run(n);
    cr_assert_eq(corenet_count(n, D, MESSAGE_REFUSED), 0);
    cr_assert_eq(corenet_count(n, P, MESSAGE_REFUSED), 1);
    const message *refused = &corenet_last(n, P, MESSAGE_REFUSED)->m;
    cr_assert(refused->request == 2 && refused->reason == MESSAGE_REASON_ROLE);
    cr_assert_eq(corenet_stats(n, D).requests_finished, 1);
    corenet_reserve(n, P, 2, 2, D, other, 80, 80, &params);
    corenet_submit(n, D, 2, 2, P, other, 80, 80, &params);
    corenet_run(n);
    cr_assert_eq(corenet_stats(n, P).requests_finished, 1);
    cr_assert(core_idle(corenet_core(n, P)) && core_idle(corenet_core(n, D)));
    corenet_close(n);
}

/* A reservation stays where giving it up would not make enough room: the pages of what decodes are
 * the rest, and these come free by themselves. */
Test(core_regression, reservation_stays_that_would_not_make_enough_room) {
    corenet_options o = corenet_defaults();
    o.core.pages = 7;
    o.core.headroom_tokens = 0;
    o.roles[P] = o.roles[D] = MESSAGE_ROLE_PREFILL | MESSAGE_ROLE_DECODE;
    corenet *n = corenet_open(&o);
    int32_t prompt[80] = {1, 2, 3};
    int32_t other[30] = {4, 5, 6};
    int32_t third[60] = {7, 8, 9};
    request_params params = corenet_params(2);
    corenet_reserve(n, P, 3, 1, MESSAGE_NO_WORKER, third, 60, 60, &params);
    corenet_reserve(n, P, 2, 1, D, other, 30, 30, &params);
    corenet_reserve(n, D, 1, 1, P, prompt, 80, 80, &params);
    corenet_submit(n, P, 1, 1, D, prompt, 80, 80, &params);
    while (corenet_deliver(n, D, P)) {
    }
    cr_assert(corenet_begin(n, P));
    cr_assert_eq(corenet_count(n, P, MESSAGE_REFUSED), 0);
    corenet_finish(n, P);
    corenet_run(n);
    cr_assert_eq(corenet_stats(n, D).requests_finished, 1);
    corenet_close(n);
}
