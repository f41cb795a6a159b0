/* emu_nccl.cpp -- NCCL's calls on the emulated device.
 *
 * What NCCL answers with an error code when the world is at fault is answered so here; what a
 * program must never do ends the process with the reason.
 */
#include <sys/random.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "tests/emu/emu_block.hpp"
#include "tests/emu/libs/emu_nccl.h"
#include "tests/emu/libs/emu_nccl_comm.hpp"

namespace {

constexpr size_t MEMORY_A_CTA = (size_t)4 << 20; /* buffers of one channel, roughly */
constexpr int CTAS_DEFAULT = 16;

struct library {
    std::map<ncclComm *, std::shared_ptr<ncclComm>> live;
    std::map<ncclComm *, std::pair<std::shared_ptr<ncclComm>, const char *>> gone;
    std::map<int, std::thread::id> threads; /* of a device's calls: EMU_NCCL_ONE_THREAD */
    unsigned made = 0;
    bool one_thread = getenv("EMU_NCCL_ONE_THREAD") != nullptr;
};

library &the() {
    static library *l = new library;
    return *l;
}

struct open_groups {
    int depth = 0;
    std::vector<std::shared_ptr<emu_group>> groups; /* one a communicator */
    std::vector<ncclComm *> inits;
};
thread_local open_groups mine;

/* A call on a communicator: it must be there, and nobody else in a call on it. */
void enter(ncclComm *c, const char *what) {
    auto held = emu_lock();
    library &l = the();
    if (l.live.count(c) == 0) {
        auto it = l.gone.find(c);
        emu_die("nccl: %s on a communicator that %s", what,
                it == l.gone.end() ? "was never made"
                                   : (std::string("is gone since ") + it->second.second).c_str());
    }
    const std::thread::id me = std::this_thread::get_id();
    if (c->inside > 0 && c->inside_thread != me) {
        emu_die("nccl: %s and %s on one communicator from two threads at once", what,
                c->inside_what);
    }
    if (l.one_thread && strcmp(what, "ncclCommAbort") != 0 &&
        l.threads.insert({c->device, me}).first->second != me) {
        emu_die("nccl: %s: calls of device %d come from two threads", what, c->device);
    }
    c->inside_thread = me;
    c->inside_what = what;
    c->inside++;
}

void leave(ncclComm *c) {
    auto held = emu_lock();
    c->inside--;
}

struct entry {
    ncclComm *c;
    entry(ncclComm *comm, const char *what) : c(comm) { enter(c, what); }
    ~entry() { leave(c); }
    entry(const entry &) = delete;
    entry &operator=(const entry &) = delete;
};

/* How far init, the last group and finalize are; takes them further. */
ncclResult_t advance(ncclComm *c) {
    auto held = emu_lock();
    if (emu_device_broken(c->device) != cudaSuccess) {
        c->failed = ncclUnhandledCudaError;
        c->last_error = "the device is broken";
    }
    if (c->failed != ncclSuccess) {
        return c->failed;
    }
    if (c->dead) { /* what it was asked for is never launched */
        return c->launching.empty() ? ncclSuccess : ncclInProgress;
    }
    if (!c->up) {
        if (emu_nccl_fault_at("init-fails", c) != nullptr) {
            c->failed = ncclSystemError;
            c->last_error = "init failed, as it was told to";
            return c->failed;
        }
        if (emu_nccl_fault_at("init-hangs", c) != nullptr || !emu_nccl_join(c)) {
            return ncclInProgress;
        }
        c->up = true;
    }
    emu_nccl_pump(c);
    if (c->failed != ncclSuccess) {
        return c->failed;
    }
    if (c->polls_left > 0) {
        c->polls_left--;
        return ncclInProgress;
    }
    if (!emu_nccl_launch(c)) {
        return ncclInProgress;
    }
    const bool unfinished = !c->order.empty() || !emu_nccl_flushed(c);
    return c->finalizing && unfinished ? ncclInProgress : ncclSuccess;
}

ncclResult_t wait_for(ncclComm *c) {
    for (;;) {
        const ncclResult_t r = advance(c);
        if (r != ncclInProgress) {
            return r;
        }
        emu_go_on();
    }
}

/* All at once: ranks of one thread wait for each other. What does not block is only started. */
ncclResult_t wait_for_all(const std::vector<ncclComm *> &comms) {
    for (;; emu_go_on()) {
        ncclResult_t result = ncclSuccess;
        bool wait = false;
        for (ncclComm *c : comms) {
            const ncclResult_t r = advance(c);
            wait = wait || (c->blocking && r == ncclInProgress);
            if (r != ncclSuccess && (result == ncclSuccess || r != ncclInProgress)) {
                result = r; /* an error before "in progress" */
            }
        }
        if (!wait) {
            return result;
        }
    }
}

void end(ncclComm *c, const char *what) {
    emu_nccl_hang_up(c);
    emu_memory_give(c->device, c->memory);
    c->aborted = true; /* what streams still hold of it ends */
    c->links = {};
    c->order.clear();
    c->launching.clear();
    c->active = nullptr;
    library &l = the();
    l.gone[c] = {l.live[c], what};
    l.live.erase(c);
    bool others = false;
    for (const auto &[other, keep] : l.live) {
        others = others || other->device == c->device;
    }
    if (!others) {
        l.threads.erase(c->device);
    }
}

void check_buffer(const ncclComm *c, const char *what, const void *p, size_t bytes) {
    const int device = emu_device_of(p, bytes);
    if (bytes > 0 && device != c->device) {
        if (device < 0) {
            emu_die("nccl: %s: %zu bytes at %p are not memory of a device", what, bytes, p);
        }
        emu_die("nccl: %s: the buffer is on device %d, the communicator on device %d", what, device,
                c->device);
    }
}

/* The open group of this thread for c; the first one also enters c until ncclGroupEnd. */
emu_group *group_of(ncclComm *c, cudaStream_t stream, const char *what) {
    if (emu_stream_device(stream) != c->device) {
        emu_die("nccl: %s: the stream is of device %d, the communicator of device %d", what,
                emu_stream_device(stream), c->device);
    }
    for (const auto &g : mine.groups) {
        if (g->comm.get() == c) {
            if (g->stream != stream) {
                emu_die("nccl: %s: two streams for one communicator in one group", what);
            }
            return g.get();
        }
    }
    if (!c->up) {
        emu_die("nccl: %s before ncclCommGetAsyncError said that init has ended", what);
    }
    if (!c->launching.empty()) {
        emu_die("nccl: %s before ncclCommGetAsyncError said that the last group was launched",
                what);
    }
    if (c->finalizing) {
        emu_die("nccl: %s after ncclCommFinalize", what);
    }
    enter(c, what);
    auto g = std::make_shared<emu_group>();
    g->comm = c->shared_from_this();
    g->stream = stream;
    mine.groups.push_back(g);
    return g.get();
}

ncclResult_t ready(ncclComm *c) {
    return c->up ? c->failed : ncclSuccess; /* not up: group_of says so */
}

ncclResult_t transfer(ncclComm *c, const char *what, bool sends, void *p, size_t count,
                      ncclDataType_t type, int peer, cudaStream_t stream) {
    entry in(c, what);
    auto held = emu_lock();
    if (ready(c) != ncclSuccess) {
        return ready(c);
    }
    if (peer < 0 || peer >= c->ranks || peer == c->rank) {
        emu_die("nccl: %s: rank %d of %d has no peer %d", what, c->rank, c->ranks, peer);
    }
    const size_t bytes = count * emu_nccl_size_of(type);
    check_buffer(c, what, p, bytes);
    (void)ncclGroupStart();
    group_of(c, stream, what)
        ->transfers.push_back({peer, sends, (char *)p, bytes, 0, 0, false, false});
    held.unlock();
    return ncclGroupEnd();
}

ncclResult_t init(ncclComm_t *out, int ranks, const ncclUniqueId &id, int rank,
                  const ncclConfig_t *config) {
    *out = nullptr;
    if (config != nullptr && (config->magic != 0xcafebeef || config->size != sizeof(*config))) {
        emu_die("nccl: the configuration was not made with NCCL_CONFIG_INITIALIZER");
    }
    if (ranks < 1 || ranks > EMU_RANKS_MAX || rank < 0 || rank >= ranks) {
        return ncclInvalidArgument;
    }
    int ctas = config != nullptr ? config->maxCTAs : NCCL_CONFIG_UNDEF_INT;
    ctas = ctas == NCCL_CONFIG_UNDEF_INT ? CTAS_DEFAULT : ctas;
    auto held = emu_lock();
    auto c = std::make_shared<ncclComm>();
    c->rank = rank;
    c->ranks = ranks;
    (void)cudaGetDevice(&c->device);
    c->memory = (size_t)ctas * MEMORY_A_CTA;
    if (emu_device_broken(c->device) != cudaSuccess || !emu_memory_take(c->device, c->memory)) {
        return ncclUnhandledCudaError;
    }
    c->number = the().made++;
    c->name.assign(id.internal, strnlen(id.internal, 32));
    c->blocking = config == nullptr || config->blocking != 0;
    c->links.resize((size_t)ranks);
    c->polls_left = c->blocking ? 0 : (unsigned)emu_nccl_draw(4);
    emu_nccl_listen(c.get());
    the().live[c.get()] = c;
    *out = c.get();
    held.unlock();
    if (mine.depth > 0) {
        mine.inits.push_back(c.get());
        return ncclSuccess;
    }
    return c->blocking ? wait_for(c.get()) : ncclInProgress;
}

}  // namespace

