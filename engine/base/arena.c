/* arena.c -- bump allocation over one anonymous mapping.
 *
 * The mapping is reserved without commit, so a generous maximum costs address space only. After a
 * reset the used part is handed back to the system (MADV_DONTNEED), which also zeroes it. */
#define _GNU_SOURCE
#include "engine/base/arena.h"

#include <sys/mman.h>

#include "engine/base/check.h"

status arena_open(arena *a, size_t bytes_max) {
    *a = (arena){0};
    void *p = mmap(NULL, bytes_max, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) {
        return STATUS_NOMEM;
    }
    a->base = p;
    a->bytes_max = bytes_max;
    return STATUS_OK;
}

void arena_close(arena *a) {
    if (a->base) {
        (void)munmap(a->base, a->bytes_max);
    }
    *a = (arena){0};
}

void *arena_take(arena *a, size_t count, size_t bytes, size_t align) {
    CHECK(!a->sealed);
    CHECK(align && (align & (align - 1)) == 0 && align <= 4096);
    size_t total;
    size_t start = (a->used_bytes + align - 1) & ~(align - 1);
    size_t end;
    if (__builtin_mul_overflow(count, bytes, &total) ||
        __builtin_add_overflow(start, total, &end) || end > a->bytes_max) {
        return NULL;
    }
    a->used_bytes = end;
    return a->base + start;
}

void arena_reset(arena *a) {
    if (a->used_bytes) {
        (void)madvise(a->base, a->used_bytes, MADV_DONTNEED);
    }
    a->used_bytes = 0;
    a->sealed = false;
}

void arena_seal(arena *a) {
    a->sealed = true;
}
