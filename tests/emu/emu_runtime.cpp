/* emu_runtime.cpp -- the CUDA runtime on the host: deferred streams, events, graphs, errors.
 *
 * Every function is declared by CUDA's own header, so a signature that changes is a compile error.
 */
#include "tests/emu/emu_runtime.hpp"

#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <thread>

#include "tests/emu/emu_block.hpp"
#include "tests/emu/emu_order.hpp"
#include "tests/emu/emu_state.hpp"

thread_local int emu_device_now;
thread_local cudaError_t emu_error_last = cudaSuccess;

namespace {

/* "function,error=N[,after=N][,device=N];..." */
void read_faults(const char *text, std::vector<emu_fault> *faults) {
    for (std::string rest = text; !rest.empty();) {
        const size_t end = rest.find(';');
        std::string one = rest.substr(0, end);
        rest = end == std::string::npos ? "" : rest.substr(end + 1);
        emu_fault f = {one.substr(0, one.find(',')), cudaErrorUnknown, 0, -1};
        for (size_t at = one.find(','); at != std::string::npos; at = one.find(',', at + 1)) {
            const char *word = one.c_str() + at + 1;
            if (strncmp(word, "error=", 6) == 0) {
                f.error = (cudaError_t)strtol(word + 6, nullptr, 10);
            } else if (strncmp(word, "after=", 6) == 0) {
                f.after = strtoul(word + 6, nullptr, 10);
            } else if (strncmp(word, "device=", 7) == 0) {
                f.device = (int)strtol(word + 7, nullptr, 10);
            } else {
                emu_die("EMU_CUDA_FAULT: what is \"%s\"?", word);
            }
        }
        faults->push_back(f);
    }
}

bool breaks_device(cudaError_t e) {
    switch (e) {
        case cudaErrorIllegalAddress:
        case cudaErrorLaunchFailure:
        case cudaErrorLaunchTimeout:
        case cudaErrorECCUncorrectable:
        case cudaErrorHardwareStackError:
        case cudaErrorIllegalInstruction:
        case cudaErrorMisalignedAddress:
        case cudaErrorInvalidAddressSpace:
        case cudaErrorInvalidPc:
        case cudaErrorAssert:
            return true;
        default:
            return false;
    }
}

bool idle(cudaStream_t s) {
    emu_guard held(emu_the().lock);
    const CUstream_st *stream = emu_stream_of(s);
    return stream->queue.empty() && !stream->running;
}

enum class turn_result { NOTHING, PROGRESS, WAITING };

void streams_with_work(std::vector<CUstream_st *> *out, bool *running) {
    emu_state &r = emu_the();
    auto add = [&](CUstream_st *s) {
        *running = *running || s->running;
        if (!s->queue.empty() && !s->running && r.devices[s->device].sticky == cudaSuccess) {
            out->push_back(s);
        }
    };
    for (int i = 0; i < r.devices_count; i++) {
        add(&r.devices[i].default_stream);
    }
    for (CUstream_st *s : r.streams) {
        add(s);
    }
}

/* Runs the oldest piece of one stream drawn among all, without the lock. */
turn_result turn() {
    emu_state &r = emu_the();
    std::unique_lock<std::recursive_mutex> held(r.lock);
    std::vector<CUstream_st *> waiting;
    bool running = false;
    streams_with_work(&waiting, &running);
    if (waiting.empty()) {
        return running ? turn_result::WAITING : turn_result::NOTHING;
    }
    r.random ^= r.random << 13;
    r.random ^= r.random >> 7;
    r.random ^= r.random << 17;
    const uint64_t first = r.random;
    for (size_t i = 0; i < waiting.size(); i++) {
        CUstream_st *s = waiting[(first + i) % waiting.size()];
        const uintptr_t at = (uintptr_t)s, devices = (uintptr_t)r.devices;
        const bool of_device = at >= devices && at < devices + sizeof(r.devices);
        if (!of_device && r.streams.count(s) == 0) {
            continue; /* destroyed while the lock was free */
        }
        if (s->running || s->queue.empty()) {
            continue;
        }
        s->running = true;
        emu_work &work = s->queue.front(); /* a deque: pushes leave it where it is */
        held.unlock();
        const bool done = work();
        held.lock();
        s->running = false;
        if (done) {
            s->queue.pop_front();
            return turn_result::PROGRESS;
        }
    }
    return turn_result::WAITING;
}

template <class DONE>
cudaError_t run_until(int device, DONE done) {
    while (!done()) {
        if (emu_device_broken(device) != cudaSuccess) {
            return emu_device_broken(device);
        }
        const turn_result t = turn();
        if (t == turn_result::NOTHING) {
            return cudaSuccess;
        }
        if (t == turn_result::WAITING) { /* for another thread or process */
            usleep(50);
        }
    }
    return cudaSuccess;
}

double now_ms() {
    return std::chrono::duration<double, std::milli>(
               std::chrono::steady_clock::now().time_since_epoch())
        .count();
}

}  // namespace

