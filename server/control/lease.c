/* lease.c -- three numbers in a file; other kinds by their table. */
#define _GNU_SOURCE
#include "server/control/lease.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include "engine/base/mem.h"
#include "server/control/lease_etcd.h"

enum { RENEWALS = 3 }; /* in a lease's time */

typedef struct {
    lease base;
    int fd;
    uint64_t holder, token;
    int64_t ttl_us, due_us;
    bool held, others;
} filed;

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

static bool lock_file(const filed *l) {
    int r;
    while ((r = flock(l->fd, LOCK_EX)) < 0 && errno == EINTR) {
    }
    return r == 0;
}

/* A file that is empty or damaged is a lease that nobody has had. */
static lease_record read_record(const filed *l) {
    lease_record r = {0};
    if (pread(l->fd, &r, sizeof r, 0) != (ssize_t)sizeof r) {
        r = (lease_record){0};
    }
    return r;
}

static bool filed_turn(lease *base, int64_t now_us) {
    filed *l = (filed *)base;
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

static bool filed_others(const lease *l) {
    return ((const filed *)l)->others;
}

static uint64_t filed_token(const lease *l) {
    return ((const filed *)l)->token;
}

static bool filed_begin(lease *base, int64_t now_us) {
    filed *l = (filed *)base;
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

static void filed_end(lease *l) {
    (void)flock(((const filed *)l)->fd, LOCK_UN);
}

static void filed_close(lease *base) {
    filed *l = (filed *)base;
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

static const lease_table table = {filed_turn,  filed_others, filed_token,
                                  filed_begin, filed_end,    filed_close};

static status open_file(const char *path, uint64_t holder, int64_t ttl_us, lease **out, diag *d) {
    filed *l = mem_calloc(1, sizeof *l);
    if (!l) {
        return status_fail(d, STATUS_NOMEM, "no memory for the lease");
    }
    *l = (filed){.base = {&table}, .holder = holder, .ttl_us = ttl_us};
    l->fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (l->fd < 0) {
        mem_free(l);
        return status_fail_errno(d, STATUS_IO, path);
    }
    *out = &l->base;
    return STATUS_OK;
}

/* ---- any kind ------------------------------------------------------------------------------- */

status lease_open(const char *where, uint64_t holder, int64_t ttl_us, lease **out, diag *d) {
    return lease_etcd_named(where) ? lease_etcd_open(where, holder, ttl_us, out, d)
                                   : open_file(where, holder, ttl_us, out, d);
}

void lease_close(lease *l) {
    if (l) {
        l->table->close(l);
    }
}

bool lease_turn(lease *l, int64_t now_us) {
    return l->table->turn(l, now_us);
}

bool lease_others(const lease *l) {
    return l->table->others(l);
}

uint64_t lease_token(const lease *l) {
    return l->table->token(l);
}

bool lease_begin(lease *l, int64_t now_us) {
    return l->table->begin(l, now_us);
}

void lease_end(lease *l) {
    l->table->end(l);
}
