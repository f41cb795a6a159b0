/* weir_parity.c -- every operator on every backend: distance from a plain reference, time.
 *
 *     weir_parity [--json] [--threads N] [--rows N] [--backend cpu|cuda]
 *
 * One line a case. `distance` is the largest difference over the reference's largest magnitude; the
 * bound beside it is the case's own, and passing it is a failure (exit status 1). `same` says that
 * the bits equal those of the first backend of that numerics class. The references here are double
 * and textbook; the arithmetic itself is tested bit by bit in tests/unit/kernels. */
#define _GNU_SOURCE
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "engine/base/check.h"
#include "engine/base/clock.h"
#include "engine/base/mem.h"
#include "engine/base/rng.h"
#include "engine/base/str.h"
#include "kernels/backend.h"
#include "kernels/cpu/quant.h"
#include "kernels/kmath.h"

enum {
    INPUTS = 1536,
    OUTPUTS = 576,
    HEADS = 9,
    KV_HEADS = 3,
    HEAD_DIM = 64,
    CONTEXT = 2048,
    REPEATS = 7, /* the fastest is reported */
    ROWS_MAX = 512,
    CHECKED_ROWS = 4,
    CHECKED_HEADS = 2,
    SKIPPED = 77 /* what tests/run takes for "cannot run here" */
};

typedef struct {
    bool json;
    int32_t threads, rows;
    const char *backend; /* NULL: the CPU's */
} settings;

typedef struct {
    backend *b;
    settings set;
    bool failed;
    int isa_index;
    bool cuda;
} bench;

/* First instruction set's outputs, by case. */
enum { CASES_MAX = 48, KEPT_FLOATS = 4096 };
static float kept[CASES_MAX][KEPT_FLOATS];

static uint64_t random_state = 7;

static float noise(void) {
    return (float)(rng_unit(rng_next(&random_state)) * 2 - 1);
}

static void *memory(int64_t count, size_t bytes) {
    void *p = mem_calloc((size_t)count, bytes);
    CHECK(p != NULL);
    return p;
}

static float *noise_take(int64_t count) {
    float *p = memory(count, sizeof(float));
    for (int64_t i = 0; i < count; i++) {
        p[i] = noise();
    }
    return p;
}

static void must(status s) {
    CHECK_EQ(s, STATUS_OK);
}

/* Device memory with that in it; NULL: zeros. */
static float *device_take(const bench *t, const float *host, int64_t count) {
    void *p = NULL;
    must(backend_alloc(t->b, (uint64_t)count * sizeof(float), &p));
    if (host != NULL) {
        must(backend_upload(t->b, p, host, (uint64_t)count * sizeof(float)));
    }
    return p;
}

static void device_read(const bench *t, float *host, const float *device, int64_t count) {
    must(backend_download(t->b, host, device, (uint64_t)count * sizeof(float)));
}

/* How far this backend may be from the reference: `exact` where inputs stay f32, else what rounding
 * them to bf16 makes of it. */
static double bound_of(const bench *t, double exact) {
    const bool rounds = t->cuda && strcmp(t->b->isa, "plain") != 0;
    return rounds && exact < 1e-2 ? 1e-2 : exact;
}

/* The least time of one call, in microseconds. */
#define TIMED(us, call)                                                   \
    do {                                                                  \
        us = 1e18;                                                        \
        for (int timed_ = 0; timed_ < REPEATS; timed_++) {                \
            const int64_t start_ = clock_now_ns();                        \
            must(call);                                                   \
            must(backend_sync(t->b));                                     \
            const double took_ = (double)(clock_now_ns() - start_) / 1e3; \
            us = took_ < us ? took_ : us;                                 \
        }                                                                 \
    } while (0)

/* FNV-1a, to be compared with another machine's. */
static uint64_t bits_of(const void *data, size_t bytes) {
    uint64_t h = UINT64_C(14695981039346656037);
    for (size_t i = 0; i < bytes; i++) {
        h = (h ^ ((const uint8_t *)data)[i]) * UINT64_C(1099511628211);
    }
    return h;
}

