/* model.c -- opens a file, picks its family, checks batches, owns the KV pool.
 *
 * On several devices a model is made of parts, a rank each: models of one device, with their own
 * weights and pool, that a crew of threads runs at the same time. All pools have the same pages,
 * and a page of the whole is what the parts have of it one after the other: the heads in their
 * order, the bytes that one device would have.
 */
#define _GNU_SOURCE
#include "models/arch/model.h"

#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include "engine/base/check.h"
#include "engine/base/limits.h"
#include "engine/base/mem.h"
#include "models/arch/crew.h"
#include "models/arch/family.h"
#include "models/arch/gemma2.h"
#include "models/arch/gemma3.h"
#include "models/arch/kvheads.h"
#include "models/arch/llama.h"
#include "models/arch/qwen2.h"
#include "models/arch/qwen3.h"

/* A rank of a model on several devices. */
typedef struct {
    model *whole;
    model *part;
    backend *device;
    int32_t layers_done; /* of the batch under way; under `lock` of the whole */
    diag why;            /* of its open */
} model_rank;

/* Of a model on several devices. */
typedef struct {
    crew *crew;
    int32_t count;
    model_rank rank[BACKEND_RANKS_MAX];
    backend_group_id group;
    const model_options *options; /* while it opens */
    const model_batch *batch;     /* under way */
    pthread_mutex_t lock;
    int32_t layers_told;   /* all ranks are that far; under lock */
    int32_t failed;        /* the rank that broke the last batch */
    uint8_t *moving;       /* host [moving_bytes] a rank's share of a transfer */
    uint64_t moving_bytes; /* grows to the largest */
    char fault[160];
} model_ranks;

struct model {
    const family *family;
    void *self; /* the family's object */
    backend *device;
    backend_kv *kv; /* NULL without a pool */
    model_info info;
    int32_t rows_max, logit_rows_max;
    model_ranks *ranks; /* NULL: one device, or a part */
    bool shares;        /* another model's weights and pool */
};

static const family *const model_families[] = {&llama_family, &qwen2_family, &qwen3_family,
                                               &gemma2_family, &gemma3_family};

static const family *model_family_of(str arch) {
    for (size_t i = 0; i < sizeof(model_families) / sizeof(model_families[0]); i++) {
        if (str_equal_z(arch, model_families[i]->arch)) {
            return model_families[i];
        }
    }
    return NULL;
}

static void model_copy_text(char *to, size_t to_bytes, str from) {
    size_t bytes = from.bytes < to_bytes ? from.bytes : to_bytes - 1;
    memcpy(to, from.data, bytes);
    to[bytes] = 0;
}

/* What the file says of itself, and the family that reads it. */
static status model_identify(const gguf *file, model *m, diag *d) {
    str arch = {NULL, 0}, name = {NULL, 0};
    TRY(gguf_get_str(file, "general.architecture", &arch, d));
    m->family = model_family_of(arch);
    if (!m->family) {
        return status_fail(
            d, STATUS_UNSUPPORTED,
            "general.architecture is \"%.*s\": llama, qwen2, qwen3, gemma2 and gemma3 "
            "are supported",
            (int)(arch.bytes < 64 ? arch.bytes : 64), arch.data);
    }
    model_copy_text(m->info.arch, sizeof(m->info.arch), arch);
    if (gguf_get_str(file, "general.name", &name, NULL) == STATUS_OK) {
        model_copy_text(m->info.name, sizeof(m->info.name), name);
    }
    m->info.file_hash = gguf_hash(file);
    return STATUS_OK;
}

/* Pages that fit into `bytes`; one whole context at least. */
static uint32_t model_pages_within(const model_info *i, uint64_t bytes) {
    uint64_t least = ((uint64_t)i->context_tokens + LIMIT_PAGE_TOKENS - 1) / LIMIT_PAGE_TOKENS + 1;
    uint64_t pages = bytes / ((uint64_t)i->layers * i->kv_layer_page_bytes);
    if (pages > UINT32_MAX / 2) {
        pages = UINT32_MAX / 2;
    }
    return (uint32_t)(pages < least ? least : pages);
}

static int32_t model_ranks_of(const model_options *o) {
    return o->ranks > 1 ? o->ranks : 1;
}

