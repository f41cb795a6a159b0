/* lease.c -- three numbers in a file. */
#define _GNU_SOURCE
#include "server/control/lease.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include "engine/base/mem.h"

enum { RENEWALS = 3 }; /* in a lease's time */

struct lease {
    int fd;
    uint64_t holder, token;
    int64_t ttl_us, due_us;
    bool held, others;
};

bool lease_take(lease_record *r, uint64_t holder, int64_t now_us, int64_t ttl_us) {
    bool over = r->until_us <= now_us || r->until_us > now_us + ttl_us;
    if (r->holder != holder || r->token == 0) {
        if (!over) {
            return false;
        }
        r->token++;
        r->holder = holder;
    } else if (over) {
        r->token++; /* nobody took it meanwhile, but somebody may have: begin anew */
    }
    r->until_us = now_us + ttl_us;
    return true;
}

status lease_open(const char *path, uint64_t holder, int64_t ttl_us, lease **out, diag *d) {
    lease *l = mem_calloc(1, sizeof *l);
    if (!l) {
        return status_fail(d, STATUS_NOMEM, "no memory for the lease");
    }
    *l = (lease){.holder = holder, .ttl_us = ttl_us};
    l->fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (l->fd < 0) {
        mem_free(l);
        return status_fail_errno(d, STATUS_IO, path);
    }
    *out = l;
    return STATUS_OK;
}

static bool lock_file(const lease *l) {
    int r;
    while ((r = flock(l->fd, LOCK_EX)) < 0 && errno == EINTR) {
    }
    return r == 0;
}

/* A file that is empty or damaged is a lease that nobody has had. */
static lease_record read_record(const lease *l) {
    lease_record r = {0};
    if (pread(l->fd, &r, sizeof r, 0) != (ssize_t)sizeof r) {
        r = (lease_record){0};
    }
    return r;
}

bool lease_turn(lease *l, int64_t now_us) {
    if (now_us < l->due_us) {
        return l->held;
    }
    if (!lock_file(l)) {
        l->held = l->others = false;
        return false;
    }
    lease_record r = read_record(l);
    l->held = lease_take(&r, l->holder, now_us, l->ttl_us) &&
              pwrite(l->fd, &r, sizeof r, 0) == (ssize_t)sizeof r;
    if (l->held) {
        l->token = r.token;
    }
    l->others = !l->held && r.holder != l->holder && r.until_us > now_us;
    l->due_us = now_us + l->ttl_us / RENEWALS;
    (void)flock(l->fd, LOCK_UN);
    return l->held;
}

bool lease_others(const lease *l) {
    return l->others;
}

uint64_t lease_token(const lease *l) {
    return l->token;
}

bool lease_begin(lease *l, int64_t now_us) {
    if (!l->held || !lock_file(l)) {
        return false;
    }
    lease_record r = read_record(l);
    if (r.holder == l->holder && r.token == l->token && now_us < r.until_us) {
        return true;
    }
    l->held = false;
    (void)flock(l->fd, LOCK_UN);
    return false;
}

void lease_end(lease *l) {
    (void)flock(l->fd, LOCK_UN);
}

void lease_close(lease *l) {
    if (!l) {
        return;
    }
    if (l->held && lock_file(l)) {
        lease_record r = read_record(l);
        if (r.holder == l->holder && r.token == l->token) {
            r.until_us = 0;
            ssize_t n = pwrite(l->fd, &r, sizeof r, 0);
            (void)n; /* not given back, it ends by itself */
        }
    }
    (void)close(l->fd);
    mem_free(l);
}
