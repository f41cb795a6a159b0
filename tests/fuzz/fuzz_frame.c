/* fuzz_frame.c -- KV frames, and a shared-memory ring whose writer lies: only posted pages are
 * touched, and bytes are accepted only when the header is the expected one and their checksum
 * right. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include "engine/base/mem.h"
#include "kvtransfer/shm.h"
#include "tests/fuzz/fuzz.h"

enum {
    PAGES = 6,
    LAYERS = 3,
    PAGE_BYTES = 64,
    CONTROL_BYTES = 4096,
    RING_BYTES = SHM_RING_BYTES_MIN,
    JOBS_MAX = 6,
    GENERATION = 9
};

typedef struct {
    uint8_t pool[LAYERS][PAGES][PAGE_BYTES];
    uint8_t before[LAYERS][PAGES][PAGE_BYTES];
    uint8_t *shared; /* control page and ring, as the peer sees it */
    uint64_t head;
    kvt *receiver;
    kvt_job jobs[JOBS_MAX];
    uint32_t jobs_count;
} rig;

static uint8_t *page_at(void *context, uint32_t layer, uint32_t page) {
    rig *r = context;
    CHECK(layer < LAYERS && page < PAGES);
    return r->pool[layer][page];
}

/* A peer's offer: memory of the right size, sealed, and two events. */
static void open_ring(rig *r) {
    int fds[3] = {memfd_create("fuzz", MFD_CLOEXEC | MFD_ALLOW_SEALING),
                  eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC), eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)};
    CHECK(fds[0] >= 0 && fds[1] >= 0 && fds[2] >= 0);
    CHECK_EQ(ftruncate(fds[0], CONTROL_BYTES + RING_BYTES), 0);
    CHECK_EQ(fcntl(fds[0], F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW), 0);
    r->shared =
        mmap(NULL, CONTROL_BYTES + RING_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fds[0], 0);
    CHECK(r->shared != MAP_FAILED);
    char offer[24] = {'K', 'V', 'T', 'S', 'H', 'M', 0, 1, GENERATION};
    uint64_t ring_bytes = RING_BYTES;
    memcpy(offer + 16, &ring_bytes, 8);
    str text = str_of(offer, sizeof offer);
    kvt_pool pool = {page_at, r, PAGE_BYTES};
    shm_pending pending;
    diag d;
    memset(&pending, 0, sizeof pending);
    shm_pending_clear(&pending);
    CHECK(shm_is_offer(text));
    for (int i = 0; i < 3; i++) {
        CHECK_EQ(shm_accept(&pending, &pool, text, fds[i], &r->receiver, &d), STATUS_OK);
    }
    CHECK(r->receiver != NULL);
}

static void post(rig *r, fuzz_input *in) {
    if (r->jobs_count == JOBS_MAX) {
        return;
    }
    kvt_job *j = &r->jobs[r->jobs_count];
    uint32_t bits = fuzz_below(in, 256);
    *j = (kvt_job){.request = 1 + (bits & 1),
                   .attempt = 1,
                   .group = r->jobs_count,
                   .sequence = r->jobs_count,
                   .layer_first = bits >> 1 & 1,
                   .layers = 1 + (bits >> 2 & 1),
                   .pages_count = 1 + (bits >> 3 & 1),
                   .pages = {bits >> 4 & 3, 4 + (bits >> 6 & 1)}};
    r->jobs_count++;
    CHECK_EQ(kvt_post(r->receiver, j), KVT_DONE);
}

static void put(rig *r, const void *bytes, size_t count) {
    for (size_t i = 0; i < count; i++) {
        r->shared[CONTROL_BYTES + (r->head + i) % RING_BYTES] = ((const uint8_t *)bytes)[i];
    }
}

