/* emu_state.hpp -- what the emulated runtime's own files share: devices, allocations, streams.
 *
 * Purpose    emu_runtime.cpp (streams, events, graphs, errors) and emu_memory.cpp (devices, memory,
 *            copies) are one library with one state.
 * Ownership  The state lives as long as the process: threads may still call while it ends.
 * Threads    All of it under `lock`; a stream's work runs without it (`running` says so).
 * Limits     EMU_DEVICES_MAX devices.
 */
#ifndef TESTS_EMU_EMU_STATE_HPP
#define TESTS_EMU_EMU_STATE_HPP

#include <atomic>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <vector>

#include "tests/emu/emu_runtime.hpp"

enum { EMU_DEVICES_MAX = 16 };

struct CUgraph_st {
    std::vector<emu_work> work;
};
struct CUgraphExec_st {
    std::vector<emu_work> work;
};
struct CUstream_st {
    int device = 0;
    std::deque<emu_work> queue;
    bool running = false; /* somebody runs the oldest piece */
    bool capturing = false;
    std::vector<emu_work> captured;
};
struct emu_event {
    std::atomic<uint64_t> recorded{0}, reached{0};
    std::atomic<double> milliseconds{0};
};
struct CUevent_st { /* an event may be destroyed while a stream has it before it */
    int device = 0;
    std::shared_ptr<emu_event> state = std::make_shared<emu_event>();
};

enum emu_memory_kind { EMU_MALLOC, EMU_MANAGED, EMU_IMPORTED };

struct emu_allocation {
    size_t bytes, mapped;
    int device;
    emu_memory_kind kind;
    int shared_fd; /* its pages are this memfd's since it was exported; else -1 */
};

struct emu_device {
    CUstream_st default_stream;
    size_t used = 0, capacity = 0;
    cudaError_t sticky = cudaSuccess;
};

/* One fault that was asked for: the call number `after` of `function` (or of any, "*") fails. */
struct emu_fault {
    std::string function;
    cudaError_t error;
    unsigned long after;
    int device; /* -1: any */
};

struct emu_state {
    std::recursive_mutex lock;
    emu_device devices[EMU_DEVICES_MAX];
    int devices_count;
    std::set<CUstream_st *> streams;
    std::map<const char *, emu_allocation> allocations;
    std::map<const char *, size_t> pinned;
    std::set<const void *> large_shared; /* kernels allowed more than 48 KiB */
    std::vector<emu_fault> faults;
    unsigned long launches = 0, graph_launches = 0;
    uint64_t random;

    emu_state();
};

emu_state &emu_the();

/* emu_green.cpp: the driver's functions for green contexts. NULL: none of that name. */
void *emu_green_entry(const char *symbol);
using emu_guard = std::lock_guard<std::recursive_mutex>;

/* The calling thread's device. */
extern thread_local int emu_device_now;
extern thread_local cudaError_t emu_error_last;

/* What function `name` answers: e, or the fault that was asked for, or what broke the device. */
cudaError_t emu_result(const char *name, cudaError_t e);
#define EMU_RESULT(e) emu_result(__func__, e)

cudaError_t emu_push(cudaStream_t stream, emu_work work);
CUstream_st *emu_stream_of(cudaStream_t stream);
bool emu_any_capturing();

#endif
