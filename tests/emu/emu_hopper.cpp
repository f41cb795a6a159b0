/* emu_hopper.cpp -- mbarriers, tile copies (TMA) and warpgroup products (wgmma) on the host.
 *
 * Source: PTX ISA 8.x, "Parallel synchronization: mbarrier", "Asynchronous warpgroup level matrix
 * instructions" (fragment layouts, matrix descriptors), "Tensors" (swizzling modes).
 */
#include "tests/emu/emu_hopper.hpp"

#include <algorithm>
#include <cstring>
#include <deque>
#include <vector>

#include <cuda_fp8.h>

#include "tests/emu/emu_order.hpp"
#include "tests/emu/emu_runtime.hpp"
#include "tests/emu/emu_state.hpp"

namespace {

struct mbarrier {
    int32_t bytes; /* expected and not copied yet */
    uint32_t pending : 15, count : 15, phase : 1;
};
static_assert(sizeof(mbarrier) == 8);

struct tensor { /* what a CUtensorMap's bytes are here */
    uint64_t magic;
    char *base;
    uint64_t sizes[3], strides[2];
    uint32_t box[3], element, swizzled;
};
static_assert(sizeof(tensor) <= sizeof(CUtensorMap));
constexpr uint64_t MAGIC = 0x454d554d4150ull;

struct tile_copy {
    tensor map;
    int x, y, z;
    uint32_t at; /* in shared memory */
    uint64_t *barrier;
};

struct product {
    emu_element type;
    size_t sum; /* which accumulator */
    bool add, from_registers;
    uint64_t a_tile, b_tile;
    uint32_t a[128][4];
    std::vector<unsigned char> tiles; /* as they were at the start */
    emu_place place;
};

struct accumulator {
    float *d[128];
    int registers;
    std::vector<float> values; /* [128][registers] */
    bool busy;
};

struct warpgroup {
    uint32_t count = 0; /* lanes in the collective */
    int kind;
    emu_place place;
    bool fenced = false;
    std::vector<accumulator> sums;
    std::vector<product> open;
    std::deque<std::vector<product>> groups;
    float *d[128];
    uint32_t a[128][4];
    uint64_t a_tile, b_tile;
};

struct block_state {
    std::vector<unsigned char> seen; /* shared memory as the async proxy sees it */
    std::deque<tile_copy> loads;
    std::vector<tile_copy> stores[EMU_THREADS_MAX];
    std::deque<std::vector<tile_copy>> store_groups[EMU_THREADS_MAX];
    std::vector<uint64_t *> inits;
    uint32_t waiting = 0;
    warpgroup groups[EMU_THREADS_MAX / 128];
};

/* Not memcpy, which ThreadSanitizer would take for the running thread's access. */
void copy_bytes(void *to, const void *from, size_t bytes) {
    size_t i = 0;
    if ((((uintptr_t)to | (uintptr_t)from) & 7) == 0) {
        for (; i + 8 <= bytes; i += 8) {
            *(volatile uint64_t *)((char *)to + i) =
                *(const volatile uint64_t *)((const char *)from + i);
        }
    }
    for (; i < bytes; i++) {
        ((volatile char *)to)[i] = ((const volatile char *)from)[i];
    }
}

thread_local block_state *state;

block_state &now() {
    if (state == nullptr) {
        state = new block_state;
        state->seen.assign(EMU_SHARED_MAX, 0xff); /* as a block's shared memory starts */
    }
    return *state;
}

uint32_t swizzle128(uint32_t at) {
    return at ^ ((at >> 7 & 7) << 4);
}

/* Fails where shared memory has bytes that the async proxy was not told of. */
unsigned char seen_byte(uint32_t at, emu_place place, const char *what) {
    if (at >= emu_block_now->shared_bytes) {
        emu_die("%s:%d: %s past the shared memory", place.file, place.line, what);
    }
    const unsigned char byte = emu_block_now->shared[at];
    if (now().seen[at] != byte) {
        emu_die("%s:%d: %s reads shared memory that was stored to without fence.proxy.async",
                place.file, place.line, what);
    }
    return byte;
}

void flip(mbarrier *m) {
    if (m->pending == 0 && m->bytes == 0) {
        m->phase ^= 1u;
        m->pending = m->count;
    }
}

/* Each element of a box: where it is in shared memory, and in the tensor or outside (NULL). */
template <class EACH>
void each_element(const tile_copy &c, EACH each) {
    const tensor &m = c.map;
    uint32_t at = 0;
    for (uint32_t z = 0; z < m.box[2]; z++) {
        for (uint32_t y = 0; y < m.box[1]; y++) {
            for (uint32_t x = 0; x < m.box[0]; x++, at += m.element) {
                const int64_t gx = c.x + (int64_t)x, gy = c.y + (int64_t)y, gz = c.z + (int64_t)z;
                const bool in = gx >= 0 && gy >= 0 && gz >= 0 && (uint64_t)gx < m.sizes[0] &&
                                (uint64_t)gy < m.sizes[1] && (uint64_t)gz < m.sizes[2];
                char *global = m.base + gx * m.element + gy * (int64_t)m.strides[0] +
                               gz * (int64_t)m.strides[1];
                const uint32_t to = c.at + at;
                each(m.swizzled != 0 ? swizzle128(to) : to, in ? global : nullptr);
            }
        }
    }
}

void load_one() {
    block_state &s = now();
    size_t i = 0;
    if (emu_settings.seed != 0) {
        i = (size_t)(emu_block_now->random >> 20) % s.loads.size();
    }
    const tile_copy c = s.loads[i];
    s.loads.erase(s.loads.begin() + (ptrdiff_t)i);
    const uint32_t bytes = c.map.element;
    uint32_t total = 0;
    each_element(c, [&](uint32_t at, const char *global) {
        const char zeros[8] = {};
        copy_bytes(emu_block_now->shared + at, global != nullptr ? global : zeros, bytes);
        copy_bytes(s.seen.data() + at, emu_block_now->shared + at, bytes);
        total += bytes;
    });
    mbarrier *m = (mbarrier *)c.barrier;
    m->bytes -= (int32_t)total;
    flip(m);
}

const tensor &tensor_of(const CUtensorMap *map, emu_place place) {
    const tensor *m = (const tensor *)map;
    if (m->magic != MAGIC) {
        emu_die("%s:%d: a tensor map that cuTensorMapEncodeTiled did not make", place.file,
                place.line);
    }
    return *m;
}

uint32_t offset_of(const void *shared) {
    return (uint32_t)((const unsigned char *)shared - emu_block_now->shared);
}

tile_copy copy_of(const CUtensorMap *map, int x, int y, int z, const void *shared, uint64_t *b,
                  emu_place place) {
    const tensor &m = tensor_of(map, place);
    const uint32_t at = offset_of(shared);
    const uint32_t bytes = m.box[0] * m.box[1] * m.box[2] * m.element;
    if (at % (m.swizzled != 0 ? 1024 : 128) != 0 || at + bytes > emu_block_now->shared_bytes) {
        emu_die("%s:%d: a tile at %u of shared memory: misaligned or past its end", place.file,
                place.line, at);
    }
    return {m, x, y, z, at, b};
}

/* ---- warpgroups ---- */

constexpr uint32_t POISON = 0x7fc0deadu; /* what an accumulator reads while it is not there yet */

/* All 128 threads in one collective; the last does `last`. */
template <class LAST>
void together(int kind, emu_place place, LAST last) {
    emu_fiber *me = emu_fiber_now;
    warpgroup &g = now().groups[me->warp / 4];
    if (g.count == 0) {
        g.kind = kind;
        g.place = place;
    } else if (g.kind != kind || g.place.line != place.line) {
        emu_die("warpgroup %u diverged: %s:%d and %s:%d", me->warp / 4, place.file, place.line,
                g.place.file, g.place.line);
    }
    if (++g.count == 128) {
        g.count = 0;
        last(g);
    }
    emu_group_barrier((int)me->warp / 4, place);
}

/* The bytes of `rows` rows of 32 bytes behind a descriptor of ptx_tile. */
void read_tile(uint64_t tile, int rows, emu_place place, std::vector<unsigned char> *out) {
    const uint32_t start = (uint32_t)(tile & 0x3fff) << 4;
    const uint32_t group = (uint32_t)(tile >> 32 & 0x3fff) << 4;
    if (tile >> 62 != 1) {
        emu_die("%s:%d: wgmma: a descriptor that ptx_tile did not make", place.file, place.line);
    }
    for (int r = 0; r < rows; r++) {
        for (uint32_t i = 0; i < 32; i++) {
            const uint32_t at = start + (uint32_t)(r / 8) * group + (uint32_t)(r % 8) * 128 + i;
            out->push_back(seen_byte(swizzle128(at), place, "wgmma"));
        }
    }
}

std::vector<unsigned char> tiles_of(const product &p, int n) {
    std::vector<unsigned char> bytes;
    if (!p.from_registers) {
        read_tile(p.a_tile, 64, p.place, &bytes);
    }
    read_tile(p.b_tile, n, p.place, &bytes);
    return bytes;
}

float element(const unsigned char *row, emu_element type, int k) {
    if (type == EMU_E4M3) {
        __nv_fp8_e4m3 x;
        x.__x = row[k];
        return (float)x;
    }
    return __builtin_bit_cast(float, (uint32_t)row[2 * k] << 16 | (uint32_t)row[2 * k + 1] << 24);
}

/* Row r of A in registers: lanes of warp r / 16, PTX ISA "Register fragments for wgmma". A pair of
 * 32-bit registers for each eight rows: registers 0 and 2 are rows 0 to 7, 1 and 3 rows 8 to 15. */
void row_of_registers(const product &p, int row, unsigned char *out) {
    for (int i = 0; i < 8; i++) { /* eight 4-byte words of 32 bytes */
        const int lane = row / 16 * 32 + row % 8 * 4 + i % 4;
        memcpy(out + 4 * i, &p.a[lane][row / 8 % 2 + i / 4 * 2], 4);
    }
}

void compute(warpgroup &g, const product &p) {
    accumulator &sum = g.sums[p.sum];
    const int n = sum.registers * 2, depth = p.type == EMU_BF16 ? 16 : 32;
    if (tiles_of(p, n) != p.tiles) {
        emu_die("%s:%d: wgmma: its tiles were written before its wait", p.place.file, p.place.line);
    }
    const unsigned char *b = p.tiles.data() + (p.from_registers ? 0 : 64 * 32);
    for (int row = 0; row < 64; row++) {
        unsigned char a[32];
        if (p.from_registers) {
            row_of_registers(p, row, a);
        } else {
            memcpy(a, p.tiles.data() + row * 32, 32);
        }
        for (int column = 0; column < n; column++) {
            const int lane = row / 16 * 32 + row % 8 * 4 + column % 8 / 2;
            const int at = column / 8 * 4 + row / 8 % 2 * 2 + column % 2;
            float *d = &sum.values[(size_t)(lane * sum.registers + at)];
            float x = p.add ? *d : 0;
            for (int k = 0; k < depth; k++) {
                x += element(a, p.type, k) * element(b + column * 32, p.type, k);
            }
            *d = x;
        }
    }
}

/* Gives an accumulator's values to its registers, which nobody may have touched. */
void hand_back(warpgroup &g, accumulator *sum, emu_place place) {
    for (int lane = 0; lane < 128; lane++) {
        for (int i = 0; i < sum->registers; i++) {
            if (__builtin_bit_cast(uint32_t, sum->d[lane][i]) != POISON) {
                emu_die("%s:%d: wgmma: accumulators were written before the wait", place.file,
                        place.line);
            }
            sum->d[lane][i] = sum->values[(size_t)(lane * sum->registers + i)];
        }
    }
    sum->busy = false;
    g.fenced = false; /* whoever changes them now needs a fence */
}

size_t accumulator_of(warpgroup &g, int registers) {
    for (size_t i = 0; i < g.sums.size(); i++) {
        if (g.sums[i].busy && memcmp(g.sums[i].d, g.d, sizeof(g.d)) == 0) {
            return i;
        }
    }
    size_t at = 0;
    while (at < g.sums.size() && g.sums[at].busy) {
        at++;
    }
    if (at == g.sums.size()) {
        g.sums.push_back({});
    }
    accumulator &sum = g.sums[at];
    memcpy(sum.d, g.d, sizeof(g.d));
    sum.registers = registers;
    sum.busy = true;
    sum.values.clear();
    for (int lane = 0; lane < 128; lane++) {
        sum.values.insert(sum.values.end(), sum.d[lane], sum.d[lane] + registers);
        for (int i = 0; i < registers; i++) {
            sum.d[lane][i] = __builtin_bit_cast(float, POISON);
        }
    }
    return at;
}

struct matrix_slot {
    void *row;
    uint32_t r[4];
};

void stmatrix_all(emu_meeting *m) {
    for (int lane = 0; lane < 32; lane++) {
        unsigned char *row = (unsigned char *)((const matrix_slot *)m->slots[lane])->row;
        if (((uintptr_t)row & 15) != 0) {
            emu_die("%s:%d: stmatrix: lane %d's row is not aligned to 16 bytes", m->place.file,
                    m->place.line, lane);
        }
        for (int i = 0; i < 4; i++) { /* row lane % 8 of matrix lane / 8 */
            copy_bytes(row + 4 * i, &((const matrix_slot *)m->slots[lane % 8 * 4 + i])->r[lane / 8],
                       4);
        }
    }
}

void elect_all(emu_meeting *) {}

}  // namespace