static void report(bench *t, int number, const char *name, int32_t rows, double us, double gops,
                   const float *out, const double *expected, int32_t count, double bound) {
    double worst = 0, top = 1e-30;
    for (int32_t i = 0; i < count; i++) {
        const double d = fabs((double)out[i] - expected[i]);
        worst = d > worst || isnan(d) ? d : worst;
        top = fabs(expected[i]) > top ? fabs(expected[i]) : top;
    }
    CHECK(number < CASES_MAX && count <= KEPT_FLOATS);
    const size_t bytes = (size_t)count * sizeof(float);
    if (t->isa_index == 0) {
        memcpy(kept[number], out, bytes);
    }
    const bool same = memcmp(kept[number], out, bytes) == 0, fine = worst / top <= bound && same;
    t->failed = t->failed || !fine;
    const char *format =
        t->set.json
            ? "{\"isa\":\"%s\",\"case\":\"%s\",\"rows\":%d,\"threads\":%d,\"us\":%.1f,"
              "\"gops\":%.1f,\"distance\":%.3g,\"bound\":%.3g,\"same\":%s,\"ok\":%s,"
              "\"bits\":\"%016llx\"}\n"
            : "%-9s %-22s rows %3d threads %d %10.1f us %8.1f Gop/s  distance %-8.2g of %-8.2g "
              "same %-5s ok %s  bits %016llx\n";
    (void)printf(format, t->b->isa, name, (int)rows, (int)t->b->threads, us, gops, worst / top,
                 bound, same ? "true" : "false", fine ? "true" : "false",
                 (unsigned long long)bits_of(out, bytes));
}

static uint8_t *matrix(backend_type type) {
    const uint64_t bytes = backend_type_bytes(type, OUTPUTS, INPUTS);
    const uint64_t super_bytes = backend_type_bytes(type, 1, 256);
    uint8_t *p = memory((int64_t)bytes, 1);
    for (uint64_t i = 0; i < bytes; i++) {
        p[i] = (uint8_t)rng_next(&random_state);
    }
    if (type == BACKEND_F32 || type == BACKEND_F16 || type == BACKEND_BF16) {
        for (uint64_t i = 0; i < bytes; i += type == BACKEND_F32 ? 4 : 2) {
            const float f = noise();
            const uint16_t h =
                type == BACKEND_F16 ? kmath_to_f16(f) : (uint16_t)(kmath_bits(f) >> 16);
            memcpy(p + i, type == BACKEND_F32 ? (const void *)&f : (const void *)&h,
                   type == BACKEND_F32 ? 4 : 2);
        }
        return p;
    }
    const bool super = type == BACKEND_Q4_K || type == BACKEND_Q5_K || type == BACKEND_Q6_K;
    for (uint64_t at = 0; at < bytes; at += super ? super_bytes : super_bytes / 8) {
        const uint16_t h[2] = {kmath_to_f16(0.01f * noise()), kmath_to_f16(0.01f * noise())};
        const bool two = type == BACKEND_Q4_1 || type == BACKEND_Q5_1 || super;
        memcpy(p + at + (type == BACKEND_Q6_K ? 208 : 0), h, two && type != BACKEND_Q6_K ? 4 : 2);
    }
    return p;
}

static double weight_at(backend_type type, const uint8_t *row, int32_t k) {
    float f;
    uint16_t h;
    quant_group q;
    switch (type) {
        case BACKEND_F32:
            memcpy(&f, row + 4 * k, 4);
            return (double)f;
        case BACKEND_F16:
        case BACKEND_BF16:
            memcpy(&h, row + 2 * k, 2);
            return (double)(type == BACKEND_F16 ? kmath_f16(h) : kmath_bf16(h));
        default:
            break;
    }
    quant_get(type, row, k / 32, &q);
    const bool minimum = type == BACKEND_Q4_1 || type == BACKEND_Q5_1 || type == BACKEND_Q4_K ||
                         type == BACKEND_Q5_K;
    const int zero = minimum ? 0 : type == BACKEND_Q4_0 ? 8 : 128;
    return (double)q.scale[k % 32 / 16] * (q.quant[k % 32] - zero) + (double)q.minimum;
}