emu_state::emu_state() {
    const char *mb = getenv("EMU_MEMORY_MB"), *count = getenv("EMU_DEVICES"),
               *fault = getenv("EMU_CUDA_FAULT");
    devices_count = count != nullptr ? (int)strtol(count, nullptr, 10) : 1;
    if (devices_count < 0 || devices_count > EMU_DEVICES_MAX) {
        emu_die("EMU_DEVICES=%d, at most %d", devices_count, (int)EMU_DEVICES_MAX);
    }
    size_t capacity_mb = 4096;
    for (int i = 0; i < devices_count; i++) {
        if (mb != nullptr && *mb != 0) { /* the last number is for the devices that are left, too */
            char *end;
            capacity_mb = strtoull(mb, &end, 10);
            mb = *end == ',' ? end + 1 : end;
        }
        devices[i].capacity = capacity_mb << 20;
        devices[i].default_stream.device = i;
    }
    random = (emu_settings.seed + 1) * 0x9e3779b97f4a7c15ull | 1;
    if (fault != nullptr) {
        read_faults(fault, &faults);
    }
    const char *background = getenv("EMU_BACKGROUND");
    if (background != nullptr && *background == '1') {
        std::thread([] {
            for (;;) {
                emu_go_on();
            }
        }).detach();
    }
}

emu_state &emu_the() {
    static emu_state *r = [] {
        emu_state *made = new emu_state;
        EMU_RELEASE(made);
        return made;
    }();
    EMU_ACQUIRE(r); /* a race checker does not see who made it */
    return *r;
}

cudaError_t emu_result(const char *function, cudaError_t e) {
    emu_state &r = emu_the();
    emu_guard held(r.lock);
    cudaError_t *sticky = &r.devices[emu_device_now].sticky;
    for (size_t i = 0; i < r.faults.size() && e == cudaSuccess && *sticky == cudaSuccess; i++) {
        emu_fault &f = r.faults[i];
        if ((f.function != "*" && f.function != function) ||
            (f.device >= 0 && f.device != emu_device_now) || f.after-- > 0) {
            continue;
        }
        e = f.error;
        r.faults.erase(r.faults.begin() + (ptrdiff_t)i);
        if (breaks_device(e)) {
            *sticky = e; /* as on hardware: nothing works on this device any more */
        }
    }
    if (*sticky != cudaSuccess) {
        e = *sticky;
    }
    if (e != cudaSuccess) {
        emu_error_last = e;
    }
    return e;
}

CUstream_st *emu_stream_of(cudaStream_t s) {
    return s != nullptr ? s : &emu_the().devices[emu_device_now].default_stream;
}

cudaError_t emu_push(cudaStream_t stream, emu_work work) {
    emu_guard held(emu_the().lock);
    CUstream_st *s = emu_stream_of(stream);
    if (s->capturing) {
        s->captured.push_back(std::move(work));
    } else {
        s->queue.push_back(std::move(work));
    }
    return cudaSuccess;
}

/* What a stream under capture must not be asked. */
bool emu_any_capturing() {
    emu_guard held(emu_the().lock);
    for (const CUstream_st *s : emu_the().streams) {
        if (s->capturing) {
            return true;
        }
    }
    return false;
}

void emu_stream_push(cudaStream_t stream, emu_work work) {
    (void)emu_push(stream, std::move(work));
}

int emu_stream_device(cudaStream_t stream) {
    emu_guard held(emu_the().lock);
    return emu_stream_of(stream)->device;
}

bool emu_stream_capturing(cudaStream_t stream) {
    emu_guard held(emu_the().lock);
    return emu_stream_of(stream)->capturing;
}

std::unique_lock<std::recursive_mutex> emu_lock() {
    return std::unique_lock<std::recursive_mutex>(emu_the().lock);
}

void emu_go_on() {
    if (turn() != turn_result::PROGRESS) {
        usleep(50);
    }
}

void emu_fail_next(const char *function, cudaError_t error) {
    emu_fail_after(function, error, 0, -1);
}

void emu_fail_after(const char *function, cudaError_t error, unsigned long calls, int device) {
    emu_guard held(emu_the().lock);
    emu_the().faults.push_back({function, error, calls, device});
}

cudaError_t emu_device_broken(int device) {
    emu_guard held(emu_the().lock);
    return emu_the().devices[device].sticky;
}

void emu_device_repair(int device) {
    emu_guard held(emu_the().lock);
    emu_the().devices[device].sticky = cudaSuccess;
}

unsigned long emu_graph_launches(void) {
    emu_guard held(emu_the().lock);
    return emu_the().graph_launches;
}

