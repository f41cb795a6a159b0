/* loadrun.h -- sends requests at their times and collects what comes back.
 *
 * Purpose    The loop of a load run: one epoll, one timer, many connections.
 * Ownership  Everything is borrowed for the call.
 * Threads    One.
 * Limits     As loadgen.h.
 */
#ifndef BENCH_LOADRUN_H
#define BENCH_LOADRUN_H

#include <netdb.h>
#include <stdbool.h>
#include <stdint.h>

#include "bench/loadstats.h"
#include "engine/base/status.h"
#include "engine/base/str.h"

typedef struct {
    const struct addrinfo *to;
    const strbuf *requests; /* [requests_count] */
    int64_t requests_count;
    int64_t connections_max;
    const int64_t *arrivals_us; /* [requests_count] after the start, rising; NULL: closed loop with
                                 * connections_max at once */
    bool stream;
    int32_t min_tokens; /* of a good answer */
    int64_t timeout_us;
    bool progress; /* a line on standard error */
} loadrun_options;

/* Runs to the end of every request. Samples go to `stats` (NULL: warm-up). */
MUST_USE status loadrun(const loadrun_options *o, loadstats *stats, diag *d);

/* Poisson arrivals of `rate` a second, or evenly spaced ones: `count` times in microseconds. */
void loadrun_arrivals(double rate, bool poisson, uint64_t seed, int64_t *out_us, int64_t count);

#endif
