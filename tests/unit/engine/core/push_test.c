/* push_test.c -- which groups P announces, when, and in which order. */
#include "engine/core/push.h"

#include <criterion/criterion.h>

#include "engine/base/rng.h"
#include "tests/support/corenet.h"

enum { P = 0, D = 1, FD = CORENET_FIRST + D };

static int32_t prompt[512];

static corenet *open_net(const corenet_options *o) {
    for (int i = 0; i < 512; i++) {
        prompt[i] = (int32_t)(rng_at(1, 2, (uint64_t)i) % 50000);
    }
    return corenet_open(o);
}

static void submit(corenet *n, request_id id, int32_t count) {
    request_params params = corenet_params(8);
    corenet_submit(n, P, id, 1, D, prompt, count, count, &params);
}

static void grant(corenet *n, request_id id, uint32_t prefix_pages) {
    message m = {.type = MESSAGE_GRANT, .request = id, .attempt = 1};
    m.pages = 32;
    m.prefix_pages = prefix_pages;
    corenet_say(n, P, FD, &m);
}

/* Takes the next message to D off the queue: an announcement, or one of another type. */
static message next(corenet *n) {
    const message *m = corenet_peek(n, P, D);
    cr_assert_not_null(m);
    message copy = *m;
    corenet_skip(n, P, D);
    return copy;
}

static void expect_group(corenet *n, uint32_t page_first, uint32_t pages, uint32_t layer_first,
                         uint32_t layers) {
    message m = next(n);
    cr_assert_eq(m.type, MESSAGE_ANNOUNCE);
    cr_assert_eq(m.announce.page_first, page_first);
    cr_assert_eq(m.announce.pages, pages);
    cr_assert_eq(m.announce.layer_first, layer_first);
    cr_assert_eq(m.announce.layers, layers);
}

Test(push, first_layers_leave_while_later_ones_compute) {
    corenet_options o = corenet_defaults();
    corenet *n = open_net(&o);
    submit(n, 1, 60);
    grant(n, 1, 0);
    cr_assert(corenet_begin(n, P)); /* 32 tokens: two pages */
    corenet_layers(n, P, 1);
    cr_assert_eq(corenet_waiting(n, P, D), 0, "a group has two layers");
    corenet_layers(n, P, 2);
    expect_group(n, 0, 2, 0, 2);
    corenet_layers(n, P, 3);
    cr_assert_eq(corenet_waiting(n, P, D), 0);
    corenet_layers(n, P, 4);
    expect_group(n, 0, 2, 2, 2);
    corenet_finish(n, P);
    cr_assert_eq(corenet_waiting(n, P, D), 0);
    cr_assert(corenet_begin(n, P)); /* the rest, its last page partial */
    corenet_layers(n, P, 4);
    expect_group(n, 2, 2, 0, 2);
    expect_group(n, 2, 2, 2, 2);
    cr_assert_eq(corenet_waiting(n, P, D), 0);
    corenet_finish(n, P);
    message m = next(n);
    cr_assert_eq(m.type, MESSAGE_HANDOFF);
    cr_assert_eq(m.handoff.groups, 4);
    corenet_close(n);
}

Test(push, the_size_of_groups_may_change_in_the_middle_of_a_step) {
    corenet_options o = corenet_defaults(); /* four layers, two a group */
    corenet *n = open_net(&o);
    submit(n, 1, 60);
    grant(n, 1, 0);
    cr_assert(corenet_begin(n, P));
    corenet_layers(n, P, 1);
    cr_assert_eq(corenet_waiting(n, P, D), 0);
    core_set_group_layers(corenet_core(n, P), CORENET_FIRST + D, 1);
    corenet_layers(n, P, 2);
    expect_group(n, 0, 2, 0, 1);
    expect_group(n, 0, 2, 1, 1);
    core_set_group_layers(corenet_core(n, P), CORENET_FIRST + D, 99);
    corenet_layers(n, P, 3);
    cr_assert_eq(corenet_waiting(n, P, D), 0, "the rest goes together");
    corenet_layers(n, P, 4);
    expect_group(n, 0, 2, 2, 2);
    corenet_finish(n, P);
    cr_assert(corenet_begin(n, P));
    corenet_layers(n, P, 4);
    expect_group(n, 2, 2, 0, 4);
    corenet_finish(n, P);
    message m = next(n);
    cr_assert_eq(m.type, MESSAGE_HANDOFF);
    cr_assert_eq(m.handoff.groups, 4);
    corenet_close(n);
}

/* Another link's size is its own, and the one of a link that came up anew is the worker's. */
Test(push, the_size_of_groups_is_a_links) {
    corenet_options o = corenet_defaults();
    corenet *n = open_net(&o);
    core_set_group_layers(corenet_core(n, P), CORENET_FIRST + P, 1);
    submit(n, 1, 60);
    grant(n, 1, 0);
    cr_assert(corenet_begin(n, P));
    corenet_layers(n, P, 1);
    cr_assert_eq(corenet_waiting(n, P, D), 0);
    corenet_layers(n, P, 2);
    expect_group(n, 0, 2, 0, 2);
    corenet_close(n);
}

