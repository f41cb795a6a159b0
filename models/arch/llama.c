/* llama.c -- the forward pass of the llama family.
 *
 * Each layer writes all rows' keys and values before any row attends, so on_layer can tell a
 * transfer to start while the rest of the layer computes. In the last layer only the rows whose
 * logits are wanted go on after attention: the others' keys and values are all that was asked for.
 */
#include "models/arch/llama.h"

#include <math.h>
#include <string.h>

#include "engine/base/mem.h"
#include "models/arch/llama_load.h"
#include "models/arch/llama_slice.h"

typedef struct {
    backend *device;
    bool shares;       /* another one's weights */
    bool bf16;         /* attention, as linear operators */
    bool mixed;        /* both, of rows of prompts alone */
    llama_shape shape; /* this rank's */
    int32_t rank, ranks;
    llama_load_weights weights;
    int32_t rows_max, logit_rows_max;
    int32_t *positions; /* host [rows_max] */
    int32_t *tokens;    /* host [rows_max] of a padded batch */
    int32_t *rows;      /* host [rows_max] 0, 1, 2, ... */
    bool *prompts;      /* host [rows_max] rows of prompts; false everywhere unless `mixed` */
    bool *last_prompts; /* host [logit_rows_max] the same of the wanted rows */
    ops_seq *seqs;      /* host [rows_max] those of the batch, cut where its prompt ends */
    int32_t seqs_count;
    float *x;           /* device [rows_max, width] the residual stream */
    float *q;           /* device [rows_max, heads * head_dim] */
    float *k, *v;       /* device [rows_max, kv_heads * head_dim] */
    float *attended;    /* device [rows_max, heads * head_dim] attention's result */
    float *gate, *up;   /* device [rows_max, ffn] */
    float *added;       /* device [rows_max, width] before its norm, in families with norms_after */
    float *rope;        /* device [rows_max, rope_dim] */
    float *rope_window; /* the same for layers with a window, where they turn otherwise */
    float *last;        /* device [logit_rows_max, width] the wanted rows of x */
    float *logits;      /* device [logit_rows_max, vocab]; NULL on the other ranks */
} llama;

static status llama_floats(backend *device, int32_t rows, int32_t width, float **out) {
    void *memory = NULL;
    TRY(backend_alloc(device, (uint64_t)rows * (uint64_t)width * sizeof(float), &memory));
    *out = memory;
    return STATUS_OK;
}

/* Of the floats below: what a user is told when they do not fit. */
static double llama_workspace_bytes(const llama_shape *s, const model_options *o) {
    const double row = (double)s->width + 2.0 * s->heads * s->head_dim +
                       2.0 * s->kv_heads * s->head_dim + 2.0 * s->ffn +
                       (s->window_base > 0 ? 2.0 : 1.0) * s->rope_dim +
                       (s->traits->norms_after ? s->width : 0);
    return 4 * (o->rows_max * row + o->logit_rows_max * ((double)s->width + s->vocab));
}

static int32_t llama_window(const llama *m, int32_t layer) {
    return m->shape.windowed[layer] ? m->shape.window : 0;
}

/* The different windows of its layers; how many. */
static int32_t llama_windows(const llama *m, int32_t windows[OPS_WINDOWS_MAX]) {
    int32_t count = 1;
    windows[0] = llama_window(m, 0);
    for (int32_t i = 1; i < m->shape.layers && count == 1; i++) {
        windows[count] = llama_window(m, i);
        count += windows[count] != windows[0];
    }
    return count;
}

