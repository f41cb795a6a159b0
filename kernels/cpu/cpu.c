/* cpu.c -- the CPU backend: instruction set, threads, memory, KV pools. */
#define _GNU_SOURCE
#include "kernels/cpu/cpu.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif
#include <stdio.h>
#include <string.h>

#include "engine/base/cpulimit.h"
#include "engine/base/limits.h"
#include "engine/base/mem.h"
#include "kernels/cpu/cpumap.h"
#include "kernels/cpu/cpunodes.h"
#include "kernels/cpu/cpustate.h"

/* Every instruction set gives the same bits, so one class names them all. The number goes up when
 * the arithmetic of any operator changes. */
#define CPU_NUMERICS "cpu-3"

enum { CPU_ALIGN = 64 };

static uint64_t scratch_bytes(const cpu *c) {
    return (uint64_t)c->shared.threads * ISA_SCRATCH_BYTES;
}

static void cpu_close(backend *b) {
    cpu *c = cpu_of(b);
    cpupool_close(c->pool);
    cpuweights_close(c);
    cpumap_give(c->scratch, scratch_bytes(c));
    cpumap_give(c->parts, CPU_PARTS_BYTES);
    mem_free(c);
}

static void cpu_use_threads(backend *b, int32_t threads) {
    cpupool_use(cpu_of(b)->pool, threads);
}

/* The allocation's own start is kept just before the aligned address. */
static status cpu_alloc(backend *b, uint64_t bytes, void **out) {
    (void)b;
    *out = NULL;
    uint64_t total;
    if (!mem_add(bytes, CPU_ALIGN + sizeof(void *), &total)) {
        return STATUS_NOMEM;
    }
    uint8_t *start = mem_calloc(1, total);
    if (start == NULL) {
        return STATUS_NOMEM;
    }
    const uintptr_t after = (uintptr_t)start + sizeof(void *);
    uint8_t *aligned = start + ((after + CPU_ALIGN - 1) / CPU_ALIGN * CPU_ALIGN - (uintptr_t)start);
    memcpy(aligned - sizeof(void *), &start, sizeof(void *));
    *out = aligned;
    return STATUS_OK;
}

static void cpu_free(backend *b, void *device) {
    (void)b;
    void *start;
    memcpy(&start, (uint8_t *)device - sizeof(void *), sizeof(void *));
    mem_free(start);
}

static status cpu_upload(backend *b, void *device, const void *host, uint64_t bytes) {
    (void)b;
    memcpy(device, host, bytes);
    return STATUS_OK;
}

static status cpu_download(backend *b, void *host, const void *device, uint64_t bytes) {
    (void)b;
    memcpy(host, device, bytes);
    return STATUS_OK;
}

static uint64_t kv_bytes(const backend_kv *kv) {
    return (uint64_t)kv->shape.layers * kv->shape.pages * kv->layer_page_bytes;
}

/* Huge pages would not help: a token touches a little of every layer, and would touch them all. */
static status cpu_kv_open(backend *b, backend_kv *kv, diag *d) {
    (void)b;
    kv->base = cpumap_take(kv_bytes(kv), false);
    if (kv->base == NULL) {
        return status_fail_errno(d, STATUS_NOMEM, "no memory for a KV pool of %llu bytes",
                                 (unsigned long long)kv_bytes(kv));
    }
    const bool bytes = kv->shape.type == BACKEND_KV_INT8;
    (void)snprintf(kv->layout, sizeof(kv->layout), "%s/%s/%d", bytes ? "hk4t16-v4t" : "kt16-v16",
                   backend_kv_type_name(kv->shape.type), (int)kv->shape.head_dim);
    return STATUS_OK;
}

static void cpu_kv_close(backend *b, backend_kv *kv) {
    (void)b;
    cpumap_give(kv->base, kv_bytes(kv));
}

static status cpu_kv_copy(backend *b, backend_kv *kv, uint32_t from, uint32_t to) {
    (void)b;
    for (int32_t layer = 0; layer < kv->shape.layers; layer++) {
        memcpy(isa_kv_head(kv, layer, to, 0), isa_kv_head(kv, layer, from, 0),
               kv->layer_page_bytes);
    }
    return STATUS_OK;
}

static status cpu_sync(backend *b) {
    (void)b;
    return STATUS_OK;
}

static status cpu_share(backend *of, int32_t threads, backend **out, diag *d);

static const backend_table CPU_TABLE = {
    .close = cpu_close,
    .share = cpu_share,
    .use_threads = cpu_use_threads,
    .alloc = cpu_alloc,
    .free = cpu_free,
    .upload = cpu_upload,
    .download = cpu_download,
    .weight_load = cpuweights_load,
    .kv_open = cpu_kv_open,
    .kv_close = cpu_kv_close,
    .kv_copy = cpu_kv_copy,
    .embed = cpuops_embed,
    .rmsnorm = cpuops_rmsnorm,
    .silu_mul = cpuops_silu_mul,
    .softcap = cpuops_softcap,
    .gather = cpuops_gather,
    .linear = cpulinear_run,
    .chain = cpuchain_run,
    .rope_table = cpuops_rope_table,
    .rope_append = cpuops_rope_append,
    .attention = cpuattention_run,
    .sync = cpu_sync,
};

