/* cudalibrary.c -- cuBLASLt for the products of many rows, where bits need not repeat.
 *
 * Its kernels use what a generation of tensor cores does best, and their order of additions is
 * theirs: a row's result may depend on the number of rows. So --deterministic does without, and so
 * does whoever has few rows, for whom weights that are streamed once are faster anyway. Weights are
 * packed for our own kernels: they are written out as a plain bf16 matrix in scratch memory first,
 * which for hundreds of rows costs a small part of the product.
 *
 * The library is opened by name, not linked: half a gigabyte that not everybody has.
 */
#define _GNU_SOURCE
#include "kernels/cuda/cudastate.h"

#ifdef WEIR_HAVE_CUBLASLT
#include <cublasLt.h>
#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/mem.h"

enum { ROWS_MIN = 256, WORKSPACE_BYTES = 32 << 20, ALGORITHMS_MAX = 64 };

/* The functions used, by name. */
#define LIBRARY_CALLS(X)                    \
    X(cublasLtCreate)                       \
    X(cublasLtDestroy)                      \
    X(cublasLtMatmulDescCreate)             \
    X(cublasLtMatmulDescSetAttribute)       \
    X(cublasLtMatmulDescDestroy)            \
    X(cublasLtMatrixLayoutCreate)           \
    X(cublasLtMatrixLayoutDestroy)          \
    X(cublasLtMatmulPreferenceCreate)       \
    X(cublasLtMatmulPreferenceSetAttribute) \
    X(cublasLtMatmulPreferenceDestroy)      \
    X(cublasLtMatmulAlgoGetHeuristic)       \
    X(cublasLtMatmul)

/* What cuBLASLt recommends for a shape. */
typedef struct {
    int32_t outputs, inputs, rows;
    cublasLtMatmulAlgo_t algorithm;
} recommendation;

struct cudalibrary {
#define DECLARE(name) __typeof__(&name) name;
    LIBRARY_CALLS(DECLARE)
#undef DECLARE
    cublasLtHandle_t handle;
    cublasLtMatmulDesc_t product;
    cublasLtMatmulPreference_t preference;
    recommendation known[ALGORITHMS_MAX];
    uint32_t known_count;
    cudastate_buffer weights, workspace;
};

/* Of what this module was linked with (the emulated device); else of the library's own file. */
static void *library_symbol(void **file, const char *name) {
    void *symbol = dlsym(RTLD_DEFAULT, name);
#ifdef WEIR_CUDA_COMPILED_FOR
    const char *told = getenv("WEIR_CUBLASLT");
    if (symbol == NULL && *file == NULL) {
        *file =
            dlopen(told != NULL && *told != 0 ? told : "libcublasLt.so.13", RTLD_NOW | RTLD_LOCAL);
    }
    symbol = symbol == NULL && *file != NULL ? dlsym(*file, name) : symbol;
#else
    (void)file;
#endif
    return symbol;
}

