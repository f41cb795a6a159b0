/* shm.c -- a single-producer single-consumer byte ring in a sealed memfd.
 *
 *     [ control page: head, tail, starved ][ ring_bytes of frames: header, payload, header, ... ]
 *
 * head counts bytes ever written, tail bytes ever read; both only grow, a position is the count
 * modulo the ring. The sender stores head with release after the bytes, the receiver loads it with
 * acquire before them, and the other way round for tail. The receiver trusts nothing it reads
 * from shared memory: it copies the header before it checks it, copies the payload into pages that
 * nothing uses yet, and checks the copy. */
#define _GNU_SOURCE
#include "kvtransfer/shm.h"

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "engine/base/clock.h"
#include "engine/base/failpoint.h"
#include "engine/base/mem.h"

enum { CONTROL_BYTES = 4096, OFFER_BYTES = 24, ALIGN = 64 };

static const char offer_magic[8] = "KVTSHM\0\1";

typedef struct {
    _Alignas(64) _Atomic uint64_t head;
    _Alignas(64) _Atomic uint64_t tail;
    _Alignas(64) _Atomic uint32_t starved; /* the sender waits for room */
} control;

typedef struct {
    kvt base;
    int memory_fd, data_fd, room_fd;
    bool sender;
    control *shared;
    uint8_t *ring; /* [ring_bytes] */
    uint64_t ring_bytes;
    uint64_t position;           /* own count: head of a sender, tail of a receiver */
    uint32_t sent[KVT_JOBS_MAX]; /* ring of finished sequences */
    uint32_t sent_first, sent_count;
} shm;

static uint64_t padded(uint64_t bytes) {
    return (bytes + ALIGN - 1) / ALIGN * ALIGN;
}

static void ring_write(shm *s, uint64_t at, const void *data, uint64_t bytes) {
    uint64_t start = at % s->ring_bytes;
    uint64_t first = s->ring_bytes - start < bytes ? s->ring_bytes - start : bytes;
    memcpy(s->ring + start, data, first);
    memcpy(s->ring, (const uint8_t *)data + first, bytes - first);
}

static void ring_read(const shm *s, uint64_t at, void *out, uint64_t bytes) {
    uint64_t start = at % s->ring_bytes;
    uint64_t first = s->ring_bytes - start < bytes ? s->ring_bytes - start : bytes;
    memcpy(out, s->ring + start, first);
    memcpy((uint8_t *)out + first, s->ring, bytes - first);
}

static void signal_event(int fd) {
    uint64_t one = 1;
    ssize_t n;
    do {
        n = write(fd, &one, sizeof one);
    } while (n < 0 && errno == EINTR);
}

static bool has_room(const shm *s, uint64_t bytes) {
    /* Sequentially consistent with the store to `starved` before it: see shm_send. */
    uint64_t tail = atomic_load_explicit(&s->shared->tail, memory_order_seq_cst);
    uint64_t used = s->position - tail;
    return used <= s->ring_bytes && s->ring_bytes - used >= bytes;
}

static kvt_result shm_send(kvt *k, const kvt_job *job) {
    shm *s = (shm *)k;
    frame f = kvt_job_frame(k, job);
    uint64_t total = FRAME_BYTES + padded(f.payload_bytes);
    if (total > s->ring_bytes || s->sent_count == KVT_JOBS_MAX) {
        k->failed = true;
        return KVT_FAILED;
    }
    if (!has_room(s, total)) {
        /* Say so first, then look again: room made in between is either seen here or signalled. */
        atomic_store_explicit(&s->shared->starved, 1, memory_order_seq_cst);
        if (!has_room(s, total)) {
            return KVT_AGAIN;
        }
    }
    if (!kvt_load(k, job)) {
        k->failed = true;
        return KVT_FAILED;
    }
    uint64_t at = s->position + FRAME_BYTES;
    uint64_t run = k->pool.layer_page_bytes;
    for (uint32_t l = 0; !job->junk && l < job->layers; l++) {
        for (uint32_t p = 0; p < job->pages_count; p++) {
            const uint8_t *page = kvt_run(k, job, l, p);
            ring_write(s, at, page, run);
            f.checksum = frame_checksum(f.checksum, page, run);
            at += run;
        }
    }
    if (!job->junk && FAILPOINT("kvt.damage")) {
        s->ring[(at - 1) % s->ring_bytes] ^= 1;
    }
    uint8_t header[FRAME_BYTES];
    frame_put(&f, header);
    ring_write(s, s->position, header, FRAME_BYTES);
    s->position += total;
    atomic_store_explicit(&s->shared->head, s->position, memory_order_release);
    signal_event(s->data_fd);
    s->sent[(s->sent_first + s->sent_count) % KVT_JOBS_MAX] = job->sequence;
    s->sent_count++;
    return KVT_DONE;
}