unsigned long emu_kernel_launches(void) {
    return emu_launches();
}

unsigned long emu_launches(void) {
    emu_guard held(emu_the().lock);
    return emu_the().launches;
}

cudaError_t emu_runtime_launch(const void *kernel, dim3 grid, dim3 block, size_t shared_bytes,
                               cudaStream_t stream, emu_entry entry, const void *arguments,
                               size_t arguments_bytes) {
    const uint64_t threads = (uint64_t)block.x * block.y * block.z;
    if (grid.x == 0 || grid.y == 0 || grid.z == 0 || grid.y > 65535 || grid.z > 65535 ||
        threads == 0 || threads > EMU_THREADS_MAX || block.z > 64 || arguments_bytes > 32764) {
        return emu_result("cudaLaunchKernel", cudaErrorInvalidConfiguration);
    }
    emu_guard held(emu_the().lock);
    if (shared_bytes > EMU_SHARED_MAX ||
        (shared_bytes > 48 * 1024 && emu_the().large_shared.count(kernel) == 0)) {
        return emu_result("cudaLaunchKernel", cudaErrorInvalidValue);
    }
    if (emu_stream_of(stream)->device != emu_device_now) {
        return emu_result("cudaLaunchKernel", cudaErrorInvalidResourceHandle);
    }
    const cudaError_t e = emu_result("cudaLaunchKernel", cudaSuccess);
    if (e != cudaSuccess) {
        return e;
    }
    auto copy = std::make_shared<std::vector<char>>((const char *)arguments,
                                                    (const char *)arguments + arguments_bytes);
    emu_the().launches++;
    return emu_push(stream, [=] {
        emu_run(grid, block, shared_bytes, entry, copy->data());
        return true;
    });
}

extern "C" {

cudaError_t cudaStreamCreateWithPriority(cudaStream_t *out, unsigned flags, int priority) {
    (void)flags;
    (void)priority;
    const cudaError_t e = EMU_RESULT(cudaSuccess);
    if (e == cudaSuccess) {
        *out = new CUstream_st;
        (*out)->device = emu_device_now;
        emu_guard held(emu_the().lock);
        emu_the().streams.insert(*out);
    }
    return e;
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *out, unsigned flags) {
    return cudaStreamCreateWithPriority(out, flags, 0);
}

cudaError_t cudaDeviceGetStreamPriorityRange(int *least, int *greatest) {
    *least = 0;
    *greatest = -5;
    return EMU_RESULT(cudaSuccess);
}

cudaError_t cudaStreamDestroy(cudaStream_t stream) {
    (void)cudaStreamSynchronize(stream);
    for (;; usleep(50)) { /* a broken device's queue is dropped, but not under somebody's feet */
        emu_guard held(emu_the().lock);
        if (!stream->running) {
            emu_the().streams.erase(stream);
            break;
        }
    }
    delete stream;
    return EMU_RESULT(cudaSuccess);
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
    if (emu_stream_capturing(stream)) {
        return EMU_RESULT(cudaErrorStreamCaptureUnsupported);
    }
    return EMU_RESULT(run_until(emu_stream_device(stream), [=] { return idle(stream); }));
}

cudaError_t cudaStreamQuery(cudaStream_t stream) {
    (void)turn();
    const cudaError_t e = EMU_RESULT(cudaSuccess);
    return e != cudaSuccess || idle(stream) ? e : cudaErrorNotReady;
}

cudaError_t cudaStreamIsCapturing(cudaStream_t stream, enum cudaStreamCaptureStatus *status) {
    *status =
        emu_stream_capturing(stream) ? cudaStreamCaptureStatusActive : cudaStreamCaptureStatusNone;
    return EMU_RESULT(cudaSuccess);
}

cudaError_t cudaLaunchHostFunc(cudaStream_t stream, cudaHostFn_t function, void *argument) {
    const cudaError_t e = EMU_RESULT(cudaSuccess);
    return e != cudaSuccess ? e : emu_push(stream, [=] {
        function(argument);
        return true;
    });
}

cudaError_t cudaDeviceSynchronize(void) {
    if (emu_any_capturing()) {
        return EMU_RESULT(cudaErrorStreamCaptureUnsupported);
    }
    const int device = emu_device_now;
    return EMU_RESULT(run_until(device, [=] {
        emu_state &r = emu_the();
        emu_guard held(r.lock);
        const CUstream_st *first = &r.devices[device].default_stream;
        bool quiet = first->queue.empty() && !first->running;
        for (const CUstream_st *s : r.streams) {
            quiet = quiet && (s->device != device || (s->queue.empty() && !s->running));
        }
        return quiet;
    }));
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *out, unsigned flags) {
    (void)flags;
    const cudaError_t e = EMU_RESULT(cudaSuccess);
    if (e == cudaSuccess) {
        *out = new CUevent_st;
        (*out)->device = emu_device_now;
    }
    return e;
}

cudaError_t cudaEventCreate(cudaEvent_t *out) {
    return cudaEventCreateWithFlags(out, 0);
}

cudaError_t cudaEventDestroy(cudaEvent_t event) {
    delete event;
    return EMU_RESULT(cudaSuccess);
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
    const bool own = event->device == emu_stream_device(stream);
    const cudaError_t e = EMU_RESULT(own ? cudaSuccess : cudaErrorInvalidResourceHandle);
    if (e != cudaSuccess) {
        return e;
    }
    const std::shared_ptr<emu_event> state = event->state;
    const uint64_t number = ++state->recorded;
    return emu_push(stream, [=] {
        if (state->reached < number) {
            state->reached = number;
        }
        state->milliseconds = now_ms();
        return true;
    });
}

cudaError_t cudaEventRecordWithFlags(cudaEvent_t event, cudaStream_t stream, unsigned flags) {
    (void)flags;
    return cudaEventRecord(event, stream);
}

cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned flags) {
    (void)flags;
    const std::shared_ptr<emu_event> state = event->state;
    const uint64_t number = state->recorded;
    return emu_push(stream, [=] { return state->reached >= number; });
}

