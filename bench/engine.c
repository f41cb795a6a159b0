/* engine.c -- `weir bench engine`.
 *
 * A case is (threads, batch, prompt): `batch` sequences are prefilled one after the other in
 * chunks, then decoded together. Tokens are pseudo-random: the arithmetic doesn't depend on them.
 * The whole case is repeated and the median told, since a shared machine's single runs mean little.
 */
#define _GNU_SOURCE
#include "bench/engine.h"

#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "bench/optimer.h"
#include "bench/stepfit.h"
#include "bench/stream.h"
#include "engine/base/clock.h"
#include "engine/base/config.h"
#include "engine/base/limits.h"
#include "engine/base/mem.h"
#include "engine/base/rng.h"
#include "models/arch/model.h"
#include "server/workerflags.h"

enum { REPEAT_MAX = 100, BATCH_MAX = 1024 };

typedef struct {
    int32_t count;
    int32_t values[ENGINE_LIST_MAX];
} list;

typedef struct {
    const char *model, *prompt_text, *batch_text, *threads_text, *isa, *profile_out;
    int64_t gen, repeat, chunk;
    int32_t activations, kv, weights;
    bool json, profile;
    list prompts, batches, threads;
} settings;

static const config_option options[] = {
    {"model", CONFIG_STRING, offsetof(settings, model), 0, 4096, NULL, NULL, "PATH",
     "GGUF file or Hugging Face folder"},
    {"prompt", CONFIG_STRING, offsetof(settings, prompt_text), 0, 256, "512", NULL, "N,N,...",
     "tokens prefilled a sequence"},
    {"gen", CONFIG_INT, offsetof(settings, gen), 0, LIMIT_CONTEXT_TOKENS, "64", NULL, NULL,
     "tokens decoded a sequence; 0: prefill only"},
    {"batch", CONFIG_STRING, offsetof(settings, batch_text), 0, 256, "1", NULL, "N,N,...",
     "sequences decoded together"},
    {"threads", CONFIG_STRING, offsetof(settings, threads_text), 0, 256, "0", NULL, "N,N,...",
     "compute threads; 0: one a usable CPU"},
    {"chunk", CONFIG_INT, offsetof(settings, chunk), 1, 65536, "512", NULL, NULL,
     "rows of a prefill step"},
    {"repeat", CONFIG_INT, offsetof(settings, repeat), 1, REPEAT_MAX, "3", NULL, NULL,
     "runs of each case; the median is told"},
    {"weights", CONFIG_ENUM, offsetof(settings, weights), 0, 0, "file", workerflags_weights, NULL,
     "how weights of F32, F16 and BF16 are kept"},
    {"activations", CONFIG_ENUM, offsetof(settings, activations), 0, 0, "int8",
     workerflags_activations, NULL,
     "how inputs meet weights; mixed: prompts bf16, the rest int8; auto: mixed with AMX-BF16, "
     "else int8"},
    {"kv-dtype", CONFIG_ENUM, offsetof(settings, kv), 0, 0, "auto", workerflags_kv_dtypes, NULL,
     "dtype of the cache; auto: int8 on the CPU, f16 elsewhere"},
    {"isa", CONFIG_STRING, offsetof(settings, isa), 0, 32, "auto", NULL, "NAME",
     "amx, avx512, avxvnni, avx2 or portable"},
    {"profile", CONFIG_BOOL, offsetof(settings, profile), 0, 0, "false", NULL, NULL,
     "time by operator, after each phase"},
    {"profile-out", CONFIG_STRING, offsetof(settings, profile_out), 0, 4095, NULL, NULL, "FILE",
     "write a profile for `weir serve --backend timed` (of the last thread count)"},
    {"json", CONFIG_BOOL, offsetof(settings, json), 0, 0, "false", NULL, NULL,
     "one JSON object a case, a line each"},
};

static const config_table table = {"weir bench engine", "Measures prefill and decode of a model.",
                                   options, sizeof(options) / sizeof(options[0]), NULL};

/* One loaded model and the buffers of its cases. */
typedef struct {
    const settings *s;
    backend *device;
    model *m;
    double load_s;
    double stream_bytes_per_s, peak_ops_per_s, vnni_ops_per_s; /* the machine's limits: stream.h */
    bool bf16;                                                 /* the peak is of bf16, not int8 */
    bool timed;
    stepfit fit[2];      /* prefill, decode */
    int32_t pages_each;  /* pages of one sequence */
    int32_t *tokens;     /* [rows_max] */
    model_seq *seqs;     /* [batch_max] */
    int32_t *logit_rows; /* [batch_max] 0, 1, 2, ... */
    uint32_t *pages;     /* [batch_max, pages_each] */
    float *logits;       /* [batch_max, vocab] */
} bed;