static status llama_workspace(llama *m, int32_t rows, int32_t logit_rows) {
    const llama_shape *s = &m->shape;
    m->positions = mem_calloc((size_t)rows, sizeof(m->positions[0]));
    m->seqs = mem_calloc((size_t)rows, sizeof(m->seqs[0]));
    m->tokens = mem_calloc((size_t)rows, sizeof(m->tokens[0]));
    m->rows = mem_calloc((size_t)rows, sizeof(m->rows[0]));
    m->prompts = mem_calloc((size_t)rows, sizeof(m->prompts[0]));
    m->last_prompts = mem_calloc((size_t)logit_rows, sizeof(m->last_prompts[0]));
    if (!m->positions || !m->seqs || !m->tokens || !m->rows || !m->prompts || !m->last_prompts) {
        return STATUS_NOMEM;
    }
    for (int32_t i = 0; i < rows; i++) {
        m->rows[i] = i;
    }
    m->rows_max = rows;
    m->logit_rows_max = logit_rows;
    TRY(llama_floats(m->device, rows, s->width, &m->x));
    TRY(llama_floats(m->device, rows, s->heads * s->head_dim, &m->q));
    TRY(llama_floats(m->device, rows, s->kv_heads * s->head_dim, &m->k));
    TRY(llama_floats(m->device, rows, s->kv_heads * s->head_dim, &m->v));
    TRY(llama_floats(m->device, rows, s->heads * s->head_dim, &m->attended));
    TRY(llama_floats(m->device, rows, s->ffn, &m->gate));
    TRY(llama_floats(m->device, rows, s->ffn, &m->up));
    TRY(llama_floats(m->device, rows, s->rope_dim, &m->rope));
    if (s->window_base > 0) {
        TRY(llama_floats(m->device, rows, s->rope_dim, &m->rope_window));
    }
    if (s->traits->norms_after) {
        TRY(llama_floats(m->device, rows, s->width, &m->added));
    }
    TRY(llama_floats(m->device, logit_rows, s->width, &m->last));
    if (m->rank == 0) {
        TRY(llama_floats(m->device, logit_rows, s->vocab, &m->logits));
    }
    int32_t windows[OPS_WINDOWS_MAX], query = s->heads * s->head_dim;
    int32_t widest = s->ffn > s->width ? s->ffn : s->width;
    ops_sizes sizes = {.rows_max = rows,
                       .context_tokens = s->context_tokens,
                       .width_max = widest > query ? widest : query,
                       .heads = s->heads,
                       .kv_heads = s->kv_heads,
                       .head_dim = s->head_dim,
                       .logit_rows_max = m->rank == 0 ? logit_rows : 0,
                       .vocab = s->vocab,
                       .windows = llama_windows(m, windows)};
    return backend_reserve(m->device, &sizes);
}

void llama_close(void *self) {
    llama *m = self;
    float *const device[] = {m->x,  m->q,    m->k,    m->v,      m->attended, m->gate,
                             m->up, m->rope, m->last, m->logits, m->added,    m->rope_window};
    for (size_t i = 0; i < sizeof(device) / sizeof(device[0]); i++) {
        if (device[i]) {
            backend_free(m->device, device[i]);
        }
    }
    mem_free(m->positions);
    mem_free(m->seqs);
    mem_free(m->tokens);
    mem_free(m->rows);
    mem_free(m->prompts);
    mem_free(m->last_prompts);
    if (!m->shares) {
        llama_load_free(&m->shape, m->device, &m->weights);
    }
    mem_free(m);
}

status llama_share(const void *self, backend *device, int32_t rows_max, int32_t logit_rows_max,
                   void **out) {
    const llama *of = self;
    llama *m = mem_calloc(1, sizeof(*m));
    if (!m) {
        return STATUS_NOMEM;
    }
    m->device = device;
    m->shares = true;
    m->shape = of->shape;
    m->rank = of->rank;
    m->ranks = of->ranks;
    m->bf16 = of->bf16;
    m->mixed = of->mixed;
    m->weights = of->weights;
    status s = llama_workspace(m, rows_max, logit_rows_max);
    if (s != STATUS_OK) {
        llama_close(m);
        return s;
    }
    *out = m;
    return STATUS_OK;
}

/* Frequencies that the keys ask for; files may have them as a tensor instead. */
static status llama_stretch(llama *m, diag *d) {
    float *factors = NULL;
    status s =
        ropescale_factors(&m->shape.scaling, m->shape.rope_base, m->shape.rope_dim, &factors);
    if (s != STATUS_OK) {
        return status_fail(d, s, "no memory for the model");
    }
    if (factors && m->weights.freq_factors) {
        mem_free(factors);
        return status_fail(d, STATUS_CORRUPT,
                           "tensor rope_freqs.weight and %s.rope.scaling.type exclude each other",
                           m->shape.traits->arch);
    }
    m->weights.freq_factors = factors ? factors : m->weights.freq_factors;
    return STATUS_OK;
}

