/* kernelcase.hpp -- what the tests of the kernels share: buffers, random numbers, reports, seeds.
 *
 * Purpose    A test fills buffers, calls an entry of kernels/cuda/cuda_ops.h, and compares with
 *            what it worked out itself, in double precision or in integers.
 * Ownership  A `device` buffer frees itself. Device memory of the emulator is host memory.
 * Threads    The test's one.
 * Limits     None.
 */
#ifndef TESTS_EMU_KERNELS_KERNELCASE_HPP
#define TESTS_EMU_KERNELS_KERNELCASE_HPP

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include <cuda_runtime.h>

#include "engine/base/rng.h"
#include "tests/emu/emu_block.hpp"

namespace kernelcase {

inline bool failed = false;
inline bool full = false;  /* the full tier: longer positions, more shapes */
inline bool quick = false; /* under a sanitizer: each path once or twice */

inline void report(const std::string &name, bool fine, const std::string &why) {
    failed = failed || !fine;
    printf(fine ? "ok %s\n" : "not ok %s - %s\n", name.c_str(), why.c_str());
    fflush(stdout);
}

/* Device memory of `count` elements, as the emulator gives it: poisoned. Its end is its own end, so
 * that AddressSanitizer sees what goes past it. */
template <class T>
struct device {
    T *at = nullptr;
    size_t count;
    explicit device(size_t n) : count(n) {
        if (cudaMalloc((void **)&at, n * sizeof(T)) != cudaSuccess) {
            printf("not ok memory - %zu elements\n", n);
            exit(1);
        }
    }
    explicit device(const std::vector<T> &values) : device(values.size()) {
        for (size_t i = 0; i < count; i++) {
            at[i] = values[i];
        }
    }
    device(const device &) = delete;
    device &operator=(const device &) = delete;
    ~device() { cudaFree(at); }
    std::vector<T> values() const { return std::vector<T>(at, at + count); }
};

struct numbers {
    uint64_t state;
    explicit numbers(uint64_t seed) : state(seed * 1000003) {}
    int below(int bound) { return (int)rng_below(&state, (uint64_t)bound); }
    float uniform() { /* [-1, 1) */
        return (float)(rng_unit(rng_next(&state)) * 2 - 1);
    }
    float normal() { /* nearly: twelve uniforms */
        double sum = 0;
        for (int i = 0; i < 12; i++) {
            sum += rng_unit(rng_next(&state));
        }
        return (float)(sum - 6);
    }
    std::vector<float> normals(size_t count, float size) {
        std::vector<float> v(count);
        for (float &x : v) {
            x = normal() * size;
        }
        return v;
    }
};

/* Runs what was launched. */
inline bool finish(const std::string &name, cudaError_t launched) {
    const cudaError_t e = launched != cudaSuccess ? launched : cudaDeviceSynchronize();
    if (e != cudaSuccess) {
        report(name, false, cudaGetErrorString(e));
    }
    return e == cudaSuccess;
}

/* The largest |a - b| / (1 + |b|), or infinity where one is no number. */
inline double distance(const std::vector<float> &a, const std::vector<double> &b) {
    double largest = 0;
    for (size_t i = 0; i < a.size(); i++) {
        const double d = std::fabs((double)a[i] - b[i]) / (1 + std::fabs(b[i]));
        largest = d <= largest ? largest : (d > largest ? d : INFINITY);
    }
    return largest;
}

inline void close(const std::string &name, const std::vector<float> &a,
                  const std::vector<double> &b, double bound) {
    const double d = distance(a, b);
    report(name, d <= bound, "off by " + std::to_string(d));
}

template <class T>
bool same(const std::vector<T> &a, const std::vector<T> &b) {
    return a.size() == b.size() && memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0;
}

/* Runs `body` under the order of threads of the plain schedule and of `seeds` drawn ones. */
template <class F>
void each_seed(int seeds, F body) {
    const emu_options before = emu_settings;
    for (int seed = 0; seed <= seeds; seed++) {
        emu_settings.seed = (uint64_t)seed;
        body(seed);
    }
    emu_settings = before;
}

}  // namespace kernelcase

void attentioncase_run(void);
void productcase_run(void);
void samplecase_run(void);
void fusedcase_run(void);

#endif