/* The pool's numbers, once the weights are where they are. */
static void model_measure(model *m, const model_options *o) {
    const model_info *i = &m->info;
    int32_t ranks = model_ranks_of(o);
    m->info.kv_layer_page_bytes = backend_kv_head_bytes(o->kv_type, i->head_dim) *
                                  (uint64_t)kvheads_of(i->kv_heads, o->rank, ranks).count;
    if (o->context_tokens > 0 && o->context_tokens < i->context_tokens) {
        m->info.context_tokens = o->context_tokens;
    }
    if (o->kv_pages == 0 && o->kv_bytes == 0) {
        return;
    }
    uint64_t room = o->kv_rest ? backend_room(m->device) : 0;
    uint64_t bytes = room ? room : o->kv_bytes / (uint64_t)ranks;
    m->info.kv_pages = o->kv_pages ? o->kv_pages : model_pages_within(i, bytes);
}

static status model_pool(model *m, const model_options *o, diag *d) {
    const model_info *i = &m->info;
    if (i->kv_pages == 0) {
        return STATUS_OK;
    }
    const int32_t heads = kvheads_of(i->kv_heads, o->rank, model_ranks_of(o)).count;
    backend_kv_options kv = {i->layers, heads, i->head_dim, i->kv_pages, o->kv_type};
    TRY(backend_kv_open(m->device, &kv, &m->kv, d));
    CHECK_EQ(m->kv->layer_page_bytes, i->kv_layer_page_bytes);
    model_copy_text(m->info.kv_layout, sizeof m->info.kv_layout, str_from(m->kv->layout));
    return STATUS_OK;
}

static status model_load(const gguf *file, const model_options *o, model *m, diag *d) {
    TRY(model_identify(file, m, d));
    TRY(m->family->open(file, o, &m->info, &m->self, d));
    model_measure(m, o);
    char ranks[16] = "";
    if (model_ranks_of(o) > 1) {
        (void)snprintf(ranks, sizeof ranks, " tp=%d", o->ranks);
    }
    int bytes = snprintf(m->info.numerics, sizeof(m->info.numerics), "%s act=%s kv=%s%s%s",
                         backend_numerics(o->device), backend_activations_name(o->activations),
                         backend_kv_type_name(o->kv_type),
                         o->weights == MODEL_WEIGHTS_Q8_0 ? " w=q8_0" : "", ranks);
    CHECK_LT(bytes, (int)sizeof(m->info.numerics));
    return STATUS_OK;
}

/* All but the pool. */
static status model_open_part(const model_options *options, model **out, diag *d) {
    gguf *file = NULL;
    TRY(gguf_open(options->path, &file, d));
    model *m = mem_calloc(1, sizeof(*m));
    status s = STATUS_NOMEM;
    if (m) {
        m->device = options->device;
        m->rows_max = options->rows_max;
        m->logit_rows_max = options->logit_rows_max;
        s = model_load(file, options, m, d);
    } else {
        s = status_fail(d, s, "no memory for the model");
    }
    gguf_close(file);
    if (s != STATUS_OK) {
        model_close(m);
        return s;
    }
    *out = m;
    return STATUS_OK;
}

/* ---- several devices ------------------------------------------------------------------------ */

/* What one rank could not do, no other has to wait for. */
static status model_rank_did(model_ranks *r, status s) {
    for (int32_t i = 0; s != STATUS_OK && i < r->count; i++) {
        backend_group_leave(r->rank[i].device);
    }
    return s;
}

static status model_rank_load(void *context, int32_t rank) {
    model_ranks *r = context;
    model_rank *me = &r->rank[rank];
    model_options o = *r->options;
    o.device = me->device;
    o.rank = rank;
    status s = backend_group_join(me->device, &r->group, rank, r->count, &me->why);
    if (s == STATUS_OK) {
        s = model_open_part(&o, &me->part, &me->why);
    }
    return model_rank_did(r, s);
}

static status model_rank_pool(void *context, int32_t rank) {
    model_ranks *r = context;
    model_rank *me = &r->rank[rank];
    return model_rank_did(r, model_pool(me->part, r->options, &me->why));
}

