/* workpoints.c -- which side of a worker a message belongs to, and its fault points. */
#include "engine/worker/workpoints.h"

#include "engine/base/failpoint.h"

typedef enum { BEFORE, AFTER, ON } moment;

/* A worker of one role has one side. One of both roles speaks and listens as the side whose message
 * it is; what both sides know, such as TOKENS and CANCEL, counts as the decode side's there. */
static bool of_prefill(uint32_t roles, message_type t, bool heard) {
    if (roles == MESSAGE_ROLE_PREFILL || roles == MESSAGE_ROLE_DECODE) {
        return roles == MESSAGE_ROLE_PREFILL;
    }
    bool from_prefill = t == MESSAGE_ANNOUNCE || t == MESSAGE_HANDOFF;
    bool to_prefill = t == MESSAGE_SUBMIT || t == MESSAGE_GRANT || t == MESSAGE_QUEUED ||
                      t == MESSAGE_POSTED || t == MESSAGE_ADOPTED;
    return heard ? to_prefill : from_prefill;
}

static bool hit(uint32_t roles, const message *m, moment when) {
    static const char *const places[2][3] = {
        {"decode.before_", "decode.after_", "decode.on_"},
        {"prefill.before_", "prefill.after_", "prefill.on_"},
    };
    return FAILPOINT_AT(places[of_prefill(roles, m->type, when == ON)][when],
                        message_event_name(m));
}

bool workpoints_before(uint32_t roles, const message *m) {
    return hit(roles, m, BEFORE);
}

bool workpoints_after(uint32_t roles, const message *m) {
    return hit(roles, m, AFTER);
}

bool workpoints_on(uint32_t roles, const message *m) {
    return hit(roles, m, ON);
}