static bool shm_sent(kvt *k, uint32_t *sequence) {
    shm *s = (shm *)k;
    if (s->sent_count == 0) {
        return false;
    }
    *sequence = s->sent[s->sent_first];
    s->sent_first = (s->sent_first + 1) % KVT_JOBS_MAX;
    s->sent_count--;
    return true;
}

/* Copies the payload into the posted pages; the checksum is of the copy. */
static uint64_t copy_out(shm *s, const kvt_job *job, uint64_t at) {
    const kvt_pool *pool = &s->base.pool;
    uint64_t sum = 0;
    for (uint32_t l = 0; l < job->layers; l++) {
        for (uint32_t p = 0; p < job->pages_count; p++) {
            uint8_t *page = kvt_run(&s->base, job, l, p);
            ring_read(s, at, page, pool->layer_page_bytes);
            sum = frame_checksum(sum, page, pool->layer_page_bytes);
            at += pool->layer_page_bytes;
        }
    }
    return sum;
}

static void give_room(shm *s, uint64_t bytes) {
    s->position += bytes;
    atomic_store_explicit(&s->shared->tail, s->position, memory_order_seq_cst);
    if (atomic_exchange_explicit(&s->shared->starved, 0, memory_order_seq_cst)) {
        signal_event(s->room_fd);
    }
}

static kvt_result shm_receive(kvt *k, const kvt_job *job, kvt_arrival *out) {
    shm *s = (shm *)k;
    uint64_t head = atomic_load_explicit(&s->shared->head, memory_order_acquire);
    uint64_t have = head - s->position;
    if (have == 0) {
        return KVT_AGAIN;
    }
    uint8_t header[FRAME_BYTES];
    frame f;
    if (have > s->ring_bytes || have < FRAME_BYTES) {
        return KVT_FAILED;
    }
    ring_read(s, s->position, header, FRAME_BYTES);
    /* Past a damaged header nothing says where the next frame starts. */
    if (frame_get(header, &f) != STATUS_OK || f.payload_bytes > s->ring_bytes ||
        FRAME_BYTES + padded(f.payload_bytes) > have) {
        return KVT_FAILED;
    }
    int64_t started = clock_now_us();
    *out = (kvt_arrival){.outcome = kvt_judge(k, job, &f), .bytes = f.payload_bytes};
    if (out->outcome == KVT_ARRIVED && copy_out(s, job, s->position + FRAME_BYTES) != f.checksum) {
        out->outcome = KVT_DAMAGED;
    }
    give_room(s, FRAME_BYTES + padded(f.payload_bytes));
    out->copy_us = clock_now_us() - started;
    return KVT_DONE;
}

static int shm_event_fd(const kvt *k) {
    const shm *s = (const shm *)k;
    return s->sender ? s->room_fd : s->data_fd;
}

static void shm_event_clear(kvt *k) {
    uint64_t count;
    ssize_t n = read(shm_event_fd(k), &count, sizeof count);
    (void)n; /* nothing to clear is fine */
}

static void close_fd(int fd) {
    if (fd >= 0) {
        (void)close(fd);
    }
}

static void shm_close(kvt *k) {
    shm *s = (shm *)k;
    if (s->shared) {
        (void)munmap(s->shared, CONTROL_BYTES + s->ring_bytes);
    }
    close_fd(s->memory_fd);
    close_fd(s->data_fd);
    close_fd(s->room_fd);
    mem_free(s);
}

static const kvt_transport shm_transport = {"shm",        shm_send,        shm_sent,  shm_receive,
                                            shm_event_fd, shm_event_clear, shm_close, NULL};

static status shm_map(shm *s, diag *d) {
    void *p = mmap(NULL, CONTROL_BYTES + s->ring_bytes, PROT_READ | PROT_WRITE, MAP_SHARED,
                   s->memory_fd, 0);
    if (p == MAP_FAILED) {
        return status_fail_errno(d, STATUS_NOMEM, "shm: mapping a ring of %llu bytes",
                                 (unsigned long long)s->ring_bytes);
    }
    s->shared = p;
    s->ring = (uint8_t *)p + CONTROL_BYTES;
    return STATUS_OK;
}