/* One block table for all: as many pages as the fullest device has room for. */
static status model_ranks_load(model *m, const model_options *o, diag *d) {
    model_ranks *r = m->ranks;
    int32_t rank;
    r->options = o;
    TRY(backend_group_make(o->device, &r->group, d));
    status s = crew_run(r->crew, model_rank_load, r, &rank);
    uint32_t pages = s == STATUS_OK ? r->rank[0].part->info.kv_pages : 0;
    for (int32_t i = 0; s == STATUS_OK && i < r->count; i++) {
        uint32_t has = r->rank[i].part->info.kv_pages;
        pages = has < pages ? has : pages;
    }
    for (int32_t i = 0; s == STATUS_OK && i < r->count; i++) {
        r->rank[i].part->info.kv_pages = pages;
    }
    if (s == STATUS_OK) {
        s = crew_run(r->crew, model_rank_pool, r, &rank);
    }
    if (s != STATUS_OK) {
        *d = r->rank[rank].why;
        return s;
    }
    m->info = r->rank[0].part->info;
    m->info.kv_layer_page_bytes =
        backend_kv_head_bytes(o->kv_type, m->info.head_dim) * (uint64_t)m->info.kv_heads;
    for (int32_t i = 1; i < r->count; i++) {
        m->info.weight_bytes += r->rank[i].part->info.weight_bytes;
    }
    return STATUS_OK;
}

static status model_open_ranks(const model_options *o, model **out, diag *d) {
    CHECK(o->ranks <= BACKEND_RANKS_MAX && o->others);
    model *m = mem_calloc(1, sizeof *m);
    model_ranks *r = mem_calloc(1, sizeof *r);
    if (!m || !r) {
        mem_free(m);
        mem_free(r);
        return status_fail(d, STATUS_NOMEM, "no memory for the model");
    }
    m->ranks = r;
    m->device = o->device;
    m->rows_max = o->rows_max;
    m->logit_rows_max = o->logit_rows_max;
    r->count = o->ranks;
    (void)pthread_mutex_init(&r->lock, NULL);
    for (int32_t i = 0; i < r->count; i++) {
        r->rank[i] = (model_rank){.whole = m, .device = i == 0 ? o->device : o->others[i - 1]};
    }
    status s = crew_open(r->count, &r->crew);
    s = s == STATUS_OK ? model_ranks_load(m, o, d)
                       : status_fail(d, s, "no threads for %d devices", r->count);
    if (s != STATUS_OK) {
        model_close(m);
        return s;
    }
    *out = m;
    return STATUS_OK;
}

static void model_ranks_close(model_ranks *r) {
    for (int32_t i = 0; i < r->count; i++) {
        model_close(r->rank[i].part);
    }
    crew_close(r->crew);
    (void)pthread_mutex_destroy(&r->lock);
    mem_free(r->moving);
    mem_free(r);
}

/* Keys and values of a layer are there when every rank has its heads. */
static void model_rank_layer(void *context, int32_t layers_done) {
    model_rank *me = context;
    model_ranks *r = me->whole->ranks;
    (void)pthread_mutex_lock(&r->lock);
    me->layers_done = layers_done;
    int32_t least = layers_done;
    for (int32_t i = 0; i < r->count; i++) {
        least = r->rank[i].layers_done < least ? r->rank[i].layers_done : least;
    }
    if (least > r->layers_told) {
        r->layers_told = least;
        r->batch->on_layer(r->batch->context, least);
    }
    (void)pthread_mutex_unlock(&r->lock);
}

/* The first rank has the logits, and chooses from them. */
static status model_rank_forward(void *context, int32_t rank) {
    model_ranks *r = context;
    model_rank *me = &r->rank[rank];
    model_batch b = *r->batch;
    if (rank != 0) {
        b.logits = NULL;
        b.samples_count = 0;
    }
    b.on_layer = b.on_layer ? model_rank_layer : NULL;
    b.context = me;
    return model_rank_did(r, me->part->family->forward(me->part->self, me->part->kv, &b));
}

static status model_ranks_forward(model_ranks *r, const model_batch *batch) {
    r->batch = batch;
    r->layers_told = 0;
    for (int32_t i = 0; i < r->count; i++) {
        r->rank[i].layers_done = 0;
    }
    return crew_run(r->crew, model_rank_forward, r, &r->failed);
}

/* Each rank's share of some pages, between its pool and where it lies in the pages of the whole. Of
 * ranks that have the same heads the first one's are read. */