static bool library_find(struct cudalibrary *l) {
    void *file = NULL; /* stays open: closing a library that has used a device is no use */
    bool all = true;
#define FIND(name)                                   \
    do {                                             \
        void *symbol = library_symbol(&file, #name); \
        memcpy(&l->name, &symbol, sizeof(symbol));   \
        all = all && symbol != NULL;                 \
    } while (0);
    LIBRARY_CALLS(FIND)
#undef FIND
    return all;
}

static bool library_begin(struct cudalibrary *l) {
    const cublasOperation_t transposed = CUBLAS_OP_T;
    const size_t workspace = WORKSPACE_BYTES;
    return l->cublasLtCreate(&l->handle) == CUBLAS_STATUS_SUCCESS &&
           l->cublasLtMatmulDescCreate(&l->product, CUBLAS_COMPUTE_32F, CUDA_R_32F) ==
               CUBLAS_STATUS_SUCCESS &&
           l->cublasLtMatmulDescSetAttribute(l->product, CUBLASLT_MATMUL_DESC_TRANSA, &transposed,
                                             sizeof(transposed)) == CUBLAS_STATUS_SUCCESS &&
           l->cublasLtMatmulPreferenceCreate(&l->preference) == CUBLAS_STATUS_SUCCESS &&
           l->cublasLtMatmulPreferenceSetAttribute(
               l->preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &workspace,
               sizeof(workspace)) == CUBLAS_STATUS_SUCCESS;
}

void cudalibrary_open(cudastate *c) {
    if (c->deterministic || c->plain) {
        return;
    }
    c->library = mem_calloc(1, sizeof(*c->library));
    if (c->library != NULL && !(library_find(c->library) && library_begin(c->library))) {
        cudalibrary_close(c);
    }
}

void cudalibrary_close(cudastate *c) {
    struct cudalibrary *l = c->library;
    if (l == NULL) {
        return;
    }
    if (l->preference != NULL) {
        (void)l->cublasLtMatmulPreferenceDestroy(l->preference);
    }
    if (l->product != NULL) {
        (void)l->cublasLtMatmulDescDestroy(l->product);
    }
    if (l->handle != NULL) {
        (void)l->cublasLtDestroy(l->handle);
    }
    (void)cudaFree(l->weights.memory);
    (void)cudaFree(l->workspace.memory);
    mem_free(l);
    c->library = NULL;
}

/* Rows of a written-out weight begin at multiples of 16 bytes. */
static int32_t stride_of(const cuda_matrix *m) {
    return (m->inputs + 7) / 8 * 8;
}

static uint64_t bytes_of(const cuda_matrix *m) {
    return (uint64_t)m->outputs * (uint64_t)stride_of(m) * 2;
}

status cudalibrary_reserve(cudastate *c, const ops_sizes *s) {
    uint64_t largest = 0;
    if (c->library == NULL || s->rows_max < ROWS_MIN) {
        return STATUS_OK;
    }
    for (const cudastate_weight *w = c->weights; w != NULL; w = w->next) {
        /* Not the vocabulary's: few rows want logits. */
        if (w->matrix.outputs != s->vocab && bytes_of(&w->matrix) > largest) {
            largest = bytes_of(&w->matrix);
        }
    }
    TRY(cudastate_reserve(c, &c->library->workspace, WORKSPACE_BYTES));
    return cudastate_reserve(c, &c->library->weights, largest);
}

bool cudalibrary_can(const cudastate *c, const ops_linear *op, const ops_linear_part *p) {
    const struct cudalibrary *l = c->library;
    const cuda_matrix *m = &((const cudastate_weight *)p->weight)->matrix;
    return l != NULL && op->rows >= ROWS_MIN && p->bias == NULL &&
           c->graph_mode == CUDAGRAPH_NONE && l->workspace.bytes >= WORKSPACE_BYTES &&
           bytes_of(m) <= l->weights.bytes;
}

/* Weights [inputs, outputs], rows [inputs, rows] and results [outputs, rows], column by column as
 * the library sees them. */
typedef struct {
    cublasLtMatrixLayout_t weights, rows, out;
} layouts;

static bool layouts_make(const struct cudalibrary *l, const cuda_matrix *m, int32_t rows,
                         int32_t stride, layouts *x) {
    *x = (layouts){NULL, NULL, NULL};
    return l->cublasLtMatrixLayoutCreate(&x->weights, CUDA_R_16BF, (uint64_t)m->inputs,
                                         (uint64_t)m->outputs,
                                         stride_of(m)) == CUBLAS_STATUS_SUCCESS &&
           l->cublasLtMatrixLayoutCreate(&x->rows, CUDA_R_16BF, (uint64_t)m->inputs, (uint64_t)rows,
                                         stride) == CUBLAS_STATUS_SUCCESS &&
           l->cublasLtMatrixLayoutCreate(&x->out, CUDA_R_32F, (uint64_t)m->outputs, (uint64_t)rows,
                                         m->outputs) == CUBLAS_STATUS_SUCCESS;
}

static void layouts_free(const struct cudalibrary *l, layouts *x) {
    cublasLtMatrixLayout_t const all[] = {x->weights, x->rows, x->out};
    for (int i = 0; i < 3; i++) {
        if (all[i] != NULL) {
            (void)l->cublasLtMatrixLayoutDestroy(all[i]);
        }
    }
}

/* NULL: the library knows no way. */
static const cublasLtMatmulAlgo_t *algorithm_for(struct cudalibrary *l, const cuda_matrix *m,
                                                 int32_t rows, const layouts *x) {
    const uint32_t kept = l->known_count < ALGORITHMS_MAX ? l->known_count : ALGORITHMS_MAX;
    for (uint32_t i = 0; i < kept; i++) {
        const recommendation *r = &l->known[i];
        if (r->outputs == m->outputs && r->inputs == m->inputs && r->rows == rows) {
            return &r->algorithm;
        }
    }
    cublasLtMatmulHeuristicResult_t best;
    int found = 0;
    if (l->cublasLtMatmulAlgoGetHeuristic(l->handle, l->product, x->weights, x->rows, x->out,
                                          x->out, l->preference, 1, &best,
                                          &found) != CUBLAS_STATUS_SUCCESS ||
        found == 0) {
        return NULL;
    }
    recommendation *r = &l->known[l->known_count++ % ALGORITHMS_MAX];
    *r = (recommendation){m->outputs, m->inputs, rows, best.algo};
    return &r->algorithm;
}

status cudalibrary_product(cudastate *c, const cuda_rows *rows, const ops_linear_part *p) {
    struct cudalibrary *l = c->library;
    const cuda_matrix *m = &((const cudastate_weight *)p->weight)->matrix;
    const cuda_unpack unpack = {*m, l->weights.memory, stride_of(m)};
    const float one = 1, before = p->accumulate ? 1 : 0;
    TRY(cudastate_check(c, plain_unpack(&unpack, c->stream)));
    layouts x;
    bool done = layouts_make(l, m, rows->rows, rows->stride, &x);
    const cublasLtMatmulAlgo_t *algorithm = done ? algorithm_for(l, m, rows->rows, &x) : NULL;
    done =
        algorithm != NULL &&
        l->cublasLtMatmul(l->handle, l->product, &one, l->weights.memory, x.weights,
                          rows->rows_bf16, x.rows, &before, p->out, x.out, p->out, x.out, algorithm,
                          l->workspace.memory, WORKSPACE_BYTES, c->stream) == CUBLAS_STATUS_SUCCESS;
    layouts_free(l, &x);
    return done ? STATUS_OK : STATUS_UNSUPPORTED;
}

#else /* without its header */

void cudalibrary_open(cudastate *c) {
    c->library = NULL;
}

void cudalibrary_close(cudastate *c) {
    c->library = NULL;
}

status cudalibrary_reserve(cudastate *c, const ops_sizes *sizes) {
    (void)c;
    (void)sizes;
    return STATUS_OK;
}

bool cudalibrary_can(const cudastate *c, const ops_linear *op, const ops_linear_part *p) {
    (void)c;
    (void)op;
    (void)p;
    return false;
}

status cudalibrary_product(cudastate *c, const cuda_rows *rows, const ops_linear_part *p) {
    (void)c;
    (void)rows;
    (void)p;
    return STATUS_UNSUPPORTED;
}
#endif