void emu_nccl_kill(ncclComm_t c) {
    auto held = emu_lock();
    c->dead = true;
    emu_nccl_hang_up(c);
}

unsigned emu_nccl_comms(void) {
    auto held = emu_lock();
    return (unsigned)the().live.size();
}

unsigned emu_nccl_operations(void) {
    auto held = emu_lock();
    size_t count = 0;
    for (const auto &[c, keep] : the().live) {
        count += c->order.size() + c->launching.size();
    }
    return (unsigned)count;
}

extern "C" {

ncclResult_t ncclGetVersion(int *version) {
    *version = NCCL_VERSION_CODE;
    return ncclSuccess;
}

ncclResult_t ncclGetUniqueId(ncclUniqueId *id) {
    unsigned char bytes[16];
    memset(id, 0, sizeof(*id));
    if (getrandom(bytes, sizeof(bytes), 0) != (ssize_t)sizeof(bytes)) {
        return ncclSystemError;
    }
    for (size_t i = 0; i < sizeof(bytes); i++) {
        snprintf(id->internal + 2 * i, 3, "%02x", bytes[i]);
    }
    return ncclSuccess;
}

ncclResult_t ncclCommInitRankConfig(ncclComm_t *comm, int ranks, ncclUniqueId id, int rank,
                                    ncclConfig_t *config) {
    return init(comm, ranks, id, rank, config);
}

ncclResult_t ncclCommInitRank(ncclComm_t *comm, int ranks, ncclUniqueId id, int rank) {
    return init(comm, ranks, id, rank, nullptr);
}

ncclResult_t ncclCommGetAsyncError(ncclComm_t comm, ncclResult_t *error) {
    entry in(comm, __func__);
    *error = advance(comm);
    return ncclSuccess;
}

ncclResult_t ncclCommCount(const ncclComm_t comm, int *count) {
    entry in(comm, __func__);
    *count = comm->ranks;
    return ncclSuccess;
}

ncclResult_t ncclCommUserRank(const ncclComm_t comm, int *rank) {
    entry in(comm, __func__);
    *rank = comm->rank;
    return ncclSuccess;
}

ncclResult_t ncclCommCuDevice(const ncclComm_t comm, int *device) {
    entry in(comm, __func__);
    *device = comm->device;
    return ncclSuccess;
}

ncclResult_t ncclCommFinalize(ncclComm_t comm) {
    entry in(comm, __func__);
    {
        auto held = emu_lock();
        if (comm->finalizing) {
            emu_die("nccl: ncclCommFinalize twice");
        }
        comm->finalizing = true;
    }
    return comm->blocking ? wait_for(comm) : advance(comm);
}

/* As NCCL's, waits for what is under way: with a peer that died it does not return. */
ncclResult_t ncclCommDestroy(ncclComm_t comm) {
    entry in(comm, __func__);
    for (bool said = false;; emu_go_on()) {
        auto held = emu_lock();
        (void)advance(comm);
        if (!comm->launching.empty() || !comm->order.empty()) {
            continue;
        }
        for (emu_link &l : comm->links) {
            if (!said && l.state == EMU_LINK_UP) {
                emu_nccl_write(&l, {0, EMU_BYE, 0, 0, 0}, nullptr);
            }
        }
        said = true;
        emu_nccl_pump(comm);
        if (emu_nccl_flushed(comm)) {
            end(comm, __func__);
            return ncclSuccess;
        }
    }
}

ncclResult_t ncclCommAbort(ncclComm_t comm) {
    entry in(comm, __func__);
    for (;; usleep(1000)) {
        auto held = emu_lock();
        if (emu_nccl_fault_at("abort-hangs", comm) == nullptr) {
            end(comm, __func__);
            return ncclSuccess;
        }
    }
}

ncclResult_t ncclCommRegister(const ncclComm_t comm, void *p, size_t bytes, void **handle) {
    entry in(comm, __func__);
    auto held = emu_lock();
    check_buffer(comm, __func__, p, bytes);
    if (comm->registered.count(p) != 0) {
        emu_die("nccl: ncclCommRegister of %p twice", p);
    }
    comm->registered[p] = bytes;
    *handle = p;
    return ncclSuccess;
}

ncclResult_t ncclCommDeregister(const ncclComm_t comm, void *handle) {
    entry in(comm, __func__);
    auto held = emu_lock();
    auto it = comm->registered.find(handle);
    if (it == comm->registered.end()) {
        emu_die("nccl: ncclCommDeregister of what was not registered");
    }
    check_buffer(comm, "ncclCommDeregister after its memory was freed", it->first, it->second);
    comm->registered.erase(it);
    return ncclSuccess;
}

ncclResult_t ncclMemAlloc(void **p, size_t bytes) {
    return cudaMalloc(p, bytes) == cudaSuccess ? ncclSuccess : ncclUnhandledCudaError;
}

ncclResult_t ncclMemFree(void *p) {
    {
        auto held = emu_lock();
        for (const auto &[c, keep] : the().live) {
            if (c->registered.count(p) != 0) {
                emu_die("nccl: ncclMemFree of %p, which is registered", p);
            }
        }
    }
    return cudaFree(p) == cudaSuccess ? ncclSuccess : ncclUnhandledCudaError;
}

ncclResult_t ncclGroupStart() {
    mine.depth++;
    return ncclSuccess;
}

ncclResult_t ncclGroupEnd() {
    if (mine.depth == 0) {
        emu_die("nccl: ncclGroupEnd without ncclGroupStart");
    }
    if (--mine.depth > 0) {
        return ncclSuccess;
    }
    std::vector<std::shared_ptr<emu_group>> groups;
    std::vector<ncclComm *> inits;
    groups.swap(mine.groups);
    inits.swap(mine.inits);
    {
        auto held = emu_lock();
        for (const auto &g : groups) {
            g->comm->polls_left = g->comm->blocking ? 0 : (unsigned)emu_nccl_draw(4);
            g->comm->launching.push_back(g);
        }
    }
    for (const auto &g : groups) {
        inits.push_back(g->comm.get());
    }
    const ncclResult_t result = wait_for_all(inits);
    for (const auto &g : groups) {
        leave(g->comm.get());
    }
    return result;
}

ncclResult_t ncclSend(const void *p, size_t count, ncclDataType_t type, int peer, ncclComm_t comm,
                      cudaStream_t stream) {
    return transfer(comm, __func__, true, (void *)p, count, type, peer, stream);
}

ncclResult_t ncclRecv(void *p, size_t count, ncclDataType_t type, int peer, ncclComm_t comm,
                      cudaStream_t stream) {
    return transfer(comm, __func__, false, p, count, type, peer, stream);
}

ncclResult_t ncclAllReduce(const void *in, void *out, size_t count, ncclDataType_t type,
                           ncclRedOp_t op, ncclComm_t comm, cudaStream_t stream) {
    entry inside(comm, __func__);
    auto held = emu_lock();
    if (ready(comm) != ncclSuccess) {
        return ready(comm);
    }
    const size_t bytes = count * emu_nccl_size_of(type);
    check_buffer(comm, __func__, in, bytes);
    check_buffer(comm, __func__, out, bytes);
    if (in != out && (const char *)in < (char *)out + bytes &&
        (char *)out < (const char *)in + bytes) {
        emu_die("nccl: ncclAllReduce: its buffers overlap and are not the same");
    }
    (void)ncclGroupStart();
    emu_group *g = group_of(comm, stream, __func__);
    emu_reduce r = {(const char *)in, (char *)out, count, type, op, {}, g->transfers.size(), 0};
    const uint64_t what =
        1ull << 63 | (uint64_t)op << 56 | (uint64_t)type << 48 | (count & 0xffffffffffffull);
    for (int peer = 0; peer < comm->ranks; peer++) {
        if (peer != comm->rank) {
            g->transfers.push_back({peer, true, nullptr, bytes, what, 0, false, false});
            g->transfers.push_back({peer, false, nullptr, bytes, what, 0, false, false});
            r.transfers += 2;
        }
    }
    g->reduces.push_back(std::move(r));
    held.unlock();
    return ncclGroupEnd();
}

const char *ncclGetErrorString(ncclResult_t result) {
    switch (result) {
        case ncclSuccess:
            return "no error";
        case ncclUnhandledCudaError:
            return "unhandled cuda error";
        case ncclSystemError:
            return "unhandled system error";
        case ncclInternalError:
            return "internal error";
        case ncclInvalidArgument:
            return "invalid argument";
        case ncclInvalidUsage:
            return "invalid usage";
        case ncclRemoteError:
            return "remote process exited or there was a network error";
        case ncclInProgress:
            return "NCCL operation in progress";
        default:
            return "unknown result code";
    }
}

const char *ncclGetLastError(ncclComm_t comm) {
    auto held = emu_lock();
    return comm != nullptr && the().live.count(comm) != 0 ? comm->last_error.c_str() : "";
}

} /* extern "C" */
