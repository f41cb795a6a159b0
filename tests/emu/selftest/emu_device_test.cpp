/* emu_device_test.cpp -- several emulated devices: their memory, their faults, other processes.
 *
 *     emu_device_test     prints `ok NAME` or `not ok NAME - why` a case; exit status 1 on failures
 */
#include <cstring>

#include <atomic>
#include <thread>
#include <vector>

#include <cuda_runtime_api.h>

#include "tests/emu/emu_block.hpp"
#include "tests/emu/emu_runtime.hpp"
#include "tests/emu/selftest/emu_check.hpp"

namespace {

constexpr size_t MIB = 1 << 20;

/* Memory of one process, written by another that dies: the importer keeps it. */
void memory_goes_to_another_process() {
    int handles[2], answers[2];
    if (pipe(handles) != 0 || pipe(answers) != 0) {
        return emu_check("ipc/pipe", false);
    }
    const pid_t importer = emu_check_fork([&] {
        cudaIpcMemHandle_t handle;
        char *there, text[8] = {}, go;
        if (read(handles[0], &handle, sizeof(handle)) != (ssize_t)sizeof(handle) ||
            cudaIpcOpenMemHandle((void **)&there, handle, cudaIpcMemLazyEnablePeerAccess) !=
                cudaSuccess) {
            return 1;
        }
        cudaMemcpy(text, there, 6, cudaMemcpyDeviceToHost);
        cudaMemcpy(there + 6, "answer", 6, cudaMemcpyHostToDevice);
        if (write(answers[1], "x", 1) != 1 || read(handles[0], &go, 1) != 1) {
            return 2;
        }
        char after[6] = {}; /* the exporter has freed it by now */
        cudaMemcpy(after, there, 6, cudaMemcpyDeviceToHost);
        const bool ended = cudaFree(there) == cudaErrorInvalidValue &&
                           cudaIpcCloseMemHandle(there) == cudaSuccess && !emu_is_device(there, 1);
        return strcmp(text, "hello") == 0 && memcmp(after, "hello", 6) == 0 && ended ? 0 : 3;
    });
    char *mine, back[6], go = 'x';
    cudaIpcMemHandle_t handle;
    cudaMalloc((void **)&mine, 100000);
    cudaMemcpy(mine, "hello", 6, cudaMemcpyHostToDevice);
    const bool exported = cudaIpcGetMemHandle(&handle, mine) == cudaSuccess;
    void *same;
    emu_check("ipc/not_in_one_process",
              cudaIpcOpenMemHandle(&same, handle, cudaIpcMemLazyEnablePeerAccess) != cudaSuccess);
    const bool sent = write(handles[1], &handle, sizeof(handle)) == (ssize_t)sizeof(handle) &&
                      read(answers[0], &go, 1) == 1;
    cudaMemcpy(back, mine + 6, 6, cudaMemcpyDeviceToHost);
    emu_check("ipc/both_ways", exported && sent && memcmp(back, "answer", 6) == 0);
    emu_check("ipc/free", cudaFree(mine) == cudaSuccess);
    int status = -1;
    if (write(handles[1], &go, 1) == 1) {
        waitpid(importer, &status, 0);
    }
    emu_check("ipc/importer", status == 0, "status " + std::to_string(status));
}

void devices_have_memory_of_their_own() {
    size_t free_bytes, total;
    void *p = nullptr, *q = nullptr;
    cudaSetDevice(0);
    const cudaError_t too_much = cudaMalloc(&p, 9 * MIB);
    cudaSetDevice(1);
    const cudaError_t enough = cudaMalloc(&p, 9 * MIB);
    cudaMemGetInfo(&free_bytes, &total);
    emu_check("devices/memory", too_much == cudaErrorMemoryAllocation && enough == cudaSuccess &&
                                    total == 64 * MIB && free_bytes == total - 9 * MIB);
    cudaSetDevice(0);
    cudaMemGetInfo(&free_bytes, &total);
    emu_check("devices/others_memory", free_bytes == total && total == 8 * MIB);
    emu_check("devices/limit_is_exact", cudaMalloc(&q, 8 * MIB) == cudaSuccess);
    emu_check("devices/full", cudaMalloc(&q, 1) == cudaErrorMemoryAllocation);
    cudaFree(q);
    cudaFree(p);
    emu_check("devices/all_back", emu_memory_used() == 0);
    emu_check("devices/count", cudaSetDevice(2) == cudaErrorInvalidDevice);
    std::thread([] {
        int device = -1;
        cudaGetDevice(&device);
        emu_check("devices/of_a_thread", device == 0, std::to_string(device));
        cudaSetDevice(1);
    }).join();
    int device = -1;
    cudaGetDevice(&device);
    emu_check("devices/of_another_thread", device == 0, std::to_string(device));
}

void a_broken_device_stays_broken_alone() {
    void *p;
    emu_fail_after("cudaMalloc", cudaErrorECCUncorrectable, 2, 1);
    cudaSetDevice(1);
    std::vector<cudaError_t> errors;
    for (int i = 0; i < 4; i++) {
        errors.push_back(cudaMalloc(&p, 16));
    }
    emu_check("fault/after", errors[1] == cudaSuccess && errors[2] == cudaErrorECCUncorrectable &&
                                 errors[3] == cudaErrorECCUncorrectable);
    emu_check("fault/sticks", cudaDeviceSynchronize() == cudaErrorECCUncorrectable &&
                                  cudaGetLastError() == cudaErrorECCUncorrectable &&
                                  cudaGetLastError() == cudaErrorECCUncorrectable);
    cudaSetDevice(0);
    emu_check("fault/other_device_works", cudaMalloc(&p, 16) == cudaSuccess);
    cudaFree(p);
    emu_device_repair(1);
}

void queued_work_of_a_broken_device_does_not_run() {
    char back = 1, *p;
    const char there = 7;
    cudaStream_t stream;
    cudaSetDevice(1);
    cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking);
    cudaMalloc((void **)&p, 1);
    cudaMemcpyAsync(p, &there, 1, cudaMemcpyHostToDevice, stream);
    cudaMemcpyAsync(&back, p, 1, cudaMemcpyDeviceToHost, stream);
    emu_fail_after("cudaStreamQuery", cudaErrorIllegalAddress, 0, 1);
    cudaSetDevice(0);
    cudaDeviceSynchronize(); /* device 0's; takes no notice of the fault of device 1 */
    cudaSetDevice(1);
    const cudaError_t broke = cudaStreamQuery(stream);
    emu_check("fault/wait_does_not_hang",
              broke == cudaErrorIllegalAddress &&
                  cudaStreamSynchronize(stream) == cudaErrorIllegalAddress);
    cudaStreamDestroy(stream);
    emu_device_repair(1);
    cudaFree(p);
    cudaSetDevice(0);
}

