/* cudadevice.h -- is there a device that these kernels run on.
 *
 * Purpose    The checks before anything is opened, with what a user needs to know when one fails:
 *            what was asked for and what is there.
 * Ownership  None.
 * Threads    Any.
 * Limits     Compute capability 8.0 and later.
 */
#ifndef KERNELS_CUDA_CUDADEVICE_H
#define KERNELS_CUDA_CUDADEVICE_H

#include <cuda_runtime_api.h>

#include "engine/base/status.h"

/* `capability`: 90 for 9.0. NOTFOUND: no driver, no device, no such number. UNSUPPORTED: a driver
 * that is too old, an architecture the module was not compiled for. */
MUST_USE status cudadevice_choose(int device, int *capability, diag *d);

#endif
