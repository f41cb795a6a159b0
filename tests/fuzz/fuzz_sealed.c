/* fuzz_sealed.c -- two ends with keys and somebody in the middle who delays, changes, drops, adds
 * and repeats bytes, or cuts the line: what comes out is what went in, in order, up to the first
 * byte that is not. Once for messages (a sealed wire), once for KV pages (the tcp transport). */
#define _GNU_SOURCE
#include <errno.h>
#include <sys/socket.h>
#include <unistd.h>

#include "engine/base/mem.h"
#include "kvtransfer/tcp.h"
#include "tests/fuzz/fuzz.h"

enum {
    HELD_MAX = 64 << 10,
    OUT_MAX = 1 << 16,
    PAGES = 6,
    LAYERS = 3,
    PAGE_BYTES = 64,
    JOBS_MAX = 8,
    GENERATION = 9
};

static const seal_keys here_keys = {{1}, {2}};
static const seal_keys there_keys = {{2}, {1}};

/* ---- the middle ----------------------------------------------------------------------------- */

typedef struct {
    int from, to;  /* its ends of the two halves of the line; to -1: cut */
    uint8_t *held; /* [held_bytes] of HELD_MAX: taken from the one, not yet given to the other */
    size_t held_bytes;
    bool honest; /* so far */
} middle;

/* A line with the middle in it; the two outer ends go to `sender` and `receiver`. */
static middle middle_open(int *sender, int *receiver) {
    int a[2], b[2];
    const int type = SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC;
    CHECK_EQ(socketpair(AF_UNIX, type, 0, a), 0);
    CHECK_EQ(socketpair(AF_UNIX, type, 0, b), 0);
    *sender = a[0];
    *receiver = b[1];
    middle m = {.from = a[1], .to = b[0], .held = mem_alloc(HELD_MAX, 1), .honest = true};
    CHECK(m.held != NULL);
    return m;
}

static void middle_cut(middle *m) {
    if (m->to >= 0) {
        (void)close(m->to);
        m->to = -1;
        m->honest = false;
    }
}

static void middle_close(middle *m) {
    middle_cut(m);
    (void)close(m->from);
    mem_free(m->held);
}

static void middle_take(middle *m) {
    ssize_t n;
    while ((n = read(m->from, m->held + m->held_bytes, HELD_MAX - m->held_bytes)) > 0) {
        m->held_bytes += (size_t)n;
    }
}

/* Passes on the first `bytes` of what is held, but leaves `kept` of them to be passed again. */
static void middle_give(middle *m, size_t bytes, size_t kept) {
    bytes = bytes < m->held_bytes ? bytes : m->held_bytes;
    if (m->to >= 0 && bytes > 0) {
        CHECK_EQ(send(m->to, m->held, bytes, MSG_NOSIGNAL | MSG_DONTWAIT), (ssize_t)bytes);
    }
    size_t gone = bytes - (kept < bytes ? kept : bytes);
    m->honest = m->honest && gone == bytes;
    m->held_bytes -= gone;
    memmove(m->held, m->held + gone, m->held_bytes);
}

static void middle_act(middle *m, fuzz_input *in) {
    middle_take(m);
    size_t held = m->held_bytes;
    switch (fuzz_below(in, 8)) {
        case 0:
            if (held > 0) {
                m->held[fuzz_number(in, 2) % held] ^= (uint8_t)(1u << fuzz_below(in, 8));
                m->honest = false;
            }
            break;
        case 1: { /* bytes of its own, before what is held */
            str raw = fuzz_take(in, fuzz_below(in, 200));
            if (raw.bytes > 0 && held + raw.bytes <= HELD_MAX) {
                memmove(m->held + raw.bytes, m->held, held);
                memcpy(m->held, raw.data, raw.bytes);
                m->held_bytes += raw.bytes;
                m->honest = false;
            }
            break;
        }
        case 2: { /* some are lost */
            size_t lost = fuzz_below(in, 256);
            lost = lost < held ? lost : held;
            m->honest = m->honest && lost == 0;
            m->held_bytes -= lost;
            memmove(m->held, m->held + lost, m->held_bytes);
            break;
        }
        case 3: { /* some come twice */
            size_t bytes = fuzz_below(in, 512);
            middle_give(m, bytes, bytes);
            break;
        }
        case 4:
            if (fuzz_below(in, 16) == 15) {
                middle_cut(m);
            }
            break;
        default:
            middle_give(m, fuzz_below(in, 1024), 0);
            break;
    }
}