Test(push, page_is_announced_by_the_chunk_that_completes_it) {
    corenet_options o = corenet_defaults();
    o.core.logit_rows_max = 9; /* chunks of nine rows: each has a score */
    corenet *n = open_net(&o);
    request_params params = corenet_params(8);
    params.prompt_logprobs = true;
    corenet_submit(n, P, 1, 1, D, prompt, 40, 40, &params);
    grant(n, 1, 0);
    corenet_step(n, P);
    cr_assert_eq(corenet_waiting(n, P, D), 0, "nine tokens complete no page");
    corenet_step(n, P);
    expect_group(n, 0, 1, 0, 2);
    expect_group(n, 0, 1, 2, 2);
    while (corenet_step(n, P)) {
    }
    uint32_t page = 1;
    for (; corenet_queued(n, P, D, MESSAGE_ANNOUNCE) > 0; page++) {
        expect_group(n, page, 1, 0, 2);
        expect_group(n, page, 1, 2, 2);
    }
    cr_assert_eq(page, 3);
    corenet_close(n);
}

Test(push, pages_computed_before_the_grant_go_with_all_layers) {
    corenet_options o = corenet_defaults();
    corenet *n = open_net(&o);
    submit(n, 1, 85);
    while (corenet_step(n, P)) {
    }
    grant(n, 1, 0);
    expect_group(n, 0, 2, 0, 4); /* eight cells at most */
    expect_group(n, 2, 2, 0, 4);
    expect_group(n, 4, 2, 0, 4);
    cr_assert_eq(next(n).type, MESSAGE_HANDOFF);
    corenet_close(n);
}

Test(push, pages_that_decode_holds_are_left_out) {
    for (uint32_t held = 1; held <= 5; held++) {
        corenet_options o = corenet_defaults();
        corenet *n = open_net(&o);
        submit(n, 1, 85);
        if (held % 2) {
            while (corenet_step(n, P)) {
            }
        }
        grant(n, 1, held);
        while (corenet_step(n, P)) {
        }
        uint32_t cells = 0;
        uint32_t first = UINT32_MAX;
        while (corenet_queued(n, P, D, MESSAGE_ANNOUNCE) > 0) {
            message m = next(n);
            first = m.announce.page_first < first ? m.announce.page_first : first;
            cells += m.announce.pages * m.announce.layers;
        }
        cr_assert_eq(first, held);
        cr_assert_eq(cells, (6 - held) * CORENET_LAYERS);
        cr_assert_eq(next(n).type, MESSAGE_HANDOFF);
        corenet_close(n);
    }
    corenet_options o = corenet_defaults();
    corenet *n = open_net(&o);
    submit(n, 1, 85);
    grant(n, 1, 6); /* all pages, the one to sample from too */
    cr_assert(corenet_asked_close(n, P, FD));
    corenet_close(n);
}

Test(push, window_of_unfinished_groups_is_bounded) {
    corenet_options o = corenet_defaults();
    o.core.group_cells_max = CORENET_LAYERS; /* a page a group */
    o.core.prefill_chunk_tokens = 16;
    o.core.pages = 128;
    corenet *n = open_net(&o);
    submit(n, 1, 480);
    submit(n, 2, 480);
    while (corenet_step(n, P)) {
    }
    grant(n, 1, 0);
    grant(n, 2, 0);
    cr_assert_eq(corenet_queued(n, P, D, MESSAGE_ANNOUNCE), LINKS_SENDS_MAX);
    for (uint32_t i = 0; i < 60; i++) {
        message a = next(n);
        while (a.type == MESSAGE_HANDOFF) {
            a = next(n);
        }
        cr_assert_eq(a.announce.sequence, i, "numbers without gaps over all requests");
        message m = {.type = MESSAGE_POSTED, .request = a.request, .attempt = 1};
        m.posted = (message_posted){a.announce.sequence, a.announce.group};
        corenet_say(n, P, FD, &m);
        corenet_end_send(n, P, FD, i);
    }
    cr_assert_eq(next(n).type, MESSAGE_HANDOFF);
    cr_assert_eq(corenet_waiting(n, P, D), 0);
    corenet_close(n);
}

Test(push, cancel_in_the_middle_of_a_step_announces_nothing_more) {
    corenet_options o = corenet_defaults();
    corenet *n = open_net(&o);
    submit(n, 1, 60);
    grant(n, 1, 0);
    cr_assert(corenet_begin(n, P));
    corenet_layers(n, P, 2);
    expect_group(n, 0, 2, 0, 2);
    corenet_cancel(n, P, 1, 1);
    cr_assert_eq(corenet_stats(n, P).pages_quarantined, 4, "the step still writes them");
    corenet_layers(n, P, 4);
    cr_assert_eq(corenet_waiting(n, P, D), 0);
    corenet_finish(n, P);
    cr_assert_eq(corenet_stats(n, P).pages_quarantined, 0);
    corenet_close(n);
}
