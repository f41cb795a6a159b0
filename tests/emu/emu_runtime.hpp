/* emu_runtime.hpp -- what the emulated libraries share: streams as queues of deferred work.
 *
 * Purpose    emu_runtime.cpp and emu_memory.cpp are the CUDA runtime's subset that weir calls,
 *            against CUDA's own headers. Nothing that is queued runs before the host waits or asks;
 *            then one of the streams that can go on is drawn (seed EMU_SEED) and its oldest piece
 *            is run. Host code that forgets to wait reads old data every time, not once a month.
 *            EMU_BACKGROUND=1 adds a thread that runs pieces all the time, as a device does.
 * Ownership  None.
 * Threads    Any; one lock, which no piece of work runs under.
 * Limits     EMU_DEVICES devices (1) of EMU_MEMORY_MB (4096; "64,4096": a device each), four SMs.
 */
#ifndef TESTS_EMU_EMU_RUNTIME_HPP
#define TESTS_EMU_EMU_RUNTIME_HPP

#include <cstddef>
#include <functional>
#include <mutex>

#include <cuda_runtime_api.h>

/* A piece of a stream's work: true when it is done, false to be asked again. */
typedef std::function<bool()> emu_work;

void emu_stream_push(cudaStream_t stream, emu_work work);
int emu_stream_device(cudaStream_t stream);
bool emu_stream_capturing(cudaStream_t stream);

/* The runtime's lock, for libraries that keep their state under it too. */
std::unique_lock<std::recursive_mutex> emu_lock();

/* Runs one piece of work that can go on, or sleeps a moment: the body of a loop that waits. */
void emu_go_on();

/* The device whose live allocation holds the whole of [p, p + bytes); -1: none does. */
int emu_device_of(const void *p, size_t bytes);
bool emu_is_device(const void *p, size_t bytes);

/* Memory of a device that a library takes for itself; false: there is not so much. */
bool emu_memory_take(int device, size_t bytes);
void emu_memory_give(int device, size_t bytes);

/* The next call of the runtime named `function` fails once with `error` ("cudaMalloc", ...). An
 * error that breaks a device (an illegal address, ...) stays with the device. From outside:
 * EMU_CUDA_FAULT="function,error=NUMBER[,after=CALLS][,device=N];..." */
void emu_fail_next(const char *function, cudaError_t error);
void emu_fail_after(const char *function, cudaError_t error, unsigned long calls, int device);
cudaError_t emu_device_broken(int device);
void emu_device_repair(int device); /* for tests: a new process would find a working one */

/* Bytes of device memory in use now on all devices, launches so far. */
size_t emu_memory_used(void);
unsigned long emu_launches(void);
/* By C, for programs that load the module. */
extern "C" unsigned long emu_kernel_launches(void);
extern "C" unsigned long emu_graph_launches(void);

#endif
