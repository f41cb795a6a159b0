/* weir_logits.c -- teacher-forced log probabilities of token windows.
 *
 *     weir_logits MODEL TOKENS [--activations int8|f32|bf16|mixed|auto] [--weights file|q8_0]
 *                 [--kv f16|bf16|f32|int8|fp8] [--chunk N] [--prompt N]
 *                 [--threads N] [--windows N] [--backend cpu|cuda] [--isa NAME]
 *
 * TOKENS has one window of token ids a line, each run on its own from position 0. Prints, a line a
 * window, the natural-log probability of each token given those before it (from the second on): the
 * format of tests/golden/reference_llama.py. The first --prompt tokens of a window (all, if it is
 * not given) are a prompt, later ones count as generated: a difference with mixed activations
 * alone.
 */
#define _GNU_SOURCE
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "engine/base/limits.h"
#include "engine/base/mem.h"
#include "engine/base/str.h"
#include "models/arch/model.h"

enum { WINDOW_TOKENS_MAX = 1 << 16 };

typedef struct {
    const char *model, *tokens, *backend, *isa;
    backend_activations activations;
    backend_kv_type kv;
    int64_t chunk, threads, windows, prompt;
    model_weights weights;
} settings;

static bool parse(int argc, char **argv, settings *s) {
    if (argc < 3 || argc % 2 == 0) {
        return false;
    }
    *s =
        (settings){argv[1], argv[2], "cpu",     NULL,      BACKEND_ACTIVATIONS_INT8, BACKEND_KV_F16,
                   128,     0,       INT64_MAX, INT32_MAX, MODEL_WEIGHTS_FILE};
    for (int i = 3; i < argc; i += 2) {
        const char *flag = argv[i];
        str value = str_from(argv[i + 1]);
        bool good = false;
        if (strcmp(flag, "--activations") == 0) {
            good = str_equal_z(value, "auto");
            s->activations = good ? BACKEND_ACTIVATIONS_TYPES : s->activations;
            for (backend_activations a = 0; a < BACKEND_ACTIVATIONS_TYPES; a++) {
                if (str_equal_z(value, backend_activations_name(a))) {
                    s->activations = a;
                    good = true;
                }
            }
        } else if (strcmp(flag, "--weights") == 0) {
            good = str_equal_z(value, "file") || str_equal_z(value, "q8_0");
            s->weights = str_equal_z(value, "q8_0") ? MODEL_WEIGHTS_Q8_0 : MODEL_WEIGHTS_FILE;
        } else if (strcmp(flag, "--kv") == 0) {
            for (backend_kv_type type = 0; type < BACKEND_KV_TYPES; type++) {
                if (str_equal_z(value, backend_kv_type_name(type))) {
                    s->kv = type;
                    good = true;
                }
            }
        } else if (strcmp(flag, "--chunk") == 0) {
            good = str_to_i64(value, 1, 4096, &s->chunk);
        } else if (strcmp(flag, "--prompt") == 0) {
            good = str_to_i64(value, 0, INT32_MAX, &s->prompt);
        } else if (strcmp(flag, "--threads") == 0) {
            good = str_to_i64(value, 1, LIMIT_THREADS, &s->threads);
        } else if (strcmp(flag, "--backend") == 0) {
            good = true;
            s->backend = argv[i + 1];
        } else if (strcmp(flag, "--isa") == 0) {
            good = true;
            s->isa = argv[i + 1];
        } else if (strcmp(flag, "--windows") == 0) {
            good = str_to_i64(value, 1, INT64_MAX, &s->windows);
        }
        if (!good) {
            return false;
        }
    }
    return true;
}

static double log_prob(const float *logits, int32_t vocab, int32_t token) {
    float top = -INFINITY;
    for (int32_t i = 0; i < vocab; i++) {
        top = logits[i] > top ? logits[i] : top;
    }
    double sum = 0;
    for (int32_t i = 0; i < vocab; i++) {
        sum += exp((double)(logits[i] - top));
    }
    return (double)logits[token] - (double)top - log(sum);
}

