/* emu_hopper_test.cpp -- the twins of sm_90a's instructions: right kernels exact under every seed,
 * each planted bug noticed.
 *
 *     emu_hopper_test     prints `ok NAME` or `not ok NAME - why` a case; exit status 1 on failures
 */
#include "tests/emu/selftest/emu_hopper.h"

#include <cmath>
#include <cstring>

#include <vector>

#include <cuda_bf16.h>
#include <cuda_fp8.h>

#include "tests/emu/emu_block.hpp"
#include "tests/emu/selftest/emu_check.hpp"

#if defined(WEIR_EMU_TSAN)
/* The emulator's own lists grow in one fiber and shrink in another, in turn. Kernels, which are
 * what is watched here, have no operator new. */
extern "C" const char *__tsan_default_suppressions(void);
extern "C" const char *__tsan_default_suppressions(void) {
    return "race:^operator delete\nrace:^operator new\n";
}
#endif

namespace {

/* Small integers: exact in e4m3, and so are the sums in float. */
float number(int i, int salt) {
    return (float)((i * 7 + i / 32 + salt * 5) % 9 - 4);
}

template <class T>
std::vector<T> numbers(int count, int salt) {
    std::vector<T> out;
    for (int i = 0; i < count; i++) {
        out.push_back(T(number(i, salt)));
    }
    return out;
}

std::vector<float> product(int n, int depth) {
    std::vector<float> out;
    for (int i = 0; i < 64 * n; i++) {
        float sum = 0;
        for (int k = 0; k < depth; k++) {
            sum += number(i / n * depth + k, 1) * number(i % n * depth + k, 2);
        }
        out.push_back(sum);
    }
    return out;
}

template <class T>
T *on_device(const std::vector<T> &host) {
    T *p;
    cudaMalloc((void **)&p, host.size() * sizeof(T));
    cudaMemcpy(p, host.data(), host.size() * sizeof(T), cudaMemcpyHostToDevice);
    return p;
}

/* A map of rows[count][width] bf16 with boxes of `box` rows by `columns`. */
CUtensorMap map_of(const void *p, int width, int count, int columns, int box, bool swizzled) {
    void *encode = nullptr;
    cudaDriverEntryPointQueryResult found;
    cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &encode, 12000, 0, &found);
    const cuuint64_t sizes[2] = {(cuuint64_t)width, (cuuint64_t)count};
    const cuuint64_t strides[1] = {(cuuint64_t)width * 2};
    const cuuint32_t boxes[2] = {(cuuint32_t)columns, (cuuint32_t)box}, ones[2] = {1, 1};
    CUtensorMap map = {};
    ((decltype(&cuTensorMapEncodeTiled))encode)(
        &map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 2, (void *)p, sizes, strides, boxes, ones,
        CU_TENSOR_MAP_INTERLEAVE_NONE,
        swizzled ? CU_TENSOR_MAP_SWIZZLE_128B : CU_TENSOR_MAP_SWIZZLE_NONE,
        CU_TENSOR_MAP_L2_PROMOTION_NONE, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
    return map;
}

std::vector<float> fetch(float *c, int n) {
    std::vector<float> out((size_t)(64 * n), NAN);
    cudaMemcpy(out.data(), c, out.size() * sizeof(float), cudaMemcpyDeviceToHost);
    cudaFree(c);
    return out;
}

/* `rows` of b are there; those of the box past them come as zeros. */
bool ring_is_right(int n, int rows, emu_hopper_bug bug) {
    __nv_bfloat16 *a = on_device(numbers<__nv_bfloat16>(64 * EMU_HOPPER_DEPTH, 1));
    __nv_bfloat16 *b = on_device(numbers<__nv_bfloat16>(rows * EMU_HOPPER_DEPTH, 2));
    float *c = on_device(std::vector<float>((size_t)(64 * n)));
    const CUtensorMap ma = map_of(a, EMU_HOPPER_DEPTH, 64, 64, 64, true);
    const CUtensorMap mb = map_of(b, EMU_HOPPER_DEPTH, rows, 64, n, true);
    emu_hopper_ring(n, bug, &ma, &mb, c, nullptr);
    std::vector<float> want = product(n, EMU_HOPPER_DEPTH);
    for (int i = 0; i < 64 * n; i++) {
        want[(size_t)i] = i % n < rows ? want[(size_t)i] : 0;
    }
    const bool right = fetch(c, n) == want;
    cudaFree(a);
    cudaFree(b);
    return right;
}

template <class T>
bool registers_are_right(int n, emu_hopper_bug bug) {
    const int depth = 32 / (int)sizeof(T);
    T *a = on_device(numbers<T>(64 * depth, 1)), *b = on_device(numbers<T>(n * depth, 2));
    float *c = on_device(std::vector<float>((size_t)(64 * n)));
    emu_hopper_registers(n, sizeof(T) == 1, bug, a, b, c, nullptr);
    const bool right = fetch(c, n) == product(n, depth);
    cudaFree(a);
    cudaFree(b);
    return right;
}

bool store_is_right(emu_hopper_bug bug) {
    constexpr int WIDTH = 24, ROWS = 20; /* the box sticks out at the right and below */
    const std::vector<__nv_bfloat16> in = numbers<__nv_bfloat16>(EMU_HOPPER_STORED, 3);
    __nv_bfloat16 *from = on_device(in);
    __nv_bfloat16 *to = on_device(std::vector<__nv_bfloat16>(WIDTH * ROWS, __nv_bfloat16(99.0f)));
    const CUtensorMap map = map_of(to, WIDTH, ROWS, 16, 16, false);
    emu_hopper_store(bug, from, &map, 10, 6, nullptr);
    std::vector<__nv_bfloat16> out(WIDTH * ROWS);
    cudaMemcpy((void *)out.data(), to, out.size() * 2, cudaMemcpyDeviceToHost);
    bool right = true;
    for (int i = 0; i < WIDTH * ROWS; i++) {
        const int x = i % WIDTH - 10, y = i / WIDTH - 6;
        const float want = x >= 0 && y >= 0 ? (float)in[(size_t)(y * 16 + x)] : 99.0f;
        right = right && (float)out[(size_t)i] == want;
    }
    cudaFree(from);
    cudaFree(to);
    return right;
}

void wrong_maps_are_refused() {
    alignas(16) static char memory[4096];
    const CUtensorMap nothing = {};
    const CUtensorMap wide = map_of(memory, 256, 4, 128, 4, true),
                      odd = map_of(memory + 2, 64, 4, 64, 4, true);
    const CUtensorMap fine = map_of(memory, 64, 4, 64, 4, true);
    emu_check("map/refused", memcmp(&wide, &nothing, sizeof(wide)) == 0 &&
                                 memcmp(&odd, &nothing, sizeof(odd)) == 0 &&
                                 memcmp(&fine, &nothing, sizeof(fine)) != 0);
}

/* A bug may also show as a wrong result: the child then says so. */
void dies(const char *name, const char *words, const std::function<bool()> &right) {
    emu_check_dies(std::string("bug/") + name, words, [&] {
        if (!right()) {
            fprintf(stderr, "wrong result\n");
            abort();
        }
    });
}

void planted_bugs_are_noticed() {
    auto ring = [](emu_hopper_bug bug) { return [bug] { return ring_is_right(64, 64, bug); }; };
    auto registers = [](emu_hopper_bug bug) {
        return [bug] { return registers_are_right<__nv_bfloat16>(32, bug); };
    };
    dies("no_full_wait", "emu: ", ring(EMU_HOPPER_NO_FULL_WAIT));
    dies("no_empty_wait", "more arrivals than its count", ring(EMU_HOPPER_NO_EMPTY_WAIT));
    dies("no_init_fence", "no fence between mbarrier.init", ring(EMU_HOPPER_NO_INIT_FENCE));
    dies("no_wgmma_fence", "without wgmma.fence", ring(EMU_HOPPER_NO_WGMMA_FENCE));
    dies("no_wgmma_wait", "emu: ", ring(EMU_HOPPER_NO_WGMMA_WAIT));
    dies("no_expected_bytes", "emu: ", ring(EMU_HOPPER_NO_EXPECT));
    dies("no_proxy_fence", "without fence.proxy.async", registers(EMU_HOPPER_NO_PROXY_FENCE));
    dies("early_read", "wrong result", registers(EMU_HOPPER_EARLY_READ));
    dies("early_write", "accumulators were written", registers(EMU_HOPPER_EARLY_WRITE));
    dies("tile_overwritten", "its tiles were written", registers(EMU_HOPPER_TILE_OVERWRITTEN));
    dies("warpgroup_diverged", "diverged", registers(EMU_HOPPER_DIVERGED));
    dies("no_proxy_fence_before_store", "without fence.proxy.async",
         [] { return store_is_right(EMU_HOPPER_NO_PROXY_FENCE); });
    dies("no_store_wait", "store under way",
         [] { return store_is_right(EMU_HOPPER_NO_STORE_WAIT); });
}

void right_kernels_are_right_under_every_seed() {
    std::string wrong;
    for (uint64_t seed = 0; seed < 4; seed++) {
        emu_settings.seed = seed;
        for (const int n : {8, 64, 128, 256}) {
            if (!ring_is_right(n, n, EMU_HOPPER_RIGHT)) {
                wrong += " ring " + std::to_string(n);
            }
        }
        for (const int n : {16, 32, 256}) {
            if (!registers_are_right<__nv_bfloat16>(n, EMU_HOPPER_RIGHT)) {
                wrong += " bf16 " + std::to_string(n);
            }
            if (!registers_are_right<__nv_fp8_e4m3>(n, EMU_HOPPER_RIGHT)) {
                wrong += " e4m3 " + std::to_string(n);
            }
        }
        if (!ring_is_right(64, 41, EMU_HOPPER_RIGHT)) {
            wrong += " box past the end";
        }
        if (!store_is_right(EMU_HOPPER_RIGHT)) {
            wrong += " store";
        }
    }
    emu_settings.seed = 0;
    emu_check("right/every_seed", wrong.empty(), wrong);
}

}  // namespace

int main() {
    emu_settings.os_threads = 1;
    planted_bugs_are_noticed();
    wrong_maps_are_refused();
    right_kernels_are_right_under_every_seed();
    return emu_check_failed ? 1 : 0;
}