static status model_ranks_move(model *m, const backend_kv_run *run, uint8_t *out,
                               const uint8_t *in) {
    model_ranks *r = m->ranks;
    const uint64_t whole = m->info.kv_layer_page_bytes;
    const uint64_t share = r->rank[0].part->kv->layer_page_bytes;
    const uint64_t cells = (uint64_t)run->layers * run->pages_count;
    if (cells * share > r->moving_bytes) {
        mem_free(r->moving);
        r->moving = mem_alloc(cells * share, 1);
        r->moving_bytes = r->moving ? cells * share : 0;
    }
    if (cells > 0 && !r->moving) {
        return STATUS_NOMEM;
    }
    for (int32_t i = 0; i < r->count; i++) {
        const model *part = r->rank[i].part;
        const kvheads heads = kvheads_of(m->info.kv_heads, i, r->count);
        const uint64_t first = (uint64_t)heads.first * part->kv->head_bytes;
        if (out && heads.copied) {
            continue;
        }
        for (uint64_t c = 0; in && c < cells; c++) {
            memcpy(r->moving + c * share, in + c * whole + first, share);
        }
        TRY(in ? backend_kv_write(part->device, part->kv, run, r->moving)
               : backend_kv_read(part->device, part->kv, run, r->moving));
        for (uint64_t c = 0; out && c < cells; c++) {
            memcpy(out + c * whole + first, r->moving + c * share, share);
        }
    }
    return STATUS_OK;
}

/* Each rank's heads, between its pool and packed pages of the whole. The first rank comes last: its
 * device, which the staging and the stream are of, is then the calling thread's, as before. */
static status model_ranks_pack(const model *m, const backend_kv_run *run, bool gather,
                               backend_kv_type type, const void *staging, void *stream) {
    const model_ranks *r = m->ranks;
    const uint64_t head = backend_kv_head_bytes(type, m->info.head_dim);
    status s = STATUS_OK;
    for (int32_t i = r->count - 1; i >= 0; i--) {
        const model *part = r->rank[i].part;
        const kvheads heads = kvheads_of(m->info.kv_heads, i, r->count);
        const backend_kv_slice slice = {.staging = (void *)(uintptr_t)staging,
                                        .page_bytes = head * (uint64_t)m->info.kv_heads,
                                        .first = head * (uint64_t)heads.first};
        if (gather && heads.copied) {
            continue;
        }
        const status one =
            backend_kv_pack_slice(part->device, part->kv, run, gather, type, &slice, stream);
        s = s == STATUS_OK ? one : s;
    }
    return s;
}

static backend_kv_type model_kv_type(const model *m) {
    return m->ranks->rank[0].part->kv->shape.type;
}

/* ---- either way ----------------------------------------------------------------------------- */

status model_open(const model_options *options, model **out, diag *d) {
    CHECK(options->path && options->device);
    CHECK(options->rows_max > 0 && options->rows_max <= OPS_ROWS_MAX);
    CHECK(options->logit_rows_max > 0 && options->logit_rows_max <= options->rows_max);
    if (model_ranks_of(options) > 1) {
        return model_open_ranks(options, out, d);
    }
    TRY(model_open_part(options, out, d));
    status s = model_pool(*out, options, d);
    if (s != STATUS_OK) {
        model_close(*out);
        *out = NULL;
    }
    return s;
}

status model_share(model *of, backend *device, int32_t rows_max, int32_t logit_rows_max,
                   model **out, diag *d) {
    CHECK(rows_max > 0 && rows_max <= OPS_ROWS_MAX);
    CHECK(logit_rows_max > 0 && logit_rows_max <= rows_max);
    if (!of->self || !of->family->share) {
        return status_fail(d, STATUS_UNSUPPORTED, "models of %s are not computed twice at once",
                           of->info.arch);
    }
    model *m = mem_calloc(1, sizeof(*m));
    if (!m) {
        return status_fail(d, STATUS_NOMEM, "no memory for the model");
    }
    *m = *of;
    m->device = device;
    m->rows_max = rows_max;
    m->logit_rows_max = logit_rows_max;
    m->shares = true;
    m->self = NULL;
    status s = of->family->share(of->self, device, rows_max, logit_rows_max, &m->self);
    if (s != STATUS_OK) {
        model_close(m);
        return status_fail(d, s, "no memory for a second set of workspaces");
    }
    *out = m;
    return STATUS_OK;
}

