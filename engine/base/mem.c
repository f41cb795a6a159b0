/* mem.c -- overflow-checked wrappers of malloc. */
#include "engine/base/mem.h"

#include <stdlib.h>
#include <string.h>

/* glibc's malloc has blocks up to this in a cache of each thread; its calloc, before 2.41, always
 * takes the arena's lock. */
enum { MEM_CACHED_BYTES = 1024 };

bool mem_mul(uint64_t a, uint64_t b, uint64_t *out) {
    return !__builtin_mul_overflow(a, b, out);
}

bool mem_add(uint64_t a, uint64_t b, uint64_t *out) {
    return !__builtin_add_overflow(a, b, out);
}

void *mem_alloc(size_t count, size_t bytes) {
    size_t total;
    if (__builtin_mul_overflow(count, bytes, &total)) {
        return NULL;
    }
    return malloc(total ? total : 1);
}

void *mem_calloc(size_t count, size_t bytes) {
    size_t total;
    if (__builtin_mul_overflow(count, bytes, &total)) {
        return NULL;
    }
    if (total > MEM_CACHED_BYTES) {
        return calloc(total, 1);
    }
    void *p = malloc(total ? total : 1);
    return p ? memset(p, 0, total ? total : 1) : NULL;
}

void *mem_realloc(void *p, size_t count, size_t bytes) {
    size_t total;
    if (__builtin_mul_overflow(count, bytes, &total)) {
        return NULL;
    }
    return realloc(p, total ? total : 1);
}

char *mem_dup(const void *p, size_t bytes) {
    size_t total;
    if (__builtin_add_overflow(bytes, (size_t)1, &total)) {
        return NULL;
    }
    char *copy = malloc(total);
    if (copy) {
        if (bytes) {
            memcpy(copy, p, bytes);
        }
        copy[bytes] = '\0';
    }
    return copy;
}

void mem_free(void *p) {
    free(p);
}