static status make_ring(shm *s, diag *d) {
    s->memory_fd = memfd_create("weir-kv", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    s->data_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    s->room_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    if (s->memory_fd < 0 || s->data_fd < 0 || s->room_fd < 0 ||
        ftruncate(s->memory_fd, (off_t)(CONTROL_BYTES + s->ring_bytes)) != 0 ||
        fcntl(s->memory_fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0) {
        return status_fail_errno(d, STATUS_IO, "shm: creating a ring of %llu bytes",
                                 (unsigned long long)s->ring_bytes);
    }
    return shm_map(s, d);
}

static status send_offer(const shm *s, wire *w, diag *d) {
    const int fds[3] = {s->memory_fd, s->data_fd, s->room_fd};
    for (int i = 0; i < 3; i++) {
        char text[OFFER_BYTES];
        memcpy(text, offer_magic, 8);
        for (int b = 0; b < 8; b++) {
            text[8 + b] = (char)(s->base.generation >> (8 * b));
            text[16 + b] = (char)(s->ring_bytes >> (8 * b));
        }
        status sent = wire_send(w, str_of(text, sizeof text), fds[i]);
        if (sent != STATUS_OK) {
            return status_fail(d, sent, "shm: offering the ring to the peer failed");
        }
    }
    return STATUS_OK;
}

status shm_offer(const kvt_pool *pool, uint64_t ring_bytes, uint64_t generation, wire *w, kvt **out,
                 diag *d) {
    if (ring_bytes < SHM_RING_BYTES_MIN || ring_bytes > SHM_RING_BYTES_MAX ||
        (ring_bytes & (ring_bytes - 1))) {
        return status_fail(d, STATUS_INVALID,
                           "shm: a ring of %llu bytes is no power of two in range",
                           (unsigned long long)ring_bytes);
    }
    shm *s = mem_calloc(1, sizeof *s);
    if (!s) {
        return status_fail(d, STATUS_NOMEM, "shm: no memory for a channel");
    }
    s->memory_fd = s->data_fd = s->room_fd = -1;
    s->sender = true;
    s->ring_bytes = ring_bytes;
    status made = kvt_begin(&s->base, &shm_transport, pool, generation, false);
    if (made == STATUS_OK) {
        made = make_ring(s, d);
    }
    if (made == STATUS_OK) {
        made = send_offer(s, w, d);
    }
    if (made != STATUS_OK) {
        shm_close(&s->base);
        return made;
    }
    *out = &s->base;
    return STATUS_OK;
}

void shm_pending_clear(shm_pending *p) {
    for (int i = 0; i < p->count; i++) {
        close_fd(p->fds[i]);
    }
    *p = (shm_pending){.fds = {-1, -1, -1}};
}

bool shm_is_offer(str message) {
    return message.bytes == OFFER_BYTES && memcmp(message.data, offer_magic, 8) == 0;
}

static uint64_t get_u64(const char *p) {
    uint64_t value = 0;
    for (int b = 0; b < 8; b++) {
        value |= (uint64_t)(uint8_t)p[b] << (8 * b);
    }
    return value;
}

/* A ring that could shrink under the mapping would turn a read into a SIGBUS. */
static status check_memory(int fd, uint64_t ring_bytes, diag *d) {
    struct stat st;
    int seals = fcntl(fd, F_GET_SEALS);
    if (seals < 0 || !(seals & F_SEAL_SHRINK) || fstat(fd, &st) != 0 ||
        ring_bytes < SHM_RING_BYTES_MIN || ring_bytes > SHM_RING_BYTES_MAX ||
        (ring_bytes & (ring_bytes - 1)) || (uint64_t)st.st_size != CONTROL_BYTES + ring_bytes) {
        return status_fail(d, STATUS_CORRUPT, "shm: the offered memory is not a sealed ring");
    }
    return STATUS_OK;
}

/* Clearing an event that blocks would let a peer stop this side's loop. */
static status check_event(int fd, diag *d) {
    int flags = fcntl(fd, F_GETFL);
    if (flags < 0 || !(flags & O_NONBLOCK)) {
        return status_fail(d, STATUS_CORRUPT, "shm: an offered event would block");
    }
    return STATUS_OK;
}

static status accept_all(shm_pending *p, const kvt_pool *pool, str message, kvt **out, diag *d) {
    uint64_t ring_bytes = get_u64(message.data + 16);
    TRY(check_memory(p->fds[0], ring_bytes, d));
    TRY(check_event(p->fds[1], d));
    TRY(check_event(p->fds[2], d));
    shm *s = mem_calloc(1, sizeof *s);
    if (!s) {
        return status_fail(d, STATUS_NOMEM, "shm: no memory for a channel");
    }
    s->memory_fd = p->fds[0];
    s->data_fd = p->fds[1];
    s->room_fd = p->fds[2];
    p->count = 0;
    s->ring_bytes = ring_bytes;
    status made = kvt_begin(&s->base, &shm_transport, pool, get_u64(message.data + 8), true);
    if (made == STATUS_OK) {
        made = shm_map(s, d);
    }
    if (made != STATUS_OK) {
        kvt_close(&s->base);
        return made;
    }
    *out = &s->base;
    return STATUS_OK;
}

status shm_accept(shm_pending *p, const kvt_pool *pool, str message, int fd, kvt **out, diag *d) {
    *out = NULL;
    if (fd < 0 || p->count == 3) {
        close_fd(fd);
        return status_fail(d, STATUS_CORRUPT, "shm: an offer without its descriptor");
    }
    p->fds[p->count++] = fd;
    if (p->count < 3) {
        return STATUS_OK;
    }
    status s = accept_all(p, pool, message, out, d);
    shm_pending_clear(p);
    return s;
}
