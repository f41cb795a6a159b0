/* cpuattention.c -- sharing out attention: by sequence, kv head and queries; and by positions when
 * these are too few for the threads. */
#include "engine/base/check.h"
#include "kernels/cpu/cpustate.h"

enum { ITEMS_PER_THREAD = 4 };

typedef struct {
    const cpu *c;
    const ops_attention *op;
    int32_t group;      /* heads of q on one kv head */
    int32_t unit;       /* queries of one item */
    int32_t items;      /* when not split over positions */
    int32_t queries;    /* all sequences', all kv heads': the stride of parts */
    isa_softmax *parts; /* [chunks, queries] when split over positions */
    float *parts_out;   /* [chunks, queries, head_dim] */
} attention_job;

static int32_t seq_end(const ops_seq *s) {
    return s->position_first + s->rows;
}

static int32_t seq_blocks(const attention_job *j, const ops_seq *s) {
    return cpu_divide_up(s->rows * j->group, j->unit);
}

/* The first chunk that a row at `position` sees. */
static int32_t chunk_first(const attention_job *j, int32_t position) {
    return isa_window_first(j->op, position) / ISA_KV_CHUNK;
}

static int32_t seq_chunks(const attention_job *j, const ops_seq *s) {
    const int32_t end = cpu_divide_up(seq_end(s), ISA_KV_CHUNK);
    return s->rows > 0 ? end - chunk_first(j, s->position_first) : 0;
}

/* An item's sequence; what is left of the item counts that sequence's blocks and heads. */
static const ops_seq *whole_seq(const attention_job *j, int32_t *item) {
    const int32_t kv_heads = j->op->kv->shape.kv_heads;
    const ops_seq *s = j->op->seqs;
    while (*item >= seq_blocks(j, s) * kv_heads) {
        *item -= seq_blocks(j, s) * kv_heads;
        s++;
    }
    return s;
}

static void attend(const attention_job *j, const isa_attention *a, int32_t thread) {
    if (j->op->bf16) {
        j->c->pairs->attention(a, cpu_scratch(j->c, thread));
    } else {
        j->c->kernels->attention(a, cpu_scratch(j->c, thread));
    }
}

static void whole_item(void *context, int32_t item, int32_t thread) {
    const attention_job *j = context;
    const int32_t kv_heads = j->op->kv->shape.kv_heads;
    int32_t next = item + 1; /* of a thread's run: a guess, worth a prefetch */
    const ops_seq *s = whole_seq(j, &item);
    /* Later positions cost more, and the longest items should start first. */
    const int32_t block = seq_blocks(j, s) - 1 - item / kv_heads;
    const int32_t first = block * j->unit, left = s->rows * j->group - first;
    isa_attention a = {.op = j->op, .seq = s, .tiles = j->c->kernels->tiles};
    a.kv_head = item % kv_heads;
    a.query_first = first;
    a.queries = left < j->unit ? left : j->unit;
    a.from = chunk_first(j, s->position_first + first / j->group) * ISA_KV_CHUNK;
    a.to = s->position_first + (first + a.queries - 1) / j->group + 1;
    if (next < j->items) {
        a.next_seq = whole_seq(j, &next);
        a.next_kv_head = next % kv_heads;
    }
    attend(j, &a, thread);
}

/* One kv head and chunk of positions of a sequence whose queries fit one unit. */
static void part_item(void *context, int32_t item, int32_t thread) {
    const attention_job *j = context;
    const int32_t kv_heads = j->op->kv->shape.kv_heads;
    const ops_seq *s = j->op->seqs;
    int32_t query = 0;
    while (item >= seq_chunks(j, s) * kv_heads) {
        item -= seq_chunks(j, s) * kv_heads;
        query += s->rows * j->group * kv_heads;
        s++;
    }
    const int32_t chunk = item / kv_heads, head = item % kv_heads;
    const int32_t from = (chunk_first(j, s->position_first) + chunk) * ISA_KV_CHUNK;
    const int32_t left = seq_end(s) - from;
    query += head * s->rows * j->group;
    const int64_t at = (int64_t)chunk * j->queries + query;
    const isa_attention a = {
        .op = j->op,
        .seq = s,
        .tiles = j->c->kernels->tiles,
        .kv_head = head,
        .queries = s->rows * j->group,
        .from = from,
        .to = left < ISA_KV_CHUNK ? seq_end(s) : from + ISA_KV_CHUNK,
        .part = j->parts + at,
        .part_out = j->parts_out + at * j->op->kv->shape.head_dim,
    };
    attend(j, &a, thread);
}

