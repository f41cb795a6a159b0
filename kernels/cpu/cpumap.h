/* cpumap.h -- pages from the system.
 *
 * Purpose    Memory for weights, KV pools and scratch, which is too large for an allocator and
 *            wants to begin at a page.
 * Ownership  The caller's until it gives them back, with the size it asked for.
 * Threads    Any.
 * Limits     None but the system's.
 */
#ifndef KERNELS_CPU_CPUMAP_H
#define KERNELS_CPU_CPUMAP_H

#include <stdbool.h>
#include <stdint.h>

/* Zeroed pages for `bytes`; NULL when refused. `huge` asks for huge pages. */
void *cpumap_take(uint64_t bytes, bool huge);
/* `p` may be NULL. */
void cpumap_give(void *p, uint64_t bytes);

#endif
