/* mem.c -- overflow-checked wrappers of malloc. */
#include "engine/base/mem.h"

#include <stdlib.h>
#include <string.h>

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
    return calloc(total ? total : 1, 1);
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
