/* breaker.h -- workers that fail again and again get no new requests for a while.
 *
 * Purpose    A circuit a worker: closed; open after BREAKER_FAILURES failures in a row, for a time
 *            that doubles while it keeps failing; then one request probes it, and its success
 *            closes the circuit. It outlives the worker's process: one that dies with every request
 *            it gets is such a worker.
 * Ownership  Plain values.
 * Threads    One at a time.
 * Limits     Open for BREAKER_OPEN_US_MAX at most, a probe's answer is waited for as long.
 * Source     Nygard, "Release It!", circuit breaker.
 */
#ifndef SERVER_GATEWAY_BREAKER_H
#define SERVER_GATEWAY_BREAKER_H

#include <stdbool.h>
#include <stdint.h>

enum { BREAKER_FAILURES = 3, BREAKER_OPEN_US = 1000000, BREAKER_OPEN_US_MAX = 30000000 };

typedef struct {
    uint32_t failures; /* in a row */
    int64_t open_until_us;
    int64_t probe_until_us; /* a probe is under way; 0: none */
} breaker;

/* May a new request go there? */
bool breaker_allows(const breaker *b, int64_t now_us);

/* One went. */
void breaker_sent(breaker *b, int64_t now_us);

void breaker_failed(breaker *b, int64_t now_us);
void breaker_succeeded(breaker *b);

/* Failing too often to get requests, be it that a probe is due or not. */
static inline bool breaker_tripped(const breaker *b) {
    return b->failures >= BREAKER_FAILURES;
}

#endif
