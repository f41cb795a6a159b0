/* kernels.c -- operators timed one by one.
 *
 * A measurement is a run of calls between two waits for the device, as many as take a few
 * milliseconds; of several runs, the median. Weights come in enough copies that they are not found
 * in a cache, and each call takes the next one. Data is random: zeros would draw less power and run
 * faster. The yardstick of bytes is a copy of memory to memory on the same device, timed first;
 * what counts as moved is what the operator must move at least.
 */
#include "bench/kernels.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/clock.h"
#include "engine/base/config.h"
#include "engine/base/limits.h"
#include "engine/base/mem.h"
#include "engine/base/rng.h"
#include "kernels/backend.h"
#include "kernels/kmath.h"

enum { RUNS = 9, COPIES_MAX = 64, CALLS_MAX = 4096, SEQS_MAX = 256 };

typedef struct {
    const char *name;
    int32_t width, ffn, heads, kv_heads, head_dim;
} model_shape;

static const model_shape shapes[] = {{"smollm2-135m", 576, 1536, 9, 3, 64},
                                     {"llama3-8b", 4096, 14336, 32, 8, 128},
                                     {"qwen3-8b", 4096, 12288, 32, 8, 128}};
static const char *const shape_names[] = {"smollm2-135m", "llama3-8b", "qwen3-8b", NULL};
static const char *const backends[] = {"auto", "cpu", "cuda", NULL};

typedef struct {
    int32_t backend, shape;
    int64_t threads, device, run_us;
    double peak_tflops;
    bool json, quick;
} settings;

typedef struct {
    settings set;
    backend *b;
    const model_shape *m;
    uint64_t seed;
    double copy_gbps;
    uint64_t spread_bytes; /* of weights and caches that calls take turns with */
    status failed;
    diag d;
} bench;

#define FIELD(name) offsetof(settings, name)
static const config_option options[] = {
    {"backend", CONFIG_ENUM, FIELD(backend), 0, 0, "auto", backends, NULL, "whose operators"},
    {"device", CONFIG_INT, FIELD(device), 0, 1023, "0", NULL, NULL, "which GPU"},
    {"threads", CONFIG_INT, FIELD(threads), 0, LIMIT_THREADS, "0", NULL, NULL,
     "compute threads of the CPU; 0: one a core"},
    {"shape", CONFIG_ENUM, FIELD(shape), 0, 0, "llama3-8b", shape_names, NULL,
     "the model whose sizes are taken"},
    {"run-us", CONFIG_INT, FIELD(run_us), 1, 1000000, "3000", NULL, NULL,
     "least length of one measured run"},
    {"peak-tflops", CONFIG_DOUBLE, FIELD(peak_tflops), 0, 1e6, "0", NULL, NULL,
     "what the device's matrix library reached, to be divided by"},
    {"quick", CONFIG_BOOL, FIELD(quick), 0, 0, "false", NULL, NULL,
     "few small cases: whether it works, not how fast"},
    {"json", CONFIG_BOOL, FIELD(json), 0, 0, "false", NULL, NULL, "an object a line"},
};
static const config_table table = {"weir bench kernels", "Times the operators a model is made of.",
                                   options, sizeof options / sizeof options[0], NULL};

/* ---- measuring ------------------------------------------------------------------------------ */

typedef status (*call_fn)(bench *t, void *context, int64_t call);

