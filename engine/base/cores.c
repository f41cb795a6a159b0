/* cores.c -- two words a worker in a shared page: how many threads it is busy with, and with what.
 */
#define _GNU_SOURCE
#include "engine/base/cores.h"

#include <fcntl.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

/* A line each, so that one worker's steps do not slow another's. */
struct cores_board {
    struct {
        _Alignas(64) _Atomic int32_t busy;
        _Atomic bool prompts;
    } workers[LIMIT_WORKERS];
};

static status map_board(cores *c, diag *d) {
    void *p = mmap(NULL, sizeof(cores_board), PROT_READ | PROT_WRITE, MAP_SHARED, c->fd, 0);
    if (p == MAP_FAILED) {
        return status_fail_errno(d, STATUS_NOMEM, "mapping the board of cores");
    }
    c->board = p;
    return STATUS_OK;
}

status cores_create(cores *c, diag *d) {
    *c = (cores){.fd = memfd_create("weir-cores", MFD_CLOEXEC | MFD_ALLOW_SEALING)};
    if (c->fd < 0 || ftruncate(c->fd, (off_t)sizeof(cores_board)) != 0 ||
        fcntl(c->fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0) {
        return status_fail_errno(d, STATUS_IO, "making the board of cores");
    }
    return map_board(c, d);
}

status cores_open(cores *c, int fd, uint32_t worker, int32_t own, int32_t total, diag *d) {
    *c = (cores){.fd = fd, .worker = worker, .own = own, .total = total};
    struct stat st;
    int seals = fcntl(fd, F_GET_SEALS);
    if (seals < 0 || !(seals & F_SEAL_SHRINK) || fstat(fd, &st) != 0 ||
        st.st_size != (off_t)sizeof(cores_board)) {
        return status_fail(d, STATUS_INVALID, "descriptor %d is no board of cores", fd);
    }
    return map_board(c, d);
}

void cores_close(cores *c) {
    if (c->board) {
        cores_clear(c, c->worker);
        (void)munmap(c->board, sizeof(cores_board));
        (void)close(c->fd);
    }
    *c = (cores){0};
}

void cores_work(cores *c, cores_load load) {
    if (c->board) {
        atomic_store_explicit(&c->board->workers[c->worker].busy, load == CORES_IDLE ? 0 : c->own,
                              memory_order_relaxed);
        atomic_store_explicit(&c->board->workers[c->worker].prompts, load == CORES_PROMPTS,
                              memory_order_relaxed);
    }
}

bool cores_wanted(const cores *c) {
    for (uint32_t i = 0; c->board && i < LIMIT_WORKERS; i++) {
        if (i != c->worker &&
            atomic_load_explicit(&c->board->workers[i].prompts, memory_order_relaxed)) {
            return true;
        }
    }
    return false;
}

int32_t cores_threads(const cores *c) {
    if (!c->board) {
        return c->total;
    }
    int32_t left = c->total;
    for (uint32_t i = 0; i < LIMIT_WORKERS && left > c->own; i++) {
        if (i != c->worker) {
            left -= atomic_load_explicit(&c->board->workers[i].busy, memory_order_relaxed);
        }
    }
    return left > c->own ? left : c->own;
}

void cores_clear(cores *c, uint32_t worker) {
    if (c && c->board) {
        atomic_store_explicit(&c->board->workers[worker].busy, 0, memory_order_relaxed);
        atomic_store_explicit(&c->board->workers[worker].prompts, false, memory_order_relaxed);
    }
}
