/* emu_nccl_test.cpp -- the emulated NCCL: what it moves, what its faults do, what it refuses.
 *
 *     emu_nccl_test       prints `ok NAME` or `not ok NAME - why` a case; exit status 1 on failures
 *
 * Ranks are processes (first: ThreadSanitizer forks only before threads start), then threads.
 */
#if !__has_include(<nccl.h>)

#include <cstdio>

int main() {
    puts("nccl.h is not on this machine (it comes with a CUDA toolkit)");
    return 77;
}

#else

#include <csignal>
#include <cstring>
#include <ctime>

#include <atomic>
#include <thread>
#include <vector>

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "tests/emu/emu_block.hpp"
#include "tests/emu/emu_runtime.hpp"
#include "tests/emu/libs/emu_nccl.h"
#include "tests/emu/selftest/emu_check.hpp"

namespace {

double now_ms() {
    timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e3 + (double)t.tv_nsec / 1e6;
}

ncclUniqueId new_id() {
    ncclUniqueId id;
    ncclGetUniqueId(&id);
    return id;
}

/* Asks until the communicator is no longer in progress, or for `ms`. */
ncclResult_t poll(ncclComm_t c, double ms = 20e3) {
    ncclResult_t r = ncclInProgress;
    for (const double end = now_ms() + ms; r == ncclInProgress && now_ms() < end;) {
        ncclCommGetAsyncError(c, &r);
    }
    return r;
}

bool done_within(cudaStream_t s, double ms) {
    for (const double end = now_ms() + ms; now_ms() < end;) {
        if (cudaStreamQuery(s) == cudaSuccess) {
            return true;
        }
    }
    return false;
}

/* A rank with a stream and `bytes` of device memory. */
struct rank {
    ncclComm_t comm = nullptr;
    cudaStream_t stream = nullptr;
    char *memory = nullptr;
    size_t bytes;

    rank(const ncclUniqueId &id, int me, int ranks, size_t memory_bytes) : bytes(memory_bytes) {
        ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
        config.blocking = 0;
        config.maxCTAs = 2;
        cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking);
        cudaMalloc((void **)&memory, bytes);
        ncclCommInitRankConfig(&comm, ranks, id, me, &config);
    }
    ~rank() {
        if (comm != nullptr) {
            ncclCommAbort(comm);
        }
        cudaStreamDestroy(stream);
        cudaFree(memory);
    }
    rank(const rank &) = delete;
    rank &operator=(const rank &) = delete;

    void put(const void *from, size_t n) { cudaMemcpy(memory, from, n, cudaMemcpyHostToDevice); }
    std::vector<char> get(size_t n) {
        std::vector<char> out(n);
        cudaMemcpyAsync(out.data(), memory, n, cudaMemcpyDeviceToHost, stream);
        cudaStreamSynchronize(stream);
        return out;
    }
    ncclResult_t send(size_t n, int to) {
        const ncclResult_t r = ncclSend(memory, n, ncclUint8, to, comm, stream);
        return r == ncclInProgress ? poll(comm) : r;
    }
    ncclResult_t receive(size_t n, int from) {
        const ncclResult_t r = ncclRecv(memory, n, ncclUint8, from, comm, stream);
        return r == ncclInProgress ? poll(comm) : r;
    }
    void destroy() {
        ncclCommFinalize(comm);
        poll(comm);
        ncclCommDestroy(comm);
        comm = nullptr;
    }
    void abort() {
        ncclCommAbort(comm);
        comm = nullptr;
    }
};

std::vector<char> pattern(size_t n, int salt) {
    std::vector<char> out(n);
    for (size_t i = 0; i < n; i++) {
        out[i] = (char)(i * 31 + i / 251 + (size_t)salt);
    }
    return out;
}

/* Every rank on a thread of its own. */
void on_threads(int ranks, const std::function<void(int)> &what) {
    std::vector<std::thread> threads;
    for (int i = 0; i < ranks; i++) {
        threads.emplace_back([&what, i] { what(i); });
    }
    for (std::thread &t : threads) {
        t.join();
    }
}