static int ascending(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

static status run_once(bench *t, call_fn call, void *context, int64_t calls, double *us) {
    TRY(backend_sync(t->b));
    const int64_t started = clock_now_ns();
    for (int64_t i = 0; i < calls; i++) {
        TRY(call(t, context, i));
    }
    TRY(backend_sync(t->b));
    *us = (double)(clock_now_ns() - started) / 1e3 / (double)calls;
    return STATUS_OK;
}

/* The median microseconds of a call; -1 when something failed. */
static double measure(bench *t, call_fn call, void *context) {
    double us[RUNS], once = 0;
    const int runs = t->set.quick ? 1 : RUNS;
    t->failed = run_once(t, call, context, 1, &once); /* warms up */
    if (t->failed == STATUS_OK) {
        t->failed = run_once(t, call, context, 1, &once);
    }
    int64_t calls = once > 0 ? (int64_t)((double)t->set.run_us / once) + 1 : 1;
    calls = t->set.quick ? 1 : calls > CALLS_MAX ? CALLS_MAX : calls;
    for (int i = 0; i < runs && t->failed == STATUS_OK; i++) {
        t->failed = run_once(t, call, context, calls, &us[i]);
    }
    if (t->failed != STATUS_OK) {
        return -1;
    }
    qsort(us, (size_t)runs, sizeof us[0], ascending);
    return us[runs / 2];
}

static void report(bench *t, const char *name, int32_t rows, int32_t context, double us,
                   double bytes, double flops) {
    const double gbps = bytes / us / 1e3, tflops = flops / us / 1e6;
    const double of_copy = t->copy_gbps > 0 ? gbps / t->copy_gbps : 0;
    const double of_peak = t->set.peak_tflops > 0 ? tflops / t->set.peak_tflops : 0;
    if (us < 0) {
        return;
    }
    (void)printf(t->set.json
                     ? "{\"backend\":\"%s\",\"isa\":\"%s\",\"shape\":\"%s\",\"case\":\"%s\","
                       "\"rows\":%d,\"context\":%d,\"us\":%.2f,\"gbps\":%.2f,\"of_copy\":%.3f,"
                       "\"tflops\":%.4f,\"of_peak\":%.3f}\n"
                     : "%s %-8s %-12s %-18s rows %4d context %6d %10.2f us %8.2f GB/s %5.3f of "
                       "copy %9.4f TFLOP/s %5.3f of peak\n",
                 t->b->name, t->b->isa, t->m->name, name, (int)rows, (int)context, us, gbps,
                 of_copy, tflops, of_peak);
    (void)fflush(stdout);
}

/* ---- data ----------------------------------------------------------------------------------- */

static float noise(bench *t) {
    return (float)(rng_unit(rng_next(&t->seed)) * 2 - 1);
}

static status device_noise(bench *t, int64_t count, float **out) {
    float *host = mem_alloc((size_t)count, sizeof *host);
    void *memory = NULL;
    if (!host) {
        return STATUS_NOMEM;
    }
    for (int64_t i = 0; i < count; i++) {
        host[i] = noise(t);
    }
    status s = backend_alloc(t->b, (uint64_t)count * sizeof(float), &memory);
    if (s == STATUS_OK) {
        s = backend_upload(t->b, memory, host, (uint64_t)count * sizeof(float));
    }
    mem_free(host);
    *out = memory;
    return s;
}

/* Random bits, with scales that keep the numbers small. */
static uint8_t *weight_noise(bench *t, backend_type type, int32_t outputs, int32_t inputs,
                             uint64_t *bytes) {
    *bytes = backend_type_bytes(type, outputs, inputs);
    const uint64_t block = backend_type_bytes(type, 1, 256);
    const uint64_t step = type == BACKEND_BF16 ? 2 : type == BACKEND_Q4_K ? block : block / 8;
    uint8_t *p = mem_alloc(*bytes, 1);
    for (uint64_t i = 0; p && i + 8 <= *bytes; i += 8) {
        const uint64_t r = rng_next(&t->seed);
        memcpy(p + i, &r, 8);
    }
    for (uint64_t i = 0; p && i < *bytes; i += step) {
        const float f = 0.02f * noise(t);
        const uint16_t h = type == BACKEND_BF16 ? (uint16_t)(kmath_bits(f) >> 16) : kmath_to_f16(f);
        const uint16_t two[2] = {h, h};
        memcpy(p + i, two, type == BACKEND_Q4_K || type == BACKEND_Q4_1 ? 4 : 2);
    }
    return p;
}

/* ---- cases ---------------------------------------------------------------------------------- */

typedef struct {
    const backend_weight *weights[COPIES_MAX];
    int32_t copies, rows;
    float *x, *out;
} linear_case;

static status linear_call(bench *t, void *context, int64_t call) {
    const linear_case *c = context;
    const ops_linear op = {.x = c->x,
                           .rows = c->rows,
                           .parts = {{c->weights[call % c->copies], NULL, c->out, false}},
                           .parts_count = 1};
    return backend_linear(t->b, &op);
}

static status linear_cases(bench *t, backend_type type, int32_t outputs, int32_t inputs) {
    static const int32_t rows[] = {1, 4, 16, 64, 256, 1024, 4096};
    const size_t rows_count = t->set.quick ? 3 : sizeof rows / sizeof rows[0];
    linear_case c = {.copies = 0};
    uint64_t bytes = 0;
    uint8_t *data = weight_noise(t, type, outputs, inputs, &bytes);
    status s = data ? STATUS_OK : STATUS_NOMEM;
    const uint64_t wanted = t->spread_bytes / bytes + 1;
    while (s == STATUS_OK && (uint64_t)c.copies < wanted && c.copies < COPIES_MAX) {
        s = backend_weight_load(t->b, type, data, bytes, outputs, inputs, BACKEND_ACTIVATIONS_INT8,
                                &c.weights[c.copies++], &t->d);
    }
    mem_free(data);
    if (s == STATUS_OK) {
        s = device_noise(t, (int64_t)rows[rows_count - 1] * inputs, &c.x);
    }
    if (s == STATUS_OK) {
        s = device_noise(t, (int64_t)rows[rows_count - 1] * outputs, &c.out);
    }
    char name[40];
    (void)snprintf(name, sizeof name, "linear %s %dx%d", backend_type_name(type), (int)outputs,
                   (int)inputs);
    for (size_t i = 0; s == STATUS_OK && i < rows_count; i++) {
        c.rows = rows[i];
        const double numbers = (double)c.rows * (inputs + outputs);
        report(t, name, c.rows, 0, measure(t, linear_call, &c), (double)bytes + 4 * numbers,
               2.0 * c.rows * inputs * outputs);
        s = t->failed;
    }
    backend_free(t->b, c.x);
    backend_free(t->b, c.out);
    return s;
}

typedef struct {
    ops_attention op;
    ops_seq seqs[SEQS_MAX];
    uint32_t *pages;
} attention_case;

static status attention_call(bench *t, void *context, int64_t call) {
    (void)call;
    return backend_attention(t->b, &((attention_case *)context)->op);
}

/* `seqs` sequences of `context` tokens, of which each asks with its last `rows`. */
static status attention_run(bench *t, int32_t seqs, int32_t rows, int32_t context,
                            const char *name) {
    const model_shape *m = t->m;
    const int32_t pages = (context + LIMIT_PAGE_TOKENS - 1) / LIMIT_PAGE_TOKENS;
    const int64_t q = (int64_t)seqs * rows * m->heads * m->head_dim;
    const backend_kv_options o = {1, m->kv_heads, m->head_dim, (uint32_t)(seqs * pages),
                                  BACKEND_KV_F16};
    attention_case c = {.op = {.rows = seqs * rows, .heads = m->heads, .scale = 0.1f}};
    backend_kv *kv = NULL;
    float *in = NULL, *out = NULL;
    c.pages = mem_alloc((size_t)seqs * (size_t)pages, sizeof *c.pages);
    status s = c.pages ? backend_kv_open(t->b, &o, &kv, &t->d) : STATUS_NOMEM;
    if (s == STATUS_OK) {
        s = device_noise(t, q, &in);
    }
    if (s == STATUS_OK) {
        s = device_noise(t, q, &out);
    }
    for (int32_t i = 0; s == STATUS_OK && i < seqs; i++) {
        uint32_t *own = c.pages + (int64_t)i * pages;
        for (int32_t p = 0; p < pages; p++) { /* scattered, as a server's are after an hour */
            own[p] = (uint32_t)(((int64_t)(i * pages + p) * 7919) % ((int64_t)seqs * pages));
        }
        c.seqs[i] = (ops_seq){i * rows, rows, context - rows, own, pages};
    }
    if (s == STATUS_OK) {
        c.op.q = in, c.op.out = out, c.op.kv = kv;
        c.op.seqs = c.seqs, c.op.seqs_count = seqs;
        const double seen = (double)seqs * rows * (context - (rows - 1) / 2.0);
        const double kv_bytes = 4.0 * seqs * context * m->kv_heads * m->head_dim;
        report(t, name, seqs * rows, context, measure(t, attention_call, &c),
               kv_bytes + 8.0 * (double)q, 4.0 * seen * m->heads * m->head_dim);
        s = t->failed;
    }
    backend_free(t->b, in);
    backend_free(t->b, out);
    backend_kv_close(t->b, kv);
    mem_free(c.pages);
    return s;
}

static status attention_cases(bench *t) {
    static const int32_t decode[][2] = {{1, 512},   {1, 4096},  {1, 32768}, {8, 4096},
                                        {32, 1024}, {32, 4096}, {128, 2048}};
    static const int32_t prefill[] = {512, 2048, 8192};
    if (t->set.quick) {
        TRY(attention_run(t, 2, 1, 600, "attention decode"));
        return attention_run(t, 1, 64, 128, "attention prefill");
    }
    for (size_t i = 0; i < sizeof decode / sizeof decode[0]; i++) {
        TRY(attention_run(t, decode[i][0], 1, decode[i][1], "attention decode"));
    }
    for (size_t i = 0; i < sizeof prefill / sizeof prefill[0]; i++) {
        TRY(attention_run(t, 1, prefill[i], prefill[i], "attention prefill"));
    }
    return STATUS_OK;
}

typedef struct {
    float *x, *weight, *out;
    int32_t rows;
} rows_case;

static status rmsnorm_call(bench *t, void *context, int64_t call) {
    (void)call;
    const rows_case *c = context;
    const ops_rmsnorm op = {c->x, c->weight, c->out, c->rows, t->m->width, 1e-5f, false};
    return backend_rmsnorm(t->b, &op);
}

static status silu_call(bench *t, void *context, int64_t call) {
    (void)call;
    const rows_case *c = context;
    const ops_silu_mul op = {c->x, c->out, c->out, c->rows, t->m->width, false};
    return backend_silu_mul(t->b, &op);
}

static status rows_cases(bench *t) {
    static const int32_t rows[] = {1, 64, 4096};
    const size_t count = t->set.quick ? 2 : sizeof rows / sizeof rows[0];
    rows_case c = {.rows = rows[count - 1]};
    status s = device_noise(t, (int64_t)c.rows * t->m->width, &c.x);
    if (s == STATUS_OK) {
        s = device_noise(t, (int64_t)c.rows * t->m->width, &c.out);
    }
    if (s == STATUS_OK) {
        s = device_noise(t, t->m->width, &c.weight);
    }
    for (size_t i = 0; s == STATUS_OK && i < count; i++) {
        c.rows = rows[i];
        const double numbers = (double)c.rows * t->m->width;
        report(t, "rmsnorm", c.rows, 0, measure(t, rmsnorm_call, &c), 8 * numbers, 4 * numbers);
        report(t, "silu_mul", c.rows, 0, measure(t, silu_call, &c), 12 * numbers, 5 * numbers);
        s = t->failed;
    }
    backend_free(t->b, c.x);
    backend_free(t->b, c.out);
    backend_free(t->b, c.weight);
    return s;
}

/* One page as large as half the data that calls take turns with, to another: what memory does. */
static status copy_call(bench *t, void *context, int64_t call) {
    return backend_kv_copy(t->b, context, (uint32_t)(call % 2), (uint32_t)(1 - call % 2));
}

static status copy_case(bench *t) {
    const backend_kv_options o = {1, t->set.quick ? 8 : 4096, 256, 2, BACKEND_KV_F32};
    backend_kv *kv = NULL;
    TRY(backend_kv_open(t->b, &o, &kv, &t->d));
    const double us = measure(t, copy_call, kv);
    const double bytes = 2.0 * (double)kv->layer_page_bytes; /* read and written */
    t->copy_gbps = us > 0 ? bytes / us / 1e3 : 0;
    report(t, "copy", 0, 0, us, bytes, 0);
    backend_kv_close(t->b, kv);
    return t->failed;
}

static status run_all(bench *t) {
    static const backend_type types[] = {BACKEND_BF16, BACKEND_Q8_0, BACKEND_Q4_1, BACKEND_Q4_K};
    const size_t count = t->set.quick ? 2 : sizeof types / sizeof types[0];
    TRY(copy_case(t));
    for (size_t i = 0; i < count; i++) {
        /* A K format's blocks are 256 wide. */
        const bool fits = types[i] != BACKEND_Q4_K || t->m->width % 256 == 0;
        if (fits) {
            TRY(linear_cases(t, types[i], t->m->ffn, t->m->width));
        }
    }
    TRY(linear_cases(t, BACKEND_Q8_0, t->m->width, t->m->ffn));
    TRY(rows_cases(t));
    return attention_cases(t);
}

int kernels_bench(int argc, char *const *argv) {
    bench t = {.seed = 11};
    config c;
    int code;
    if (!config_start(&c, &table, argc, argv, &t.set, &code)) {
        config_close(&c);
        return code;
    }
    t.m = &shapes[t.set.shape];
    const backend_options o = {.threads = (int32_t)t.set.threads, .device = (int32_t)t.set.device};
    const char *name = backends[t.set.backend];
    name = t.set.backend == 0 ? backend_choose(&o, &t.d) : name;
    t.d.text[0] = 0;
    status s = backend_open(name, &o, &t.b, &t.d);
    if (s == STATUS_OK) {
        t.spread_bytes = t.set.quick ? 1 : UINT64_C(256) << 20;
        s = run_all(&t);
    }
    if (s != STATUS_OK) {
        (void)fprintf(stderr, "weir bench kernels: %s\n", t.d.text[0] ? t.d.text : status_text(s));
        code = 1;
    }
    backend_close(t.b);
    config_close(&c);
    return code;
}