typedef struct {
    const isa_kernels *kernels;
    bool usable;
} isa_choice;

#if defined(__x86_64__)
/* The compiler's own test does not know this one yet. */
static bool cpu_has_avxvnni(void) {
    unsigned a = 0, b = 0, c = 0, d = 0;
    return __get_cpuid_count(7, 1, &a, &b, &c, &d) != 0 && (a & bit_AVXVNNI) != 0;
}
#endif

/* Best first. */
static int isa_choices(isa_choice *choices) {
    int count = 0;
#if defined(__x86_64__)
    __builtin_cpu_init();
    const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                      __builtin_cpu_supports("f16c");
    const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") &&
                        __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
                        __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512vnni");
    choices[count++] = (isa_choice){&isa_avx512_amx_kernels, avx512 && isa_amx_usable()};
    choices[count++] = (isa_choice){&isa_avx512_kernels, avx512};
    choices[count++] = (isa_choice){&isa_avxvnni_kernels, avx2 && cpu_has_avxvnni()};
    choices[count++] = (isa_choice){&isa_avx2_kernels, avx2};
#endif
    choices[count++] = (isa_choice){&isa_portable_kernels, true};
    return count;
}

static status isa_choose(const char *wanted, const isa_kernels **out, diag *d) {
    isa_choice choices[5];
    const int count = isa_choices(choices);
    const bool any = wanted == NULL || strcmp(wanted, "auto") == 0;
    for (int i = 0; i < count; i++) {
        if (any ? choices[i].usable : strcmp(wanted, choices[i].kernels->name) == 0) {
            if (!choices[i].usable) {
                return status_fail_param(d, STATUS_UNSUPPORTED, "isa", "this CPU does not have %s",
                                         wanted);
            }
            *out = choices[i].kernels;
            return STATUS_OK;
        }
    }
    return status_fail_param(
        d, STATUS_INVALID, "isa",
        "instruction set \"%s\" is unknown (auto, amx, avx512, avxvnni, avx2, portable)", wanted);
}

static const isa_pairs *pairs_choose(const isa_kernels *kernels) {
#if defined(__x86_64__)
    if (kernels == &isa_avx512_amx_kernels && isa_amxbf16_usable()) {
        return &isa_amxbf16_pairs;
    }
#endif
    (void)kernels;
    return NULL;
}

static int32_t threads_default(void) {
    const int32_t cpus = cpulimit_cpus();
    return cpus > LIMIT_THREADS ? LIMIT_THREADS : cpus;
}

/* Scratch and threads; closes it on failure. */
static status cpu_start(cpu *c, backend **out, diag *d) {
    c->scratch = cpumap_take(scratch_bytes(c), false);
    c->parts = cpumap_take(CPU_PARTS_BYTES, false);
    status s = STATUS_OK;
    if (c->scratch == NULL || c->parts == NULL) {
        s = status_fail_errno(d, STATUS_NOMEM, "no memory for %d compute threads",
                              (int)c->shared.threads);
    }
    if (s == STATUS_OK) {
        s = cpupool_open(c->shared.threads, &c->pool, d);
    }
    if (s != STATUS_OK) {
        cpu_close(&c->shared);
        return s;
    }
    *out = &c->shared;
    return STATUS_OK;
}

status cpu_open(const backend_options *options, backend **out, diag *d) {
    *out = NULL;
    const isa_kernels *kernels = NULL;
    TRY(isa_choose(options->isa, &kernels, d));
    cpu *c = mem_calloc(1, sizeof(*c));
    if (c == NULL) {
        return status_fail(d, STATUS_NOMEM, "no memory for the CPU backend");
    }
    c->shared.table = &CPU_TABLE;
    c->shared.threads = options->threads > 0 ? options->threads : threads_default();
    (void)snprintf(c->shared.name, sizeof(c->shared.name), "cpu");
    (void)snprintf(c->shared.isa, sizeof(c->shared.isa), "%s", kernels->name);
    (void)snprintf(c->shared.numerics, sizeof(c->shared.numerics), "%s", CPU_NUMERICS);
    c->kernels = kernels;
    c->pairs = pairs_choose(kernels);
    c->shared.bf16 = c->pairs != NULL;
    c->nodes = cpunodes_with_memory();
    return cpu_start(c, out, d);
}

static status cpu_share(backend *of, int32_t threads, backend **out, diag *d) {
    const cpu *first = cpu_of(of);
    cpu *c = mem_calloc(1, sizeof(*c));
    if (c == NULL) {
        return status_fail(d, STATUS_NOMEM, "no memory for the CPU backend");
    }
    c->shared = *of;
    c->shared.begun = (ops_batch){0};
    c->shared.threads = threads > 0 ? threads : of->threads;
    c->kernels = first->kernels;
    c->pairs = first->pairs;
    c->nodes = first->nodes;
    if (!cpuweights_share(c, first)) {
        cpu_close(&c->shared);
        return status_fail(d, STATUS_NOMEM, "no memory for a second set of compute threads");
    }
    return cpu_start(c, out, d);
}