void emu_hopper_end(void) {
    if (state == nullptr) {
        return;
    }
    for (const warpgroup &g : state->groups) {
        if (!g.open.empty() || !g.groups.empty()) {
            emu_die("a warpgroup returned with wgmma under way");
        }
    }
    for (size_t i = 0; i < EMU_THREADS_MAX; i++) {
        if (!state->stores[i].empty() || !state->store_groups[i].empty()) {
            emu_die("thread %zu returned with a tile's store under way", i);
        }
    }
    if (!state->loads.empty()) {
        emu_die("a block returned with a tile's load under way");
    }
    delete state;
    state = nullptr;
}

void emu_mbarrier_init(uint64_t *b, int count) {
    mbarrier m = {};
    m.pending = m.count = (unsigned)count & 0x7fffu;
    copy_bytes(b, &m, sizeof(m));
    now().inits.push_back(b);
}

void emu_mbarrier_arrive(uint64_t *b, int bytes, emu_place place) {
    mbarrier *m = (mbarrier *)b;
    EMU_RELEASE(b);
    if (m->count == 0 || m->pending == 0 || m->pending > m->count) {
        emu_die("%s:%d: mbarrier: more arrivals than its count, or no init", place.file,
                place.line);
    }
    m->bytes += bytes;
    m->pending--;
    flip(m);
}