static void linear_case(bench *t, int number, backend_type type, backend_activations mode) {
    random_state = 100 + (uint64_t)number;
    const int32_t rows = t->set.rows;
    uint8_t *data = matrix(type);
    float *x = noise_take((int64_t)rows * INPUTS), *out = noise_take((int64_t)rows * OUTPUTS);
    float *dx = device_take(t, x, (int64_t)rows * INPUTS);
    float *dout = device_take(t, NULL, (int64_t)rows * OUTPUTS);
    const uint64_t row_bytes = backend_type_bytes(type, 1, INPUTS);
    const backend_weight *w = NULL;
    must(backend_weight_load(t->b, type, data, row_bytes * OUTPUTS, OUTPUTS, INPUTS, mode, &w,
                             NULL));
    ops_linear op = {.x = dx, .rows = rows, .parts = {{w, NULL, dout, false}}, .parts_count = 1};
    double us, expected[CHECKED_ROWS * OUTPUTS];
    TIMED(us, backend_linear(t->b, &op));
    device_read(t, out, dout, (int64_t)rows * OUTPUTS);
    const int32_t checked = rows < CHECKED_ROWS ? rows : CHECKED_ROWS;
    for (int32_t i = 0; i < checked * OUTPUTS; i++) {
        expected[i] = 0;
        for (int32_t k = 0; k < INPUTS; k++) {
            expected[i] += weight_at(type, data + (uint64_t)(i % OUTPUTS) * row_bytes, k) *
                           (double)x[i / OUTPUTS * INPUTS + k];
        }
    }
    char name[40];
    const bool f32 = w->activations == BACKEND_ACTIVATIONS_F32;
    (void)snprintf(name, sizeof(name), "linear %s %s", backend_type_name(type),
                   backend_activations_name(w->activations));
    report(t, number, name, rows, us, 2e-3 * rows * INPUTS * OUTPUTS / us, out, expected,
           checked * OUTPUTS, f32 ? bound_of(t, 1e-5) : 0.02);
    backend_free(t->b, dx), backend_free(t->b, dout);
    mem_free(data), mem_free(x), mem_free(out);
}

static void rows_cases(bench *t, int number) {
    random_state = 200;
    const int32_t rows = t->set.rows, count = rows * INPUTS;
    float *a = noise_take(count), *b = noise_take(count), *out = noise_take(count);
    float *da = device_take(t, a, count), *db = device_take(t, b, count);
    float *dout = device_take(t, NULL, count);
    double us, expected[INPUTS], sum = 0;
    const ops_rmsnorm norm = {da, db, dout, rows, INPUTS, 1e-5f, false};
    TIMED(us, backend_rmsnorm(t->b, &norm));
    device_read(t, out, dout, count);
    for (int32_t i = 0; i < INPUTS; i++) {
        sum += (double)a[i] * (double)a[i];
    }
    for (int32_t i = 0; i < INPUTS; i++) {
        expected[i] = (double)a[i] / sqrt(sum / INPUTS + 1e-5) * (double)b[i];
    }
    report(t, number, "rmsnorm", rows, us, 4e-3 * count / us, out, expected, INPUTS, 1e-6);
    const ops_silu_mul silu = {da, db, dout, rows, INPUTS, false};
    TIMED(us, backend_silu_mul(t->b, &silu));
    device_read(t, out, dout, count);
    for (int32_t i = 0; i < INPUTS; i++) {
        expected[i] = (double)a[i] / (1 + exp(-(double)a[i])) * (double)b[i];
    }
    report(t, number + 1, "silu_mul", rows, us, 4e-3 * count / us, out, expected, INPUTS, 1e-6);
    const ops_silu_mul gelu = {da, db, dout, rows, INPUTS, true};
    TIMED(us, backend_silu_mul(t->b, &gelu));
    device_read(t, out, dout, count);
    for (int32_t i = 0; i < INPUTS; i++) {
        const double x = (double)a[i], inner = sqrt(2 / M_PI) * (x + 0.044715 * x * x * x);
        expected[i] = 0.5 * x * (1 + tanh(inner)) * (double)b[i];
    }
    report(t, number + 2, "gelu_mul", rows, us, 4e-3 * count / us, out, expected, INPUTS, 1e-6);
    const ops_softcap cap = {da, rows, INPUTS, 0.5f};
    must(backend_softcap(t->b, &cap)); /* in place: the first is looked at, others are timed */
    device_read(t, out, da, count);
    TIMED(us, backend_softcap(t->b, &cap));
    for (int32_t i = 0; i < INPUTS; i++) {
        expected[i] = 0.5 * tanh((double)a[i] / 0.5);
    }
    report(t, number + 3, "softcap", rows, us, 2e-3 * count / us, out, expected, INPUTS, 1e-6);
    backend_free(t->b, da), backend_free(t->b, db), backend_free(t->b, dout);
    mem_free(a), mem_free(b), mem_free(out);
}

