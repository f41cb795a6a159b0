/* emu_cublas.cpp -- cuBLASLt's matmul on the emulated device: plain loops, float sums in order of
 * k.
 *
 * D = alpha op(A) op(B) + beta C [+ bias], bf16, f16 or f32 in, float inside, rounded once. What
 * cuBLASLt would refuse is refused; buffers are checked when the work is queued.
 */
#include <cublasLt.h>

#include <atomic>
#include <cstring>
#include <memory>
#include <vector>

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "tests/emu/emu_runtime.hpp"

namespace {

struct matmul {
    cublasComputeType_t compute;
    cudaDataType_t scale, bias_type;
    bool bias_typed; /* else D's */
    cublasOperation_t transa, transb;
    cublasLtEpilogue_t epilogue;
    const void *bias;
};
struct layout {
    cudaDataType_t type;
    uint64_t rows, columns;
    int64_t ld;
    cublasLtOrder_t order;
    int32_t batch;
    int64_t stride;
};
struct preference {
    uint64_t workspace_bytes;
};
struct context {
    int device;
};

size_t size_of(cudaDataType_t type) {
    return type == CUDA_R_32F ? 4 : type == CUDA_R_16BF || type == CUDA_R_16F ? 2 : 0;
}

float load(const char *p, cudaDataType_t type) {
    if (type == CUDA_R_32F) {
        float x;
        memcpy(&x, p, 4);
        return x;
    }
    uint16_t bits;
    memcpy(&bits, p, 2);
    return type == CUDA_R_16BF ? __bfloat162float(__builtin_bit_cast(__nv_bfloat16, bits))
                               : __half2float(__builtin_bit_cast(__half, bits));
}

void store(char *p, cudaDataType_t type, float x) {
    if (type == CUDA_R_32F) {
        memcpy(p, &x, 4);
        return;
    }
    const uint16_t bits = type == CUDA_R_16BF ? __builtin_bit_cast(uint16_t, __float2bfloat16_rn(x))
                                              : __builtin_bit_cast(uint16_t, __float2half_rn(x));
    memcpy(p, &bits, 2);
}

size_t place_of(const layout &l, uint64_t row, uint64_t column) {
    const uint64_t ld = (uint64_t)l.ld;
    return (l.order == CUBLASLT_ORDER_COL ? row + column * ld : row * ld + column) *
           size_of(l.type);
}

bool fits(const layout &l, const void *p) {
    const int64_t least = (int64_t)(l.order == CUBLASLT_ORDER_COL ? l.rows : l.columns);
    if (size_of(l.type) == 0 || l.rows == 0 || l.columns == 0 || l.ld < least || l.batch != 1) {
        return false;
    }
    return (uintptr_t)p % size_of(l.type) == 0 &&
           emu_is_device(p, place_of(l, l.rows - 1, l.columns - 1) + size_of(l.type));
}

struct job {
    matmul what;
    layout a, b, c, d;
    const char *pa, *pb, *pc;
    char *pd;
    float alpha, beta;
    uint64_t m, n, k;
};

void run(const job &j) {
    std::vector<float> a(j.k * j.m), sums(j.m);
    for (uint64_t k = 0; k < j.k; k++) {
        for (uint64_t m = 0; m < j.m; m++) {
            const bool t = j.what.transa != CUBLAS_OP_N;
            a[k * j.m + m] = load(j.pa + place_of(j.a, t ? k : m, t ? m : k), j.a.type);
        }
    }
    for (uint64_t n = 0; n < j.n; n++) {
        sums.assign(j.m, 0);
        for (uint64_t k = 0; k < j.k; k++) {
            const bool t = j.what.transb != CUBLAS_OP_N;
            const float b = load(j.pb + place_of(j.b, t ? n : k, t ? k : n), j.b.type);
            for (uint64_t m = 0; m < j.m; m++) {
                sums[m] += a[k * j.m + m] * b;
            }
        }
        for (uint64_t m = 0; m < j.m; m++) {
            float x = j.alpha * sums[m];
            if (j.beta != 0) {
                x += j.beta * load(j.pc + place_of(j.c, m, n), j.c.type);
            }
            if (j.what.epilogue == CUBLASLT_EPILOGUE_BIAS) {
                x += load((const char *)j.what.bias + m * size_of(j.what.bias_type),
                          j.what.bias_type);
            }
            store(j.pd + place_of(j.d, m, n), j.d.type, x);
        }
    }
}

template <class T>
bool set(T *to, const void *from, size_t bytes) {
    if (bytes != sizeof(T)) {
        return false;
    }
    memcpy(to, from, bytes);
    return true;
}

const layout &of(cublasLtMatrixLayout_t l) {
    return *(const layout *)l;
}

/* The shapes of op(A), op(B), C and D; what is not supported on hardware either is refused. */
cublasStatus_t shape(job *j) {
    const bool ta = j->what.transa != CUBLAS_OP_N, tb = j->what.transb != CUBLAS_OP_N;
    j->m = ta ? j->a.columns : j->a.rows;
    j->k = ta ? j->a.rows : j->a.columns;
    j->n = tb ? j->b.rows : j->b.columns;
    const uint64_t k = tb ? j->b.columns : j->b.rows;
    if (k != j->k || j->d.rows != j->m || j->d.columns != j->n || j->c.rows != j->m ||
        j->c.columns != j->n) {
        return CUBLAS_STATUS_INVALID_VALUE;
    }
    const bool types = j->a.type == j->b.type &&
                       (j->d.type == j->a.type || j->d.type == CUDA_R_32F) &&
                       j->c.type == j->d.type;
    return types && j->what.compute == CUBLAS_COMPUTE_32F && j->what.scale == CUDA_R_32F &&
                   (j->what.epilogue == CUBLASLT_EPILOGUE_DEFAULT ||
                    j->what.epilogue == CUBLASLT_EPILOGUE_BIAS)
               ? CUBLAS_STATUS_SUCCESS
               : CUBLAS_STATUS_NOT_SUPPORTED;
}

}  // namespace

