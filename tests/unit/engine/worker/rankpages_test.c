/* rankpages_test.c -- pages between workers on different numbers of devices, over the transports
 * between devices: whoever has the other side sees a worker on one.
 *
 * Needs devices: WEIR_CUDA_MODULE and WEIR_NCCL name the emulated ones, as in tests/plan.txt
 * (cuda/rankpages). What must arrive is worked out on whole pages in host memory; a worker on one
 * device, which is among the pairs, knows no ranks at all. */
#define _GNU_SOURCE
#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine/base/clock.h"
#include "engine/base/rng.h"
#include "engine/worker/workstate.h"
#include "kernels/kmath.h"
#include "kvtransfer/ipc.h"
#include "kvtransfer/nccl.h"
#include "tests/support/tinyfile.h"

enum { RANKS_MAX = 4, LAYERS = 3, DIM = 16, CELLS = 16, SIDE_D = RANKS_MAX };
enum { PATIENCE_US = 120000000 };

static const int32_t numbers[] = {1, 2, 4};
static uint32_t kv_heads; /* of the model */
enum { NUMBERS = sizeof numbers / sizeof numbers[0] };

typedef struct {
    worker_state w; /* as far as workstate.c looks at it */
    backend *devices[RANKS_MAX];
    int32_t ranks, first; /* its devices are first, first + 1, ... */
    uint32_t pages;
    uint8_t *bytes; /* [LAYERS, pages, kv_layer_page_bytes] what its pages have to be */
} end;

static bool devices_there(void) {
    const char *module = getenv("WEIR_CUDA_MODULE"), *nccl = getenv("WEIR_NCCL");
    diag d;
    return module && access(module, R_OK) == 0 && nccl && access(nccl, R_OK) == 0 &&
           ipc_available(&d) == STATUS_OK;
}

static void begin(void) {
    (void)setenv("EMU_DEVICES", "8", 1); /* read when the module first asks for a device */
}

TestSuite(rankpages, .init = begin, .fini = tinyfile_remove);

/* ---- the two sides --------------------------------------------------------------------------- */

static uint64_t unit(const end *e) {
    return e->w.info->kv_layer_page_bytes;
}

static uint64_t all_bytes(const end *e) {
    return LAYERS * e->pages * unit(e);
}

static uint8_t *page_of(const end *e, uint8_t *bytes, uint32_t layer, uint32_t page) {
    return bytes + ((uint64_t)layer * e->pages + page) * unit(e);
}

static void move_all(const end *e, uint8_t *out, const uint8_t *in) {
    uint32_t *list = malloc(e->pages * sizeof *list);
    for (uint32_t i = 0; i < e->pages; i++) {
        list[i] = i;
    }
    const backend_kv_run run = {0, LAYERS, list, e->pages};
    cr_assert_eq(out ? model_kv_read(e->w.model, &run, out) : model_kv_write(e->w.model, &run, in),
                 STATUS_OK);
    free(list);
}

static void open_end(end *e, int32_t ranks, int32_t first, backend_kv_type type, uint32_t pages) {
    diag d = {.text = ""};
    *e = (end){.ranks = ranks, .first = first, .pages = pages};
    for (int32_t r = 0; r < ranks; r++) {
        const backend_options o = {.device = first + r, .isa = "plain", .deterministic = true};
        cr_assert_eq(backend_open("cuda", &o, &e->devices[r], &d), STATUS_OK, "%s", d.text);
    }
    const model_options o = {.path = tinyfile_path(),
                             .device = e->devices[0],
                             .others = e->devices + 1,
                             .ranks = ranks,
                             .kv_pages = pages,
                             .kv_type = type,
                             .activations = BACKEND_ACTIVATIONS_F32,
                             .rows_max = 16,
                             .logit_rows_max = 1};
    cr_assert_eq(model_open(&o, &e->w.model, &d), STATUS_OK, "%s", d.text);
    e->w.info = model_get_info(e->w.model);
    e->bytes = malloc(all_bytes(e));
}

static void close_end(end *e) {
    model_close(e->w.model);
    for (int32_t r = 0; r < e->ranks; r++) {
        backend_close(e->devices[r]);
    }
    free(e->bytes);
}

/* Small multiples of 1/256, which BF16 has; as F16 they are just bits. */
static void fill(end *e, uint64_t seed) {
    uint16_t *words = (uint16_t *)(void *)e->bytes;
    for (uint64_t i = 0; i < all_bytes(e) / sizeof *words; i++) {
        float value = ((float)(rng_at(seed, 1, i) % 2001) - 1000) / 256;
        uint32_t bits;
        memcpy(&bits, &value, sizeof bits);
        words[i] = (uint16_t)(bits >> 16);
    }
    move_all(e, NULL, e->bytes);
}

static void paint(end *e) {
    memset(e->bytes, 0xEE, all_bytes(e));
    move_all(e, NULL, e->bytes);
}

/* ---- a channel ------------------------------------------------------------------------------- */

typedef struct {
    kvt *sender, *receiver;
} channel;

