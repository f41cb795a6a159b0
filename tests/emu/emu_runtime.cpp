/* emu_runtime.cpp -- the CUDA runtime on the host: devices, memory, deferred streams, events,
 * graphs.
 *
 * Every function is declared by CUDA's own header, so a signature that changes is a compile error.
 */
#include "tests/emu/emu_runtime.hpp"

#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <vector>

#include "tests/emu/emu_block.hpp"

struct CUgraph_st {
    std::vector<emu_work> work;
};
struct CUgraphExec_st {
    std::vector<emu_work> work;
};
struct CUstream_st {
    std::deque<emu_work> queue;
    bool capturing = false;
    std::vector<emu_work> captured;
};
struct CUevent_st {
    uint64_t recorded = 0, reached = 0;
    double milliseconds = 0;
};

namespace {

struct runtime {
    std::recursive_mutex lock;
    std::set<CUstream_st *> streams;
    CUstream_st default_stream;
    std::map<const char *, size_t> allocations;
    std::set<void *> pinned;
    std::set<const void *> large_shared; /* kernels allowed more than 48 KiB */
    std::string fail_function;
    cudaError_t fail_error = cudaSuccess, last = cudaSuccess, sticky = cudaSuccess;
    size_t used = 0, capacity;
    unsigned long launches = 0;
    int devices, device = 0;
    uint64_t random;

    runtime() {
        const char *mb = getenv("EMU_MEMORY_MB"), *count = getenv("EMU_DEVICES");
        capacity = (mb != nullptr ? strtoull(mb, nullptr, 10) : 4096) << 20;
        devices = count != nullptr ? (int)strtol(count, nullptr, 10) : 1;
        random = (emu_settings.seed + 1) * 0x9e3779b97f4a7c15ull | 1;
    }
};

/* Never destroyed: threads may still call while the process ends. */
runtime &the() {
    static runtime *r = new runtime;
    return *r;
}

using guard = std::lock_guard<std::recursive_mutex>;

/* Every function's way out: remembers an error, and fails where a test has asked for it. */
cudaError_t result(const char *function, cudaError_t e) {
    guard held(the().lock);
    runtime &r = the();
    if (e == cudaSuccess && r.sticky != cudaSuccess) {
        e = r.sticky;
    }
    if (e == cudaSuccess && r.fail_error != cudaSuccess && r.fail_function == function) {
        e = r.fail_error;
        r.fail_error = cudaSuccess;
        if (e == cudaErrorIllegalAddress || e == cudaErrorLaunchFailure) {
            r.sticky = e; /* as on hardware: nothing works on this device any more */
        }
    }
    if (e != cudaSuccess) {
        r.last = e;
    }
    return e;
}

#define RESULT(e) result(__func__, e)

CUstream_st *stream_of(cudaStream_t s) {
    return s != nullptr ? s : &the().default_stream;
}

bool idle(cudaStream_t s) {
    guard held(the().lock);
    return stream_of(s)->queue.empty();
}

enum class turn_result { NOTHING, PROGRESS, WAITING };

/* Runs the oldest piece of one stream drawn among all. */
turn_result turn() {
    guard held(the().lock);
    runtime &r = the();
    std::vector<CUstream_st *> waiting;
    if (!r.default_stream.queue.empty()) {
        waiting.push_back(&r.default_stream);
    }
    for (CUstream_st *s : r.streams) {
        if (!s->queue.empty()) {
            waiting.push_back(s);
        }
    }
    if (waiting.empty()) {
        return turn_result::NOTHING;
    }
    r.random ^= r.random << 13;
    r.random ^= r.random >> 7;
    r.random ^= r.random << 17;
    for (size_t i = 0; i < waiting.size(); i++) {
        CUstream_st *s = waiting[(r.random + i) % waiting.size()];
        if (s->queue.front()()) {
            s->queue.pop_front();
            return turn_result::PROGRESS;
        }
    }
    return turn_result::WAITING;
}

template <class DONE>
void run_until(DONE done) {
    while (!done()) {
        const turn_result t = turn();
        if (t == turn_result::NOTHING) {
            return;
        }
        if (t == turn_result::WAITING) { /* for another process */
            usleep(50);
        }
    }
}

cudaError_t push(cudaStream_t stream, emu_work work) {
    guard held(the().lock);
    CUstream_st *s = stream_of(stream);
    if (s->capturing) {
        s->captured.push_back(std::move(work));
    } else {
        s->queue.push_back(std::move(work));
    }
    return cudaSuccess;
}

/* What a stream under capture must not be asked. */
bool any_capturing() {
    guard held(the().lock);
    for (const CUstream_st *s : the().streams) {
        if (s->capturing) {
            return true;
        }
    }
    return false;
}

double now_ms() {
    return std::chrono::duration<double, std::milli>(
               std::chrono::steady_clock::now().time_since_epoch())
        .count();
}

cudaError_t device_ranges(const void *to, const void *from, size_t bytes, cudaMemcpyKind kind) {
    const bool device_to = kind == cudaMemcpyHostToDevice || kind == cudaMemcpyDeviceToDevice;
    const bool device_from = kind == cudaMemcpyDeviceToHost || kind == cudaMemcpyDeviceToDevice;
    if (bytes == 0) {
        return cudaSuccess;
    }
    if (device_to != emu_is_device(to, bytes) || device_from != emu_is_device(from, bytes)) {
        return cudaErrorInvalidValue;
    }
    return cudaSuccess;
}

}  // namespace

