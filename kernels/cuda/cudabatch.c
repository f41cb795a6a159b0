/* cudabatch.c -- a forward pass's batch on the device: block tables and attention's plan, sent
 * once.
 *
 * All layers of a forward pass have the same sequences. What kernels need to know of them is worked
 * out when the pass begins and goes over in two copies; callers that announce nothing (single
 * operators, in tests) have it worked out in every call.
 */
#include <string.h>

#include "engine/base/limits.h"
#include "engine/base/mem.h"
#include "kernels/cuda/cudaplan.h"
#include "kernels/cuda/cudastate.h"

enum { SLOTS_BYTES_MAX = 256 << 20 };

static uint64_t larger(uint64_t a, uint64_t b) {
    return a > b ? a : b;
}

/* Host memory in which a batch is put together; what was there is lost. */
static void *host_take(cudastate *c, uint64_t bytes) {
    if (bytes > c->batch_host_bytes) {
        mem_free(c->batch_host);
        c->batch_host = mem_alloc(bytes, 1);
        c->batch_host_bytes = c->batch_host != NULL ? bytes : 0;
    }
    return c->batch_host;
}

static int32_t pages_of(const ops_seq *s) {
    return (s->position_first + s->rows + LIMIT_PAGE_TOKENS - 1) / LIMIT_PAGE_TOKENS;
}

/* Sequences as the kernels read them, in one run of four-byte words: row_seq[rows], position[rows],
 * pages_first[firsts], at least one a sequence, then the block tables. */
static void tables_fill(const ops_seq *seqs, int32_t seqs_count, int32_t rows, int32_t firsts,
                        int32_t *words) {
    int32_t *row_seq = words, *position = words + rows, *first = words + 2 * (int64_t)rows;
    int32_t *pages = first + firsts;
    int32_t used = 0;
    for (int32_t r = 0; r < rows; r++) {
        row_seq[r] = -1;
        position[r] = 0;
    }
    for (int32_t i = 0; i < seqs_count; i++) {
        const ops_seq *s = &seqs[i];
        for (int32_t r = 0; r < s->rows; r++) {
            row_seq[s->row_first + r] = i;
            position[s->row_first + r] = s->position_first + r;
        }
        first[i] = used;
        memcpy(pages + used, s->pages, (size_t)pages_of(s) * sizeof(pages[0]));
        used += pages_of(s);
    }
}

static uint64_t tables_words(const ops_seq *seqs, int32_t seqs_count, int32_t rows,
                             int32_t firsts) {
    uint64_t words = 2 * (uint64_t)rows + (uint64_t)firsts;
    for (int32_t i = 0; i < seqs_count; i++) {
        words += (uint64_t)pages_of(&seqs[i]);
    }
    return words;
}

/* `padded`: so many words go over at least. */
static status tables_send(cudastate *c, const ops_seq *seqs, int32_t seqs_count, int32_t rows,
                          int32_t firsts, uint64_t padded, cuda_batch *out) {
    const uint64_t used = tables_words(seqs, seqs_count, rows, firsts);
    const uint64_t words = larger(used, padded);
    int32_t *host = host_take(c, words * sizeof(int32_t));
    if (host == NULL) {
        return STATUS_NOMEM;
    }
    memset(host + used, 0, (words - used) * sizeof(int32_t));
    tables_fill(seqs, seqs_count, rows, firsts, host);
    TRY(cudastate_reserve(c, &c->tables, words * sizeof(int32_t)));
    TRY(cudastream_send(c, c->tables.memory, host, words * sizeof(int32_t)));
    const int32_t *at = c->tables.memory;
    *out = (cuda_batch){.row_seq = at,
                        .position = at + rows,
                        .pages_first = at + 2 * (int64_t)rows,
                        .pages = (const uint32_t *)(at + 2 * (int64_t)rows + firsts)};
    return STATUS_OK;
}

static uint64_t slot_bytes(int32_t heads, int32_t head_dim) {
    return (uint64_t)heads * ((uint64_t)head_dim + 2) * sizeof(float);
}

static cudaplan_shape plan_shape(const cudabatch_heads *h) {
    return (cudaplan_shape){h->heads, h->kv_heads, h->window,
                            (int32_t)(SLOTS_BYTES_MAX / slot_bytes(h->heads, h->head_dim))};
}

static uint64_t items_bytes(const cudaplan_counts *n) {
    return (uint64_t)(n->wide + n->narrow) * sizeof(cuda_attention_item);
}

static uint64_t merges_bytes(const cudaplan_counts *n) {
    return (uint64_t)n->merges * sizeof(cuda_attention_merge);
}

/* What a plan takes of the buffer: the next one begins at a whole 16 bytes. */
static uint64_t plan_bytes(const cudaplan_counts *n) {
    return (items_bytes(n) + merges_bytes(n) + 15) / 16 * 16;
}

/* Items of work for the tensor-core kernel, to `*used` bytes into the buffer of them, which become
 * more. `padded`: so many of them at least, with nothing to do at their end; then items are of one
 * kind. Plans share the slots: a layer is done with them before the next begins. */