static const seal_keys near_keys = {.send = {4, 5}, .receive = {6, 7}};
static const seal_keys far_keys = {.send = {6, 7}, .receive = {4, 5}};

static kvt *open_side(end *e, bool ipc, bool receiver, int fd, uint64_t stage_bytes) {
    kvt_pool pool = workstate_pool(&e->w);
    const devpair_options o = {.device = e->first,
                               .stage_bytes = stage_bytes,
                               .setup_us = PATIENCE_US,
                               .transfer_us = PATIENCE_US};
    kvt *k = NULL;
    diag d = {.text = ""};
    if (receiver) { /* as many bytes as they are there; the same where the type is */
        pool.layer_page_bytes = stage_bytes / LAYERS / 8;
    }
    cr_assert_eq((ipc ? ipc_open : nccl_open)(&pool, &o, 5, receiver, &k, &d), STATUS_OK, "%s",
                 d.text);
    cr_assert_eq(devpair_attach(k, fd, receiver ? &far_keys : &near_keys, &d), STATUS_OK);
    return k;
}

static channel open_channel(end *p, end *d, bool ipc, backend_kv_type type) {
    int fds[2];
    channel c;
    uint64_t stage_bytes = LAYERS * 8 * unit(p);
    cr_assert_eq(wire_pair(fds), STATUS_OK);
    c.sender = open_side(p, ipc, false, fds[0], stage_bytes);
    c.receiver = open_side(d, ipc, true, fds[1], stage_bytes);
    workstate_channel(&p->w, c.sender, true);
    if (unit(p) != unit(d)) {
        workstate_convert(c.receiver, type);
    } else {
        workstate_channel(&d->w, c.receiver, true);
    }
    return c;
}

static void close_channel(channel *c) {
    bool hung;
    kvt_close(c->sender);
    kvt_close(c->receiver);
    for (int64_t until = clock_now_us() + PATIENCE_US;
         nccl_aborting(&hung) > 0 && clock_now_us() < until;) {
        (void)usleep(100);
    }
    cr_assert_eq(nccl_aborting(&hung), 0);
    cr_assert_eq(nccl_staged(), 0);
}

static void pass(channel *c, const kvt_job *from, const kvt_job *to) {
    int64_t until = clock_now_us() + PATIENCE_US;
    kvt_arrival a;
    kvt_result r;
    uint32_t sequence;
    bool done = false;
    cr_assert_eq(kvt_post(c->receiver, to), KVT_DONE);
    cr_assert_eq(kvt_send(c->sender, from), KVT_DONE, "%s", devpair_reason(c->sender));
    while ((r = kvt_receive(c->receiver, &a)) == KVT_AGAIN && clock_now_us() < until) {
        done = kvt_sent(c->sender, &sequence) || done;
    }
    cr_assert_eq(r, KVT_DONE, "%s", devpair_reason(c->receiver));
    cr_assert_eq(a.outcome, KVT_ARRIVED);
    while (!done && !kvt_failed(c->sender) && clock_now_us() < until) {
        done = kvt_sent(c->sender, &sequence);
    }
    cr_assert(done, "%s", devpair_reason(c->sender));
}

/* ---- what arrives ---------------------------------------------------------------------------- */

/* P hands out blocks of two pages, D of one: a group begins and ends inside blocks of P. */
static const kvt_job froms[] = {
    {.layer_first = 0, .layers = 2, .pages_count = 5, .pages = {7, 2, 3, 10, 11}},
    {.sequence = 1, .layer_first = 2, .layers = 1, .pages_count = 3, .pages = {4, 5, 0}}};
static const kvt_job tos[] = {
    {.layer_first = 0, .layers = 2, .pages_count = 5, .pages = {0, 8, 3, 1, 6}},
    {.sequence = 1, .layer_first = 2, .layers = 1, .pages_count = 3, .pages = {5, 2, 0}}};
enum { JOBS = 2, PAGES_P = 12, PAGES_D = 9 };