void emu_stream_push(cudaStream_t stream, emu_work work) {
    (void)push(stream, std::move(work));
}

bool emu_is_device(const void *p, size_t bytes) {
    guard held(the().lock);
    auto it = the().allocations.upper_bound((const char *)p);
    if (it == the().allocations.begin()) {
        return false;
    }
    --it;
    return (const char *)p + bytes <= it->first + it->second;
}

void emu_fail_next(const char *function, cudaError_t error) {
    guard held(the().lock);
    the().fail_function = function;
    the().fail_error = error;
}

size_t emu_memory_used(void) {
    guard held(the().lock);
    return the().used;
}

unsigned long emu_launches(void) {
    guard held(the().lock);
    return the().launches;
}

cudaError_t emu_runtime_launch(const void *kernel, dim3 grid, dim3 block, size_t shared_bytes,
                               cudaStream_t stream, emu_entry entry, const void *arguments,
                               size_t arguments_bytes) {
    const uint64_t threads = (uint64_t)block.x * block.y * block.z;
    if (grid.x == 0 || grid.y == 0 || grid.z == 0 || grid.y > 65535 || grid.z > 65535 ||
        threads == 0 || threads > EMU_THREADS_MAX || block.z > 64 || arguments_bytes > 32764) {
        return result("cudaLaunchKernel", cudaErrorInvalidConfiguration);
    }
    guard held(the().lock);
    if (shared_bytes > EMU_SHARED_MAX ||
        (shared_bytes > 48 * 1024 && the().large_shared.count(kernel) == 0)) {
        return result("cudaLaunchKernel", cudaErrorInvalidValue);
    }
    const cudaError_t e = result("cudaLaunchKernel", cudaSuccess);
    if (e != cudaSuccess) {
        return e;
    }
    auto copy = std::make_shared<std::vector<char>>((const char *)arguments,
                                                    (const char *)arguments + arguments_bytes);
    the().launches++;
    return push(stream, [=] {
        emu_run(grid, block, shared_bytes, entry, copy->data());
        return true;
    });
}

extern "C" {

cudaError_t cudaGetDeviceCount(int *count) {
    *count = the().devices;
    return RESULT(the().devices > 0 ? cudaSuccess : cudaErrorNoDevice);
}

cudaError_t cudaSetDevice(int device) {
    if (device < 0 || device >= the().devices) {
        return RESULT(cudaErrorInvalidDevice);
    }
    the().device = device;
    return RESULT(cudaSuccess);
}

cudaError_t cudaGetDevice(int *device) {
    *device = the().device;
    return RESULT(cudaSuccess);
}

cudaError_t cudaDeviceGetAttribute(int *value, enum cudaDeviceAttr attribute, int device) {
    (void)device;
    switch (attribute) {
        case cudaDevAttrMultiProcessorCount:
            *value = 4;
            break;
        case cudaDevAttrComputeCapabilityMajor:
            *value = 9;
            break;
        case cudaDevAttrComputeCapabilityMinor:
            *value = 0;
            break;
        case cudaDevAttrMaxSharedMemoryPerBlockOptin:
            *value = EMU_SHARED_MAX;
            break;
        default:
            return RESULT(cudaErrorInvalidValue);
    }
    return RESULT(cudaSuccess);
}

cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *properties, int device) {
    if (device < 0 || device >= the().devices) {
        return RESULT(cudaErrorInvalidDevice);
    }
    memset(properties, 0, sizeof(*properties));
    snprintf(properties->name, sizeof(properties->name), "emulated device");
    properties->totalGlobalMem = the().capacity;
    properties->major = 9;
    properties->multiProcessorCount = 4;
    return RESULT(cudaSuccess);
}

