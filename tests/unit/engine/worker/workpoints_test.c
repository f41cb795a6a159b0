/* workpoints_test.c -- every message of the protocol has its fault points, under the right side. */
#include "engine/worker/workpoints.h"

#include <criterion/criterion.h>
#include <stdio.h>

#include "engine/base/failpoint.h"

enum {
    P = MESSAGE_ROLE_PREFILL,
    D = MESSAGE_ROLE_DECODE,
    BOTH = MESSAGE_ROLE_PREFILL | MESSAGE_ROLE_DECODE
};

typedef bool pass(uint32_t roles, const message *m);

/* True when the message, and only it, stops at the point of that name. */
static bool stops(pass *through, const char *name, uint32_t roles, const message *m) {
    char spec[96];
    (void)snprintf(spec, sizeof spec, "%s=error", name);
    cr_assert_eq(failpoint_setup(spec, NULL), STATUS_OK, "%s", spec);
    bool hit = through(roles, m);
    message other = {.type = MESSAGE_METRICS};
    cr_assert_not(through(roles, &other), "%s", name);
    cr_assert_eq(failpoint_setup(NULL, NULL), STATUS_OK);
    return hit;
}

Test(workpoints, every_arrow_of_the_protocol_has_a_name) {
    static const struct {
        pass *through;
        const char *name;
        uint32_t roles;
        message_type type;
    } rows[] = {
        {workpoints_on, "prefill.on_submit", P, MESSAGE_SUBMIT},
        {workpoints_on, "decode.on_reserve", D, MESSAGE_RESERVE},
        {workpoints_before, "decode.before_grant", D, MESSAGE_GRANT},
        {workpoints_after, "decode.after_grant", D, MESSAGE_GRANT},
        {workpoints_on, "prefill.on_grant", P, MESSAGE_GRANT},
        {workpoints_before, "decode.before_queued", D, MESSAGE_QUEUED},
        {workpoints_before, "decode.before_refused", D, MESSAGE_REFUSED},
        {workpoints_before, "prefill.before_announce", P, MESSAGE_ANNOUNCE},
        {workpoints_on, "decode.on_announce", D, MESSAGE_ANNOUNCE},
        {workpoints_before, "decode.before_posted", D, MESSAGE_POSTED},
        {workpoints_on, "prefill.on_posted", P, MESSAGE_POSTED},
        {workpoints_before, "prefill.before_handoff", P, MESSAGE_HANDOFF},
        {workpoints_after, "prefill.after_handoff", P, MESSAGE_HANDOFF},
        {workpoints_on, "decode.on_handoff", D, MESSAGE_HANDOFF},
        {workpoints_before, "decode.before_adopted", D, MESSAGE_ADOPTED},
        {workpoints_after, "decode.after_adopted", D, MESSAGE_ADOPTED},
        {workpoints_on, "prefill.on_adopted", P, MESSAGE_ADOPTED},
        {workpoints_after, "decode.after_already_adopted", D, MESSAGE_ALREADY_ADOPTED},
        {workpoints_before, "decode.before_preempted", D, MESSAGE_PREEMPTED},
        {workpoints_before, "prefill.before_link_lost", P, MESSAGE_LINK_LOST},
        {workpoints_on, "prefill.on_cancel", P, MESSAGE_CANCEL},
        {workpoints_on, "decode.on_cancel", D, MESSAGE_CANCEL},
        {workpoints_on, "prefill.on_submit", BOTH, MESSAGE_SUBMIT},
        {workpoints_on, "prefill.on_grant", BOTH, MESSAGE_GRANT},
        {workpoints_before, "decode.before_grant", BOTH, MESSAGE_GRANT},
        {workpoints_before, "prefill.before_handoff", BOTH, MESSAGE_HANDOFF},
        {workpoints_on, "decode.on_handoff", BOTH, MESSAGE_HANDOFF},
        {workpoints_on, "decode.on_cancel", BOTH, MESSAGE_CANCEL},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        message m = {.type = rows[i].type};
        cr_assert(stops(rows[i].through, rows[i].name, rows[i].roles, &m), "%s", rows[i].name);
    }
}

Test(workpoints, tokens_are_first_last_or_between) {
    request_token token = {.index = 0};
    message m = {.type = MESSAGE_TOKENS, .tokens = {.tokens_count = 1, .tokens = &token}};
    cr_assert(stops(workpoints_before, "prefill.before_first_token", P, &m));
    cr_assert(stops(workpoints_before, "decode.before_first_token", D, &m));
    token.index = 4;
    cr_assert(stops(workpoints_after, "decode.after_token", D, &m));
    cr_assert_not(stops(workpoints_after, "decode.after_last_token", D, &m));
    m.tokens.done = true;
    cr_assert(stops(workpoints_after, "decode.after_last_token", BOTH, &m));
}