status llama_open_as(const llama_traits *traits, const gguf *file, const model_options *options,
                     model_info *info, void **out, diag *d) {
    llama_shape whole, shape;
    int32_t ranks = options->ranks > 1 ? options->ranks : 1;
    TRY(llama_keys_read(file, traits, &whole, d));
    TRY(llama_slice_shape(&whole, ranks, &shape, d));
    /* A norm of heads has that many rows. */
    if (traits->head_norms && options->rows_max > OPS_ROWS_MAX / shape.heads) {
        return status_fail(d, STATUS_LIMIT, "batches of %d rows: at most %d with %d heads",
                           options->rows_max, OPS_ROWS_MAX / shape.heads, shape.heads);
    }
    llama *m = mem_calloc(1, sizeof(*m));
    if (!m) {
        return status_fail(d, STATUS_NOMEM, "no memory for the model");
    }
    m->device = options->device;
    m->shape = shape;
    m->rank = options->rank;
    m->bf16 = m->device->bf16 && options->activations == BACKEND_ACTIVATIONS_BF16;
    m->mixed = options->activations == BACKEND_ACTIVATIONS_MIXED;
    m->ranks = ranks;
    status s = llama_load_tensors(file, &whole, m->device, options, &m->weights, d);
    if (s == STATUS_OK) {
        s = llama_stretch(m, d);
    }
    if (s == STATUS_OK) {
        s = llama_workspace(m, options->rows_max, options->logit_rows_max);
        if (s != STATUS_OK) {
            uint64_t unused, total;
            backend_memory(m->device, &unused, &total);
            s = status_fail(d, s,
                            "no memory for batches of %d rows and %d of logits (--prefill-chunk, "
                            "--max-seqs): %.1f MiB are asked for next to the weights; %.1f of the "
                            "device's %.1f MiB are free",
                            options->rows_max, options->logit_rows_max,
                            llama_workspace_bytes(&shape, options) / 0x1p20,
                            (double)unused / 0x1p20, (double)total / 0x1p20);
        }
    }
    if (s != STATUS_OK) {
        llama_close(m);
        return s;
    }
    info->layers = shape.layers;
    info->width = shape.width;
    info->heads = whole.heads;
    info->kv_heads = whole.kv_heads;
    info->head_dim = shape.head_dim;
    info->vocab = shape.vocab;
    info->context_tokens = shape.context_tokens;
    info->parameters = m->weights.parameters;
    info->tied = m->weights.output == m->weights.embedding;
    info->weight_bytes = m->weights.bytes;
    *out = m;
    return STATUS_OK;
}

/* A sequence's rows that are its prompt, and the others, are sequences of their own where they meet
 * other numbers: each attends to the pages, where all rows' keys are already. */
static void llama_seqs(llama *m, const model_batch *b) {
    m->seqs_count = 0;
    for (int32_t i = 0; i < b->seqs_count; i++) {
        const model_seq *s = &b->seqs[i];
        int32_t cut = m->mixed && s->prompt_rows > 0 ? s->prompt_rows : s->rows;
        m->seqs[m->seqs_count++] =
            (ops_seq){s->row_first, cut, s->position_first, s->pages, s->pages_count};
        if (cut < s->rows) {
            m->seqs[m->seqs_count++] = (ops_seq){s->row_first + cut, s->rows - cut,
                                                 s->position_first + cut, s->pages, s->pages_count};
        }
        for (int32_t r = 0; r < s->rows; r++) {
            m->positions[s->row_first + r] = s->position_first + r;
            m->prompts[s->row_first + r] = m->mixed && r < s->prompt_rows;
        }
    }
}

/* The batch in the kernels' terms, and the tables of its positions' rotations. */
static status llama_begin(llama *m, const backend_kv *kv, const model_batch *b, bool repeats) {
    memset(m->positions, 0, (size_t)b->rows * sizeof(m->positions[0]));
    llama_seqs(m, b);
    ops_batch batch = {.seqs = m->seqs,
                       .seqs_count = m->seqs_count,
                       .rows = b->rows,
                       .heads = m->shape.heads,
                       .kv = kv,
                       .repeats = repeats ? m : NULL};
    batch.windows_count = llama_windows(m, batch.windows);
    TRY(backend_batch(m->device, &batch));
    ops_rope_table table = {.positions = m->positions,
                            .freq_factors = m->weights.freq_factors,
                            .table = m->rope,
                            .base = m->shape.rope_base,
                            .position_scale = m->shape.scaling.position_scale,
                            .magnitude = (float)m->shape.scaling.magnitude,
                            .rows = b->rows,
                            .dim = m->shape.rope_dim};
    TRY(backend_rope_table(m->device, &table));
    if (m->rope_window) {
        ops_rope_table near = {.positions = m->positions,
                               .table = m->rope_window,
                               .base = m->shape.window_base,
                               .position_scale = 1,
                               .magnitude = 1,
                               .rows = b->rows,
                               .dim = m->shape.rope_dim};
        TRY(backend_rope_table(m->device, &near));
    }
    float scale = m->shape.traits->scales_embedding ? sqrtf((float)m->shape.width) : 1;
    ops_embed embed = {m->weights.embedding, b->tokens, m->x, b->rows, scale};
    return backend_embed(m->device, &embed);
}