cudaError_t cudaEventSynchronize(cudaEvent_t event) {
    const std::shared_ptr<emu_event> state = event->state;
    const uint64_t number = state->recorded;
    return EMU_RESULT(run_until(emu_device_now, [=] {
        emu_guard held(emu_the().lock);
        return state->reached >= number;
    }));
}

cudaError_t cudaEventQuery(cudaEvent_t event) {
    (void)turn();
    const cudaError_t e = EMU_RESULT(cudaSuccess);
    emu_guard held(emu_the().lock);
    return e != cudaSuccess || event->state->reached >= event->state->recorded ? e
                                                                               : cudaErrorNotReady;
}

cudaError_t cudaEventElapsedTime(float *milliseconds, cudaEvent_t from, cudaEvent_t to) {
    *milliseconds = (float)(to->state->milliseconds - from->state->milliseconds);
    return EMU_RESULT(cudaSuccess);
}

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, enum cudaStreamCaptureMode mode) {
    (void)mode;
    emu_guard held(emu_the().lock);
    if (stream == nullptr || stream->capturing) {
        return EMU_RESULT(cudaErrorStreamCaptureUnsupported);
    }
    stream->capturing = true;
    stream->captured.clear();
    return EMU_RESULT(cudaSuccess);
}

cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t *out) {
    emu_guard held(emu_the().lock);
    *out = new CUgraph_st{std::move(stream->captured)};
    stream->capturing = false;
    return EMU_RESULT(cudaSuccess);
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t *out, cudaGraph_t graph,
                                 unsigned long long flags) {
    (void)flags;
    *out = new CUgraphExec_st{graph->work};
    return EMU_RESULT(cudaSuccess);
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t graph, cudaStream_t stream) {
    const cudaError_t e = EMU_RESULT(cudaSuccess);
    {
        emu_guard held(emu_the().lock);
        emu_the().graph_launches++;
    }
    for (const emu_work &w : graph->work) {
        if (e == cudaSuccess) {
            (void)emu_push(stream, w);
        }
    }
    return e;
}

cudaError_t cudaGraphUpload(cudaGraphExec_t graph, cudaStream_t stream) {
    (void)graph;
    (void)stream;
    return EMU_RESULT(cudaSuccess);
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
    delete graph;
    return EMU_RESULT(cudaSuccess);
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t graph) {
    delete graph;
    return EMU_RESULT(cudaSuccess);
}

cudaError_t cudaFuncSetAttribute(const void *function, enum cudaFuncAttribute attribute,
                                 int value) {
    emu_guard held(emu_the().lock);
    if (attribute == cudaFuncAttributeMaxDynamicSharedMemorySize && value <= EMU_SHARED_MAX) {
        emu_the().large_shared.insert(function);
        return EMU_RESULT(cudaSuccess);
    }
    return EMU_RESULT(cudaErrorInvalidValue);
}

cudaError_t cudaGetLastError(void) {
    emu_guard held(emu_the().lock);
    const cudaError_t e = emu_error_last;
    emu_error_last = emu_the().devices[emu_device_now].sticky;
    return e;
}

cudaError_t cudaPeekAtLastError(void) {
    return emu_error_last;
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
        case cudaErrorECCUncorrectable:
            return "cudaErrorECCUncorrectable";
        case cudaErrorInvalidValue:
            return "cudaErrorInvalidValue";
        default:
            return "cudaError";
    }
}

const char *cudaGetErrorString(cudaError_t e) {
    return e == cudaSuccess ? "no error" : "an error of the emulated device";
}

} /* extern "C" */