/* ---- ranks in processes ---- */

constexpr size_t LARGE = 3 << 20;

int process_rank(const ncclUniqueId &id, int me) {
    rank r(id, me, 2, LARGE);
    if (poll(r.comm) != ncclSuccess) {
        return 1;
    }
    r.put(pattern(LARGE, me).data(), LARGE);
    if (me == 0 ? r.send(LARGE, 1) : r.receive(LARGE, 0)) {
        return 2;
    }
    if (!done_within(r.stream, 20e3) || r.get(LARGE) != pattern(LARGE, 0)) {
        return 3;
    }
    const float mine[3] = {1.0f + (float)me, -2, 0.5f * (float)me};
    r.put(mine, sizeof(mine));
    ncclAllReduce(r.memory, r.memory, 3, ncclFloat32, ncclSum, r.comm, r.stream);
    poll(r.comm);
    float sum[3];
    memcpy(sum, r.get(sizeof(sum)).data(), sizeof(sum));
    r.destroy();
    return sum[0] == 3 && sum[1] == -4 && sum[2] == 0.5f ? 0 : 4;
}

void processes_move_bytes_and_add() {
    const ncclUniqueId id = new_id();
    pid_t children[2];
    for (int i = 0; i < 2; i++) {
        children[i] = emu_check_fork([&, i] { return process_rank(id, i); });
    }
    for (int i = 0; i < 2; i++) {
        int status;
        waitpid(children[i], &status, 0);
        emu_check("process/rank_" + std::to_string(i),
                  WIFEXITED(status) && WEXITSTATUS(status) == 0,
                  "status " + std::to_string(status));
    }
}

/* The sender's process ends in the middle of a message; the parent is the receiver. */
int receiver_of_killed(const ncclUniqueId &id, bool silent) {
    emu_nccl_fault(silent ? "death-silent" : "");
    rank r(id, 0, 2, LARGE);
    if (poll(r.comm) != ncclSuccess || r.receive(LARGE, 1) != ncclSuccess) {
        return 1;
    }
    ncclResult_t error = ncclSuccess;
    for (const double end = now_ms() + (silent ? 300 : 20e3); now_ms() < end && !error;) {
        if (cudaStreamQuery(r.stream) == cudaSuccess) {
            return 2; /* half a message is none */
        }
        ncclCommGetAsyncError(r.comm, &error);
    }
    if (error != (silent ? ncclSuccess : ncclRemoteError)) {
        return 3;
    }
    r.abort();
    return done_within(r.stream, 5e3) ? 0 : 4;
}

void killed_process_is_noticed(bool silent) {
    const ncclUniqueId id = new_id();
    const pid_t killed = emu_check_fork([&] {
        emu_nccl_fault("exit,percent=50");
        rank r(id, 1, 2, LARGE);
        poll(r.comm);
        r.send(LARGE, 0);
        done_within(r.stream, 20e3);
        return 0;
    });
    const emu_check_end e = emu_check_child([&] { return receiver_of_killed(id, silent); });
    int status;
    waitpid(killed, &status, 0);
    emu_check(silent ? "process/death_silent" : "process/death_reported",
              WEXITSTATUS(e.status) == 0 && WEXITSTATUS(status) == 137,
              "step " + std::to_string(WEXITSTATUS(e.status)) + ", sender " +
                  std::to_string(status) + " " + e.said);
}

/* ---- misuse ---- */

/* Two ranks of one thread: each is asked in turn. */
void both(rank &a, rank &b) {
    for (ncclResult_t x = ncclInProgress, y = ncclInProgress;
         x == ncclInProgress || y == ncclInProgress;) {
        x = poll(a.comm, 0.2);
        y = poll(b.comm, 0.2);
    }
}