/* The end of the run of rows of one kind that begins at `first`. */
static int32_t llama_run(const bool *prompts, int32_t first, int32_t rows) {
    int32_t end = first + 1;
    while (end < rows && prompts[end] == prompts[first]) {
        end++;
    }
    return end;
}

/* backend_chain; where a batch has rows of prompts and others, once for each run of one kind.
 * `prompts`: [rows] of the operators. */
static status llama_chain(llama *m, const bool *prompts, const ops_linear *ops, int32_t count) {
    int32_t rows = ops[0].rows;
    for (int32_t first = 0, end; m->mixed && first < rows; first = end) {
        ops_linear run[OPS_CHAIN_MAX];
        end = llama_run(prompts, first, rows);
        for (int32_t i = 0; i < count; i++) {
            ptrdiff_t inputs = (ptrdiff_t)first * ops[i].parts[0].weight->inputs;
            run[i] = ops[i];
            run[i].prompt = prompts[first];
            run[i].rows = end - first;
            run[i].x += inputs;
            if (run[i].x_up) {
                run[i].x_up += inputs;
            }
            for (int32_t p = 0; p < ops[i].parts_count; p++) {
                run[i].parts[p].out += (ptrdiff_t)first * ops[i].parts[p].weight->outputs;
            }
        }
        TRY(backend_chain(m->device, run, count));
    }
    return m->mixed ? STATUS_OK : backend_chain(m->device, ops, count);
}

static status llama_norm_heads(llama *m, float *x, const float *weight, int32_t heads) {
    ops_rmsnorm norm = {x, weight, x, heads, m->shape.head_dim, m->shape.epsilon, false};
    return backend_rmsnorm(m->device, &norm);
}

static status llama_append(llama *m, backend_kv *kv, const model_batch *b, int32_t layer) {
    const llama_load_layer *w = &m->weights.layers[layer];
    ops_linear qkv = {.x = m->x,
                      .norm_weight = w->vector[LLAMA_ATTN_NORM],
                      .norm_epsilon = m->shape.epsilon,
                      .input = OPS_INPUT_RMSNORM,
                      .rows = b->rows,
                      .parts = {{w->matrix[LLAMA_Q], w->vector[LLAMA_Q], m->q, false},
                                {w->matrix[LLAMA_K], w->vector[LLAMA_K], m->k, false},
                                {w->matrix[LLAMA_V], w->vector[LLAMA_V], m->v, false}},
                      .parts_count = 3};
    TRY(llama_chain(m, m->prompts, &qkv, 1));
    if (m->shape.traits->head_norms) {
        TRY(llama_norm_heads(m, m->q, w->vector[LLAMA_Q_NORM], b->rows * m->shape.heads));
        TRY(llama_norm_heads(m, m->k, w->vector[LLAMA_K_NORM], b->rows * m->shape.kv_heads));
    }
    bool near = m->rope_window && m->shape.windowed[layer];
    ops_rope_append append = {.q = m->q,
                              .k = m->k,
                              .v = m->v,
                              .table = near ? m->rope_window : m->rope,
                              .kv = kv,
                              .seqs = m->seqs,
                              .seqs_count = m->seqs_count,
                              .rows = b->rows,
                              .layer = layer,
                              .heads = m->shape.heads,
                              .dim = m->shape.rope_dim,
                              .pairs = m->shape.pairs};
    TRY(backend_rope_append(m->device, &append));
    return b->on_layer ? backend_notify(m->device, b->on_layer, b->context, layer + 1) : STATUS_OK;
}

