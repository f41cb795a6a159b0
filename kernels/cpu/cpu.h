/* cpu.h -- the CPU backend's one door, used by kernels/backend.c.
 *
 * Purpose    Opens the CPU backend for the best instruction set found, or the one asked for.
 * Ownership  backend_close gives everything back.
 * Threads    As backend.h.
 * Limits     As backend.h.
 */
#ifndef KERNELS_CPU_CPU_H
#define KERNELS_CPU_CPU_H

#include "kernels/backend.h"

MUST_USE status cpu_open(const backend_options *options, backend **out, diag *d);

#endif