/* A frame for job `i`, or nearly. */
static void write_frame(rig *r, fuzz_input *in, uint32_t i) {
    const kvt_job *j = &r->jobs[i];
    uint8_t payload[4 * PAGE_BYTES];
    memset(payload, (int)fuzz_below(in, 256), sizeof payload);
    frame f = kvt_job_frame(r->receiver, j);
    uint32_t wrong = fuzz_below(in, 12);
    f.checksum = frame_checksum(0, payload, f.payload_bytes);
    f.request += wrong == 1;
    f.attempt += wrong == 2;
    f.generation += wrong == 3;
    f.sequence += wrong == 4;
    f.payload_bytes = wrong == 5 ? fuzz_number(in, 8) : f.payload_bytes;
    f.junk = wrong == 6;
    f.payload_bytes = wrong == 6 || wrong == 7 ? 0 : f.payload_bytes;
    f.checksum ^= wrong == 8;
    uint8_t header[FRAME_BYTES];
    frame_put(&f, header);
    header[fuzz_below(in, FRAME_BYTES)] ^= wrong == 9;
    put(r, header, sizeof header);
    uint64_t at = r->head;
    r->head += FRAME_BYTES;
    put(r, payload, sizeof payload);
    uint64_t bytes = f.payload_bytes <= sizeof payload ? f.payload_bytes : 0;
    r->head = at + FRAME_BYTES + bytes;
}

static void publish(rig *r, uint64_t head) {
    memcpy(r->shared, &head, 8);
}

static bool named(const kvt_job *j, uint32_t layer, uint32_t page) {
    bool in_pages = j->pages[0] == page || (j->pages_count > 1 && j->pages[1] == page);
    return in_pages && layer >= j->layer_first && layer < j->layer_first + j->layers;
}

/* Takes what is there for the next job; nothing but its pages may have changed. */
static bool receive(rig *r, uint32_t *next) {
    kvt_arrival a;
    memcpy(r->before, r->pool, sizeof r->pool);
    kvt_result result = kvt_receive(r->receiver, &a);
    if (result != KVT_DONE) {
        CHECK_EQ(memcmp(r->before, r->pool, sizeof r->pool), 0);
        return result == KVT_AGAIN;
    }
    const kvt_job *j = &r->jobs[(*next)++];
    CHECK_EQ(a.sequence, j->sequence);
    for (uint32_t l = 0; l < LAYERS; l++) {
        for (uint32_t p = 0; p < PAGES; p++) {
            bool same = memcmp(r->before[l][p], r->pool[l][p], PAGE_BYTES) == 0;
            CHECK(same || (a.outcome != KVT_JUNK && named(j, l, p)));
        }
    }
    if (a.outcome == KVT_ARRIVED) {
        CHECK_EQ(a.bytes, (uint64_t)j->layers * j->pages_count * PAGE_BYTES);
        for (uint32_t l = 0; l < j->layers; l++) {
            for (uint32_t p = 0; p < j->pages_count; p++) {
                const uint8_t *page = r->pool[j->layer_first + l][j->pages[p]];
                CHECK(page[0] == page[PAGE_BYTES - 1]); /* the peer wrote one byte throughout */
            }
        }
    }
    return true;
}

static void check_header(const uint8_t *data, size_t bytes) {
    frame f;
    uint8_t again[FRAME_BYTES];
    if (bytes >= FRAME_BYTES && frame_get(data, &f) == STATUS_OK) {
        frame_put(&f, again);
        CHECK_EQ(memcmp(again, data, FRAME_BYTES), 0);
    }
}

FUZZ_TARGET(frame, FUZZ_ALLOWANCE_BYTES) {
    check_header(data, bytes);
    fuzz_input in = {data, bytes, 0};
    rig *r = mem_calloc(1, sizeof *r);
    CHECK(r != NULL);
    open_ring(r);
    uint32_t next = 0;
    bool alive = true;
    while (alive && !fuzz_done(&in)) {
        switch (fuzz_below(&in, 6)) {
            case 0:
            case 1:
                post(r, &in);
                break;
            case 2:
                publish(r, r->head + fuzz_number(&in, 8)); /* a lie */
                break;
            case 3: {
                str raw = fuzz_take(&in, FRAME_BYTES);
                put(r, raw.data, raw.bytes);
                r->head += FRAME_BYTES;
                publish(r, r->head);
                break;
            }
            default:
                if (next < r->jobs_count) {
                    write_frame(r, &in, next);
                    publish(r, r->head);
                }
                break;
        }
        alive = receive(r, &next);
    }
    kvt_close(r->receiver);
    CHECK_EQ(munmap(r->shared, CONTROL_BYTES + RING_BYTES), 0);
    mem_free(r);
}
