/* jsonout_test.c -- numbers as text. */
#include "server/http/jsonout.h"

#include <criterion/criterion.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

Test(jsonout, writes_integers_as_printf_does) {
    static const int64_t edges[] = {0,   9,         10,        -1,        -10,      99,
                                    100, INT32_MAX, INT32_MIN, INT64_MAX, INT64_MIN};
    for (size_t i = 0; i < sizeof edges / sizeof edges[0]; i++) {
        char wanted[32];
        snprintf(wanted, sizeof wanted, "%" PRId64, edges[i]);
        strbuf out = strbuf_make(64);
        jsonout_int(&out, edges[i]);
        cr_assert(str_equal_z(strbuf_str(&out), wanted), "%s", wanted);
        strbuf_close(&out);
    }
}
