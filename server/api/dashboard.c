/* dashboard.c -- the page, as it lies beside this file. */
#include "server/api/dashboard.h"

__asm__(
    ".section .rodata\n"
    "dashboard_begin: .incbin \"server/api/dashboard.html\"\n"
    "dashboard_end:\n"
    ".previous\n");

extern const char dashboard_begin[], dashboard_end[];

bool dashboard_answer(exchange *x) {
    /* Nothing from elsewhere, nothing to elsewhere, and in nobody's frame. */
    static const exchange_header policy = {
        "Content-Security-Policy",
        "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
        "connect-src 'self'; img-src data:; form-action 'none'; base-uri 'none'; "
        "frame-ancestors 'none'"};
    return exchange_respond(x, 200, "text/html; charset=utf-8",
                            str_of(dashboard_begin, (size_t)(dashboard_end - dashboard_begin)),
                            &policy, 1);
}