cudaError_t cudaRuntimeGetVersion(int *version) {
    *version = CUDART_VERSION;
    return RESULT(cudaSuccess);
}

cudaError_t cudaDriverGetVersion(int *version) {
    *version = CUDART_VERSION;
    return RESULT(cudaSuccess);
}

cudaError_t cudaMemGetInfo(size_t *free_bytes, size_t *total) {
    guard held(the().lock);
    *total = the().capacity;
    *free_bytes = the().capacity - the().used;
    return RESULT(cudaSuccess);
}

cudaError_t cudaMalloc(void **out, size_t bytes) {
    guard held(the().lock);
    if (any_capturing()) {
        return RESULT(cudaErrorStreamCaptureUnsupported);
    }
    if (bytes > the().capacity - the().used) {
        return RESULT(cudaErrorMemoryAllocation);
    }
    const cudaError_t e = RESULT(cudaSuccess);
    if (e != cudaSuccess) {
        return e;
    }
    const size_t rounded = (bytes + 255) & ~(size_t)255;
    *out = aligned_alloc(256, rounded != 0 ? rounded : 256);
    memset(*out, 0xa5, bytes); /* fresh device memory holds anything */
    the().allocations[(const char *)*out] = bytes;
    the().used += bytes;
    return cudaSuccess;
}

cudaError_t cudaMallocManaged(void **out, size_t bytes, unsigned flags) {
    (void)flags;
    return cudaMalloc(out, bytes);
}

cudaError_t cudaFree(void *p) {
    if (p == nullptr) {
        return RESULT(cudaSuccess);
    }
    (void)cudaDeviceSynchronize();
    guard held(the().lock);
    auto it = the().allocations.find((const char *)p);
    if (it == the().allocations.end()) {
        return RESULT(cudaErrorInvalidValue);
    }
    the().used -= it->second;
    the().allocations.erase(it);
    free(p);
    return RESULT(cudaSuccess);
}

cudaError_t cudaMallocHost(void **out, size_t bytes) {
    const cudaError_t e = RESULT(cudaSuccess);
    if (e != cudaSuccess) {
        return e;
    }
    *out = aligned_alloc(4096, (bytes + 4095) & ~(size_t)4095);
    guard held(the().lock);
    the().pinned.insert(*out);
    return cudaSuccess;
}

cudaError_t cudaFreeHost(void *p) {
    guard held(the().lock);
    if (p != nullptr && the().pinned.erase(p) == 0) {
        return RESULT(cudaErrorInvalidValue);
    }
    free(p);
    return RESULT(cudaSuccess);
}

cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, enum cudaMemcpyKind kind,
                            cudaStream_t stream) {
    const cudaError_t e = RESULT(device_ranges(to, from, bytes, kind));
    if (e != cudaSuccess) {
        return e;
    }
    return push(stream, [=] {
        memcpy(to, from, bytes);
        return true;
    });
}

cudaError_t cudaMemcpy(void *to, const void *from, size_t bytes, enum cudaMemcpyKind kind) {
    const cudaError_t e = cudaMemcpyAsync(to, from, bytes, kind, nullptr);
    return e != cudaSuccess ? e : cudaStreamSynchronize(nullptr);
}

cudaError_t cudaMemsetAsync(void *to, int value, size_t bytes, cudaStream_t stream) {
    const cudaError_t e =
        RESULT(bytes == 0 || emu_is_device(to, bytes) ? cudaSuccess : cudaErrorInvalidValue);
    if (e != cudaSuccess) {
        return e;
    }
    return push(stream, [=] {
        memset(to, value, bytes);
        return true;
    });
}

cudaError_t cudaStreamCreateWithPriority(cudaStream_t *out, unsigned flags, int priority) {
    (void)flags;
    (void)priority;
    const cudaError_t e = RESULT(cudaSuccess);
    if (e == cudaSuccess) {
        *out = new CUstream_st;
        guard held(the().lock);
        the().streams.insert(*out);
    }
    return e;
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *out, unsigned flags) {
    return cudaStreamCreateWithPriority(out, flags, 0);
}