/* One query: its sequence, kv head, row and head in the order part_item laid them out. */
static void merge_item(void *context, int32_t item, int32_t thread) {
    const attention_job *j = context;
    const int32_t kv_heads = j->op->kv->shape.kv_heads, head_dim = j->op->kv->shape.head_dim;
    const ops_seq *s = j->op->seqs;
    (void)thread;
    int32_t query = item;
    while (query >= s->rows * j->op->heads) {
        query -= s->rows * j->op->heads;
        s++;
    }
    const int32_t per_head = s->rows * j->group;
    const int32_t kv_head = query / per_head, row = query % per_head / j->group;
    const int32_t head = kv_head * j->group + query % j->group;
    CHECK_LT(kv_head, kv_heads);
    const int32_t position = s->position_first + row, first = chunk_first(j, position);
    const int64_t skipped = (int64_t)(first - chunk_first(j, s->position_first)) * j->queries;
    const isa_merge m = {
        .parts = j->parts + skipped,
        .parts_out = j->parts_out + skipped * head_dim,
        .parts_count = position / ISA_KV_CHUNK + 1 - first,
        .stride = j->queries,
        .head_dim = head_dim,
        .out = j->op->out + ((int64_t)(s->row_first + row) * j->op->heads + head) * head_dim,
        .query = item,
    };
    j->c->kernels->merge(&m);
}

/* Splitting pays when threads would idle and somebody has positions to share; partial results must
 * fit. It changes no bit. */
static bool split_plan(attention_job *j, int32_t chunks_max) {
    const ops_attention *op = j->op;
    if (j->items >= j->c->shared.threads * ITEMS_PER_THREAD || chunks_max < 2 ||
        j->c->shared.threads == 1) {
        return false;
    }
    for (int32_t i = 0; i < op->seqs_count; i++) {
        if (op->seqs[i].rows * j->group > ISA_QUERIES) {
            return false;
        }
        j->queries += op->seqs[i].rows * op->heads;
    }
    const uint64_t parts = (uint64_t)chunks_max * (uint64_t)j->queries;
    const uint64_t out_bytes = sizeof(float) * (uint64_t)op->kv->shape.head_dim;
    if (parts * (sizeof(isa_softmax) + out_bytes) > CPU_PARTS_BYTES) {
        return false;
    }
    j->parts_out = (float *)(void *)j->c->parts;
    j->parts = (isa_softmax *)(void *)(j->c->parts + parts * out_bytes);
    return true;
}

static int32_t whole_items(const attention_job *j) {
    int32_t items = 0;
    for (int32_t i = 0; i < j->op->seqs_count; i++) {
        items += seq_blocks(j, &j->op->seqs[i]) * j->op->kv->shape.kv_heads;
    }
    return items;
}

/* Queries of an item. bf16 turns keys and values for each of them, which many queries should share,
 * as long as every thread has something to do. */
static void unit_plan(attention_job *j) {
    const int32_t numbers = j->op->bf16 ? ISA_FLASH_NUMBERS / j->op->kv->shape.head_dim : 0;
    j->unit = j->op->bf16 ? ISA_FLASH_QUERIES : ISA_QUERIES;
    while (j->unit > ISA_QUERIES &&
           (j->unit > numbers || whole_items(j) < j->c->shared.threads * ITEMS_PER_THREAD)) {
        j->unit /= 2;
    }
    j->items = whole_items(j);
}

status cpuattention_run(backend *b, const ops_attention *op) {
    const cpu *c = cpu_of(b);
    const int32_t kv_heads = op->kv->shape.kv_heads;
    attention_job j = {.c = c, .op = op, .group = op->heads / kv_heads};
    unit_plan(&j);
    int32_t part_items = 0, chunks_max = 0;
    for (int32_t i = 0; i < op->seqs_count; i++) {
        const int32_t chunks = seq_chunks(&j, &op->seqs[i]);
        part_items += chunks * kv_heads;
        chunks_max = chunks > chunks_max ? chunks : chunks_max;
    }
    if (split_plan(&j, chunks_max)) {
        cpupool_run(c->pool, part_item, &j, part_items);
        cpupool_run(c->pool, merge_item, &j, j.queries);
    } else {
        cpupool_run(c->pool, whole_item, &j, j.items);
    }
    return STATUS_OK;
}
