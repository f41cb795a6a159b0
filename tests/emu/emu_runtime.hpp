/* emu_runtime.hpp -- what the emulated libraries share: streams as queues of deferred work.
 *
 * Purpose    emu_runtime.cpp is the CUDA runtime's subset that weir calls, against CUDA's own
 * headers. Nothing that is queued runs before the host waits or asks; then one of the streams that
 *            can go on is drawn (seed EMU_SEED) and its oldest piece is run. Host code that forgets
 *            to wait reads old data every time, not once a month.
 * Ownership  None.
 * Threads    Any; one lock.
 * Limits     Device memory EMU_MEMORY_MB (4096), devices EMU_DEVICES (1), four SMs each.
 */
#ifndef TESTS_EMU_EMU_RUNTIME_HPP
#define TESTS_EMU_EMU_RUNTIME_HPP

#include <cstddef>
#include <functional>

#include <cuda_runtime_api.h>

/* A piece of a stream's work: true when it is done, false to be asked again. */
typedef std::function<bool()> emu_work;

void emu_stream_push(cudaStream_t stream, emu_work work);

/* The whole of [p, p + bytes) lies in one live allocation of a device. */
bool emu_is_device(const void *p, size_t bytes);

/* The next call of the runtime named `function` fails once with `error` ("cudaMalloc", ...). */
void emu_fail_next(const char *function, cudaError_t error);

/* Bytes of device memory in use now, launches so far. */
size_t emu_memory_used(void);
unsigned long emu_launches(void);

#endif
