/* module.h -- backends that live in a shared object.
 *
 * Purpose    Loads the CUDA backend when it is asked for, so that one binary runs where there is no
 *            CUDA at all: libweir_cuda.so beside the executable, or the file that
 *            WEIR_CUDA_MODULE names.
 * Ownership  A module stays loaded until the process ends.
 * Threads    Any.
 * Limits     None.
 */
#ifndef KERNELS_MODULE_H
#define KERNELS_MODULE_H

#include "kernels/backend.h"

/* As backend_open. STATUS_NOTFOUND when there is no module, with the loader's reason. */
MUST_USE status module_open(const backend_options *options, backend **out, diag *d);

/* Whether module_open would find a module and a device to work on. If there is a module, `why` says
 * what is in the way. */
bool module_usable(const backend_options *options, diag *why);

#endif
