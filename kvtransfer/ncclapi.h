/* ncclapi.h -- NCCL and the CUDA runtime, opened by name when somebody wants them.
 *
 * Purpose    One binary runs where neither is installed. NCCL is libnccl.so.2 or the file that
 *            WEIR_NCCL names; the runtime is the one that file brings along (the emulated device)
 *            or libcudart.so.
 * Ownership  Both stay loaded until the process ends.
 * Threads    Any.
 * Limits     Needs nccl.h at build time; without it nccl_open (nccl.h here) refuses.
 */
#ifndef KVTRANSFER_NCCLAPI_H
#define KVTRANSFER_NCCLAPI_H

#include <cuda_runtime_api.h>
#include <nccl.h>

#include "engine/base/status.h"

/* The calls that are used, once each: NCCLAPI_CALLS(X) is X(name) for all of them. */
/* clang-format off */
#define NCCLAPI_NCCL(X) \
    X(ncclGetUniqueId) X(ncclCommInitRankConfig) X(ncclCommGetAsyncError) X(ncclGroupStart) \
    X(ncclGroupEnd) X(ncclSend) X(ncclRecv) X(ncclCommAbort)
#define NCCLAPI_RUNTIME(X) \
    X(cudaSetDevice) X(cudaMalloc) X(cudaFree) X(cudaStreamCreateWithPriority) \
    X(cudaStreamDestroy) X(cudaDeviceGetStreamPriorityRange) X(cudaEventCreateWithFlags) \
    X(cudaEventRecord) X(cudaEventQuery) X(cudaEventElapsedTime) X(cudaEventDestroy) \
    X(cudaMemcpyAsync) X(cudaDeviceGetPCIBusId) X(cudaIpcGetMemHandle) X(cudaIpcOpenMemHandle) \
    X(cudaIpcCloseMemHandle)
#define NCCLAPI_CALLS(X) NCCLAPI_NCCL(X) NCCLAPI_RUNTIME(X)
/* clang-format on */

#define NCCLAPI_MEMBER(name) __typeof__(&name) name;
typedef struct {
    NCCLAPI_CALLS(NCCLAPI_MEMBER)
} ncclapi;
#undef NCCLAPI_MEMBER

/* NOTFOUND with the loader's reason when one of them is missing. */
MUST_USE status ncclapi_load(const ncclapi **out, diag *d);

/* As ncclapi_load, for who calls the runtime alone: NCCL may be missing. */
MUST_USE status ncclapi_runtime(const ncclapi **out, diag *d);

#endif
