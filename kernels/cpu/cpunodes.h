/* cpunodes.h -- memory on machines with several NUMA nodes.
 *
 * Purpose    Weights are read by the threads of every node: laid out over all nodes in turn, they
 *            are read at the bandwidth of all, instead of that of the one that packed them.
 * Ownership  None.
 * Threads    Any.
 * Limits     CPUNODES_MAX nodes; on one node nothing is done.
 */
#ifndef KERNELS_CPU_CPUNODES_H
#define KERNELS_CPU_CPUNODES_H

#include <stdint.h>

#include "engine/base/str.h"

enum { CPUNODES_MAX = 64 };

/* The nodes of a list as Linux writes them ("0", "0-1,4"), a bit each; 0 when it is none. */
uint64_t cpunodes_parse(str list);

/* This machine's nodes that have memory; 0 when the system does not tell. */
uint64_t cpunodes_with_memory(void);

/* Spreads memory that nobody has touched yet over these nodes. Only speed depends on it, so a
 * refusal is no error. */
void cpunodes_spread(void *memory, uint64_t bytes, uint64_t nodes);

#endif