void two_ranks(size_t bytes, const std::function<void(rank &, rank &)> &what) {
    const ncclUniqueId id = new_id();
    rank a(id, 0, 2, bytes), b(id, 1, 2, bytes);
    both(a, b);
    what(a, b);
}

void misuse_ends_the_process() {
    emu_check_dies("misuse/size_mismatch", "sends 100 bytes, rank 1 receives 99", [] {
        two_ranks(4096, [](rank &a, rank &b) {
            ncclSend(a.memory, 100, ncclUint8, 1, a.comm, a.stream);
            ncclRecv(b.memory, 99, ncclUint8, 0, b.comm, b.stream);
            both(a, b);
            cudaDeviceSynchronize();
        });
    });
    emu_check_dies("misuse/group_mismatch", "different operations", [] {
        two_ranks(4096, [](rank &a, rank &b) {
            ncclAllReduce(a.memory, a.memory, 25, ncclFloat32, ncclSum, a.comm, a.stream);
            ncclAllReduce(b.memory, b.memory, 25, ncclFloat32, ncclMax, b.comm, b.stream);
            both(a, b);
            cudaDeviceSynchronize();
        });
    });
    emu_check_dies("misuse/use_after_abort", "gone since ncclCommAbort", [] {
        two_ranks(4096, [](rank &a, rank &) {
            const ncclComm_t c = a.comm;
            a.abort();
            ncclSend(a.memory, 1, ncclUint8, 1, c, a.stream);
        });
    });
    emu_check_dies("misuse/host_buffer", "are not memory of a device", [] {
        two_ranks(4096, [](rank &a, rank &) {
            char host[16] = {};
            ncclSend(host, sizeof(host), ncclUint8, 1, a.comm, a.stream);
        });
    });
    emu_check_dies("misuse/past_the_buffer", "are not memory of a device", [] {
        two_ranks(4096, [](rank &a, rank &) {
            ncclSend(a.memory + 1, 4096, ncclUint8, 1, a.comm, a.stream);
        });
    });
    emu_check_dies("misuse/other_device", "the communicator on device 0", [] {
        two_ranks(4096, [](rank &a, rank &) {
            char *there;
            cudaSetDevice(1);
            cudaMalloc((void **)&there, 64);
            ncclSend(there, 64, ncclUint8, 1, a.comm, a.stream);
        });
    });
    emu_check_dies("misuse/end_without_start", "without ncclGroupStart", [] { ncclGroupEnd(); });
    emu_check_dies("misuse/before_init_ended", "init has ended", [] {
        rank a(new_id(), 0, 2, 64);
        ncclSend(a.memory, 1, ncclUint8, 1, a.comm, a.stream);
    });
    emu_check_dies("misuse/before_launched", "the last group was launched", [] {
        two_ranks(4096, [](rank &a, rank &) {
            ncclSend(a.memory, 1, ncclUint8, 1, a.comm, a.stream);
            ncclSend(a.memory, 1, ncclUint8, 1, a.comm, a.stream);
        });
    });
    emu_check_dies("misuse/raw_config", "NCCL_CONFIG_INITIALIZER", [] {
        ncclConfig_t config = {};
        ncclComm_t c;
        ncclCommInitRankConfig(&c, 2, new_id(), 0, &config);
    });
    emu_check_dies("misuse/id_used_twice", "an id is for one communicator", [] {
        const ncclUniqueId id = new_id();
        rank a(id, 0, 2, 64), b(id, 0, 2, 64);
    });
    emu_check_dies("misuse/unknown_handle", "what was not registered", [] {
        two_ranks(4096, [](rank &a, rank &) { ncclCommDeregister(a.comm, a.memory); });
    });
    emu_check_dies("misuse/freed_while_registered", "which is registered", [] {
        two_ranks(4096, [](rank &a, rank &) {
            void *p, *handle;
            ncclMemAlloc(&p, 4096);
            ncclCommRegister(a.comm, p, 4096, &handle);
            ncclMemFree(p);
        });
    });
    emu_check_dies("misuse/unknown_fault", "what is \"stal\"", [] { emu_nccl_fault("stal"); });
    emu_check_dies("misuse/two_threads", "from two threads at once", [] {
        two_ranks(4096, [](rank &a, rank &) {
            ncclGroupStart();
            ncclSend(a.memory, 1, ncclUint8, 1, a.comm, a.stream);
            std::thread([&] { poll(a.comm, 1); }).join();
        });
    });
    emu_check_dies("misuse/one_thread_a_device", "come from two threads", [] {
        setenv("EMU_NCCL_ONE_THREAD", "1", 1);
        two_ranks(4096, [](rank &a, rank &) { std::thread([&] { poll(a.comm, 1); }).join(); });
    });
}