/* The last `rows` tokens of a context, keys and values given unrotated (dim of rotation 2, position
 * scale 0: angle 0). */
static void attention_case(bench *t, int number, backend_kv_type type, double bound, int32_t window,
                           float softcap) {
    random_state = 300;
    const int32_t rows = t->set.rows, q_row = HEADS * HEAD_DIM, kv_row = KV_HEADS * HEAD_DIM;
    float *q = noise_take((int64_t)CONTEXT * q_row), *out = noise_take((int64_t)rows * q_row);
    float *k = noise_take((int64_t)CONTEXT * kv_row), *v = noise_take((int64_t)CONTEXT * kv_row);
    float *dq = device_take(t, q, (int64_t)CONTEXT * q_row);
    float *dk = device_take(t, k, (int64_t)CONTEXT * kv_row);
    float *dv = device_take(t, v, (int64_t)CONTEXT * kv_row);
    float *dout = device_take(t, NULL, (int64_t)rows * q_row);
    float *table = device_take(t, NULL, CONTEXT * 2);
    int32_t *positions = memory(CONTEXT, sizeof(int32_t));
    uint32_t pages[CONTEXT / 16];
    for (uint32_t i = 0; i < CONTEXT / 16; i++) {
        pages[i] = (i * 37) % (CONTEXT / 16);
    }
    const backend_kv_options o = {1, KV_HEADS, HEAD_DIM, CONTEXT / 16, type};
    backend_kv *kv = NULL;
    must(backend_kv_open(t->b, &o, &kv, NULL));
    const ops_seq all = {0, CONTEXT, 0, pages, CONTEXT / 16};
    const ops_seq last = {0, rows, CONTEXT - rows, pages, CONTEXT / 16};
    const ops_rope_table rope = {positions, NULL, table, 1, 0, 1, CONTEXT, 2};
    const ops_rope_append append = {dq, dk,      dv, table, kv, &all,
                                    1,  CONTEXT, 0,  HEADS, 2,  OPS_ROPE_NEOX};
    const ops_attention attention = {dq, dout,  kv,     &last,  1,       rows,
                                     0,  HEADS, 0.125f, window, softcap, false};
    double us, expected[CHECKED_HEADS * HEAD_DIM], weight[CONTEXT];
    must(backend_rope_table(t->b, &rope));
    must(backend_rope_append(t->b, &append));
    TIMED(us, backend_attention(t->b, &attention));
    device_read(t, out, dout, (int64_t)rows * q_row);
    const int32_t row = CONTEXT - rows, low = window > 0 && row >= window ? row - window + 1 : 0;
    for (int32_t h = 0; h < CHECKED_HEADS; h++) { /* of the first row; both on kv head 0 */
        double sum = 0;
        for (int32_t s = low; s <= row; s++) {
            weight[s] = 0;
            for (int32_t i = 0; i < HEAD_DIM; i++) {
                weight[s] += (double)q[h * HEAD_DIM + i] * (double)k[s * kv_row + i];
            }
            const double score = weight[s] * 0.125, cap = (double)softcap;
            sum += weight[s] = exp(cap > 0 ? cap * tanh(score / cap) : score);
        }
        for (int32_t i = 0; i < HEAD_DIM; i++) {
            expected[h * HEAD_DIM + i] = 0;
            for (int32_t s = low; s <= row; s++) {
                expected[h * HEAD_DIM + i] += weight[s] / sum * (double)v[s * kv_row + i];
            }
        }
    }
    const double seen = window > 0 ? window : CONTEXT - rows / 2.0, visible = rows * seen;
    char name[40];
    (void)snprintf(name, sizeof(name), "attention %d %s%s%s", CONTEXT, backend_kv_type_name(type),
                   window > 0 ? " window" : "", softcap > 0 ? " cap" : "");
    report(t, number, name, rows, us, 4e-3 * visible * q_row / us, out, expected,
           CHECKED_HEADS * HEAD_DIM, bound_of(t, bound));
    backend_kv_close(t->b, kv);
    backend_free(t->b, dq), backend_free(t->b, dk), backend_free(t->b, dv);
    backend_free(t->b, dout), backend_free(t->b, table);
    mem_free(q), mem_free(k), mem_free(v), mem_free(out), mem_free(positions);
}