static status engine_list(const char *name, const char *text, int32_t min, int32_t max, list *out,
                          diag *d) {
    str rest = str_from(text);
    out->count = 0;
    for (;;) {
        size_t comma = str_find(rest, str_from(","), 0);
        str word = comma == SIZE_MAX ? rest : str_of(rest.data, comma);
        int64_t v = 0;
        if (out->count == ENGINE_LIST_MAX || !str_to_i64(word, min, max, &v)) {
            return status_fail_param(d, STATUS_INVALID, name,
                                     "--%s %s: up to %d numbers from %d to %d", name, text,
                                     ENGINE_LIST_MAX, min, max);
        }
        out->values[out->count++] = (int32_t)v;
        if (comma == SIZE_MAX) {
            return STATUS_OK;
        }
        rest = str_of(rest.data + comma + 1, rest.bytes - comma - 1);
    }
}

static int32_t engine_list_max(const list *l) {
    int32_t max = 0;
    for (int32_t i = 0; i < l->count; i++) {
        max = l->values[i] > max ? l->values[i] : max;
    }
    return max;
}

static void engine_close(bed *b) {
    mem_free(b->tokens);
    mem_free(b->seqs);
    mem_free(b->logit_rows);
    mem_free(b->pages);
    mem_free(b->logits);
    model_close(b->m);
    if (b->timed) {
        optimer_remove(b->device);
    }
    if (b->device) {
        backend_close(b->device);
    }
}

static status engine_buffers(bed *b, int32_t rows, int32_t batch, diag *d) {
    size_t vocab = (size_t)model_get_info(b->m)->vocab;
    b->tokens = mem_calloc((size_t)rows, sizeof(*b->tokens));
    b->seqs = mem_calloc((size_t)batch, sizeof(*b->seqs));
    b->logit_rows = mem_calloc((size_t)batch, sizeof(*b->logit_rows));
    b->pages = mem_calloc((size_t)batch * (size_t)b->pages_each, sizeof(*b->pages));
    b->logits = mem_calloc((size_t)batch * vocab, sizeof(*b->logits));
    if (!b->tokens || !b->seqs || !b->logit_rows || !b->pages || !b->logits) {
        return status_fail(d, STATUS_NOMEM, "no memory for a batch of %d", batch);
    }
    for (int32_t i = 0; i < rows; i++) {
        b->tokens[i] = (int32_t)(rng_at(1, 0, (uint64_t)i) % vocab);
    }
    for (int32_t i = 0; i < batch * b->pages_each; i++) {
        b->pages[i] = (uint32_t)i;
    }
    for (int32_t i = 0; i < batch; i++) {
        b->logit_rows[i] = i;
    }
    return STATUS_OK;
}

static status engine_open(const settings *s, int32_t threads, bed *b, diag *d) {
    *b = (bed){.s = s};
    int32_t batch = engine_list_max(&s->batches);
    int32_t tokens = engine_list_max(&s->prompts) + (int32_t)s->gen;
    int32_t rows = batch > s->chunk ? batch : (int32_t)s->chunk;
    b->pages_each = (tokens + LIMIT_PAGE_TOKENS - 1) / LIMIT_PAGE_TOKENS;
    backend_options device = {.threads = threads, .isa = s->isa};
    TRY(backend_open("cpu", &device, &b->device, d));
    model_options o = {
        .path = s->model,
        .device = b->device,
        .kv_pages = (uint32_t)(batch * b->pages_each),
        .kv_type = backend_kv_choose(b->device, (backend_kv_type)s->kv),
        .weights = (model_weights)s->weights,
        .activations = backend_activations_choose(b->device, (backend_activations)s->activations),
        .rows_max = rows,
        .logit_rows_max = batch};
    int64_t start = clock_now_us();
    TRY(model_open(&o, &b->m, d));
    b->load_s = (double)(clock_now_us() - start) / 1e6;
    if (tokens > model_get_info(b->m)->context_tokens) {
        return status_fail(d, STATUS_INVALID, "%d tokens a sequence: the model's context is %d",
                           tokens, model_get_info(b->m)->context_tokens);
    }
    b->stream_bytes_per_s =
        stream_read_bytes_per_s(b->device->threads, model_get_info(b->m)->weight_bytes);
    b->bf16 = o.activations == BACKEND_ACTIVATIONS_BF16;
    b->peak_ops_per_s = stream_ops_per_s(b->device->threads, b->bf16 ? "amx-bf16" : b->device->isa);
    b->vnni_ops_per_s = strcmp(b->device->isa, "amx") == 0
                            ? stream_ops_per_s(b->device->threads, "avx512")
                            : b->peak_ops_per_s;
    optimer_install(b->device);
    b->timed = true;
    return engine_buffers(b, rows, batch, d);
}