/* ---- ranks in threads ---- */

void threads_move_bytes_under_every_seed() {
    for (const size_t n : {(size_t)0, (size_t)1, (size_t)4097, LARGE}) {
        std::atomic<int> wrong{0};
        for (int round = 0; round < 4; round++) {
            const ncclUniqueId id = new_id();
            on_threads(2, [&](int me) {
                rank r(id, me, 2, 2 * n + 1);
                wrong += poll(r.comm) != ncclSuccess;
                r.put(pattern(n, me).data(), n);
                ncclGroupStart();
                ncclSend(r.memory, n, ncclUint8, 1 - me, r.comm, r.stream);
                ncclRecv(r.memory + n, n, ncclUint8, 1 - me, r.comm, r.stream);
                ncclGroupEnd();
                wrong += poll(r.comm) != ncclSuccess || !done_within(r.stream, 20e3);
                std::vector<char> got(n);
                cudaMemcpy(got.data(), r.memory + n, n, cudaMemcpyDeviceToHost);
                wrong += got != pattern(n, 1 - me);
                r.destroy();
            });
        }
        emu_check("thread/exchange_" + std::to_string(n), wrong == 0, std::to_string(wrong));
    }
    emu_check("thread/nothing_left",
              emu_nccl_comms() == 0 && emu_nccl_operations() == 0 && emu_memory_used() == 0);
}

float widen(float x) {
    return x;
}
float widen(__nv_bfloat16 x) {
    return __bfloat162float(x);
}
float widen(__half x) {
    return __half2float(x);
}

template <class T>
void all_reduce_is_the_sum(const char *name, int ranks, ncclDataType_t type) {
    constexpr int COUNT = 1003;
    const ncclUniqueId id = new_id();
    std::vector<std::vector<char> > got((size_t)ranks);
    auto input = [](int r, int i) { return (float)((i * 7 + r * 13) % 64) * 0.25f - 8; };
    on_threads(ranks, [&](int me) {
        cudaSetDevice(me % 2);
        rank r(id, me, ranks, COUNT * sizeof(T));
        std::vector<T> in;
        for (int i = 0; i < COUNT; i++) {
            in.push_back(T(input(me, i)));
        }
        r.put(in.data(), COUNT * sizeof(T));
        poll(r.comm);
        ncclAllReduce(r.memory, r.memory, COUNT, type, ncclSum, r.comm, r.stream);
        poll(r.comm);
        got[(size_t)me] = r.get(COUNT * sizeof(T));
        r.destroy();
    });
    bool right = true;
    for (int i = 0; i < COUNT; i++) {
        float sum = 0; /* exact: quarters below 2^6 */
        for (int r = 0; r < ranks; r++) {
            sum += input(r, i);
        }
        T x;
        memcpy((void *)&x, got[0].data() + (size_t)i * sizeof(T), sizeof(T));
        right = right && widen(x) == widen(T(sum));
    }
    for (int r = 1; r < ranks; r++) {
        right = right && got[(size_t)r] == got[0];
    }
    emu_check(std::string("all_reduce/") + name + "_" + std::to_string(ranks), right);
}

