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
