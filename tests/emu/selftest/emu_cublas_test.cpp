/* emu_cublas_test.cpp -- the emulated cuBLASLt against loops that know nothing of it.
 *
 *     emu_cublas_test     prints `ok NAME` or `not ok NAME - why` a case; exit status 1 on failures
 */
#if !__has_include(<cublasLt.h>)

#include <cstdio>

int main() {
    puts("cublasLt.h is not on this machine (it comes with a CUDA toolkit)");
    return 77;
}

#else

#include <cublasLt.h>

#include <vector>

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "tests/emu/selftest/emu_check.hpp"

namespace {

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
T *on_device(const std::vector<T> &host) {
    T *p;
    cudaMalloc((void **)&p, host.size() * sizeof(T));
    cudaMemcpy(p, host.data(), host.size() * sizeof(T), cudaMemcpyHostToDevice);
    return p;
}

/* Small integers: sums are exact in every order. */
template <class T>
std::vector<T> numbers(size_t count, int salt) {
    std::vector<T> out;
    for (size_t i = 0; i < count; i++) {
        out.push_back(T((float)((int)(i * 7 + (size_t)salt * 5) % 9 - 4)));
    }
    return out;
}

struct call {
    cublasLtHandle_t handle;
    cublasLtMatmulDesc_t desc;
    cublasLtMatrixLayout_t a, b, d;

    call(cudaDataType in, cudaDataType out, int m, int n, int k) {
        const cublasOperation_t transposed = CUBLAS_OP_T;
        cublasLtCreate(&handle);
        cublasLtMatmulDescCreate(&desc, CUBLAS_COMPUTE_32F, CUDA_R_32F);
        cublasLtMatmulDescSetAttribute(desc, CUBLASLT_MATMUL_DESC_TRANSA, &transposed,
                                       sizeof(transposed));
        cublasLtMatrixLayoutCreate(&a, in, (uint64_t)k, (uint64_t)m, k);
        cublasLtMatrixLayoutCreate(&b, in, (uint64_t)k, (uint64_t)n, k);
        cublasLtMatrixLayoutCreate(&d, out, (uint64_t)m, (uint64_t)n, m);
    }
    ~call() {
        cublasLtMatrixLayoutDestroy(a);
        cublasLtMatrixLayoutDestroy(b);
        cublasLtMatrixLayoutDestroy(d);
        cublasLtMatmulDescDestroy(desc);
        cublasLtDestroy(handle);
    }
    call(const call &) = delete;
    call &operator=(const call &) = delete;

    cublasStatus_t run(const void *pa, const void *pb, void *pd, float beta) {
        const float alpha = 0.5f;
        cublasLtMatmulPreference_t preference;
        cublasLtMatmulHeuristicResult_t found;
        int count = 0;
        cublasLtMatmulPreferenceCreate(&preference);
        cublasLtMatmulAlgoGetHeuristic(handle, desc, a, b, d, d, preference, 1, &found, &count);
        cublasLtMatmulPreferenceDestroy(preference);
        return count != 1 ? CUBLAS_STATUS_NOT_SUPPORTED
                          : cublasLtMatmul(handle, desc, &alpha, pa, a, pb, b, &beta, pd, d, pd, d,
                                           &found.algo, nullptr, 0, nullptr);
    }
};

/* out[n][m] = 0.5 sum in_b[n][k] in_a[m][k] + out [+ bias[m]]: weights times rows, as weir calls.
 */
template <class IN, class OUT>
void product(const char *name, cudaDataType in, cudaDataType out, bool with_bias) {
    constexpr int M = 7, N = 5, K = 33;
    const std::vector<IN> a = numbers<IN>(M * K, 1), b = numbers<IN>(N * K, 2);
    const std::vector<OUT> c = numbers<OUT>(M * N, 3), bias = numbers<OUT>(M, 4);
    IN *pa = on_device(a), *pb = on_device(b);
    OUT *pd = on_device(c), *pbias = on_device(bias);
    call g(in, out, M, N, K);
    if (with_bias) {
        const cublasLtEpilogue_t epilogue = CUBLASLT_EPILOGUE_BIAS;
        cublasLtMatmulDescSetAttribute(g.desc, CUBLASLT_MATMUL_DESC_EPILOGUE, &epilogue,
                                       sizeof(epilogue));
        cublasLtMatmulDescSetAttribute(g.desc, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &pbias,
                                       sizeof(pbias));
    }
    const bool ran = g.run(pa, pb, pd, 1) == CUBLAS_STATUS_SUCCESS;
    std::vector<OUT> got(M * N);
    cudaMemcpy(got.data(), pd, sizeof(OUT) * got.size(), cudaMemcpyDeviceToHost);
    int wrong = 0;
    for (int n = 0; n < N; n++) {
        for (int m = 0; m < M; m++) {
            double sum = 0;
            for (int k = 0; k < K; k++) {
                sum +=
                    (double)widen(a[(size_t)(m * K + k)]) * (double)widen(b[(size_t)(n * K + k)]);
            }
            const size_t at = (size_t)(n * M + m);
            const float want =
                (float)(0.5 * sum) + widen(c[at]) + (with_bias ? widen(bias[(size_t)m]) : 0);
            wrong += widen(got[at]) != widen(OUT(want));
        }
    }
    emu_check(std::string("matmul/") + name, ran && wrong == 0, std::to_string(wrong) + " wrong");
    for (void *p : {(void *)pa, (void *)pb, (void *)pd, (void *)pbias}) {
        cudaFree(p);
    }
}

void wrong_calls_are_refused() {
    const std::vector<float> numbers_of(64, 1.0f);
    float *p = on_device(numbers_of), host[64] = {};
    call fits(CUDA_R_32F, CUDA_R_32F, 4, 4, 4), large(CUDA_R_32F, CUDA_R_32F, 16, 16, 16),
        mixed(CUDA_R_32F, CUDA_R_16BF, 4, 4, 4);
    emu_check("refused/past_the_end",
              large.run(p, p, p, 0) == CUBLAS_STATUS_INVALID_VALUE && !fits.run(p, p, p, 0));
    emu_check("refused/host_memory", fits.run(host, p, p, 0) == CUBLAS_STATUS_INVALID_VALUE);
    emu_check("refused/types", mixed.run(p, p, p, 0) == CUBLAS_STATUS_NOT_SUPPORTED);
    const char wrong_size = 1;
    emu_check("refused/attribute_size",
              cublasLtMatmulDescSetAttribute(fits.desc, CUBLASLT_MATMUL_DESC_TRANSA, &wrong_size,
                                             1) == CUBLAS_STATUS_INVALID_VALUE);
    cudaDeviceSynchronize();
    cudaFree(p);
}

}  // namespace

int main() {
    product<float, float>("f32", CUDA_R_32F, CUDA_R_32F, false);
    product<__nv_bfloat16, float>("bf16_f32", CUDA_R_16BF, CUDA_R_32F, false);
    product<__nv_bfloat16, __nv_bfloat16>("bf16_bias", CUDA_R_16BF, CUDA_R_16BF, true);
    product<__half, float>("f16_f32_bias", CUDA_R_16F, CUDA_R_32F, true);
    wrong_calls_are_refused();
    return emu_check_failed ? 1 : 0;
}

#endif
