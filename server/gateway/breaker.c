/* breaker.c -- closed, open, half open. */
#include "server/gateway/breaker.h"

#include "engine/base/check.h"

bool breaker_allows(const breaker *b, int64_t now_us) {
    return !breaker_tripped(b) || (now_us >= b->open_until_us && now_us >= b->probe_until_us);
}

void breaker_sent(breaker *b, int64_t now_us) {
    if (breaker_tripped(b)) {
        b->probe_until_us = now_us + BREAKER_OPEN_US_MAX;
    }
}

void breaker_failed(breaker *b, int64_t now_us) {
    CHECK(now_us >= 0);
    if (b->failures < UINT32_MAX) {
        b->failures++;
    }
    b->probe_until_us = 0;
    if (breaker_tripped(b)) {
        uint32_t more = b->failures - BREAKER_FAILURES;
        int64_t us = BREAKER_OPEN_US;
        while (more-- > 0 && us < BREAKER_OPEN_US_MAX) {
            us *= 2;
        }
        b->open_until_us = now_us + (us < BREAKER_OPEN_US_MAX ? us : BREAKER_OPEN_US_MAX);
    }
}

void breaker_succeeded(breaker *b) {
    *b = (breaker){0};
}
