/* cpumap.c -- pages from the system. */
#define _GNU_SOURCE

#include "kernels/cpu/cpumap.h"

#include <stddef.h>
#include <sys/mman.h>

void *cpumap_take(uint64_t bytes, bool huge) {
    void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) {
        return NULL;
    }
    if (huge) {
        (void)madvise(p, bytes, MADV_HUGEPAGE); /* only speed depends on it */
    }
    return p;
}

void cpumap_give(void *p, uint64_t bytes) {
    if (p != NULL) {
        (void)munmap(p, bytes);
    }
}
