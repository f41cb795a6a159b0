/* fuzz_wire.c -- frames between processes: whatever the pieces bytes arrive in, the same messages
 * come out, up to the first byte that is no frame. */
#define _GNU_SOURCE
#include "engine/base/wire.h"

#include <unistd.h>

#include "engine/base/limits.h"
#include "engine/base/mem.h"
#include "engine/base/rng.h"
#include "tests/fuzz/fuzz.h"

enum { INPUT_MAX = 32 << 10 };

/* The frames at the front of `all`, written from the format in wire.h: [*end) are whole ones.
 * False when what follows them is no frame. */
static bool split(str all, strbuf *out, size_t *end) {
    const uint8_t *p = (const uint8_t *)all.data;
    size_t at = 0;
    while (all.bytes - at >= 8) {
        const uint8_t *h = p + at;
        uint64_t bytes = h[4] | (uint64_t)h[5] << 8 | (uint64_t)h[6] << 16 | (uint64_t)h[7] << 24;
        /* "WL"; flag 1 says that a descriptor comes along, and none does here. */
        bool good = h[0] == 'W' && h[1] == 'L' && h[2] <= 1 && h[3] == 0;
        if (!good || bytes > LIMIT_MESSAGE_BYTES) {
            return false;
        }
        if (all.bytes - at - 8 < bytes) {
            break;
        }
        if (h[2] == 1) {
            return false;
        }
        strbuf_printf(out, "%zu:", (size_t)bytes);
        strbuf_append(out, h + 8, (size_t)bytes);
        at += 8 + (size_t)bytes;
    }
    *end = at;
    return true;
}

static wire_result take_all(wire *w, strbuf *out) {
    str m;
    int fd;
    wire_result r;
    while ((r = wire_receive(w, &m, &fd)) == WIRE_MESSAGE) {
        CHECK_EQ(fd, -1);
        strbuf_printf(out, "%zu:", m.bytes);
        strbuf_append_str(out, m);
    }
    return r;
}

static void receive(str all, uint64_t state, str want, bool whole) {
    int fds[2];
    wire *w;
    CHECK_EQ(wire_pair(fds), STATUS_OK);
    CHECK_EQ(wire_open(fds[1], 1 << 16, &w), STATUS_OK);
    strbuf got = strbuf_make(1 << 20);
    wire_result r = WIRE_AGAIN;
    for (size_t at = 0; at < all.bytes && r == WIRE_AGAIN;) {
        size_t n = state == 0 ? all.bytes : 1 + (size_t)rng_below(&state, 40);
        n = n < all.bytes - at ? n : all.bytes - at;
        CHECK_EQ(write(fds[0], all.data + at, n), (ssize_t)n);
        at += n;
        r = take_all(w, &got);
    }
    CHECK_EQ(r, whole ? WIRE_AGAIN : WIRE_CLOSED);
    CHECK(str_equal(strbuf_str(&got), want));
    (void)close(fds[0]);
    CHECK_EQ(take_all(w, &got), WIRE_CLOSED);
    wire_close(w);
    strbuf_close(&got);
}

/* The input as messages of `n` bytes each: sent on one wire, received on another. */
static void check_round_trip(str all, size_t n) {
    int fds[2];
    wire *from;
    wire *to;
    CHECK_EQ(wire_pair(fds), STATUS_OK);
    CHECK_EQ(wire_open(fds[0], 1 << 20, &from), STATUS_OK);
    CHECK_EQ(wire_open(fds[1], 1 << 20, &to), STATUS_OK);
    for (size_t at = 0; at < all.bytes; at += n) {
        size_t part = n < all.bytes - at ? n : all.bytes - at;
        CHECK_EQ(wire_send(from, str_of(all.data + at, part), -1), STATUS_OK);
        CHECK(wire_flush(from));
        str m;
        int fd;
        CHECK_EQ(wire_receive(to, &m, &fd), WIRE_MESSAGE);
        CHECK(str_equal(m, str_of(all.data + at, part)) && fd == -1);
    }
    wire_close(from);
    wire_close(to);
}

FUZZ_TARGET(wire, FUZZ_ALLOWANCE_BYTES) {
    str all = str_of((const char *)data, bytes < INPUT_MAX ? bytes : INPUT_MAX);
    strbuf want = strbuf_make(1 << 20);
    size_t end = 0;
    bool whole = split(all, &want, &end);
    receive(all, 0, strbuf_str(&want), whole);
    receive(all, bytes + 1, strbuf_str(&want), whole);
    check_round_trip(all, 1 + bytes / 3);
    strbuf_close(&want);
}