/* What a decode step with tensor parallelism does: the operation is part of a graph. */
void graphs_replay_operations() {
    const ncclUniqueId id = new_id();
    std::atomic<int> right{0};
    on_threads(2, [&](int me) {
        rank r(id, me, 2, sizeof(float));
        poll(r.comm);
        cudaGraph_t graph;
        cudaGraphExec_t exec;
        cudaStreamBeginCapture(r.stream, cudaStreamCaptureModeThreadLocal);
        ncclAllReduce(r.memory, r.memory, 1, ncclFloat32, ncclSum, r.comm, r.stream);
        poll(r.comm);
        cudaStreamEndCapture(r.stream, &graph);
        cudaGraphInstantiate(&exec, graph, 0);
        const float mine = (float)(me + 1);
        cudaMemcpyAsync(r.memory, &mine, sizeof(mine), cudaMemcpyHostToDevice, r.stream);
        for (int i = 0; i < 3; i++) { /* 3, 6, 12 */
            cudaGraphLaunch(exec, r.stream);
        }
        float x;
        memcpy(&x, r.get(sizeof(x)).data(), sizeof(x));
        right += x == 12;
        cudaGraphExecDestroy(exec);
        cudaGraphDestroy(graph);
        r.destroy();
    });
    emu_check("thread/graph", right == 2);
}

/* An event recorded while a group is in progress is before the group's operations. */
void events_before_the_launch_come_too_early() {
    int early = 0;
    for (int round = 0; round < 20; round++) {
        two_ranks(64, [&](rank &a, rank &b) {
            cudaEvent_t event;
            cudaEventCreateWithFlags(&event, cudaEventDisableTiming);
            ncclRecv(b.memory, 64, ncclUint8, 0, b.comm, b.stream);
            cudaEventRecord(event, b.stream);
            early += cudaEventQuery(event) == cudaSuccess;
            ncclSend(a.memory, 64, ncclUint8, 1, a.comm, a.stream);
            both(a, b);
            cudaDeviceSynchronize();
            cudaEventDestroy(event);
        });
    }
    emu_check("thread/event_in_progress_is_early", early > 0);
}

void sends_wait_for_receives() {
    two_ranks(64, [](rank &a, rank &b) {
        ncclSend(a.memory, 64, ncclUint8, 1, a.comm, a.stream);
        ncclSend(b.memory, 64, ncclUint8, 0, b.comm, b.stream);
        both(a, b);
        const bool waits = !done_within(a.stream, 30) && !done_within(b.stream, 30);
        ncclRecv(b.memory, 64, ncclUint8, 0, b.comm, b.stream);
        ncclRecv(a.memory, 64, ncclUint8, 1, a.comm, a.stream);
        both(a, b);
        emu_check("thread/send_waits", waits && !done_within(a.stream, 30), "it ended alone");
        a.abort();
        b.abort();
    });
}

void communicators_take_memory() {
    const size_t before = emu_memory_used();
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    config.blocking = 0;
    ncclComm_t wide, narrow;
    ncclCommInitRankConfig(&wide, 2, new_id(), 0, &config);
    const size_t with_wide = emu_memory_used();
    config.maxCTAs = 2;
    ncclCommInitRankConfig(&narrow, 2, new_id(), 0, &config);
    const size_t with_both = emu_memory_used();
    ncclCommAbort(wide);
    ncclCommAbort(narrow);
    emu_check("thread/memory", with_wide - before > 4 * (with_both - with_wide) &&
                                   with_both > with_wide && emu_memory_used() == before);
    emu_fail_next("cudaStreamQuery", cudaErrorIllegalAddress);
    cudaStreamQuery(nullptr);
    const ncclResult_t broken = ncclCommInitRankConfig(&narrow, 2, new_id(), 0, &config);
    emu_device_repair(0);
    emu_check("thread/broken_device", broken == ncclUnhandledCudaError);
}