void emu_mbarrier_wait(uint64_t *b, int parity, emu_place place) {
    block_state &s = now();
    volatile mbarrier *m = (volatile mbarrier *)b;
    s.waiting++;
    for (uint32_t tries = 0; m->phase == (unsigned)(parity & 1); tries++) {
        uint32_t ready = 0;
        for (uint32_t lanes : emu_block_now->ready) {
            ready += (uint32_t)__builtin_popcount(lanes);
        }
        if (tries % 4 == 3 && !s.loads.empty()) {
            load_one();
        } else if (ready == s.waiting && s.loads.empty() && tries > 4 * ready + 64) {
            emu_die(
                "%s:%d: nothing can complete this mbarrier: %u arrivals and %d bytes are missing",
                place.file, place.line, (unsigned)m->pending, (int)m->bytes);
        } else {
            emu_yield();
        }
    }
    s.waiting--;
    EMU_ACQUIRE(b);
}

void emu_fence_async(bool of_inits) {
    block_state &s = now();
    s.inits.clear();
    if (!of_inits) {
        copy_bytes(s.seen.data(), emu_block_now->shared, emu_block_now->shared_bytes);
    }
}

void emu_tile_load(void *shared, const CUtensorMap *map, int x, int y, int z, uint64_t *b,
                   int dimensions, emu_place place) {
    block_state &s = now();
    if (std::find(s.inits.begin(), s.inits.end(), b) != s.inits.end()) {
        emu_die("%s:%d: no fence between mbarrier.init and a copy that completes on it", place.file,
                place.line);
    }
    tile_copy c = copy_of(map, x, y, z, shared, b, place);
    if ((dimensions == 3) != (c.map.strides[1] != 0)) {
        emu_die("%s:%d: a tensor map of other dimensions", place.file, place.line);
    }
    s.loads.push_back(c);
}