/* ---- messages ------------------------------------------------------------------------------- */

/* Takes what has come; each message is the next of those sent. False when the wire has ended. */
static bool wire_takes(wire *to, const strbuf *sent, size_t *at) {
    str m;
    int fd;
    wire_result r;
    while ((r = wire_receive(to, &m, &fd)) == WIRE_MESSAGE) {
        uint32_t bytes;
        CHECK_EQ(fd, -1);
        CHECK_LE(*at + sizeof bytes, sent->bytes);
        memcpy(&bytes, sent->data + *at, sizeof bytes);
        CHECK_EQ(m.bytes, bytes);
        CHECK_EQ(memcmp(m.data, sent->data + *at + sizeof bytes, bytes), 0);
        *at += sizeof bytes + bytes;
    }
    return r == WIRE_AGAIN;
}

static void run_wire(fuzz_input *in) {
    int fds[2];
    wire *from;
    wire *to;
    middle m = middle_open(&fds[0], &fds[1]);
    CHECK_EQ(wire_open_waiting(OUT_MAX, &from), STATUS_OK);
    CHECK_EQ(wire_open_waiting(OUT_MAX, &to), STATUS_OK);
    CHECK_EQ(wire_attach(from, fds[0], &here_keys), STATUS_OK);
    CHECK_EQ(wire_attach(to, fds[1], &there_keys), STATUS_OK);
    strbuf sent = strbuf_make(1 << 20); /* of each message: 4 bytes of length, the message */
    size_t at = 0;
    bool alive = true;
    while (alive && !fuzz_done(in)) {
        if (fuzz_below(in, 3) == 0) {
            str message = fuzz_take(in, fuzz_below(in, 300));
            uint32_t bytes = (uint32_t)message.bytes;
            if (wire_send(from, message, -1) == STATUS_OK) {
                strbuf_append(&sent, &bytes, sizeof bytes);
                strbuf_append_str(&sent, message);
            }
            (void)wire_flush(from);
        } else {
            middle_act(&m, in);
        }
        alive = wire_takes(to, &sent, &at);
        CHECK(alive || !m.honest);
    }
    if (m.honest) {
        CHECK(wire_flush(from));
        middle_take(&m);
        middle_give(&m, HELD_MAX, 0);
        CHECK(wire_takes(to, &sent, &at));
        CHECK_EQ(at, sent.bytes);
    }
    wire_close(from);
    wire_close(to);
    strbuf_close(&sent);
    middle_close(&m);
}

/* ---- pages ---------------------------------------------------------------------------------- */

typedef uint8_t pages[LAYERS][PAGES][PAGE_BYTES];

typedef struct {
    pages here, there, before;
    kvt *sender, *receiver;
    kvt_job jobs[JOBS_MAX]; /* as both sides name them */
    uint32_t posted, sent, arrived;
} rig;

static uint8_t *page_of(void *context, uint32_t layer, uint32_t page) {
    pages *p = context;
    CHECK(layer < LAYERS && page < PAGES);
    return (*p)[layer][page];
}

/* The pages of job i: those of no other job, so that what is there at the end is whose it was. */
static kvt_job make_job(fuzz_input *in, uint32_t i) {
    uint32_t bits = fuzz_below(in, 256);
    return (kvt_job){.request = 1,
                     .attempt = 1,
                     .group = i,
                     .sequence = i,
                     .layer_first = bits & 1,
                     .layers = 1 + (bits >> 1 & 1),
                     .pages_count = 1 + (bits >> 2 & 1),
                     .pages = {i % 3 * 2, i % 3 * 2 + 1},
                     .junk = (bits >> 3 & 7) == 7};
}