static float from_bf16(uint16_t word) {
    uint32_t bits = (uint32_t)word << 16;
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* The next BF16 that is not below x >= 0. */
static uint16_t bf16_up(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return (uint16_t)((bits + 0xFFFF) >> 16);
}

/* A page of BF16 as one of INT8, as kernels/backend.h and cuda_ops.h describe the two: each token
 * of each head has a scale. */
static void to_int8(uint8_t *to, const uint8_t *from) {
    enum { VALUES = 2 * CELLS * DIM, HEAD = VALUES + 2 * CELLS * 2 };
    for (uint32_t h = 0; h < kv_heads; h++) {
        const uint16_t *in = (const uint16_t *)(const void *)from + h * VALUES;
        int8_t *out = (int8_t *)to + h * HEAD;
        uint16_t *scales = (uint16_t *)(void *)(out + VALUES);
        for (int row = 0; row < 2 * CELLS; row++) {
            float most = 0;
            for (int i = 0; i < DIM; i++) {
                most = fmaxf(most, fabsf(from_bf16(in[row * DIM + i])));
            }
            scales[row] = bf16_up(most / 127);
            for (int i = 0; i < DIM; i++) {
                out[row * DIM + i] =
                    (int8_t)rintf(from_bf16(in[row * DIM + i]) / from_bf16(scales[row]));
            }
        }
    }
}

/* A page of BF16 as one of FP8: in the same places, without scales. */
static void to_fp8(uint8_t *to, const uint8_t *from) {
    const uint16_t *in = (const uint16_t *)(const void *)from;
    for (int i = 0; i < (int)kv_heads * 2 * CELLS * DIM; i++) {
        to[i] = kmath_to_e4m3(from_bf16(in[i]));
    }
}

/* Logits after a token that attends to page 0, which the jobs have of every layer. */
static void attend(end *e, float *logits) {
    const uint32_t pages[] = {0, 7};
    const int32_t token = 3, row = 0;
    const model_seq s = {0, 1, CELLS, pages, 2, 0};
    const model_batch m = {.tokens = &token,
                           .rows = 1,
                           .seqs = &s,
                           .seqs_count = 1,
                           .logit_rows = &row,
                           .logit_rows_count = 1,
                           .logits = logits};
    cr_assert_eq(model_forward(e->w.model, &m), STATUS_OK);
}

/* Reading pages asks the first device that has a head. Do all have what they should? They answer as
 * they do when the same bytes are written to all of them (ranks_test). */
static void check_copies(end *e) {
    static float moved[TINYMODEL_VOCAB], written[TINYMODEL_VOCAB];
    attend(e, moved);
    move_all(e, NULL, e->bytes);
    attend(e, written);
    cr_assert_eq(memcmp(moved, written, sizeof moved), 0, "%u heads, %d devices", kv_heads,
                 e->ranks);
}

/* Everything that the jobs name is there, and nothing else was touched. */
static void check(end *p, end *d, bool ipc, backend_kv_type type, backend_kv_type to_type) {
    paint(d);
    channel c = open_channel(p, d, ipc, type);
    for (int j = 0; j < JOBS; j++) {
        pass(&c, &froms[j], &tos[j]);
        for (uint32_t l = froms[j].layer_first; l < froms[j].layer_first + froms[j].layers; l++) {
            for (uint32_t i = 0; i < froms[j].pages_count; i++) {
                uint8_t *to = page_of(d, d->bytes, l, tos[j].pages[i]);
                const uint8_t *from = page_of(p, p->bytes, l, froms[j].pages[i]);
                if (type != to_type && to_type == BACKEND_KV_INT8) {
                    to_int8(to, from);
                } else if (type != to_type) {
                    to_fp8(to, from);
                } else {
                    memcpy(to, from, unit(d));
                }
            }
        }
    }
    close_channel(&c);
    uint8_t *now = malloc(all_bytes(d));
    move_all(d, now, NULL);
    cr_assert_eq(memcmp(now, d->bytes, all_bytes(d)), 0, "%u heads, %d to %d devices", kv_heads,
                 p->ranks, d->ranks);
    free(now);
    check_copies(d);
}

static void every_pair(bool ipc, backend_kv_type from, backend_kv_type to) {
    static end p[NUMBERS], d[NUMBERS];
    tinymodel_options o = tinymodel_default(GGUF_F16);
    o.layers = LAYERS;
    o.kv_heads = kv_heads;
    (void)tinyfile_write(&o);
    for (int i = 0; i < NUMBERS; i++) {
        open_end(&p[i], numbers[i], 0, from, PAGES_P);
        open_end(&d[i], numbers[i], SIDE_D, to, PAGES_D);
        fill(&p[i], (uint64_t)i + 3);
    }
    for (int i = 0; i < NUMBERS * NUMBERS; i++) {
        check(&p[i / NUMBERS], &d[i % NUMBERS], ipc, from, to);
    }
    for (int i = 0; i < NUMBERS; i++) {
        close_end(&p[i]);
        close_end(&d[i]);
    }
}

Test(rankpages, any_number_of_devices_to_any_other_over_ipc) {
    if (!devices_there()) {
        cr_skip_test("WEIR_CUDA_MODULE or WEIR_NCCL names no library");
    }
    for (kv_heads = 4; kv_heads > 0; kv_heads /= 2) { /* of fewer than devices all have copies */
        every_pair(true, BACKEND_KV_F16, BACKEND_KV_F16);
    }
}

Test(rankpages, and_over_nccl) {
    if (!devices_there()) {
        cr_skip_test("WEIR_CUDA_MODULE or WEIR_NCCL names no library");
    }
    for (kv_heads = 4; kv_heads > 0; kv_heads /= 2) {
        every_pair(false, BACKEND_KV_F16, BACKEND_KV_F16);
    }
}

Test(rankpages, and_to_smaller_pages) {
    if (!devices_there()) {
        cr_skip_test("WEIR_CUDA_MODULE or WEIR_NCCL names no library");
    }
    for (kv_heads = 4; kv_heads > 0; kv_heads /= 2) {
        every_pair(kv_heads == 2, BACKEND_KV_BF16, BACKEND_KV_INT8);
        every_pair(kv_heads != 2, BACKEND_KV_BF16, BACKEND_KV_FP8);
    }
}