void emu_tile_store(const CUtensorMap *map, int x, int y, const void *shared, emu_place place) {
    tile_copy c = copy_of(map, x, y, 0, shared, nullptr, place);
    each_element(c, [&](uint32_t at, const char *) {
        for (uint32_t i = 0; i < c.map.element; i++) {
            (void)seen_byte(at + i, place, "a tile's store");
        }
    });
    now().stores[emu_fiber_now->number].push_back(c);
}

void emu_tile_store_commit(void) {
    std::vector<tile_copy> &open = now().stores[emu_fiber_now->number];
    now().store_groups[emu_fiber_now->number].push_back(open);
    open.clear();
}

void emu_tile_store_wait(int groups_left) {
    auto &groups = now().store_groups[emu_fiber_now->number];
    while (groups.size() > (size_t)groups_left) {
        for (const tile_copy &c : groups.front()) {
            each_element(c, [&](uint32_t at, char *global) {
                if (global != nullptr) {
                    copy_bytes(global, emu_block_now->shared + at, c.map.element);
                }
            });
        }
        groups.pop_front();
    }
}

/* The same lane every time, but not always lane 0. */
bool emu_elect(emu_place place) {
    (void)emu_meet(0xffffffffu, nullptr, 0, elect_all, place);
    return emu_fiber_now->lane == emu_settings.seed * 7 % 32;
}