void model_close(model *m) {
    if (!m) {
        return;
    }
    if (m->ranks) {
        model_ranks_close(m->ranks);
    }
    if (m->kv && !m->shares) {
        backend_kv_close(m->device, m->kv);
    }
    if (m->self) {
        m->family->close(m->self);
    }
    mem_free(m);
}

const model_info *model_get_info(const model *m) {
    return &m->info;
}

/* Rows are covered once, in order, by sequences inside the context; what else could be wrong
 * (tokens, pages) the backend checks. */
static bool model_batch_fits(const model *m, const model_batch *b) {
    if (m->info.kv_pages == 0 || b->rows < 0 || b->rows > m->rows_max || b->logit_rows_count < 0 ||
        b->logit_rows_count > m->logit_rows_max || b->seqs_count < 0) {
        return false;
    }
    int32_t row = 0;
    for (int32_t i = 0; i < b->seqs_count; i++) {
        const model_seq *s = &b->seqs[i];
        if (s->row_first != row || s->rows < 1 || s->rows > b->rows - row ||
            s->position_first < 0 || s->position_first > m->info.context_tokens - s->rows ||
            s->prompt_rows < 0 || s->prompt_rows > s->rows) {
            return false;
        }
        row += s->rows;
    }
    for (int32_t i = 0; i < b->logit_rows_count; i++) {
        int32_t after = i > 0 ? b->logit_rows[i - 1] : -1;
        if (b->logit_rows[i] <= after || b->logit_rows[i] >= b->rows) {
            return false;
        }
    }
    return row == b->rows;
}

status model_forward(model *m, const model_batch *batch) {
    if (!model_batch_fits(m, batch)) {
        return STATUS_INVALID;
    }
    if (batch->rows == 0) {
        return STATUS_OK;
    }
    return m->ranks ? model_ranks_forward(m->ranks, batch)
                    : m->family->forward(m->self, m->kv, batch);
}

const char *model_fault(model *m) {
    model_ranks *r = m->ranks;
    if (!r) {
        return backend_fault(m->device);
    }
    const model_rank *failed = &r->rank[r->failed];
    (void)snprintf(r->fault, sizeof r->fault, "rank %d of %d: %s", r->failed, r->count,
                   backend_fault(failed->device));
    return r->fault;
}

bool model_samples(const model *m) {
    return backend_samples(m->device);
}

void *model_kv_page(model *m, int32_t layer, uint32_t page) {
    CHECK(m->kv != NULL);
    return backend_kv_page(m->kv, layer, page);
}

bool model_kv_on_host(const model *m) {
    return backend_kv_on_host(m->device);
}

status model_kv_read(model *m, const backend_kv_run *run, uint8_t *out) {
    return m->ranks ? model_ranks_move(m, run, out, NULL)
                    : backend_kv_read(m->device, m->kv, run, out);
}

status model_kv_write(model *m, const backend_kv_run *run, const uint8_t *in) {
    return m->ranks ? model_ranks_move(m, run, NULL, in)
                    : backend_kv_write(m->device, m->kv, run, in);
}

status model_kv_gather(model *m, const backend_kv_run *run, void *staging, uint32_t *list,
                       void *stream) {
    return m->ranks ? model_ranks_pack(m, run, true, model_kv_type(m), staging, stream)
                    : backend_kv_gather(m->device, m->kv, run, staging, list, stream);
}

status model_kv_scatter(model *m, const backend_kv_run *run, const void *staging, uint32_t *list,
                        void *stream) {
    return m->ranks ? model_ranks_pack(m, run, false, model_kv_type(m), staging, stream)
                    : backend_kv_scatter(m->device, m->kv, run, staging, list, stream);
}

status model_kv_convert(model *m, const backend_kv_run *run, backend_kv_type type,
                        const void *staging, uint32_t *list, void *stream) {
    return m->ranks ? model_ranks_pack(m, run, false, type, staging, stream)
                    : backend_kv_convert(m->device, m->kv, run, type, staging, list, stream);
}

void model_kv_copy(model *m, uint32_t from, uint32_t to) {
    for (int32_t i = 0; m->ranks && i < m->ranks->count; i++) {
        model_kv_copy(m->ranks->rank[i].part, from, to);
    }
    if (!m->ranks) {
        CHECK(m->kv != NULL);
        CHECK(backend_kv_copy(m->device, m->kv, from, to) == STATUS_OK);
    }
}