void faults_come_from_outside() {
    const emu_check_end e = emu_check_child([] {
        setenv("EMU_CUDA_FAULT", "cudaMallocHost,error=2,after=1", 1);
        void *p;
        return cudaMallocHost(&p, 8) == cudaSuccess &&
                       cudaMallocHost(&p, 8) == cudaErrorMemoryAllocation &&
                       cudaMallocHost(&p, 8) == cudaSuccess
                   ? 0
                   : 1;
    });
    emu_check("fault/environment", e.status == 0, e.said);
    emu_check_dies("fault/unknown_word", "what is \"soon=1\"", [] {
        setenv("EMU_CUDA_FAULT", "cudaMalloc,soon=1", 1);
        cudaFree(nullptr);
    });
}

void background_work_needs_no_question() {
    const emu_check_end e = emu_check_child([] {
        setenv("EMU_BACKGROUND", "1", 1);
        std::atomic<int> ran{0};
        cudaStream_t stream;
        cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking);
        cudaLaunchHostFunc(
            stream, [](void *p) { *(std::atomic<int> *)p = 1; }, &ran);
        for (int i = 0; i < 5000 && ran == 0; i++) {
            usleep(1000);
        }
        return ran == 1 ? 0 : 1;
    });
    emu_check("background", e.status == 0, e.said);
}

void rows_are_copied_within_their_bounds() {
    char *p, host[12] = "abcdefghijk", back[12] = {};
    cudaMalloc((void **)&p, 20);
    const cudaError_t in = cudaMemcpy2DAsync(p, 8, host, 4, 4, 3, cudaMemcpyHostToDevice, nullptr);
    const cudaError_t out = cudaMemcpy2DAsync(back, 4, p, 8, 4, 3, cudaMemcpyDeviceToHost, nullptr);
    const cudaError_t past =
        cudaMemcpy2DAsync(p, 8, host, 4, 4, 4, cudaMemcpyHostToDevice, nullptr);
    cudaDeviceSynchronize();
    emu_check("copy/rows", in == cudaSuccess && out == cudaSuccess &&
                               past == cudaErrorInvalidValue && memcmp(host, back, 12) == 0);
    cudaFree(p);
}

/* Kernels go to streams of the current device, events are recorded on streams of their own; copies
 * and waits may be between devices. */
void streams_belong_to_their_device() {
    cudaStream_t first, second;
    cudaEvent_t event;
    char *here, *there;
    cudaSetDevice(1);
    cudaStreamCreateWithFlags(&second, cudaStreamNonBlocking);
    cudaMalloc((void **)&there, 4);
    cudaSetDevice(0);
    cudaStreamCreateWithFlags(&first, cudaStreamNonBlocking);
    cudaMalloc((void **)&here, 4);
    cudaEventCreateWithFlags(&event, cudaEventDisableTiming);
    const auto launched = [](cudaStream_t s) {
        return emu_runtime_launch(
            nullptr, dim3(1), dim3(1), 0, s, [](const void *) {}, nullptr, 0);
    };
    const cudaError_t mine = launched(first), others = launched(second);
    const cudaError_t wrong = cudaEventRecord(event, second);
    memcpy(here, "abc", 4);
    cudaMemcpyAsync(there, here, 4, cudaMemcpyDefault, first);
    const cudaError_t recorded = cudaEventRecord(event, first);
    const cudaError_t waited = cudaStreamWaitEvent(second, event, 0);
    cudaStreamSynchronize(second);
    emu_check("streams/device", mine == cudaSuccess && others == cudaErrorInvalidResourceHandle &&
                                    wrong == cudaErrorInvalidResourceHandle &&
                                    recorded == cudaSuccess && waited == cudaSuccess &&
                                    memcmp(there, "abc", 4) == 0);
    cudaEventDestroy(event);
    cudaStreamDestroy(first);
    cudaStreamDestroy(second);
    cudaFree(here);
    cudaFree(there);
}

}  // namespace

int main() {
    setenv("EMU_DEVICES", "2", 1);
    setenv("EMU_MEMORY_MB", "8,64", 1);
    faults_come_from_outside(); /* children first: the state is made by the first call */
    background_work_needs_no_question();
    memory_goes_to_another_process();
    devices_have_memory_of_their_own();
    a_broken_device_stays_broken_alone();
    queued_work_of_a_broken_device_does_not_run();
    rows_are_copied_within_their_bounds();
    streams_belong_to_their_device();
    return emu_check_failed ? 1 : 0;
}