void emu_stmatrix(void *shared, const uint32_t *r, emu_place place) {
    const matrix_slot in = {shared, {r[0], r[1], r[2], r[3]}};
    EMU_WRITES(shared, 16);
    (void)emu_meet(0xffffffffu, &in, sizeof(in), stmatrix_all, place);
}

void emu_set_registers(int count, emu_place place) {
    if (count < 24 || count > 256 || count % 8 != 0) {
        emu_die("%s: setmaxnreg of %d registers", place.file, count);
    }
    together(0, place, [](warpgroup &) {});
}

void emu_wgmma_fence(emu_place place) {
    together(1, place, [](warpgroup &g) { g.fenced = true; });
}

void emu_wgmma(emu_element type, float *d, int registers, const uint32_t *a, uint64_t a_tile,
               uint64_t b_tile, bool add, emu_place place) {
    warpgroup &g = now().groups[emu_fiber_now->warp / 4];
    const uint32_t lane = emu_fiber_now->number % 128;
    if (g.count > 0 && (g.a_tile != a_tile || g.b_tile != b_tile)) {
        emu_die("%s:%d: wgmma: tiles differ between lanes", place.file, place.line);
    }
    g.d[lane] = d;
    g.a_tile = a_tile;
    g.b_tile = b_tile;
    for (int i = 0; i < 4 && a != nullptr; i++) {
        g.a[lane][i] = a[i];
    }
    together(2, place, [&](warpgroup &all) {
        if (!all.fenced) {
            emu_die("%s:%d: wgmma without wgmma.fence since its registers were the program's",
                    place.file, place.line);
        }
        product p = {};
        p.type = type;
        p.add = add;
        p.from_registers = a != nullptr;
        p.a_tile = a_tile;
        p.b_tile = b_tile;
        p.place = place;
        memcpy(p.a, all.a, sizeof(p.a));
        p.sum = accumulator_of(all, registers);
        p.tiles = tiles_of(p, registers * 2);
        all.open.push_back(std::move(p));
    });
}

