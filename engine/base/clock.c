/* clock.c -- clock_gettime and nanosleep. */
#define _GNU_SOURCE
#include "engine/base/clock.h"

#include <errno.h>
#include <time.h>

static int64_t read_ns(clockid_t id) {
    struct timespec t;
    (void)clock_gettime(id, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

int64_t clock_now_us(void) {
    return read_ns(CLOCK_MONOTONIC) / 1000;
}

int64_t clock_now_ns(void) {
    return read_ns(CLOCK_MONOTONIC);
}

int64_t clock_wall_us(void) {
    return read_ns(CLOCK_REALTIME) / 1000;
}

void clock_sleep_us(int64_t us) {
    struct timespec t = {(time_t)(us / 1000000), (long)(us % 1000000) * 1000};
    while (nanosleep(&t, &t) != 0 && errno == EINTR) {
    }
}
