/* ncclpages_test.c -- pages of one CUDA backend's pool to another's, packed by its kernels. The
 * devices are the emulated ones. */
#define _GNU_SOURCE
#include "kvtransfer/nccl.h"

#ifdef WEIR_CUDA_EMU
#include "kernels/backend.h"
#include "tests/unit/kvtransfer/kvt_fixture.h"

enum { LAYERS = 3, HEADS = 2, DIM = 32, PAGES = 12 };

typedef struct {
    backend *device;
    backend_kv *kv;
    unsigned packs;
} end;

static backend_kv_run run_of(const kvt_job *job) {
    return (backend_kv_run){(int32_t)job->layer_first, (int32_t)job->layers, job->pages,
                            job->pages_count};
}

static bool gather(void *context, const kvt_job *job, void *staging, uint32_t *list, void *stream) {
    end *e = context;
    backend_kv_run run = run_of(job);
    e->packs++;
    return backend_kv_gather(e->device, e->kv, &run, staging, list, stream) == STATUS_OK;
}

static bool scatter(void *context, const kvt_job *job, const void *staging, uint32_t *list,
                    void *stream) {
    end *e = context;
    backend_kv_run run = run_of(job);
    e->packs++;
    return backend_kv_scatter(e->device, e->kv, &run, staging, list, stream) == STATUS_OK;
}

static uint8_t *device_page(void *context, uint32_t layer, uint32_t page) {
    return backend_kv_page(((end *)context)->kv, (int32_t)layer, page);
}

static void open_end(end *e, int device) {
    diag d;
    backend_options o = {.threads = 1, .device = device};
    backend_kv_options kv = {LAYERS, HEADS, DIM, PAGES, BACKEND_KV_F16};
    *e = (end){0};
    cr_assert_eq(backend_open("cuda", &o, &e->device, &d), STATUS_OK, "%s", d.text);
    cr_assert_eq(backend_kv_open(e->device, &kv, &e->kv, &d), STATUS_OK, "%s", d.text);
}

static void close_end(end *e) {
    backend_kv_close(e->device, e->kv);
    backend_close(e->device);
}

/* All pages of a pool, in host memory: [LAYERS, PAGES, layer_page_bytes]. */
static uint8_t *all_pages(end *e, const uint8_t *write) {
    uint32_t list[PAGES];
    for (uint32_t i = 0; i < PAGES; i++) {
        list[i] = i;
    }
    backend_kv_run run = {0, LAYERS, list, PAGES};
    uint8_t *bytes = malloc(LAYERS * PAGES * e->kv->layer_page_bytes);
    if (write) {
        cr_assert_eq(backend_kv_write(e->device, e->kv, &run, write), STATUS_OK);
    }
    cr_assert_eq(backend_kv_read(e->device, e->kv, &run, bytes), STATUS_OK);
    return bytes;
}

static void open_pair(fixture *f, end *p, end *d) {
    static const kvt_packer packer = {gather, scatter};
    diag why;
    int fds[2];
    uint64_t unit = p->kv->layer_page_bytes;
    kvt_pool from = {device_page, p, unit}, to = {device_page, d, unit};
    devpair_options o = {.stage_bytes = LAYERS * PAGES * unit};
    *f = (fixture){0};
    cr_assert_eq(wire_pair(fds), STATUS_OK);
    cr_assert_eq(nccl_open(&from, &o, 3, false, &f->sender, &why), STATUS_OK, "%s", why.text);
    o.device = 1;
    cr_assert_eq(nccl_open(&to, &o, 3, true, &f->receiver, &why), STATUS_OK);
    cr_assert_eq(devpair_attach(f->sender, fds[0], &fixture_near_keys, &why), STATUS_OK);
    cr_assert_eq(devpair_attach(f->receiver, fds[1], &fixture_far_keys, &why), STATUS_OK);
    kvt_use_packer(f->sender, &packer);
    kvt_use_packer(f->receiver, &packer);
}

Test(ncclpages, kernels_pack_and_unpack_exactly_the_pages_and_layers_of_a_job) {
    fixture f;
    end p, d;
    kvt_arrival a;
    uint32_t done;
    (void)setenv("EMU_DEVICES", "2", 1);
    (void)setenv("WEIR_CUDA_MODULE", WEIR_CUDA_EMU, 1);
    (void)setenv("WEIR_NCCL", WEIR_EMU_LIBRARY, 1);
    open_end(&p, 0);
    open_end(&d, 1);
    uint64_t unit = p.kv->layer_page_bytes, bytes = LAYERS * PAGES * unit, random = 5;
    uint8_t *content = malloc(bytes), *paint = malloc(bytes);
    for (uint64_t i = 0; i < bytes; i += 8) {
        uint64_t word = rng_next(&random);
        memcpy(content + i, &word, 8);
    }
    memset(paint, 0xEE, bytes);
    free(all_pages(&p, content));
    free(all_pages(&d, paint));
    open_pair(&f, &p, &d);
    kvt_job from = {.layer_first = 1, .layers = 2, .pages_count = 4, .pages = {7, 2, 11, 3}};
    kvt_job to = {.layer_first = 1, .layers = 2, .pages_count = 4, .pages = {0, 9, 1, 5}};
    cr_assert_eq(kvt_post(f.receiver, &to), KVT_DONE);
    cr_assert_eq(kvt_send(f.sender, &from), KVT_DONE);
    cr_assert_eq(fixture_arrive(&f, &a), KVT_DONE, "%s", devpair_reason(f.receiver));
    cr_assert_eq(a.outcome, KVT_ARRIVED);
    cr_assert(fixture_done(&f, &done), "%s", devpair_reason(f.sender));
    cr_assert_eq(p.packs, 1);
    cr_assert_eq(d.packs, 1);
    for (uint32_t l = 1; l < 3; l++) { /* what must be there now */
        for (uint32_t i = 0; i < 4; i++) {
            memcpy(paint + (l * PAGES + to.pages[i]) * unit,
                   content + (l * PAGES + from.pages[i]) * unit, unit);
        }
    }
    uint8_t *arrived = all_pages(&d, NULL);
    cr_assert_eq(memcmp(arrived, paint, bytes), 0);
    fixture_close(&f);
    free(arrived);
    free(content);
    free(paint);
    close_end(&p);
    close_end(&d);
}
#endif
