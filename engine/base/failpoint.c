/* failpoint.c -- parses WEIR_FAILPOINTS, takes orders over a FIFO, and acts at armed points.
 *
 * One lock guards the table: points are re-armed while other threads pass them. It is taken only
 * when something is armed. */
#define _GNU_SOURCE
#include "engine/base/failpoint.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "engine/base/clock.h"
#include "engine/base/log.h"
#include "engine/base/str.h"

enum { ORDER_BYTES = 1024 };

typedef enum { ACT_KILL, ACT_STOP, ACT_ERROR, ACT_DELAY } point_action;

typedef struct {
    char name[FAILPOINT_NAME_BYTES];
    point_action action;
    int64_t delay_ms;
    uint64_t skip;
    uint64_t count; /* UINT64_MAX: always */
    uint64_t passes;
} point;

typedef struct {
    point points[FAILPOINT_MAX];
    size_t count;
} point_table;

bool failpoint_armed;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static point_table armed;
static int order_fd = -1;

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

static status read_table(str all, point_table *t, diag *d) {
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
        TRY(t->count < FAILPOINT_MAX ? read_point(item, &t->points[t->count], d)
                                     : bad(d, item, "too many fault points"));
        t->count++;
    }
    return STATUS_OK;
}

static void arm(const point_table *t) {
    (void)pthread_mutex_lock(&lock);
    armed = *t;
    __atomic_store_n(&failpoint_armed, t->count > 0, __ATOMIC_RELAXED);
    (void)pthread_mutex_unlock(&lock);
}

status failpoint_setup(const char *spec, diag *d) {
    point_table t = {.count = 0};
    status s = read_table(str_from(spec), &t, d);
    if (s != STATUS_OK) {
        t = (point_table){.count = 0};
    }
    arm(&t);
    return s;
}

status failpoint_setup_env(diag *d) {
    return failpoint_setup(getenv("WEIR_FAILPOINTS"), d);
}

/* ---- orders --------------------------------------------------------------------------------- */

static void take_order(str line) {
    point_table t = {.count = 0};
    diag d;
    if (read_table(line, &t, &d) != STATUS_OK) {
        LOG(ERROR, "failpoint", "order refused", "why=\"%s\"", d.text);
        return;
    }
    arm(&t);
    LOG(INFO, "failpoint", "armed", "points=\"%.*s\"", (int)line.bytes, line.data);
}

static void *listen_main(void *unused) {
    (void)unused;
    char buffer[ORDER_BYTES];
    size_t used = 0;
    for (;;) {
        ssize_t n = read(order_fd, buffer + used, sizeof buffer - used);
        if (n <= 0) {
            if (n < 0 && errno == EINTR) {
                continue;
            }
            return NULL;
        }
        used += (size_t)n;
        char *end;
        while ((end = memchr(buffer, '\n', used)) != NULL) {
            size_t bytes = (size_t)(end - buffer);
            take_order(str_of(buffer, bytes));
            used -= bytes + 1;
            memmove(buffer, end + 1, used);
        }
        used = used < sizeof buffer ? used : 0; /* no line is that long */
    }
}

/* Its thread takes no signal: they are meant for threads that know what to do with them. */
static int start_listening(void) {
    sigset_t all;
    sigset_t before;
    pthread_t thread;
    (void)sigfillset(&all);
    (void)pthread_sigmask(SIG_SETMASK, &all, &before);
    int error = pthread_create(&thread, NULL, listen_main, NULL);
    (void)pthread_sigmask(SIG_SETMASK, &before, NULL);
    return error ? error : pthread_detach(thread);
}

status failpoint_listen(const char *process, diag *d) {
    const char *directory = getenv("WEIR_FAILPOINTS_DIR");
    if (!directory || !directory[0]) {
        return STATUS_OK;
    }
    char path[4096];
    int n = snprintf(path, sizeof path, "%s/%s", directory, process);
    if (n < 0 || n >= (int)sizeof path) {
        return status_fail_param(d, STATUS_INVALID, "WEIR_FAILPOINTS_DIR", "the path is too long");
    }
    /* Open for writing too: the FIFO never ends, and what a dead process left unread dies too. */
    if ((mkfifo(path, 0600) != 0 && errno != EEXIST) ||
        (order_fd = open(path, O_RDWR | O_CLOEXEC)) < 0) {
        return status_fail_errno(d, STATUS_IO, path);
    }
    errno = start_listening();
    return errno ? status_fail_errno(d, STATUS_IO, "starting the failpoint thread") : STATUS_OK;
}

/* ---- acting --------------------------------------------------------------------------------- */

static point *find(const char *name) {
    for (size_t i = 0; i < armed.count; i++) {
        if (strcmp(armed.points[i].name, name) == 0) {
            return &armed.points[i];
        }
    }
    return NULL;
}

/* Counts a pass; true with a copy of the point when it acts now. */
static bool pass(const char *name, point *out) {
    (void)pthread_mutex_lock(&lock);
    point *p = find(name);
    bool acts = false;
    if (p) {
        uint64_t number = p->passes++;
        acts = number >= p->skip && number - p->skip < p->count;
        *out = *p;
    }
    (void)pthread_mutex_unlock(&lock);
    return acts;
}

bool failpoint_hit(const char *name) {
    static const char *const actions[] = {
        [ACT_KILL] = "kill", [ACT_STOP] = "stop", [ACT_ERROR] = "error"};
    point p;
    if (!pass(name, &p)) {
        return false;
    }
    if (p.action == ACT_DELAY) { /* too often to tell, and nobody waits for it */
        clock_sleep_us(p.delay_ms * 1000);
        return false;
    }
    LOG(WARN, "failpoint", "acts", "point=%s action=%s pid=%d now_us=%" PRId64, name,
        actions[p.action], (int)getpid(), clock_now_us());
    if (p.action != ACT_ERROR) {
        (void)kill(getpid(), p.action == ACT_KILL ? SIGKILL : SIGSTOP);
    }
    return p.action == ACT_ERROR;
}

bool failpoint_hit_at(const char *place, const char *what) {
    char name[FAILPOINT_NAME_BYTES];
    int n = snprintf(name, sizeof name, "%s%s", place, what);
    for (char *c = name; *c; c++) {
        *c = (char)(*c >= 'A' && *c <= 'Z' ? *c - 'A' + 'a' : *c);
    }
    return n > 0 && n < (int)sizeof name && failpoint_hit(name);
}

uint64_t failpoint_passes(const char *name) {
    (void)pthread_mutex_lock(&lock);
    const point *p = find(name);
    uint64_t passes = p ? p->passes : 0;
    (void)pthread_mutex_unlock(&lock);
    return passes;
}