static status plan_send(cudastate *c, const ops_seq *seqs, int32_t seqs_count,
                        const cudabatch_heads *h, const cudaplan_counts *padded, uint64_t *used,
                        cuda_attention_work *out) {
    const uint64_t slot = slot_bytes(h->heads, h->head_dim);
    const cudaplan_shape shape = plan_shape(h);
    cudaplan_counts n = cudaplan_attention(&shape, seqs, seqs_count, NULL, NULL);
    if (padded != NULL) {
        n = (cudaplan_counts){padded->wide, padded->narrow, padded->merges, n.slots};
    }
    const uint64_t items = items_bytes(&n), merges = merges_bytes(&n);
    uint8_t *host = host_take(c, items + merges);
    if (host == NULL) {
        return STATUS_NOMEM;
    }
    memset(host, 0, items + merges);
    (void)cudaplan_attention(&shape, seqs, seqs_count, (cuda_attention_item *)(void *)host,
                             (cuda_attention_merge *)(void *)(host + items));
    TRY(cudastate_reserve(c, &c->slots, (uint64_t)n.slots * slot));
    TRY(cudastate_reserve(c, &c->work, *used + items + merges));
    uint8_t *at = (uint8_t *)c->work.memory + *used;
    TRY(cudastream_send(c, at, host, items + merges));
    *used += plan_bytes(&n);
    *out = (cuda_attention_work){.items = (const cuda_attention_item *)(const void *)at,
                                 .merges = (const cuda_attention_merge *)(const void *)(at + items),
                                 .slots = c->slots.memory,
                                 .wide = n.wide,
                                 .narrow = n.narrow,
                                 .merges_count = n.merges};
    return STATUS_OK;
}

static uint64_t padded_to(uint64_t count, uint64_t least) {
    uint64_t padded = count != 0 ? least : 0;
    while (padded < count) {
        padded *= 2;
    }
    return padded;
}

/* Whether the batch can be the repetition of another: what its graph has room for. */
static bool repeats(const cudastate *c, const ops_batch *op, cudaplan_counts *padded,
                    cudagraph_key *key) {
    if (op->repeats == NULL || cudagraph_rows(&c->base, op->rows) != op->rows) {
        return false;
    }
    *key = (cudagraph_key){
        .owner = op->repeats, .kv = op->kv, .rows = op->rows, .plans = c->begun_plans};
    uint64_t bytes = 0;
    for (int32_t i = 0; i < c->begun_plans; i++) {
        const cudaplan_shape shape = plan_shape(&c->begun_heads[i]);
        const cudaplan_counts n = cudaplan_attention(&shape, op->seqs, op->seqs_count, NULL, NULL);
        if (n.wide != 0 && n.narrow != 0) {
            return false;
        }
        padded[i] = (cudaplan_counts){(int32_t)padded_to((uint64_t)n.wide, 8),
                                      (int32_t)padded_to((uint64_t)n.narrow, 8),
                                      (int32_t)padded_to((uint64_t)n.merges, 8), n.slots};
        key->wide[i] = padded[i].wide;
        key->narrow[i] = padded[i].narrow;
        key->merges[i] = padded[i].merges;
        bytes += plan_bytes(&padded[i]);
    }
    key->table_words = padded_to(tables_words(op->seqs, op->seqs_count, op->rows, op->rows), 64);
    return key->table_words * sizeof(int32_t) <= c->tables.bytes && bytes <= c->work.bytes;
}

/* All that a forward pass sends: tables, plans; tokens and row numbers (twice); positions and
 * frequencies, of two rotations at most; each in whole 16 bytes. */
static uint64_t graph_bytes(const cudaplan_counts *padded, const cudagraph_key *key) {
    uint64_t bytes = key->table_words * sizeof(int32_t) +
                     5 * (uint64_t)key->rows * sizeof(int32_t) +
                     2 * (OPS_HEAD_DIM_MAX / 2 * sizeof(double)) + 16 * 16;
    for (int32_t i = 0; i < key->plans; i++) {
        bytes += plan_bytes(&padded[i]);
    }
    return bytes;
}

/* Room for all plans, before the first lies there: while nothing is sealed, buffers that grow move.
 */
static status plans_room(cudastate *c, const ops_batch *op) {
    uint64_t bytes = 0, slots = 0;
    for (int32_t i = 0; i < c->begun_plans; i++) {
        const cudabatch_heads *h = &c->begun_heads[i];
        const cudaplan_shape shape = plan_shape(h);
        const cudaplan_counts n = cudaplan_attention(&shape, op->seqs, op->seqs_count, NULL, NULL);
        bytes += plan_bytes(&n);
        slots = larger(slots, (uint64_t)n.slots * slot_bytes(h->heads, h->head_dim));
    }
    TRY(cudastate_reserve(c, &c->work, bytes));
    return cudastate_reserve(c, &c->slots, slots);
}