/* Seconds to prefill sequences 0 .. batch - 1, the last row of each with logits, as serving does.
 */
static status engine_prefill(bed *b, int32_t batch, int32_t prompt, double *out_s) {
    int64_t start = clock_now_ns();
    for (int32_t i = 0; i < batch; i++) {
        for (int32_t at = 0; at < prompt;) {
            int32_t rows = prompt - at < b->s->chunk ? prompt - at : (int32_t)b->s->chunk;
            int32_t last = rows - 1;
            model_seq seq = {0,   rows, at, b->pages + (ptrdiff_t)i * b->pages_each, b->pages_each,
                             rows};
            at += rows;
            model_batch step = {.tokens = b->tokens,
                                .rows = rows,
                                .seqs = &seq,
                                .seqs_count = 1,
                                .logit_rows = &last,
                                .logit_rows_count = at == prompt ? 1 : 0,
                                .logits = b->logits};
            TRY(model_forward(b->m, &step));
        }
    }
    *out_s = (double)(clock_now_ns() - start) / 1e9;
    return STATUS_OK;
}

/* Seconds to decode `gen` tokens of each of `batch` sequences after their prompts. */
static status engine_decode(bed *b, int32_t batch, int32_t prompt, double *out_s) {
    int64_t start = clock_now_ns();
    for (int32_t t = 0; t < b->s->gen; t++) {
        for (int32_t i = 0; i < batch; i++) {
            b->seqs[i] = (model_seq){
                i, 1, prompt + t, b->pages + (ptrdiff_t)i * b->pages_each, b->pages_each, 0};
        }
        model_batch step = {.tokens = b->tokens,
                            .rows = batch,
                            .seqs = b->seqs,
                            .seqs_count = batch,
                            .logit_rows = b->logit_rows,
                            .logit_rows_count = batch,
                            .logits = b->logits};
        TRY(model_forward(b->m, &step));
    }
    *out_s = (double)(clock_now_ns() - start) / 1e9;
    return STATUS_OK;
}

