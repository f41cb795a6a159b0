/* model.c -- opens a file, picks its family, checks batches, owns the KV pool. */
#include "models/arch/model.h"

#include <stdio.h>
#include <string.h>

#include "engine/base/check.h"
#include "engine/base/limits.h"
#include "engine/base/mem.h"
#include "models/arch/family.h"
#include "models/arch/llama.h"
#include "models/arch/qwen2.h"
#include "models/arch/qwen3.h"

struct model {
    const family *family;
    void *self; /* the family's object */
    backend *device;
    backend_kv *kv; /* NULL without a pool */
    model_info info;
    int32_t rows_max, logit_rows_max;
};

static const family *const model_families[] = {&llama_family, &qwen2_family, &qwen3_family};

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
        return status_fail(d, STATUS_UNSUPPORTED,
                           "general.architecture is \"%.*s\": llama, qwen2 and qwen3 are supported",
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

static status model_pool(model *m, const model_options *o, diag *d) {
    const model_info *i = &m->info;
    m->info.kv_layer_page_bytes =
        backend_kv_head_bytes(o->kv_type, i->head_dim) * (uint64_t)i->kv_heads;
    if (o->context_tokens > 0 && o->context_tokens < i->context_tokens) {
        m->info.context_tokens = o->context_tokens;
    }
    if (o->kv_pages == 0 && o->kv_bytes == 0) {
        return STATUS_OK;
    }
    uint64_t room = o->kv_rest ? backend_room(m->device) : 0;
    m->info.kv_pages = o->kv_pages ? o->kv_pages : model_pages_within(i, room ? room : o->kv_bytes);
    backend_kv_options kv = {i->layers, i->kv_heads, i->head_dim, i->kv_pages, o->kv_type};
    TRY(backend_kv_open(m->device, &kv, &m->kv, d));
    CHECK_EQ(m->kv->layer_page_bytes, i->kv_layer_page_bytes);
    model_copy_text(m->info.kv_layout, sizeof m->info.kv_layout, str_from(m->kv->layout));
    return STATUS_OK;
}

static status model_load(const gguf *file, const model_options *o, model *m, diag *d) {
    TRY(model_identify(file, m, d));
    TRY(m->family->open(file, o, &m->info, &m->self, d));
    TRY(model_pool(m, o, d));
    int bytes = snprintf(m->info.numerics, sizeof(m->info.numerics), "%s act=%s kv=%s%s",
                         backend_numerics(o->device), backend_activations_name(o->activations),
                         backend_kv_type_name(o->kv_type),
                         o->weights == MODEL_WEIGHTS_Q8_0 ? " w=q8_0" : "");
    CHECK_LT(bytes, (int)sizeof(m->info.numerics));
    return STATUS_OK;
}

status model_open(const model_options *options, model **out, diag *d) {
    CHECK(options->path && options->device);
    CHECK(options->rows_max > 0 && options->rows_max <= OPS_ROWS_MAX);
    CHECK(options->logit_rows_max > 0 && options->logit_rows_max <= options->rows_max);
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

void model_close(model *m) {
    if (!m) {
        return;
    }
    if (m->kv) {
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
    if (!m->kv || b->rows < 0 || b->rows > m->rows_max || b->logit_rows_count < 0 ||
        b->logit_rows_count > m->logit_rows_max || b->seqs_count < 0) {
        return false;
    }
    int32_t row = 0;
    for (int32_t i = 0; i < b->seqs_count; i++) {
        const model_seq *s = &b->seqs[i];
        if (s->row_first != row || s->rows < 1 || s->rows > b->rows - row ||
            s->position_first < 0 || s->position_first > m->info.context_tokens - s->rows) {
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
    return batch->rows > 0 ? m->family->forward(m->self, m->kv, batch) : STATUS_OK;
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
    return backend_kv_read(m->device, m->kv, run, out);
}

status model_kv_write(model *m, const backend_kv_run *run, const uint8_t *in) {
    return backend_kv_write(m->device, m->kv, run, in);
}

status model_kv_gather(model *m, const backend_kv_run *run, void *staging, uint32_t *list,
                       void *stream) {
    return backend_kv_gather(m->device, m->kv, run, staging, list, stream);
}

status model_kv_scatter(model *m, const backend_kv_run *run, const void *staging, uint32_t *list,
                        void *stream) {
    return backend_kv_scatter(m->device, m->kv, run, staging, list, stream);
}

void model_kv_copy(model *m, uint32_t from, uint32_t to) {
    CHECK(m->kv != NULL);
    CHECK(backend_kv_copy(m->device, m->kv, from, to) == STATUS_OK);
}
