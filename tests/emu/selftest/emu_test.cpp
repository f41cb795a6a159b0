/* emu_test.cpp -- the emulated device itself: right kernels are right, wrong ones are noticed.
 *
 *     emu_test            prints `ok NAME` or `not ok NAME - why` a case; exit status 1 on failures
 *
 * A planted bug runs in a child process, because most of them end it. It is noticed when the child
 * says the words that name the error, or when its result is not the right one.
 */
#include <sys/wait.h>
#include <unistd.h>

#include <cmath>
#include <cstdio>
#include <cstring>
#include <string>
#include <vector>

#include "tests/emu/emu_block.hpp"
#include "tests/emu/emu_runtime.hpp"
#include "tests/emu/selftest/emu_kernels.h"

namespace {

constexpr int THREADS = EMU_KERNELS_THREADS;
bool failed = false;

void report(const std::string &name, bool fine, const std::string &why) {
    failed = failed || !fine;
    printf(fine ? "ok %s\n" : "not ok %s - %s\n", name.c_str(), why.c_str());
}

std::vector<float> inputs(int count) {
    std::vector<float> in((size_t)count);
    for (int i = 0; i < count; i++) {
        in[(size_t)i] = (float)(i * 37 % 64) - 31.5f; /* exact in bf16 */
    }
    return in;
}

/* What a right kernel answers. */
std::vector<float> expected(emu_kernels_which which, const std::vector<float> &in, int blocks) {
    std::vector<float> out((size_t)(THREADS * blocks), 0);
    for (int i = 0; i < THREADS * blocks; i++) {
        const int base = i / THREADS * THREADS, at = i % THREADS;
        float &o = out[(size_t)i];
        switch (which) {
            case EMU_NEIGHBOUR:
                o = in[(size_t)(base + (at + 1) % THREADS)];
                break;
            case EMU_SUMMED:
                for (int lane = 0; lane < 32; lane++) { /* exact: small integers and halves */
                    o += in[(size_t)(i / 32 * 32 + lane)];
                }
                break;
            case EMU_PRODUCT:
                for (int k = 0; k < 16; k++) {
                    o += in[(size_t)(i / 8 * 16 + k)] * in[(size_t)(256 + i % 8 * 16 + k)];
                }
                break;
            default:
                o = in[(size_t)i];
        }
    }
    return out;
}

std::vector<float> run(emu_kernels_which which, int bug, const std::vector<float> &in, int blocks) {
    float *device_in, *device_out;
    const size_t out_bytes = (size_t)(THREADS * blocks) * sizeof(float);
    std::vector<float> out((size_t)(THREADS * blocks), NAN);
    cudaStream_t stream;
    cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking);
    cudaMalloc((void **)&device_in, in.size() * sizeof(float));
    cudaMalloc((void **)&device_out, out_bytes);
    cudaMemcpyAsync(device_in, in.data(), in.size() * sizeof(float), cudaMemcpyHostToDevice,
                    stream);
    emu_kernels_run(which, bug, device_in, device_out, blocks, stream);
    cudaMemcpyAsync(out.data(), device_out, out_bytes, cudaMemcpyDeviceToHost, stream);
    cudaStreamSynchronize(stream);
    cudaFree(device_in);
    cudaFree(device_out);
    cudaStreamDestroy(stream);
    return out;
}

struct kernel_case {
    const char *name;
    emu_kernels_which which;
    int blocks;
};

const kernel_case KERNELS[] = {{"neighbour", EMU_NEIGHBOUR, 7}, {"copied", EMU_COPIED, 1},
                               {"summed", EMU_SUMMED, 1},       {"unwritten", EMU_UNWRITTEN, 1},
                               {"barriers", EMU_BARRIERS, 1},   {"product", EMU_PRODUCT, 1}};

void right_kernels_are_right_under_every_seed() {
    for (const kernel_case &k : KERNELS) {
        const std::vector<float> in = inputs(THREADS * k.blocks < 384 ? 384 : THREADS * k.blocks);
        const std::vector<float> want = expected(k.which, in, k.blocks);
        std::string wrong;
        for (uint64_t seed = 0; seed <= 10 && wrong.empty(); seed++) {
            emu_settings.seed = seed;
            if (run(k.which, EMU_BUG_NONE, in, k.blocks) != want) {
                wrong = "seed " + std::to_string(seed);
            }
        }
        emu_settings.seed = 0;
        report(std::string("right/") + k.name, wrong.empty(), wrong);
    }
}

struct bug_case {
    const char *name;
    emu_kernels_which which;
    emu_kernels_bug bug;
    const char *words; /* that it must say; NULL: a wrong result is enough */
};

const bug_case BUGS[] = {
#if defined(WEIR_EMU_TSAN)
    {"no_syncthreads", EMU_NEIGHBOUR, EMU_BUG_NO_SYNCTHREADS, "data race"},
#else
    {"no_syncthreads", EMU_NEIGHBOUR, EMU_BUG_NO_SYNCTHREADS, nullptr},
#endif
    {"no_copy_wait", EMU_COPIED, EMU_BUG_NO_COPY_WAIT, nullptr},
    {"divergent_shuffle", EMU_SUMMED, EMU_BUG_DIVERGENT_SHUFFLE, "diverged"},
    {"lane_outside_its_mask", EMU_SUMMED, EMU_BUG_LANE_OUTSIDE_MASK, "not in its own mask"},
    {"lanes_that_returned", EMU_SUMMED, EMU_BUG_RETURNED_LANES, "have returned"},
    {"unwritten_shared_memory", EMU_UNWRITTEN, EMU_BUG_UNWRITTEN_SHARED, nullptr},
    {"barrier_deadlock", EMU_BARRIERS, EMU_BUG_BARRIER_DEADLOCK, "deadlock"},
    {"swapped_fragment", EMU_PRODUCT, EMU_BUG_SWAPPED_FRAGMENT, nullptr},
};

