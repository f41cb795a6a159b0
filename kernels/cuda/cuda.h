/* cuda.h -- the CUDA backend's one door, used by kernels/backend.c through the module.
 *
 * Purpose    Opens the CUDA backend on one device. It lives in a shared object that is loaded when
 *            somebody asks for it (kernels/module.c), so a binary built with CUDA runs without.
 * Ownership  backend_close gives everything back.
 * Threads    As backend.h: one thread at a time.
 * Limits     Compute capability 8.0 and later, and what the module was compiled for.
 */
#ifndef KERNELS_CUDA_CUDA_H
#define KERNELS_CUDA_CUDA_H

#include "kernels/backend.h"

/* What stands in the way of cuda_open: no driver or one that is too old, no such device, one of an
 * architecture that the kernels were not compiled for. Takes nothing. */
MUST_USE status cuda_probe(const backend_options *options, diag *d);

/* `out` is NULL on failure and `d` says why: as cuda_probe, or memory. */
MUST_USE status cuda_open(const backend_options *options, backend **out, diag *d);

#endif
