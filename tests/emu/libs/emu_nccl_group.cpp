/* emu_nccl_group.cpp -- the emulated NCCL's operations as pieces of a stream's work. */
#include <chrono>
#include <cstring>
#include <type_traits>

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "tests/emu/emu_block.hpp"
#include "tests/emu/libs/emu_nccl_comm.hpp"

namespace {

double now_ms() {
    return std::chrono::duration<double, std::milli>(
               std::chrono::steady_clock::now().time_since_epoch())
        .count();
}

float load(const __nv_bfloat16 &x) {
    return __bfloat162float(x);
}
float load(const __half &x) {
    return __half2float(x);
}
template <class T>
T load(const T &x) {
    return x;
}

void store(__nv_bfloat16 *to, float x) {
    *to = __float2bfloat16_rn(x);
}
void store(__half *to, float x) {
    *to = __float2half_rn(x);
}
template <class T>
void store(T *to, T x) {
    *to = x;
}

/* In the order of the ranks, rounded once: the same bits on every rank. */
template <class T>
void reduce_as(const emu_reduce &r) {
    for (size_t i = 0; i < r.count; i++) {
        using wide = decltype(load(std::declval<T>()));
        wide sum{};
        for (size_t rank = 0; rank < r.parts.size(); rank++) {
            T element;
            memcpy((void *)&element, r.parts[rank].data() + i * sizeof(T), sizeof(T));
            const wide x = load(element);
            if (rank == 0) {
                sum = x;
            } else if (r.op == ncclSum || r.op == ncclAvg) {
                sum = (wide)(sum + x);
            } else if (r.op == ncclProd) {
                sum = (wide)(sum * x);
            } else {
                sum = (r.op == ncclMax ? x > sum : x < sum) ? x : sum;
            }
        }
        if (r.op == ncclAvg) {
            sum = (wide)(sum / (wide)r.parts.size());
        }
        T out;
        store(&out, sum);
        memcpy(r.out + i * sizeof(T), (const void *)&out, sizeof(T));
    }
}

void reduce(const emu_reduce &r) {
    switch (r.type) {
        case ncclFloat32:
            return reduce_as<float>(r);
        case ncclFloat64:
            return reduce_as<double>(r);
        case ncclBfloat16:
            return reduce_as<__nv_bfloat16>(r);
        case ncclFloat16:
            return reduce_as<__half>(r);
        case ncclInt32:
            return reduce_as<int32_t>(r);
        case ncclUint32:
            return reduce_as<uint32_t>(r);
        case ncclInt64:
            return reduce_as<int64_t>(r);
        case ncclUint64:
            return reduce_as<uint64_t>(r);
        case ncclInt8:
            return reduce_as<int8_t>(r);
        case ncclUint8:
            return reduce_as<uint8_t>(r);
        default:
            emu_die("nccl: ncclAllReduce of type %d", (int)r.type);
    }
}

/* The parts of a reduction travel as messages; mine are copied when the operation begins. */
void begin(ncclComm *c, emu_group *g) {
    for (emu_reduce &r : g->reduces) {
        const size_t bytes = r.count * emu_nccl_size_of(r.type);
        r.parts.assign((size_t)c->ranks, std::vector<char>(bytes));
        if (bytes > 0) {
            memcpy(r.parts[(size_t)c->rank].data(), r.in, bytes);
        }
        for (size_t i = 0; i < r.transfers; i++) {
            emu_transfer &t = g->transfers[r.first_transfer + i];
            t.p = r.parts[(size_t)(t.sends ? c->rank : t.peer)].data();
        }
    }
    for (emu_transfer &t : g->transfers) {
        emu_link *l = &c->links[(size_t)t.peer];
        t.sequence = t.sends ? l->sends++ : l->receives++;
        t.begun = t.done = false;
    }
    const emu_nccl_fault_of *delay = emu_nccl_fault_at("delay", c);
    const emu_nccl_fault_of *reorder = emu_nccl_fault_at("reorder", c);
    g->not_before_ms = delay != nullptr ? now_ms() + delay->ms : 0;
    g->turns_to_wait = reorder != nullptr ? emu_nccl_draw((uint64_t)reorder->turns + 1) : 0;
    c->active = g;
    g->active = true;
}

void check_match(const ncclComm *c, const emu_transfer &t, const emu_frame &clear) {
    if (clear.what != t.what) {
        emu_die(
            "nccl: rank %d and rank %d are in different operations: message %llu belongs to an "
            "all-reduce of other size or type, or to a send or receive, on one of them",
            c->rank, t.peer, (unsigned long long)t.sequence);
    }
    if (clear.bytes != t.bytes) {
        emu_die("nccl: message %llu: rank %d sends %zu bytes, rank %d receives %llu",
                (unsigned long long)t.sequence, c->rank, t.bytes, t.peer,
                (unsigned long long)clear.bytes);
    }
}

void go_on(ncclComm *c, emu_transfer *t) {
    emu_link *l = &c->links[(size_t)t->peer];
    if (t->begun || l->state != EMU_LINK_UP) {
        if (l->state == EMU_LINK_ENDED && !t->done && !c->dead && c->failed == ncclSuccess &&
            emu_nccl_fault_at("death-silent", c) == nullptr) {
            c->failed = ncclRemoteError; /* it left with this one open */
            c->last_error = "a peer has destroyed its communicator";
        }
        return;
    }
    if (!t->sends) {
        l->receiving[t->sequence] = t;
        emu_nccl_write(l, {0, EMU_CLEAR, t->sequence, t->bytes, t->what}, nullptr);
        t->begun = true;
        return;
    }
    auto it = l->clears.find(t->sequence);
    if (it != l->clears.end()) {
        check_match(c, *t, it->second);
        emu_nccl_write(l, {0, EMU_DATA, t->sequence, t->bytes, t->what}, t);
        l->clears.erase(it);
        t->begun = true;
    }
}

bool finish(ncclComm *c, emu_group *g) {
    for (emu_reduce &r : g->reduces) {
        if (!r.parts.empty()) {
            reduce(r);
        }
        r.parts.clear();
    }
    c->active = nullptr;
    g->active = false;
    if (!g->captured) {
        c->order.pop_front();
    }
    return true;
}

/* The piece of work: true when all of the group's operations are done, or will never be. */
bool run(emu_group *g) {
    auto held = emu_lock();
    ncclComm *c = g->comm.get();
    if (c->aborted) {
        return true;
    }
    if (!g->active) {
        if (c->active != nullptr || (!g->captured && c->order.front().get() != g)) {
            return false; /* a communicator's operations run in their order */
        }
        begin(c, g);
    }
    if (c->dead) {
        return false;
    }
    if (g->turns_to_wait > 0) {
        g->turns_to_wait--;
        return false;
    }
    if (now_ms() < g->not_before_ms) {
        return false;
    }
    emu_nccl_pump(c);
    for (emu_transfer &t : g->transfers) {
        go_on(c, &t);
    }
    emu_nccl_pump(c);
    for (const emu_transfer &t : g->transfers) {
        if (!t.done) {
            return false;
        }
    }
    return finish(c, g);
}

/* The first operation with a peer connects: both must have asked for one. */
bool connected(ncclComm *c, const emu_group &g) {
    bool all = true;
    for (const emu_transfer &t : g.transfers) {
        emu_link *l = &c->links[(size_t)t.peer];
        if (!l->connect_sent) {
            l->connect_sent = true;
            emu_nccl_write(l, {0, EMU_CONNECT, 0, 0, 0}, nullptr);
        }
        all = all && l->connect_seen;
    }
    emu_nccl_pump(c);
    return all;
}

}  // namespace

uint64_t emu_nccl_draw(uint64_t below) {
    static uint64_t state = (emu_settings.seed + 7) * 0x9e3779b97f4a7c15ull | 1;
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return (state >> 11) % below;
}

size_t emu_nccl_size_of(ncclDataType_t type) {
    static const size_t sizes[] = {1, 1, 4, 4, 8, 8, 2, 4, 8, 2, 1, 1};
    if ((unsigned)type >= sizeof(sizes) / sizeof(sizes[0])) {
        emu_die("nccl: %d is no data type", (int)type);
    }
    return sizes[type];
}

bool emu_nccl_launch(ncclComm *c) {
    while (!c->launching.empty()) {
        const std::shared_ptr<emu_group> g = c->launching.front();
        if (!connected(c, *g)) {
            return false;
        }
        g->captured = emu_stream_capturing(g->stream);
        if (!g->captured) {
            c->order.push_back(g);
        }
        emu_stream_push(g->stream, [g] { return run(g.get()); });
        c->launching.pop_front();
    }
    return true;
}