static int engine_by_size(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

static uint64_t engine_rss_bytes(void) {
    unsigned long long all = 0, resident = 0;
    FILE *f = fopen("/proc/self/statm", "r");
    if (f) {
        if (fscanf(f, "%llu %llu", &all, &resident) != 2) {
            resident = 0;
        }
        (void)fclose(f);
    }
    return resident * (uint64_t)sysconf(_SC_PAGESIZE);
}

/* Share in percent; 0 where the limit is unknown. */
static double engine_share(double value, double limit) {
    return limit > 0 ? 100 * value / limit : 0;
}

/* Operators of the `steps` steps since optimer_clear. */
static void engine_profile(const bed *b, const char *phase, int32_t steps) {
    const optimer_entry *e;
    const int32_t count = optimer_entries(&e);
    double all_ns = 1;
    for (int32_t i = 0; i < count; i++) {
        all_ns += (double)e[i].ns;
    }
    for (int32_t i = 0; i < count; i++) {
        const double ns = (double)e[i].ns, gops = e[i].ops / ns, gbps = e[i].bytes / ns;
        const double ms = ns / 1e6 / steps;
        if (b->s->json) {
            printf(
                "{\"profile\": \"%s\", \"operator\": \"%s\", \"outputs\": %d, \"inputs\": %d, "
                "\"calls\": %llu, \"step_ms\": %.4f, \"share\": %.4f, \"gop_per_second\": %.1f, "
                "\"peak_gop_per_second\": %.1f, \"weights_gb_per_second\": %.2f, "
                "\"stream_gb_per_second\": %.2f}\n",
                phase, e[i].name, e[i].outputs, e[i].inputs, (unsigned long long)e[i].calls, ms,
                ns / all_ns, gops, b->peak_ops_per_s / 1e9, gbps, b->stream_bytes_per_s / 1e9);
        } else if (e[i].ops > 0) {
            printf(
                "  %-6s %6d x %-6d %9.3f ms/step %5.1f %% of time %8.1f Gop/s %5.1f %% of peak "
                "%7.2f GB/s %5.1f %% of read\n",
                e[i].name, e[i].outputs, e[i].inputs, ms, 100 * ns / all_ns, gops,
                engine_share(gops, b->peak_ops_per_s / 1e9), gbps,
                engine_share(gbps, b->stream_bytes_per_s / 1e9));
        } else {
            printf("  %-22s %9.3f ms/step %5.1f %% of time\n", e[i].name, ms, 100 * ns / all_ns);
        }
    }
}

/* Multiplications and additions of the linear operators since optimer_clear. */
static double engine_ops(void) {
    const optimer_entry *e;
    const int32_t count = optimer_entries(&e);
    double ops = 0;
    for (int32_t i = 0; i < count; i++) {
        ops += e[i].ops;
    }
    return ops;
}

/* One line: `seconds` holds `repeat` runs of `steps` steps that made `tokens` tokens; `ops` of all
 * these runs. */
static void engine_tell(const bed *b, const char *phase, int32_t batch, int32_t prompt,
                        double *seconds, int32_t tokens, int32_t steps, double ops) {
    int32_t repeat = (int32_t)b->s->repeat;
    qsort(seconds, (size_t)repeat, sizeof(seconds[0]), engine_by_size);
    double median = seconds[repeat / 2];
    const model_info *info = model_get_info(b->m);
    double read = (double)info->weight_bytes * steps / median, rate = ops / repeat / median;
    if (b->s->json) {
        printf(
            "{\"phase\": \"%s\", \"prompt\": %d, \"gen\": %d, \"batch\": %d, \"threads\": %d, "
            "\"tokens_per_second\": %.2f, \"tokens_per_second_min\": %.2f, "
            "\"tokens_per_second_max\": %.2f, \"step_ms\": %.3f, \"repeat\": %d, "
            "\"weights_gb_per_second\": %.2f, \"stream_gb_per_second\": %.2f, "
            "\"stream_share\": %.4f, \"gop_per_second\": %.1f, \"peak_gop_per_second\": %.1f, "
            "\"peak_share\": %.4f, \"vector_gop_per_second\": %.1f, "
            "\"load_seconds\": %.3f, \"rss_bytes\": %llu, \"weight_bytes\": %llu, "
            "\"isa\": \"%s\", \"numerics\": \"%s\"}\n",
            phase, prompt, (int)b->s->gen, batch, b->device->threads, tokens / median,
            tokens / seconds[repeat - 1], tokens / seconds[0], median * 1e3 / steps, repeat,
            read / 1e9, b->stream_bytes_per_s / 1e9,
            engine_share(read, b->stream_bytes_per_s) / 100, rate / 1e9, b->peak_ops_per_s / 1e9,
            engine_share(rate, b->peak_ops_per_s) / 100, b->vnni_ops_per_s / 1e9, b->load_s,
            (unsigned long long)engine_rss_bytes(), (unsigned long long)info->weight_bytes,
            b->device->isa, info->numerics);
    } else {
        printf("%-8s %7d %6d %8d %12.1f %12.1f %10.3f %12.2f %6.0f %% %8.0f %6.1f %%\n", phase,
               b->device->threads, batch, prompt, tokens / median, tokens / seconds[0],
               median * 1e3 / steps, read / 1e9, engine_share(read, b->stream_bytes_per_s),
               rate / 1e9, engine_share(rate, b->peak_ops_per_s));
    }
    (void)fflush(stdout);
}

static status engine_case(bed *b, int32_t batch, int32_t prompt) {
    double prefill_s[REPEAT_MAX], decode_s[REPEAT_MAX], warm_s = 0;
    int32_t chunks = (prompt + (int32_t)b->s->chunk - 1) / (int32_t)b->s->chunk;
    TRY(engine_prefill(b, 1, prompt, &warm_s));
    const int32_t repeat = (int32_t)b->s->repeat, gen = (int32_t)b->s->gen;
    optimer_clear();
    for (int32_t i = 0; i < repeat; i++) {
        TRY(engine_prefill(b, batch, prompt, &prefill_s[i]));
    }
    engine_tell(b, "prefill", batch, prompt, prefill_s, batch * prompt, batch * chunks,
                engine_ops());
    if (b->s->profile) {
        engine_profile(b, "prefill", repeat * batch * chunks);
    }
    optimer_clear();
    for (int32_t i = 0; i < repeat && gen > 0; i++) {
        TRY(engine_decode(b, batch, prompt, &decode_s[i]));
    }
    if (gen > 0) {
        engine_tell(b, "decode", batch, prompt, decode_s, batch * gen, gen, engine_ops());
    }
    double steps = (double)batch * chunks, before = 0;
    for (int32_t i = 0; i < chunks; i++) {
        before += (double)batch * i * (double)b->s->chunk;
    }
    /* The telling has sorted them: the shortest is what the machine can do. */
    stepfit_add(&b->fit[0], steps, (double)batch * prompt, before, prefill_s[0] * 1e6);
    if (gen > 0) {
        stepfit_add(&b->fit[1], gen, (double)batch * gen,
                    (double)batch * gen * (prompt + (gen + 1) / 2.0), decode_s[0] * 1e6);
    }
    if (gen > 0 && b->s->profile) {
        engine_profile(b, "decode", repeat * gen);
    }
    return STATUS_OK;
}

static void engine_head(const bed *b) {
    const model_info *i = model_get_info(b->m);
    printf(
        "%s: %d layers, width %d, %.1f M parameters, weights %.1f MB, loaded in %.2f s, "
        "RSS %.0f MB\n%s on %s; limits: read %.1f GB/s, %s %.0f (int8 vectors %.0f) Gop/s; "
        "medians and best of %d\n",
        i->name, i->layers, i->width, (double)i->parameters / 1e6, (double)i->weight_bytes / 1e6,
        b->load_s, (double)engine_rss_bytes() / 1e6, i->numerics, b->device->isa,
        b->stream_bytes_per_s / 1e9, b->bf16 ? "bf16" : "int8", b->peak_ops_per_s / 1e9,
        b->vnni_ops_per_s / 1e9, (int)b->s->repeat);
    printf("%-8s %7s %6s %8s %12s %12s %10s %12s %8s %8s %8s\n", "phase", "threads", "batch",
           "prompt", "tokens/s", "best", "ms/step", "weights GB/s", "of read", "Gop/s", "of peak");
}

static status engine_profile_out(const bed *b, diag *d) {
    char about[320];
    const model_info *i = model_get_info(b->m);
    (void)snprintf(about, sizeof about, "%s, %s on %s, %d threads, chunks of %d", i->name,
                   i->numerics, b->device->isa, b->device->threads, (int)b->s->chunk);
    uint64_t kv_bytes = (uint64_t)i->layers * i->kv_layer_page_bytes / LIMIT_PAGE_TOKENS;
    return stepfit_write(b->s->profile_out, about, &b->fit[0], &b->fit[1], kv_bytes, d);
}

static status engine_run(const settings *s, diag *d) {
    for (int32_t t = 0; t < s->threads.count; t++) {
        bed b;
        status result = engine_open(s, s->threads.values[t], &b, d);
        if (result == STATUS_OK && !s->json) {
            engine_head(&b);
        }
        for (int32_t i = 0; result == STATUS_OK && i < s->batches.count; i++) {
            for (int32_t p = 0; result == STATUS_OK && p < s->prompts.count; p++) {
                result = engine_case(&b, s->batches.values[i], s->prompts.values[p]);
                if (result != STATUS_OK) {
                    (void)status_fail(d, result, "the forward pass failed");
                }
            }
        }
        if (result == STATUS_OK && s->profile_out) {
            result = engine_profile_out(&b, d);
        }
        engine_close(&b);
        TRY(result);
    }
    return STATUS_OK;
}

static status engine_settings(settings *s, diag *d) {
    if (!s->model) {
        return status_fail_param(d, STATUS_INVALID, "model", "--model FILE is needed");
    }
    TRY(engine_list("prompt", s->prompt_text, 1, LIMIT_CONTEXT_TOKENS / 2, &s->prompts, d));
    TRY(engine_list("batch", s->batch_text, 1, BATCH_MAX, &s->batches, d));
    TRY(engine_list("threads", s->threads_text, 0, LIMIT_THREADS, &s->threads, d));
    if (s->gen > LIMIT_CONTEXT_TOKENS / 2) {
        return status_fail_param(d, STATUS_INVALID, "gen", "--gen: at most %d",
                                 LIMIT_CONTEXT_TOKENS / 2);
    }
    return STATUS_OK;
}

int engine_bench(int argc, char *const *argv) {
    settings s = {0};
    config c;
    diag d = {0};
    int code;
    if (config_start(&c, &table, argc, argv, &s, &code)) {
        code = engine_settings(&s, &d) != STATUS_OK ? 2 : engine_run(&s, &d) != STATUS_OK ? 1 : 0;
        if (code != 0) {
            fprintf(stderr, "weir bench engine: %s\n", d.text);
        }
    }
    config_close(&c);
    return code;
}