static bool number_of(const char *text, int32_t max, int32_t *out) {
    int64_t value;
    if (text == NULL || !str_to_i64(str_from(text), 1, max, &value)) {
        return false;
    }
    *out = (int32_t)value;
    return true;
}

static void all_cases(bench *t) {
    static const backend_type types[] = {BACKEND_Q4_0, BACKEND_Q4_1, BACKEND_Q5_0, BACKEND_Q5_1,
                                         BACKEND_Q8_0, BACKEND_Q4_K, BACKEND_Q5_K, BACKEND_Q6_K,
                                         BACKEND_F32,  BACKEND_F16,  BACKEND_BF16};
    int number = 0;
    for (size_t k = 0; k < sizeof(types) / sizeof(types[0]); k++) {
        linear_case(t, number++, types[k], BACKEND_ACTIVATIONS_INT8);
    }
    linear_case(t, number++, BACKEND_Q4_1, BACKEND_ACTIVATIONS_F32);
    rows_cases(t, number);
    attention_case(t, number + 4, BACKEND_KV_F16, 2e-3, 0, 0);
    attention_case(t, number + 5, BACKEND_KV_F32, 1e-5, 0, 0);
    attention_case(t, number + 6, BACKEND_KV_BF16, 1e-2, 0, 0);
    attention_case(t, number + 7, BACKEND_KV_INT8, 1e-2, 0, 0);
    attention_case(t, number + 8, BACKEND_KV_F16, 2e-3, 700, 0);
    attention_case(t, number + 9, BACKEND_KV_F16, 2e-3, 700, 0.4f);
    attention_case(t, number + 10, BACKEND_KV_INT8, 1e-2, 0, 0.4f);
    attention_case(t, number + 11, BACKEND_KV_FP8, 8e-2, 0, 0);
    number += 12;
    for (size_t k = 0; k < sizeof(types) / sizeof(types[0]) && t->b->bf16; k++) {
        linear_case(t, number++, types[k], BACKEND_ACTIVATIONS_BF16);
    }
}

/* False, with a word, when the module or the device is not there. */
static bool on_backend(bench *t, const char *name, const char *isa) {
    const backend_options options = {.threads = t->set.threads, .isa = isa, .deterministic = true};
    diag d;
    if (backend_open(name, &options, &t->b, &d) != STATUS_OK) {
        if (t->cuda) {
            (void)printf("%s\n", d.text);
        }
        return false;
    }
    all_cases(t);
    backend_close(t->b);
    t->isa_index++;
    return true;
}

int main(int argc, char **argv) {
    static const char *const isas[] = {"amx", "avx512", "avxvnni", "avx2", "portable"};
    settings set = {.threads = 1, .rows = 16, .backend = "cpu"};
    for (int i = 1; i < argc; i++) {
        const char *next = i + 1 < argc ? argv[i + 1] : NULL;
        if (strcmp(argv[i], "--json") == 0) {
            set.json = true;
        } else if (strcmp(argv[i], "--threads") == 0 && number_of(next, 256, &set.threads)) {
            i++;
        } else if (strcmp(argv[i], "--rows") == 0 && number_of(next, ROWS_MAX, &set.rows)) {
            i++;
        } else if (strcmp(argv[i], "--backend") == 0 && next != NULL) {
            set.backend = argv[++i];
        } else {
            (void)fprintf(stderr,
                          "usage: weir_parity [--json] [--threads N] [--rows 1..%d] [--backend "
                          "cpu|cuda]\n",
                          (int)ROWS_MAX);
            return 2;
        }
    }
    bench t = {.set = set};
    if (strcmp(set.backend, "cuda") == 0) {
        t.cuda = true;
        if (!on_backend(&t, "cuda", "plain")) {
            return SKIPPED;
        }
        t.isa_index = 0; /* the tensor cores' arithmetic is another one */
        return on_backend(&t, "cuda", "auto") && !t.failed ? 0 : 1;
    }
    for (size_t i = 0; i < sizeof(isas) / sizeof(isas[0]); i++) {
        (void)on_backend(&t, "cpu", isas[i]);
    }
    return t.failed ? 1 : 0;
}