void registered_memory_comes_and_goes() {
    two_ranks(64, [](rank &a, rank &) {
        void *p, *handle = nullptr;
        const bool fine = ncclMemAlloc(&p, 4096) == ncclSuccess &&
                          ncclCommRegister(a.comm, p, 4096, &handle) == ncclSuccess &&
                          ncclCommDeregister(a.comm, handle) == ncclSuccess &&
                          ncclMemFree(p) == ncclSuccess;
        int version;
        ncclGetVersion(&version);
        emu_check("thread/registered", fine && handle != nullptr && version == NCCL_VERSION_CODE);
    });
}

/* ---- faults ---- */

void init_faults() {
    for (const char *kind : {"init-hangs", "init-fails"}) {
        emu_nccl_fault(kind);
        const ncclUniqueId id = new_id();
        rank a(id, 0, 2, 64), b(id, 1, 2, 64);
        poll(b.comm, 20);
        const ncclResult_t r = poll(a.comm, 50);
        emu_check(std::string("fault/") + kind,
                  r == (strcmp(kind, "init-hangs") == 0 ? ncclInProgress : ncclSystemError),
                  ncclGetErrorString(r));
        emu_nccl_fault(nullptr);
    }
}

/* What a receiver sees of a sender that stops half way. */
void senders_that_stop(const std::string &name, const std::string &fault, ncclResult_t sees) {
    emu_nccl_fault((fault + ",rank=0,message=1,percent=25").c_str());
    two_ranks(LARGE, [&](rank &a, rank &b) {
        a.put(pattern(LARGE, 3).data(), LARGE);
        bool first = false;
        for (int message = 0; message < 2; message++) {
            ncclSend(a.memory, LARGE, ncclUint8, 1, a.comm, a.stream);
            ncclRecv(b.memory, LARGE, ncclUint8, 0, b.comm, b.stream);
            both(a, b);
            first = first || done_within(b.stream, message == 0 ? 20e3 : 50);
            if (message == 0) {
                emu_check(name + "_before", first && b.get(LARGE) == pattern(LARGE, 3));
                first = false;
            }
        }
        ncclResult_t error = ncclSuccess;
        for (int i = 0; i < 1000 && error == ncclSuccess; i++) {
            ncclCommGetAsyncError(b.comm, &error);
        }
        const bool stuck = !first && !done_within(b.stream, 20) && !done_within(a.stream, 20);
        b.abort();
        a.abort();
        emu_check(
            name,
            stuck && error == sees && done_within(b.stream, 5e3) && done_within(a.stream, 5e3),
            ncclGetErrorString(error));
    });
    emu_nccl_fault(nullptr);
}

void delay_holds_operations() {
    emu_nccl_fault("delay,ms=60");
    two_ranks(64, [](rank &a, rank &b) {
        ncclSend(a.memory, 64, ncclUint8, 1, a.comm, a.stream);
        ncclRecv(b.memory, 64, ncclUint8, 0, b.comm, b.stream);
        both(a, b);
        const double begin = now_ms();
        const bool done = done_within(b.stream, 20e3);
        emu_check("fault/delay", done && now_ms() - begin >= 50, "at once");
    });
    emu_nccl_fault(nullptr);
}

/* Two pairs, two messages each: which pair's first message comes first changes, a pair's own order
 * does not. */
void reorder_lets_pairs_overtake() {
    int second_pair_first = 0, out_of_order = 0;
    emu_nccl_fault("reorder,turns=20");
    for (int round = 0; round < 30; round++) {
        two_ranks(64, [&](rank &a, rank &b) {
            two_ranks(64, [&](rank &c, rank &d) {
                cudaEvent_t events[4];
                rank *pairs[2][2] = {{&a, &b}, {&c, &d}};
                for (int i = 0; i < 4; i++) {
                    rank &from = *pairs[i % 2][0], &to = *pairs[i % 2][1];
                    cudaEventCreateWithFlags(&events[i], cudaEventDisableTiming);
                    ncclSend(from.memory, 64, ncclUint8, 1, from.comm, from.stream);
                    ncclRecv(to.memory, 64, ncclUint8, 0, to.comm, to.stream);
                    both(from, to);
                    cudaEventRecord(events[i], to.stream);
                }
                while (cudaEventQuery(events[0]) != cudaSuccess &&
                       cudaEventQuery(events[1]) != cudaSuccess) {
                }
                second_pair_first += cudaEventQuery(events[0]) != cudaSuccess;
                while (cudaEventQuery(events[2]) != cudaSuccess) {
                }
                out_of_order += cudaEventQuery(events[0]) != cudaSuccess;
                cudaDeviceSynchronize();
                for (cudaEvent_t e : events) {
                    cudaEventDestroy(e);
                }
            });
        });
    }
    emu_nccl_fault(nullptr);
    emu_check("fault/reorder", second_pair_first > 0 && second_pair_first < 30 && out_of_order == 0,
              std::to_string(second_pair_first) + " of 30, " + std::to_string(out_of_order));
}