/* Runs ids[0..count - 1) in chunks and prints what each row says of the token after it. */
static status window(model *m, const int32_t *ids, int32_t count, const settings *s, float *logits,
                     const uint32_t *pages) {
    const int32_t chunk = (int32_t)s->chunk, prompt = (int32_t)s->prompt;
    int32_t rows_index[4096];
    for (int32_t i = 0; i < 4096; i++) {
        rows_index[i] = i;
    }
    int32_t vocab = model_get_info(m)->vocab;
    for (int32_t at = 0; at < count - 1; at += chunk) {
        int32_t rows = count - 1 - at < chunk ? count - 1 - at : chunk;
        int32_t left = at < prompt ? prompt - at : 0;
        model_seq seq = {0, rows, at, pages, (at + rows + 15) / 16, left < rows ? left : rows};
        model_batch batch = {.tokens = ids + at,
                             .rows = rows,
                             .seqs = &seq,
                             .seqs_count = 1,
                             .logit_rows = rows_index,
                             .logit_rows_count = rows,
                             .logits = logits};
        TRY(model_forward(m, &batch));
        for (int32_t r = 0; r < rows; r++) {
            printf("%s%.6f", at + r ? " " : "",
                   log_prob(logits + (ptrdiff_t)r * vocab, vocab, ids[at + r + 1]));
        }
    }
    printf("\n");
    return STATUS_OK;
}

/* The ids of one line; -1 when something else is on it. */
static int32_t read_ids(str line, int32_t vocab, int32_t *ids) {
    int32_t count = 0;
    for (size_t at = 0; at < line.bytes;) {
        size_t end = at;
        while (end < line.bytes && line.data[end] != ' ' && line.data[end] != '\n') {
            end++;
        }
        int64_t id = 0;
        if (end > at) {
            if (count == WINDOW_TOKENS_MAX ||
                !str_to_i64(str_of(line.data + at, end - at), 0, vocab - 1, &id)) {
                return -1;
            }
            ids[count++] = (int32_t)id;
        }
        at = end + 1;
    }
    return count;
}

static status run(const settings *s, model *m, diag *d) {
    const model_info *info = model_get_info(m);
    FILE *f = fopen(s->tokens, "r");
    if (!f) {
        return status_fail_errno(d, STATUS_IO, "%s", s->tokens);
    }
    int32_t *ids = mem_alloc(WINDOW_TOKENS_MAX, sizeof(*ids));
    float *logits = mem_alloc((size_t)s->chunk, (size_t)info->vocab * sizeof(*logits));
    uint32_t pages[WINDOW_TOKENS_MAX / 16];
    for (uint32_t i = 0; i < WINDOW_TOKENS_MAX / 16; i++) {
        pages[i] = i;
    }
    char *line = NULL;
    size_t line_bytes = 0;
    status result = ids && logits ? STATUS_OK : STATUS_NOMEM;
    for (int64_t w = 0; result == STATUS_OK && w < s->windows; w++) {
        ssize_t bytes = getline(&line, &line_bytes, f);
        if (bytes < 0) {
            break;
        }
        int32_t count = read_ids(str_of(line, (size_t)bytes), info->vocab, ids);
        if (count < 0) {
            result = status_fail(d, STATUS_INVALID, "%s: line %lld", s->tokens, (long long)w + 1);
        } else {
            result = window(m, ids, count, s, logits, pages);
            if (result != STATUS_OK) {
                (void)status_fail(d, result, "line %lld: the forward pass failed",
                                  (long long)w + 1);
            }
        }
    }
    mem_free(line);
    mem_free(logits);
    mem_free(ids);
    (void)fclose(f);
    return result;
}

int main(int argc, char **argv) {
    settings s;
    if (!parse(argc, argv, &s)) {
        fprintf(stderr,
                "usage: weir_logits MODEL TOKENS [--activations int8|f32|bf16|mixed|auto] "
                "[--weights file|q8_0] "
                "[--kv f16|bf16|f32|int8|fp8] [--chunk N] [--prompt N] "
                "[--threads N] [--windows N] [--backend cpu|cuda] [--isa NAME]\n");
        return 2;
    }
    diag d = {0};
    backend *device = NULL;
    model *m = NULL;
    backend_options options = {.threads = (int32_t)s.threads, .isa = s.isa};
    status result = backend_open(s.backend, &options, &device, &d);
    if (result == STATUS_OK) {
        model_options o = {.path = s.model,
                           .device = device,
                           .kv_pages = WINDOW_TOKENS_MAX / 16,
                           .kv_type = s.kv,
                           .weights = s.weights,
                           .activations = backend_activations_choose(device, s.activations),
                           .rows_max = (int32_t)s.chunk,
                           .logit_rows_max = (int32_t)s.chunk};
        result = model_open(&o, &m, &d);
    }
    if (result == STATUS_OK) {
        result = run(&s, m, &d);
    }
    if (result != STATUS_OK) {
        fprintf(stderr, "weir_logits: %s: %s\n", status_text(result), d.text);
    }
    model_close(m);
    if (device) {
        backend_close(device);
    }
    return result == STATUS_OK ? 0 : 1;
}