static status llama_attend(llama *m, const backend_kv *kv, const model_batch *b, int32_t layer) {
    ops_attention attention = {.q = m->q,
                               .out = m->attended,
                               .kv = kv,
                               .seqs = m->seqs,
                               .seqs_count = m->seqs_count,
                               .rows = b->rows,
                               .layer = layer,
                               .heads = m->shape.heads,
                               .scale = m->shape.attention_scale,
                               .window = llama_window(m, layer),
                               .softcap = m->shape.softcap,
                               .bf16 = m->bf16};
    for (int32_t first = 0, end; m->mixed && first < m->seqs_count; first = end) {
        attention.bf16 = m->prompts[m->seqs[first].row_first];
        for (end = first + 1; end < m->seqs_count; end++) {
            if (m->prompts[m->seqs[end].row_first] != attention.bf16) {
                break;
            }
        }
        attention.seqs = m->seqs + first;
        attention.seqs_count = end - first;
        TRY(backend_attention(m->device, &attention));
    }
    return m->mixed ? STATUS_OK : backend_attention(m->device, &attention);
}

/* A product that x[rows, width] takes; or its norm, where families have one there. Each rank has
 * some of the matrix's inputs, and the sum over all of them is the product: so what was in x and
 * the bias are the first rank's to add. */
static ops_linear_part llama_added(const llama *m, const llama_load_layer *w, int matrix,
                                   float *x) {
    bool after = m->shape.traits->norms_after;
    bool first = m->rank == 0;
    return (ops_linear_part){w->matrix[matrix], first ? w->vector[matrix] : NULL,
                             after ? m->added : x, first && !after};
}

/* What comes between that product and whatever reads x. */
static status llama_add(llama *m, const float *norm, float *x, int32_t rows) {
    bool after = m->shape.traits->norms_after;
    if (m->ranks > 1) {
        ops_all_reduce sum = {after ? m->added : x, rows, m->shape.width};
        TRY(backend_all_reduce(m->device, &sum));
    }
    if (!after) {
        return STATUS_OK;
    }
    ops_rmsnorm add = {.x = m->added,
                       .weight = norm,
                       .out = x,
                       .rows = rows,
                       .width = m->shape.width,
                       .epsilon = m->shape.epsilon,
                       .accumulate = true};
    return backend_rmsnorm(m->device, &add);
}

/* The rest of a layer, in place on x[rows, width]; `attended` is attention's result for the same
 * rows, `prompts` which of them are of prompts. */
static status llama_finish(llama *m, const llama_load_layer *w, float *x, const float *attended,
                           const bool *prompts, int32_t rows) {
    ops_linear out = {.x = attended,
                      .input = OPS_INPUT_PLAIN,
                      .rows = rows,
                      .parts = {llama_added(m, w, LLAMA_OUT, x)},
                      .parts_count = 1};
    ops_linear spread = {.x = x,
                         .norm_weight = w->vector[LLAMA_FFN_NORM],
                         .norm_epsilon = m->shape.epsilon,
                         .input = OPS_INPUT_RMSNORM,
                         .rows = rows,
                         .parts = {{w->matrix[LLAMA_GATE], w->vector[LLAMA_GATE], m->gate, false},
                                   {w->matrix[LLAMA_UP], w->vector[LLAMA_UP], m->up, false}},
                         .parts_count = 2};
    ops_linear down = {.x = m->gate,
                       .x_up = m->up,
                       .input = m->shape.traits->gelu ? OPS_INPUT_GELU_MUL : OPS_INPUT_SILU_MUL,
                       .rows = rows,
                       .parts = {llama_added(m, w, LLAMA_DOWN, x)},
                       .parts_count = 1};
    const ops_linear chain[] = {out, spread, down};
    if (m->ranks == 1 && !m->shape.traits->norms_after) {
        return llama_chain(m, prompts, chain, 3);
    }
    TRY(llama_chain(m, prompts, chain, 1));
    TRY(llama_add(m, w->vector[LLAMA_ATTN_NORM_AFTER], x, rows));
    TRY(llama_chain(m, prompts, chain + 1, 2));
    return llama_add(m, w->vector[LLAMA_FFN_NORM_AFTER], x, rows);
}

/* From attention's result of the last layer to logits, for the wanted rows only, on the first rank.
 */
