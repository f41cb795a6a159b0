/* controlpage.c -- an order, then the state as it is with it. */
#include "server/control/controlpage.h"

#include "engine/base/clock.h"
#include "server/http/refusal.h"

enum { STATE_BYTES_MAX = 1 << 20 };

static void refuse(exchange *x, status s, const diag *d) {
    int code = s == STATUS_NOTFOUND                         ? 404
               : s == STATUS_LIMIT || s == STATUS_MISMATCH  ? 409
               : s == STATUS_INVALID || s == STATUS_CORRUPT ? 400
                                                            : refusal_code(s);
    (void)routes_refuse(x, code, d, 0);
}

void controlpage_answer(autoscale *a, const char *without, routes_route route, exchange *x) {
    int64_t now = clock_now_us();
    diag d;
    if (!a) {
        (void)status_fail(&d, STATUS_NOTFOUND, "%s", without);
        (void)routes_refuse(x, 404, &d, 0);
        return;
    }
    if (route != ROUTES_CONTROLLER) {
        status s = autoscale_order(a, (autoscale_order_kind)(route - ROUTES_CONTROLLER_DRAIN),
                                   exchange_body(x), now, &d);
        if (s != STATUS_OK) {
            refuse(x, s, &d);
            return;
        }
    }
    strbuf json = strbuf_make(STATE_BYTES_MAX);
    autoscale_state(a, now, &json);
    (void)routes_answer(x, &json);
    strbuf_close(&json);
}
