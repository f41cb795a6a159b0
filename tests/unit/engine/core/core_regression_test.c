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