/* Runs a bug in a child: what it said, and whether its result was wrong. */
void planted_bug_is_noticed(const bug_case &b) {
    int pipe_ends[2];
    if (pipe(pipe_ends) != 0) {
        report(b.name, false, "no pipe");
        return;
    }
    fflush(stdout);
    const pid_t child = fork();
    if (child == 0) {
        dup2(pipe_ends[1], STDERR_FILENO);
        close(pipe_ends[0]);
        emu_settings.os_threads = 1;
        const std::vector<float> in = inputs(384);
        _exit(run(b.which, b.bug, in, 1) == expected(b.which, in, 1) ? 0 : 1);
    }
    close(pipe_ends[1]);
    std::string said;
    char text[512];
    for (ssize_t n; (n = read(pipe_ends[0], text, sizeof(text))) > 0;) {
        said.append(text, (size_t)n);
    }
    close(pipe_ends[0]);
    int status = 0;
    waitpid(child, &status, 0);
    const bool ended_well = WIFEXITED(status) && WEXITSTATUS(status) == 0;
    const bool fine =
        !ended_well && (b.words == nullptr || said.find(b.words) != std::string::npos);
    report(std::string("bug/") + b.name, fine, "not noticed; it said: " + said);
}

void host_that_does_not_wait_reads_old_data() {
    float *device, back = 1;
    const float there = 7;
    cudaStream_t stream;
    cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking);
    cudaMalloc((void **)&device, sizeof(float));
    cudaMemcpyAsync(device, &there, sizeof(float), cudaMemcpyHostToDevice, stream);
    cudaMemcpyAsync(&back, device, sizeof(float), cudaMemcpyDeviceToHost, stream);
    const bool old = back == 1;
    cudaStreamSynchronize(stream);
    report("host/no_wait_no_data", old && back == 7, "read " + std::to_string(back));
    cudaFree(device);
    cudaStreamDestroy(stream);
}

void streams_are_ordered_by_events_only() {
    float *device, back = 0;
    const float one = 1, two = 2;
    int right_with = 0, right_without = 0;
    cudaStream_t first, second;
    cudaEvent_t event;
    cudaStreamCreateWithFlags(&first, cudaStreamNonBlocking);
    cudaStreamCreateWithFlags(&second, cudaStreamNonBlocking);
    cudaEventCreateWithFlags(&event, cudaEventDisableTiming);
    cudaMalloc((void **)&device, sizeof(float));
    for (int i = 0; i < 40; i++) {
        cudaMemcpyAsync(device, &one, sizeof(float), cudaMemcpyHostToDevice, first);
        cudaDeviceSynchronize();
        cudaMemcpyAsync(device, &two, sizeof(float), cudaMemcpyHostToDevice, first);
        cudaEventRecord(event, first);
        if (i % 2 == 0) {
            cudaStreamWaitEvent(second, event, 0);
        }
        cudaMemcpyAsync(&back, device, sizeof(float), cudaMemcpyDeviceToHost, second);
        cudaStreamSynchronize(second);
        (i % 2 == 0 ? right_with : right_without) += back == 2;
        cudaDeviceSynchronize();
    }
    report("host/event_orders_streams", right_with == 20, std::to_string(right_with) + " of 20");
    report("host/missing_event_is_seen", right_without < 20, "always right by luck");
    cudaFree(device);
    cudaEventDestroy(event);
    cudaStreamDestroy(first);
    cudaStreamDestroy(second);
}

void wrong_calls_are_refused() {
    float *device, host[4] = {};
    cudaMalloc((void **)&device, 2 * sizeof(float));
    report("host/copy_past_the_end",
           cudaMemcpy(device, host, sizeof(host), cudaMemcpyHostToDevice) == cudaErrorInvalidValue,
           "taken");
    report("host/wrong_direction",
           cudaMemcpy(host, device, 8, cudaMemcpyHostToDevice) == cudaErrorInvalidValue, "taken");
    report("host/free_of_nothing", cudaFree(host) == cudaErrorInvalidValue, "taken");
    cudaFree(device);
    const cudaError_t twice = cudaFree(device);
    report("host/double_free", twice == cudaErrorInvalidValue, "taken");
    void *huge;
    report("host/out_of_memory", cudaMalloc(&huge, (size_t)1 << 50) == cudaErrorMemoryAllocation,
           "taken");
    report("host/too_many_threads",
           emu_runtime_launch(nullptr, dim3(1), dim3(2048), 0, nullptr, nullptr, nullptr, 0) ==
               cudaErrorInvalidConfiguration,
           "taken");
    emu_fail_next("cudaMalloc", cudaErrorIllegalAddress);
    const cudaError_t first = cudaMalloc(&huge, 16), then = cudaDeviceSynchronize();
    report("host/sticky_error", first == cudaErrorIllegalAddress && then == first, "forgotten");
}

}  // namespace

int main() {
    for (const bug_case &b : BUGS) { /* first: ThreadSanitizer forks only before threads start */
        planted_bug_is_noticed(b);
    }
    right_kernels_are_right_under_every_seed();
    host_that_does_not_wait_reads_old_data();
    streams_are_ordered_by_events_only();
    wrong_calls_are_refused(); /* last: it leaves the device broken */
    return failed ? 1 : 0;
}