status cudabatch_begin(backend *b, const ops_batch *op) {
    cudastate *c = (cudastate *)b;
    cudaplan_counts padded[OPS_WINDOWS_MAX];
    cudagraph_key key;
    c->begun.seqs = NULL;
    c->begun_plans = op->windows_count;
    for (int32_t i = 0; i < c->begun_plans; i++) {
        c->begun_heads[i] = (cudabatch_heads){.heads = op->heads,
                                              .kv_heads = op->kv->shape.kv_heads,
                                              .head_dim = op->kv->shape.head_dim,
                                              .window = op->windows[i]};
    }
    TRY(cudastate_enter(c));
    const bool graph = repeats(c, op, padded, &key);
    if (graph) {
        TRY(cudagraph_begin(c, &key, graph_bytes(padded, &key)));
    }
    TRY(tables_send(c, op->seqs, op->seqs_count, op->rows, graph ? op->rows : op->seqs_count,
                    graph ? key.table_words : 0, &c->begun_tables));
    const bool planned = !c->plain && op->seqs_count > 0;
    uint64_t used = 0;
    if (planned && !c->sealed && c->begun_plans > 1) {
        TRY(plans_room(c, op));
    }
    for (int32_t i = 0; planned && i < c->begun_plans; i++) {
        TRY(plan_send(c, op->seqs, op->seqs_count, &c->begun_heads[i], graph ? &padded[i] : NULL,
                      &used, &c->begun_work[i]));
    }
    c->begun = *op;
    return STATUS_OK;
}

static bool is_begun(const cudastate *c, const ops_seq *seqs, int32_t seqs_count, int32_t rows) {
    return c->begun.seqs == seqs && seqs != NULL && c->begun.seqs_count == seqs_count &&
           c->begun.rows == rows;
}

status cudabatch_tables(cudastate *c, const ops_seq *seqs, int32_t seqs_count, int32_t rows,
                        cuda_batch *out) {
    if (is_begun(c, seqs, seqs_count, rows)) {
        *out = c->begun_tables;
        return STATUS_OK;
    }
    c->begun.seqs = NULL; /* its tables are overwritten */
    return tables_send(c, seqs, seqs_count, rows, seqs_count, 0, out);
}

status cudabatch_work(cudastate *c, const ops_seq *seqs, int32_t seqs_count, int32_t rows,
                      const cudabatch_heads *heads, cuda_attention_work *out) {
    for (int32_t i = 0; is_begun(c, seqs, seqs_count, rows) && i < c->begun_plans; i++) {
        const cudabatch_heads *h = &c->begun_heads[i];
        if (h->heads == heads->heads && h->kv_heads == heads->kv_heads &&
            h->head_dim == heads->head_dim && h->window == heads->window) {
            *out = c->begun_work[i];
            return STATUS_OK;
        }
    }
    uint64_t used = 0;
    c->begun.seqs = NULL; /* its plans are overwritten */
    return plan_send(c, seqs, seqs_count, heads, NULL, &used, out);
}

status cudabatch_reserve(backend *b, const ops_sizes *s) {
    cudastate *c = (cudastate *)b;
    const uint64_t rows = (uint64_t)s->rows_max, context = (uint64_t)s->context_tokens;
    const uint64_t padded = (rows + CUDA_ROWS_PASS - 1) / CUDA_ROWS_PASS * CUDA_ROWS_PASS;
    const uint64_t stride = ((uint64_t)s->width_max + CUDA_SPAN - 1) / CUDA_SPAN * CUDA_SPAN + 32;
    const uint64_t pages = (context + LIMIT_PAGE_TOKENS - 1) / LIMIT_PAGE_TOKENS;
    /* Twice what they need, so that a graph's can be rounded up to a power of two. */
    const uint64_t tables = 2 * (3 * rows + rows * pages) * sizeof(int32_t);
    const uint64_t slot = slot_bytes(s->heads, s->head_dim);
    const uint64_t splits = context / CUDA_SPLIT_TOKENS + 1;
    const uint64_t slots_max = SLOTS_BYTES_MAX / slot;
    const uint64_t slots = rows * splits < slots_max ? rows * splits : slots_max;
    const uint64_t plans = s->windows > 1 ? (uint64_t)s->windows : 1;
    const uint64_t work =
        plans * 2 *
        ((rows + slots) * sizeof(cuda_attention_item) + rows * sizeof(cuda_attention_merge) + 16);
    TRY(cudastate_enter(c));
    cudagraph_drop(c);
    c->sealed = false;
    TRY(cudastate_reserve(c, &c->input,
                          c->plain ? rows * (uint64_t)s->width_max * sizeof(float)
                                   : padded * stride * 2 + padded * stride / 32 * sizeof(float)));
    TRY(cudastate_reserve(c, &c->index,
                          rows * sizeof(int32_t) + OPS_HEAD_DIM_MAX / 2 * sizeof(double)));
    TRY(cudastate_reserve(c, &c->tables, tables));
    if (!c->plain) {
        TRY(cudastate_reserve(c, &c->work, work));
        TRY(cudastate_reserve(c, &c->slots, slots * slot));
    }
    TRY(cudagroup_reserve(c, s));
    TRY(cudasample_reserve(c, s));
    TRY(cudalibrary_reserve(c, s));
    c->sealed = true;
    return host_take(c, larger(tables, work)) != NULL ? STATUS_OK : STATUS_NOMEM;
}