static status llama_end(llama *m, const model_batch *b) {
    int32_t rows = b->logit_rows_count;
    int32_t query = m->shape.heads * m->shape.head_dim;
    ops_gather x = {m->x, b->logit_rows, m->last, rows, m->shape.width, b->rows};
    ops_gather attended = {m->attended, b->logit_rows, m->q, rows, query, b->rows};
    for (int32_t i = 0; i < rows; i++) {
        m->last_prompts[i] = m->prompts[b->logit_rows[i]];
    }
    TRY(backend_gather(m->device, &x));
    TRY(backend_gather(m->device, &attended));
    TRY(llama_finish(m, &m->weights.layers[m->shape.layers - 1], m->last, m->q, m->last_prompts,
                     rows));
    if (m->rank != 0) {
        return STATUS_OK;
    }
    ops_linear head = {.x = m->last,
                       .norm_weight = m->weights.output_norm,
                       .norm_epsilon = m->shape.epsilon,
                       .input = OPS_INPUT_RMSNORM,
                       .rows = rows,
                       .parts = {{m->weights.output, NULL, m->logits, false}},
                       .parts_count = 1};
    TRY(llama_chain(m, m->last_prompts, &head, 1));
    if (m->shape.logits_softcap == 0) {
        return STATUS_OK;
    }
    ops_softcap cap = {m->logits, rows, m->shape.vocab, m->shape.logits_softcap};
    return backend_softcap(m->device, &cap);
}

/* What the caller wants of the logits. */
static status llama_deliver(llama *m, const model_batch *b) {
    int32_t rows = b->logit_rows_count;
    if (b->samples_count > 0) {
        ops_sample sample = {.logits = m->logits,
                             .rows_of = b->samples,
                             .out = b->sampled,
                             .rows = b->samples_count,
                             .logit_rows = rows,
                             .vocab = m->shape.vocab};
        TRY(backend_sample(m->device, &sample));
    }
    if (!b->logits || rows == 0) {
        return STATUS_OK;
    }
    uint64_t bytes = (uint64_t)rows * (uint64_t)m->shape.vocab * sizeof(float);
    return backend_download(m->device, b->logits, m->logits, bytes);
}

/* A decode step, one row a sequence and all of them wanted, is the same work whenever it has so
 * many rows: padded to the number that the device likes. False: any other batch, or no such number.
 */
static bool llama_repeats(llama *m, const model_batch *b, model_batch *padded) {
    int32_t rows = b->on_layer ? 0 : backend_graph_rows(m->device, b->rows);
    if (rows == 0 || rows > m->rows_max || rows > m->logit_rows_max || b->seqs_count != b->rows ||
        b->logit_rows_count != b->rows) {
        return false;
    }
    memset(m->tokens, 0, (size_t)rows * sizeof(m->tokens[0]));
    memcpy(m->tokens, b->tokens, (size_t)b->rows * sizeof(m->tokens[0]));
    *padded = *b;
    padded->tokens = m->tokens;
    padded->logit_rows = m->rows;
    padded->rows = padded->logit_rows_count = rows;
    return true;
}

static status llama_layers(llama *m, backend_kv *kv, const model_batch *b, bool repeats) {
    TRY(llama_begin(m, kv, b, repeats));
    for (int32_t layer = 0; layer < m->shape.layers; layer++) {
        bool last = layer + 1 == m->shape.layers;
        TRY(llama_append(m, kv, b, layer));
        if (last && b->logit_rows_count == 0) {
            break;
        }
        TRY(llama_attend(m, kv, b, layer));
        if (last) {
            TRY(llama_end(m, b));
        } else {
            TRY(llama_finish(m, &m->weights.layers[layer], m->x, m->attended, m->prompts, b->rows));
        }
    }
    return STATUS_OK;
}

status llama_forward(void *self, backend_kv *kv, const model_batch *b) {
    llama *m = self;
    model_batch padded;
    if (llama_repeats(m, b, &padded)) {
        status s = llama_layers(m, kv, &padded, true);
        status ended = backend_batch_end(m->device);
        TRY(s);
        TRY(ended);
    } else {
        TRY(llama_layers(m, kv, b, false));
    }
    TRY(llama_deliver(m, b));
    return backend_sync(m->device);
}

static status llama_open(const gguf *file, const model_options *options, model_info *info,
                         void **out, diag *d) {
    static const llama_traits traits = {.arch = "llama", .pairs = OPS_ROPE_INTERLEAVED};
    return llama_open_as(&traits, file, options, info, out, d);
}

const family llama_family = {"llama", llama_open, llama_forward, llama_close, llama_share};