void abort_hangs_until_it_may() {
    emu_nccl_fault("abort-hangs,rank=1");
    two_ranks(64, [](rank &a, rank &b) {
        std::atomic<bool> back{false};
        const ncclComm_t c = b.comm;
        b.comm = nullptr;
        std::thread helper([&] {
            ncclCommAbort(c);
            back = true;
        });
        a.abort();
        usleep(30000);
        const bool hung = !back && emu_nccl_comms() == 1;
        emu_nccl_fault(nullptr);
        helper.join();
        emu_check("fault/abort-hangs", hung && emu_nccl_comms() == 0);
    });
}

void killed_ranks_are_noticed() {
    two_ranks(64, [](rank &a, rank &b) {
        emu_nccl_kill(b.comm);
        const ncclResult_t r = poll(a.comm, 20);
        emu_check("fault/kill_reported", r == ncclRemoteError, ncclGetErrorString(r));
    });
    /* Destroyed while the peer still wants something. */
    two_ranks(64, [](rank &a, rank &b) {
        ncclSend(a.memory, 64, ncclUint8, 1, a.comm, a.stream);
        ncclRecv(b.memory, 64, ncclUint8, 0, b.comm, b.stream);
        both(a, b);
        cudaDeviceSynchronize();
        b.destroy();
        ncclResult_t quiet = poll(a.comm, 20), then;
        ncclSend(a.memory, 64, ncclUint8, 1, a.comm, a.stream);
        poll(a.comm, 20);
        done_within(a.stream, 10);
        ncclCommGetAsyncError(a.comm, &then);
        emu_check("fault/destroyed_peer", quiet == ncclSuccess && then == ncclRemoteError,
                  ncclGetErrorString(then));
        a.abort(); /* before b's memory is freed, which waits for the device */
    });
}

}  // namespace

int main() {
    setenv("EMU_DEVICES", "2", 1);
    setenv("EMU_MEMORY_MB", "256", 1);
    misuse_ends_the_process();
    processes_move_bytes_and_add();
    killed_process_is_noticed(false);
    killed_process_is_noticed(true);
    threads_move_bytes_under_every_seed();
    for (int ranks = 1; ranks <= 4; ranks++) {
        all_reduce_is_the_sum<float>("f32", ranks, ncclFloat32);
    }
    all_reduce_is_the_sum<__nv_bfloat16>("bf16", 3, ncclBfloat16);
    all_reduce_is_the_sum<__half>("f16", 2, ncclFloat16);
    graphs_replay_operations();
    events_before_the_launch_come_too_early();
    sends_wait_for_receives();
    communicators_take_memory();
    registered_memory_comes_and_goes();
    init_faults();
    senders_that_stop("fault/stall", "stall", ncclSuccess);
    senders_that_stop("fault/die", "die", ncclRemoteError);
    senders_that_stop("fault/die_silent", "death-silent;die", ncclSuccess);
    delay_holds_operations();
    reorder_lets_pairs_overtake();
    abort_hangs_until_it_may();
    killed_ranks_are_noticed();
    return emu_check_failed ? 1 : 0;
}

#endif