static std::atomic<unsigned long> matmuls;

extern "C" {

size_t cublasLtGetVersion(void) {
    return CUBLAS_VERSION;
}

const char *cublasLtGetStatusString(cublasStatus_t status) {
    return status == CUBLAS_STATUS_SUCCESS ? "success" : "an error of the emulated cuBLASLt";
}

cublasStatus_t cublasLtCreate(cublasLtHandle_t *out) {
    int device;
    if (cudaGetDevice(&device) != cudaSuccess) {
        return CUBLAS_STATUS_NOT_INITIALIZED;
    }
    *out = (cublasLtHandle_t) new context{device};
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtDestroy(cublasLtHandle_t handle) {
    delete (context *)handle;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t *out, cublasComputeType_t compute,
                                        cudaDataType_t scale) {
    *out = (cublasLtMatmulDesc_t) new matmul{
        compute, scale, CUDA_R_32F, false, CUBLAS_OP_N, CUBLAS_OP_N, CUBLASLT_EPILOGUE_DEFAULT,
        nullptr};
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t desc) {
    delete (matmul *)desc;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t desc,
                                              cublasLtMatmulDescAttributes_t attribute,
                                              const void *value, size_t bytes) {
    matmul *m = (matmul *)desc;
    bool fine = false;
    switch (attribute) {
        case CUBLASLT_MATMUL_DESC_TRANSA:
            fine = set(&m->transa, value, bytes);
            break;
        case CUBLASLT_MATMUL_DESC_TRANSB:
            fine = set(&m->transb, value, bytes);
            break;
        case CUBLASLT_MATMUL_DESC_EPILOGUE:
            fine = set(&m->epilogue, value, bytes);
            break;
        case CUBLASLT_MATMUL_DESC_BIAS_POINTER:
            fine = set(&m->bias, value, bytes);
            break;
        case CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE:
            fine = m->bias_typed = set(&m->bias_type, value, bytes);
            break;
        default:
            break;
    }
    return fine ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_INVALID_VALUE;
}

cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t *out, cudaDataType type,
                                          uint64_t rows, uint64_t columns, int64_t ld) {
    *out = (cublasLtMatrixLayout_t) new layout{type, rows, columns, ld, CUBLASLT_ORDER_COL, 1, 0};
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t l) {
    delete (layout *)l;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatrixLayoutSetAttribute(cublasLtMatrixLayout_t l,
                                                cublasLtMatrixLayoutAttribute_t attribute,
                                                const void *value, size_t bytes) {
    layout *m = (layout *)l;
    bool fine = false;
    switch (attribute) {
        case CUBLASLT_MATRIX_LAYOUT_ORDER:
            fine = set(&m->order, value, bytes) &&
                   (m->order == CUBLASLT_ORDER_COL || m->order == CUBLASLT_ORDER_ROW);
            break;
        case CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT:
            fine = set(&m->batch, value, bytes);
            break;
        case CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET:
            fine = set(&m->stride, value, bytes);
            break;
        default:
            break;
    }
    return fine ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_INVALID_VALUE;
}

cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t *out) {
    *out = (cublasLtMatmulPreference_t) new preference{0};
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t p) {
    delete (preference *)p;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t p,
                                                    cublasLtMatmulPreferenceAttributes_t attribute,
                                                    const void *value, size_t bytes) {
    return attribute == CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES &&
                   set(&((preference *)p)->workspace_bytes, value, bytes)
               ? CUBLAS_STATUS_SUCCESS
               : CUBLAS_STATUS_INVALID_VALUE;
}

cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t handle, cublasLtMatmulDesc_t desc,
                                              cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                                              cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
                                              cublasLtMatmulPreference_t p, int asked,
                                              cublasLtMatmulHeuristicResult_t results[],
                                              int *returned) {
    (void)handle;
    job j = {*(const matmul *)desc,
             of(a),
             of(b),
             of(c),
             of(d),
             nullptr,
             nullptr,
             nullptr,
             nullptr,
             0,
             0,
             0,
             0,
             0};
    *returned = 0;
    const cublasStatus_t status = shape(&j);
    if (status != CUBLAS_STATUS_SUCCESS || asked < 1) {
        return status != CUBLAS_STATUS_SUCCESS ? status : CUBLAS_STATUS_INVALID_VALUE;
    }
    memset(&results[0], 0, sizeof(results[0]));
    results[0].workspaceSize = ((preference *)p)->workspace_bytes / 2; /* it may want some */
    results[0].state = CUBLAS_STATUS_SUCCESS;
    *returned = 1;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmul(cublasLtHandle_t handle, cublasLtMatmulDesc_t desc, const void *alpha,
                              const void *a, cublasLtMatrixLayout_t la, const void *b,
                              cublasLtMatrixLayout_t lb, const void *beta, const void *c,
                              cublasLtMatrixLayout_t lc, void *d, cublasLtMatrixLayout_t ld,
                              const cublasLtMatmulAlgo_t *algo, void *workspace,
                              size_t workspace_bytes, cudaStream_t stream) {
    (void)algo;
    job j = {*(const matmul *)desc,
             of(la),
             of(lb),
             of(lc),
             of(ld),
             (const char *)a,
             (const char *)b,
             (const char *)c,
             (char *)d,
             *(const float *)alpha,
             *(const float *)beta,
             0,
             0,
             0};
    const cublasStatus_t status = shape(&j);
    if (status != CUBLAS_STATUS_SUCCESS) {
        return status;
    }
    if (!j.what.bias_typed) {
        j.what.bias_type = j.d.type;
    }
    const bool bias = j.what.epilogue != CUBLASLT_EPILOGUE_BIAS ||
                      (size_of(j.what.bias_type) != 0 &&
                       emu_is_device(j.what.bias, j.m * size_of(j.what.bias_type)));
    if (!fits(j.a, a) || !fits(j.b, b) || !fits(j.d, d) || (j.beta != 0 && !fits(j.c, c)) ||
        !bias || (workspace_bytes > 0 && !emu_is_device(workspace, workspace_bytes)) ||
        emu_stream_device(stream) != ((context *)handle)->device) {
        return CUBLAS_STATUS_INVALID_VALUE;
    }
    if (emu_device_broken(((context *)handle)->device) != cudaSuccess) {
        return CUBLAS_STATUS_EXECUTION_FAILED;
    }
    matmuls++;
    emu_stream_push(stream, [j] {
        run(j);
        return true;
    });
    return CUBLAS_STATUS_SUCCESS;
}

/* For tests: products so far. */
unsigned long emu_cublas_matmuls(void);
unsigned long emu_cublas_matmuls(void) {
    return matmuls;
}

} /* extern "C" */