void emu_wgmma_commit(emu_place place) {
    together(3, place, [](warpgroup &g) {
        g.groups.push_back(std::move(g.open));
        g.open.clear();
    });
}

void emu_wgmma_wait(int groups_left, emu_place place) {
    together(4, place, [&](warpgroup &g) {
        while (g.groups.size() > (size_t)groups_left) {
            for (const product &p : g.groups.front()) {
                compute(g, p);
            }
            g.groups.pop_front();
        }
        for (size_t i = 0; i < g.sums.size(); i++) {
            bool used = !g.sums[i].busy;
            for (const product &p : g.open) {
                used = used || p.sum == i;
            }
            for (const auto &later : g.groups) {
                for (const product &p : later) {
                    used = used || p.sum == i;
                }
            }
            if (!used) {
                hand_back(g, &g.sums[i], place);
            }
        }
    });
}

extern "C" {

/* Two or three dimensions, elements of one, two or four bytes, no swizzle or 128 bytes of it. */
CUresult cuTensorMapEncodeTiled(CUtensorMap *map, CUtensorMapDataType type, cuuint32_t rank,
                                void *base, const cuuint64_t *sizes, const cuuint64_t *strides,
                                const cuuint32_t *box, const cuuint32_t *element_strides,
                                CUtensorMapInterleave interleave, CUtensorMapSwizzle swizzle,
                                CUtensorMapL2promotion promotion, CUtensorMapFloatOOBfill fill) {
    (void)promotion;
    uint32_t bytes = 0;
    if (type == CU_TENSOR_MAP_DATA_TYPE_UINT8) {
        bytes = 1;
    } else if (type == CU_TENSOR_MAP_DATA_TYPE_BFLOAT16 ||
               type == CU_TENSOR_MAP_DATA_TYPE_FLOAT16) {
        bytes = 2;
    } else if (type == CU_TENSOR_MAP_DATA_TYPE_FLOAT32) {
        bytes = 4;
    }
    const bool swizzled = swizzle == CU_TENSOR_MAP_SWIZZLE_128B;
    bool fine = bytes != 0 && (rank == 2 || rank == 3) && (uintptr_t)base % 16 == 0 &&
                interleave == CU_TENSOR_MAP_INTERLEAVE_NONE &&
                fill == CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE &&
                (swizzled || swizzle == CU_TENSOR_MAP_SWIZZLE_NONE) &&
                (!swizzled || box[0] * bytes <= 128) && box[0] * bytes % 16 == 0;
    for (uint32_t i = 0; i < rank && fine; i++) {
        fine = sizes[i] > 0 && box[i] > 0 && box[i] <= 256 && element_strides[i] == 1 &&
               (i + 1 == rank || strides[i] % 16 == 0);
    }
    if (!fine || (rank == 3 && strides[1] == 0)) {
        return CUDA_ERROR_INVALID_VALUE;
    }
    tensor m = {MAGIC, (char *)base, {sizes[0], sizes[1], 1}, {strides[0], 0}, {box[0], box[1], 1},
                bytes, swizzled};
    if (rank == 3) {
        m.sizes[2] = sizes[2];
        m.strides[1] = strides[1];
        m.box[2] = box[2];
    }
    memset(map, 0, sizeof(*map));
    memcpy(map, &m, sizeof(m));
    return CUDA_SUCCESS;
}

cudaError_t cudaGetDriverEntryPointByVersion(const char *symbol, void **function, unsigned version,
                                             unsigned long long flags,
                                             cudaDriverEntryPointQueryResult *result) {
    (void)version;
    (void)flags;
    const bool map = strcmp(symbol, "cuTensorMapEncodeTiled") == 0;
    *function = map ? (void *)cuTensorMapEncodeTiled : emu_green_entry(symbol);
    if (result != nullptr) {
        *result =
            *function != nullptr ? cudaDriverEntryPointSuccess : cudaDriverEntryPointSymbolNotFound;
    }
    return cudaSuccess;
}

} /* extern "C" */
