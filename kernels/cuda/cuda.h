/* cuda.h -- the CUDA backend's one door, used by kernels/backend.c through the module.
 *
 * Purpose    Opens the CUDA backend on one device. It lives in a shared object that is loaded when
 *            somebody asks for it (kernels/module.c), so a binary built with CUDA runs without.
 * Ownership  backend_close gives everything back.
 * Threads    As backend.h: one thread at a time.
 * Limits     Compute capability 8.0 and later.
 */
#ifndef KERNELS_CUDA_CUDA_H
#define KERNELS_CUDA_CUDA_H

#include "kernels/backend.h"

/* The module's only symbol; `out` is NULL on failure and `d` says why: no device, an unknown
 * number, an architecture that is too old, a driver older than the runtime. */
MUST_USE status cuda_open(const backend_options *options, backend **out, diag *d);

#endif