cudaError_t cudaStreamDestroy(cudaStream_t stream) {
    (void)cudaStreamSynchronize(stream);
    guard held(the().lock);
    the().streams.erase(stream);
    delete stream;
    return RESULT(cudaSuccess);
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
    if (stream_of(stream)->capturing) {
        return RESULT(cudaErrorStreamCaptureUnsupported);
    }
    run_until([=] { return idle(stream); });
    return RESULT(cudaSuccess);
}

cudaError_t cudaStreamQuery(cudaStream_t stream) {
    (void)turn();
    return idle(stream) ? RESULT(cudaSuccess) : cudaErrorNotReady;
}

cudaError_t cudaDeviceSynchronize(void) {
    if (any_capturing()) {
        return RESULT(cudaErrorStreamCaptureUnsupported);
    }
    run_until([] { return false; });
    return RESULT(cudaSuccess);
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *out, unsigned flags) {
    (void)flags;
    const cudaError_t e = RESULT(cudaSuccess);
    if (e == cudaSuccess) {
        *out = new CUevent_st;
    }
    return e;
}

cudaError_t cudaEventDestroy(cudaEvent_t event) {
    delete event;
    return RESULT(cudaSuccess);
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
    const uint64_t number = ++event->recorded;
    return push(stream, [=] {
        event->reached = event->reached < number ? number : event->reached;
        event->milliseconds = now_ms();
        return true;
    });
}

cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned flags) {
    (void)flags;
    const uint64_t number = event->recorded;
    return push(stream, [=] { return event->reached >= number; });
}

cudaError_t cudaEventSynchronize(cudaEvent_t event) {
    const uint64_t number = event->recorded;
    run_until([=] { return event->reached >= number; });
    return RESULT(cudaSuccess);
}

cudaError_t cudaEventQuery(cudaEvent_t event) {
    (void)turn();
    return event->reached >= event->recorded ? RESULT(cudaSuccess) : cudaErrorNotReady;
}

cudaError_t cudaEventElapsedTime(float *milliseconds, cudaEvent_t from, cudaEvent_t to) {
    *milliseconds = (float)(to->milliseconds - from->milliseconds);
    return RESULT(cudaSuccess);
}

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, enum cudaStreamCaptureMode mode) {
    (void)mode;
    guard held(the().lock);
    if (stream == nullptr || stream->capturing) {
        return RESULT(cudaErrorStreamCaptureUnsupported);
    }
    stream->capturing = true;
    stream->captured.clear();
    return RESULT(cudaSuccess);
}

cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t *out) {
    guard held(the().lock);
    *out = new CUgraph_st{std::move(stream->captured)};
    stream->capturing = false;
    return RESULT(cudaSuccess);
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t *out, cudaGraph_t graph,
                                 unsigned long long flags) {
    (void)flags;
    *out = new CUgraphExec_st{graph->work};
    return RESULT(cudaSuccess);
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t graph, cudaStream_t stream) {
    for (const emu_work &w : graph->work) {
        (void)push(stream, w);
    }
    return RESULT(cudaSuccess);
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
    delete graph;
    return RESULT(cudaSuccess);
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t graph) {
    delete graph;
    return RESULT(cudaSuccess);
}

cudaError_t cudaFuncSetAttribute(const void *function, enum cudaFuncAttribute attribute,
                                 int value) {
    guard held(the().lock);
    if (attribute == cudaFuncAttributeMaxDynamicSharedMemorySize && value <= EMU_SHARED_MAX) {
        the().large_shared.insert(function);
        return RESULT(cudaSuccess);
    }
    return RESULT(cudaErrorInvalidValue);
}

cudaError_t cudaGetLastError(void) {
    guard held(the().lock);
    const cudaError_t e = the().last;
    the().last = the().sticky;
    return e;
}

const char *cudaGetErrorName(cudaError_t e) {
    switch (e) {
        case cudaSuccess:
            return "cudaSuccess";
        case cudaErrorMemoryAllocation:
            return "cudaErrorMemoryAllocation";
        case cudaErrorNoDevice:
            return "cudaErrorNoDevice";
        case cudaErrorInvalidDevice:
            return "cudaErrorInvalidDevice";
        case cudaErrorIllegalAddress:
            return "cudaErrorIllegalAddress";
        case cudaErrorLaunchFailure:
            return "cudaErrorLaunchFailure";
        default:
            return "cudaError";
    }
}

const char *cudaGetErrorString(cudaError_t e) {
    return e == cudaSuccess ? "no error" : "an error of the emulated device";
}

} /* extern "C" */
