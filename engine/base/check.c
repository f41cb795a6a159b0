/* check.c -- what happens when an assertion fails: say where, then abort. */
#include "engine/base/check.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

_Noreturn void check_failed(const char *file, int line, const char *expression) {
    (void)fprintf(stderr, "weir: bug: %s:%d: %s\n", file, line, expression);
    abort();
}

_Noreturn void check_failed_pair(const char *file, int line, const char *expression, int64_t a,
                                 int64_t b) {
    (void)fprintf(stderr, "weir: bug: %s:%d: %s (%" PRId64 " and %" PRId64 ")\n", file, line,
                  expression, a, b);
    abort();
}
