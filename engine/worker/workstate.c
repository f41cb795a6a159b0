/* workstate.c -- who a worker is, and its pages as KV channels see them. */
#define _GNU_SOURCE
#include "engine/worker/workstate.h"

#include <unistd.h>

#include "engine/base/check.h"

static uint8_t *pool_page(void *context, uint32_t layer, uint32_t page) {
    return model_kv_page(context, (int32_t)layer, page);
}

static uint8_t *timed_page(void *context, uint32_t layer, uint32_t page) {
    CHECK(layer == 0);
    return timed_kv_page(context, page);
}

kvt_pool workstate_pool(const worker_state *w) {
    if (w->timed) {
        return (kvt_pool){timed_page, w->timed, w->info->kv_layer_page_bytes};
    }
    return (kvt_pool){pool_page, w->model, w->info->kv_layer_page_bytes};
}

static backend_kv_run run_of(const kvt_job *job) {
    return (backend_kv_run){(int32_t)job->layer_first, (int32_t)job->layers, job->pages,
                            job->pages_count};
}

static bool device_load(void *context, const kvt_job *job, uint8_t *out) {
    backend_kv_run run = run_of(job);
    return model_kv_read(context, &run, out) == STATUS_OK;
}

static bool device_store(void *context, const kvt_job *job, const uint8_t *bytes) {
    backend_kv_run run = run_of(job);
    return model_kv_write(context, &run, bytes) == STATUS_OK;
}

static bool device_gather(void *context, const kvt_job *job, void *staging, uint32_t *list,
                          void *stream) {
    backend_kv_run run = run_of(job);
    return model_kv_gather(context, &run, staging, list, stream) == STATUS_OK;
}

static bool device_scatter(void *context, const kvt_job *job, const void *staging, uint32_t *list,
                           void *stream) {
    backend_kv_run run = run_of(job);
    return model_kv_scatter(context, &run, staging, list, stream) == STATUS_OK;
}

/* A channel's context is the model: what P's type is, the verb says. */
static bool convert(model *m, const kvt_job *job, backend_kv_type type, const void *staging,
                    uint32_t *list, void *stream) {
    backend_kv_run run = run_of(job);
    return model_kv_convert(m, &run, type, staging, list, stream) == STATUS_OK;
}

static bool convert_f16(void *context, const kvt_job *job, const void *staging, uint32_t *list,
                        void *stream) {
    return convert(context, job, BACKEND_KV_F16, staging, list, stream);
}

static bool convert_bf16(void *context, const kvt_job *job, const void *staging, uint32_t *list,
                         void *stream) {
    return convert(context, job, BACKEND_KV_BF16, staging, list, stream);
}

static bool convert_f32(void *context, const kvt_job *job, const void *staging, uint32_t *list,
                        void *stream) {
    return convert(context, job, BACKEND_KV_F32, staging, list, stream);
}

static bool convert_int8(void *context, const kvt_job *job, const void *staging, uint32_t *list,
                         void *stream) {
    return convert(context, job, BACKEND_KV_INT8, staging, list, stream);
}

static bool convert_fp8(void *context, const kvt_job *job, const void *staging, uint32_t *list,
                        void *stream) {
    return convert(context, job, BACKEND_KV_FP8, staging, list, stream);
}

void workstate_convert(kvt *k, backend_kv_type type) {
    static const kvt_packer packers[BACKEND_KV_TYPES] = {
        [BACKEND_KV_F16] = {device_gather, convert_f16},
        [BACKEND_KV_BF16] = {device_gather, convert_bf16},
        [BACKEND_KV_F32] = {device_gather, convert_f32},
        [BACKEND_KV_INT8] = {device_gather, convert_int8},
        [BACKEND_KV_FP8] = {device_gather, convert_fp8}};
    CHECK_LT(type, BACKEND_KV_TYPES);
    kvt_use_packer(k, &packers[type]);
}

void workstate_channel(const worker_state *w, kvt *k, bool between_devices) {
    static const kvt_device device = {device_load, device_store};
    static const kvt_packer packer = {device_gather, device_scatter};
    if (between_devices) {
        kvt_use_packer(k, &packer);
    } else if (w->model && !model_kv_on_host(w->model)) {
        kvt_use_device(k, &device);
    }
}

message_hello workstate_hello(const worker_state *w) {
    core_stats s;
    core_get_stats(w->core, &s);
    return (message_hello){.version = MESSAGE_VERSION,
                           .worker = w->number,
                           .epoch = w->epoch,
                           .roles = core_roles(w->core) | (w->options->roles & MESSAGE_ROLE_FLIPS),
                           .pid = (uint32_t)getpid(),
                           .model_hash = w->info->file_hash,
                           .layers = (uint32_t)w->info->layers,
                           .block_tokens = LIMIT_PAGE_TOKENS * w->block_pages,
                           .kv_layer_page_bytes = w->info->kv_layer_page_bytes,
                           .pages = s.pages_total,
                           .context_tokens = (uint32_t)w->info->context_tokens,
                           .vocab = (uint32_t)w->info->vocab,
                           .numerics = str_from(w->info->numerics),
                           .kv_layout = str_from(w->info->kv_layout),
                           .address = w->address};
}