static bool named(const kvt_job *j, uint32_t layer, uint32_t page) {
    return layer >= j->layer_first && layer < j->layer_first + j->layers && page >= j->pages[0] &&
           page < j->pages[0] + j->pages_count;
}

/* Takes what has come. False when the channel is broken. */
static bool pages_take(rig *r) {
    for (;;) {
        kvt_arrival a;
        memcpy(r->before, r->there, sizeof r->there);
        kvt_result result = kvt_receive(r->receiver, &a);
        const kvt_job *j = &r->jobs[r->arrived < JOBS_MAX ? r->arrived : 0];
        for (uint32_t l = 0; l < LAYERS; l++) {
            for (uint32_t p = 0; p < PAGES; p++) {
                bool same = memcmp(r->before[l][p], r->there[l][p], PAGE_BYTES) == 0;
                CHECK(same || (r->arrived < r->posted && named(j, l, p)));
            }
        }
        if (result != KVT_DONE) {
            return result == KVT_AGAIN;
        }
        CHECK_LT(r->arrived, r->sent); /* nobody but the sender makes an arrival */
        CHECK_EQ(a.sequence, j->sequence);
        CHECK_EQ(a.outcome, j->junk ? KVT_JUNK : KVT_ARRIVED);
        for (uint32_t l = 0; l < LAYERS && !j->junk; l++) {
            for (uint32_t p = 0; p < PAGES; p++) {
                CHECK(!named(j, l, p) || memcmp(r->here[l][p], r->there[l][p], PAGE_BYTES) == 0);
            }
        }
        r->arrived++;
    }
}

static void run_pages(fuzz_input *in) {
    int fds[2];
    diag d;
    middle m = middle_open(&fds[0], &fds[1]);
    rig *r = mem_calloc(1, sizeof *r);
    CHECK(r != NULL);
    for (uint32_t i = 0; i < sizeof r->here; i++) {
        ((uint8_t *)r->here)[i] = (uint8_t)(i * 37 + i / 256 + 1);
    }
    kvt_pool here = {page_of, r->here, PAGE_BYTES};
    kvt_pool there = {page_of, r->there, PAGE_BYTES};
    CHECK_EQ(tcp_open(&here, GENERATION, false, &r->sender, &d), STATUS_OK);
    CHECK_EQ(tcp_open(&there, GENERATION, true, &r->receiver, &d), STATUS_OK);
    CHECK_EQ(tcp_attach(r->sender, fds[0], &here_keys, &d), STATUS_OK);
    CHECK_EQ(tcp_attach(r->receiver, fds[1], &there_keys, &d), STATUS_OK);
    bool alive = true;
    while (alive && !fuzz_done(in)) {
        uint32_t what = fuzz_below(in, 4);
        uint32_t sequence;
        if (what == 0 && r->posted < JOBS_MAX) {
            r->jobs[r->posted] = make_job(in, r->posted);
            CHECK_EQ(kvt_post(r->receiver, &r->jobs[r->posted++]), KVT_DONE);
        } else if (what == 1 && r->sent < r->posted) {
            r->sent += kvt_send(r->sender, &r->jobs[r->sent]) == KVT_DONE;
        } else {
            middle_act(&m, in);
        }
        while (kvt_sent(r->sender, &sequence)) {
        }
        alive = pages_take(r);
        CHECK(alive || !m.honest);
    }
    if (m.honest) {
        middle_take(&m);
        middle_give(&m, HELD_MAX, 0);
        CHECK(pages_take(r));
        CHECK_EQ(r->arrived, r->sent);
    }
    kvt_close(r->sender);
    kvt_close(r->receiver);
    mem_free(r);
    middle_close(&m);
}

FUZZ_TARGET(sealed, FUZZ_ALLOWANCE_BYTES) {
    fuzz_input in = {data, bytes < HELD_MAX / 4 ? bytes : HELD_MAX / 4, 0};
    if (fuzz_below(&in, 2) == 0) {
        run_wire(&in);
    } else {
        run_pages(&in);
    }
}
