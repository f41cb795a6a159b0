/* failpoint.c -- parses WEIR_FAILPOINTS and acts at armed points. */
#define _GNU_SOURCE
#include "engine/base/failpoint.h"

#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine/base/clock.h"
#include "engine/base/str.h"

typedef enum { ACT_KILL, ACT_STOP, ACT_ERROR, ACT_DELAY } point_action;

typedef struct {
    char name[FAILPOINT_NAME_BYTES];
    point_action action;
    int64_t delay_ms;
    uint64_t skip;
    uint64_t count; /* UINT64_MAX: always */
    _Atomic uint64_t passes;
} point;

bool failpoint_armed;

static point points[FAILPOINT_MAX];
static size_t points_count;

static status bad(diag *d, str item, const char *why) {
    return status_fail_param(d, STATUS_INVALID, "WEIR_FAILPOINTS", "fault point \"%.*s\": %s",
                             (int)(item.bytes < 128 ? item.bytes : 128), item.data, why);
}

/* Splits off what follows the last `mark` as a number; true when there is none or it is valid. */
static bool split_number(str *s, char mark, uint64_t *out) {
    const char *at = s->bytes ? memrchr(s->data, mark, s->bytes) : NULL;
    if (!at) {
        return true;
    }
    int64_t value;
    size_t from = (size_t)(at - s->data) + 1;
    if (!str_to_i64(str_of(at + 1, s->bytes - from), 0, INT64_MAX, &value)) {
        return false;
    }
    *out = (uint64_t)value;
    s->bytes = from - 1;
    return true;
}

static bool read_action(str text, point *p) {
    static const struct {
        const char *word;
        point_action action;
    } words[] = {{"kill", ACT_KILL}, {"stop", ACT_STOP}, {"error", ACT_ERROR}};
    for (size_t i = 0; i < sizeof words / sizeof words[0]; i++) {
        if (str_equal_z(text, words[i].word)) {
            p->action = words[i].action;
            return true;
        }
    }
    str delay = str_from("delay_");
    if (!str_starts_with(text, delay)) {
        return false;
    }
    p->action = ACT_DELAY;
    return str_to_i64(str_of(text.data + delay.bytes, text.bytes - delay.bytes), 0, 3600000,
                      &p->delay_ms);
}

static status read_point(str item, point *p, diag *d) {
    size_t equals = str_find(item, str_from("="), 0);
    if (equals == SIZE_MAX || equals == 0) {
        return bad(d, item, "want name=action");
    }
    if (equals >= sizeof p->name) {
        return bad(d, item, "the name is too long");
    }
    memcpy(p->name, item.data, equals);
    p->name[equals] = '\0';
    p->count = UINT64_MAX;
    p->skip = 0;
    str rest = str_of(item.data + equals + 1, item.bytes - equals - 1);
    if (!split_number(&rest, '@', &p->skip)) {
        return bad(d, item, "@skip is not a number");
    }
    if (!split_number(&rest, ':', &p->count)) {
        return bad(d, item, ":count is not a number");
    }
    if (!read_action(rest, p)) {
        return bad(d, item, "the action is none of kill, stop, error, delay_MILLISECONDS");
    }
    return STATUS_OK;
}

static void disarm(void) {
    failpoint_armed = false;
    points_count = 0;
    memset(points, 0, sizeof points);
}

status failpoint_setup(const char *spec, diag *d) {
    disarm();
    str all = str_from(spec);
    size_t at = 0;
    while (at < all.bytes) {
        size_t end = str_find(all, str_from(";"), at);
        if (end == SIZE_MAX) {
            end = all.bytes;
        }
        str item = str_of(all.data + at, end - at);
        at = end + 1;
        if (item.bytes == 0) {
            continue;
        }
        status s = points_count < FAILPOINT_MAX ? read_point(item, &points[points_count], d)
                                                : bad(d, item, "too many fault points");
        if (s != STATUS_OK) {
            disarm();
            return s;
        }
        points_count++;
    }
    failpoint_armed = points_count > 0;
    return STATUS_OK;
}

status failpoint_setup_env(diag *d) {
    return failpoint_setup(getenv("WEIR_FAILPOINTS"), d);
}

static point *find(const char *name) {
    for (size_t i = 0; i < points_count; i++) {
        if (strcmp(points[i].name, name) == 0) {
            return &points[i];
        }
    }
    return NULL;
}

bool failpoint_hit(const char *name) {
    point *p = find(name);
    if (!p) {
        return false;
    }
    uint64_t pass = atomic_fetch_add_explicit(&p->passes, 1, memory_order_relaxed);
    if (pass < p->skip || pass - p->skip >= p->count) {
        return false;
    }
    switch (p->action) {
        case ACT_KILL:
            (void)kill(getpid(), SIGKILL);
            return false;
        case ACT_STOP:
            (void)kill(getpid(), SIGSTOP);
            return false;
        case ACT_DELAY:
            clock_sleep_us(p->delay_ms * 1000);
            return false;
        case ACT_ERROR:
            break;
    }
    return true;
}

uint64_t failpoint_passes(const char *name) {
    point *p = find(name);
    return p ? atomic_load_explicit(&p->passes, memory_order_relaxed) : 0;
}
