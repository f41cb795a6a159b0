/* wire_test.c -- framing at every cut, descriptors in their order, bounds, peers that lie. */
#define _GNU_SOURCE
#include "engine/base/wire.h"

#include <criterion/criterion.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/socket.h>
#include <unistd.h>

#include "engine/base/limits.h"
#include "engine/base/rng.h"

enum { HEADER = 8, OUT_MAX = 8 << 20 };

static wire *open_wire(int fd, size_t out_max) {
    wire *w = NULL;
    cr_assert_eq(wire_open(fd, out_max, &w), STATUS_OK);
    return w;
}

static void open_pair(wire **a, wire **b, size_t out_max) {
    int fds[2];
    cr_assert_eq(wire_pair(fds), STATUS_OK);
    *a = open_wire(fds[0], out_max);
    *b = open_wire(fds[1], out_max);
}

/* A wire and the bare socket of its peer. */
static wire *open_bare(int *peer) {
    int fds[2];
    cr_assert_eq(wire_pair(fds), STATUS_OK);
    *peer = fds[1];
    return open_wire(fds[0], OUT_MAX);
}

static size_t frame_of(uint8_t *out, const char *text, uint8_t flags) {
    size_t n = strlen(text);
    const uint8_t header[HEADER] = {'W', 'L', flags, 0, (uint8_t)n, 0, 0, 0};
    memcpy(out, header, HEADER);
    memcpy(out + HEADER, text, n);
    return HEADER + n;
}

static void put(int fd, const void *data, size_t bytes) {
    cr_assert_eq(send(fd, data, bytes, MSG_NOSIGNAL), (ssize_t)bytes);
}

static void expect_text(wire *w, const char *text) {
    str m;
    int fd;
    cr_assert_eq(wire_receive(w, &m, &fd), WIRE_MESSAGE);
    cr_assert(str_equal_z(m, text), "got %.*s", (int)m.bytes, m.data);
    cr_assert_eq(fd, -1);
}

static void expect(wire *w, wire_result r) {
    str m;
    int fd;
    cr_assert_eq(wire_receive(w, &m, &fd), r);
}

Test(wire, frames_have_the_documented_bytes) {
    int peer;
    wire *w = open_bare(&peer);
    cr_assert_eq(wire_send(w, str_from("abc"), -1), STATUS_OK);
    cr_assert(wire_wants_write(w));
    cr_assert(wire_flush(w));
    cr_assert_not(wire_wants_write(w));
    uint8_t got[64], want[64];
    size_t n = frame_of(want, "abc", 0);
    cr_assert_eq(recv(peer, got, sizeof got, 0), (ssize_t)n);
    cr_assert_arr_eq(got, want, n);
    close(peer);
    wire_close(w);
}

Test(wire, messages_cut_at_every_byte_arrive_whole_and_once) {
    uint8_t bytes[128];
    size_t n = frame_of(bytes, "first", 0);
    n += frame_of(bytes + n, "", 0);
    n += frame_of(bytes + n, "third one", 0);
    for (size_t cut = 0; cut <= n; cut++) {
        int peer;
        wire *w = open_bare(&peer);
        const char *const texts[] = {"first", "", "third one"};
        size_t ends[] = {HEADER + 5, 2 * HEADER + 5, n};
        int heard = 0;
        put(peer, bytes, cut);
        for (; heard < 3 && ends[heard] <= cut; heard++) {
            expect_text(w, texts[heard]);
        }
        expect(w, WIRE_AGAIN);
        put(peer, bytes + cut, n - cut);
        for (; heard < 3; heard++) {
            expect_text(w, texts[heard]);
        }
        expect(w, WIRE_AGAIN);
        close(peer);
        expect(w, WIRE_CLOSED);
        wire_close(w);
    }
}

Test(wire, what_a_peer_said_before_it_went_is_heard_and_half_a_frame_is_not) {
    uint8_t bytes[64];
    size_t n = frame_of(bytes, "whole", 0);
    size_t all = n + frame_of(bytes + n, "half", 0);
    for (size_t end = n; end < all; end++) {
        int peer;
        wire *w = open_bare(&peer);
        put(peer, bytes, end);
        close(peer);
        expect_text(w, "whole");
        expect(w, WIRE_CLOSED);
        expect(w, WIRE_CLOSED);
        cr_assert_eq(wire_send(w, str_from("x"), -1), STATUS_CLOSED);
        cr_assert_not(wire_flush(w));
        wire_close(w);
    }
}

Test(wire, bytes_that_are_no_frame_end_the_wire) {
    static const struct {
        const char *what;
        uint8_t header[HEADER];
    } cases[] = {
        {"magic low", {'V', 'L', 0, 0, 0, 0, 0, 0}},
        {"magic high", {'W', 'M', 0, 0, 0, 0, 0, 0}},
        {"unknown flag", {'W', 'L', 2, 0, 0, 0, 0, 0}},
        {"all flags", {'W', 'L', 255, 0, 0, 0, 0, 0}},
        {"reserved byte", {'W', 'L', 0, 1, 0, 0, 0, 0}},
        {"one byte too long", {'W', 'L', 0, 0, 1, 0, LIMIT_MESSAGE_BYTES >> 16, 0}},
        {"longest", {'W', 'L', 0, 0, 255, 255, 255, 255}},
        {"a descriptor that is not there", {'W', 'L', 1, 0, 0, 0, 0, 0}},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        int peer;
        wire *w = open_bare(&peer);
        uint8_t good[16];
        put(peer, good, frame_of(good, "good", 0));
        put(peer, cases[i].header, HEADER);
        expect_text(w, "good");
        str m;
        int fd;
        cr_assert_eq(wire_receive(w, &m, &fd), WIRE_CLOSED, "%s", cases[i].what);
        cr_assert_eq(wire_receive(w, &m, &fd), WIRE_CLOSED, "%s", cases[i].what);
        close(peer);
        wire_close(w);
    }
}

static void expect_same_file(int fd, int other) {
    char a[64], b[64], la[128], lb[128];
    snprintf(a, sizeof a, "/proc/self/fd/%d", fd);
    snprintf(b, sizeof b, "/proc/self/fd/%d", other);
    ssize_t na = readlink(a, la, sizeof la);
    ssize_t nb = readlink(b, lb, sizeof lb);
    cr_assert(na > 0 && na == nb && memcmp(la, lb, (size_t)na) == 0);
}

/* Messages of random sizes, some with descriptors, through a reader that lags behind. */
Test(wire, descriptors_stay_with_their_messages) {
    enum { MESSAGES = 2000, PIPES = 4 };
    uint64_t random = 11;
    int pipes[PIPES][2];
    for (int i = 0; i < PIPES; i++) {
        cr_assert_eq(pipe(pipes[i]), 0);
    }
    wire *a, *b;
    open_pair(&a, &b, OUT_MAX);
    static char text[200000];
    static struct {
        size_t bytes;
        int pipe;
    } sent[MESSAGES];
    int next = 0, heard = 0;
    while (heard < MESSAGES) {
        if (next < MESSAGES && rng_below(&random, 3) > 0) {
            size_t bytes = (size_t)rng_below(&random, rng_below(&random, 8) ? 100 : sizeof text);
            int which = rng_below(&random, 3) ? -1 : (int)rng_below(&random, PIPES);
            memset(text, next & 0xFF, bytes);
            status s = wire_send(a, str_of(text, bytes), which < 0 ? -1 : pipes[which][1]);
            cr_assert(s == STATUS_OK || s == STATUS_LIMIT);
            if (s == STATUS_OK) {
                sent[next].bytes = bytes;
                sent[next++].pipe = which;
            }
        }
        cr_assert(wire_flush(a));
        for (uint64_t i = rng_below(&random, 4); i > 0 && heard < next; i--) {
            str m;
            int fd;
            wire_result r = wire_receive(b, &m, &fd);
            cr_assert_neq(r, WIRE_CLOSED);
            if (r == WIRE_AGAIN) {
                break;
            }
            cr_assert_eq(m.bytes, sent[heard].bytes);
            cr_assert(m.bytes == 0 || ((uint8_t)m.data[0] == (heard & 0xFF) &&
                                       (uint8_t)m.data[m.bytes - 1] == (heard & 0xFF)));
            cr_assert_eq(fd >= 0, sent[heard].pipe >= 0);
            if (fd >= 0) {
                expect_same_file(fd, pipes[sent[heard].pipe][1]);
                cr_assert(fcntl(fd, F_GETFD) & FD_CLOEXEC);
                close(fd);
            }
            heard++;
        }
    }
    wire_close(a);
    wire_close(b);
}

/* Open descriptors of this process. */
static int open_fds(void) {
    int count = 0;
    for (int fd = 0; fd < 1024; fd++) {
        count += fcntl(fd, F_GETFD) >= 0;
    }
    return count;
}

Test(wire, closing_drops_descriptors_that_nobody_took) {
    int before = open_fds();
    wire *a, *b;
    open_pair(&a, &b, OUT_MAX);
    for (int i = 0; i < 3; i++) {
        cr_assert_eq(wire_send(a, str_from("with"), 0), STATUS_OK);
    }
    cr_assert(wire_flush(a));
    str m;
    int fd;
    cr_assert_eq(wire_receive(b, &m, &fd), WIRE_MESSAGE);
    close(fd);
    cr_assert_eq(wire_send(a, str_from("never flushed"), 0), STATUS_OK);
    wire_close(a);
    wire_close(b);
    cr_assert_eq(open_fds(), before);
    wire_close(NULL);
}

Test(wire, a_flood_of_descriptors_ends_the_wire_and_leaks_none) {
    int peer;
    int before = open_fds();
    wire *w = open_bare(&peer);
    for (int round = 0; round < 30; round++) {
        char control[CMSG_SPACE(sizeof(int) * 8)] = {0};
        char byte = "WL"[round & 1];
        struct iovec iov = {&byte, 1};
        struct msghdr m = {.msg_iov = &iov,
                           .msg_iovlen = 1,
                           .msg_control = control,
                           .msg_controllen = sizeof control};
        struct cmsghdr *c = CMSG_FIRSTHDR(&m);
        c->cmsg_level = SOL_SOCKET;
        c->cmsg_type = SCM_RIGHTS;
        c->cmsg_len = CMSG_LEN(sizeof(int) * 8);
        memset(CMSG_DATA(c), 0, sizeof(int) * 8);
        (void)sendmsg(peer, &m, MSG_NOSIGNAL);
    }
    expect(w, WIRE_CLOSED);
    wire_close(w);
    close(peer);
    cr_assert_eq(open_fds(), before);
}

Test(wire, what_waits_is_bounded_and_goes_on_when_the_peer_reads) {
    enum { MOST = 1 << 20, EACH = 1000 };
    wire *a, *b;
    open_pair(&a, &b, MOST);
    static char text[EACH];
    uint32_t sent = 0, heard = 0;
    for (;;) {
        memcpy(text, &sent, sizeof sent);
        if (wire_send(a, str_of(text, EACH), -1) == STATUS_LIMIT) {
            break;
        }
        sent++;
        cr_assert(wire_flush(a));
        cr_assert_lt(sent, 100000);
    }
    cr_assert_gt(sent, MOST / (EACH + HEADER));
    cr_assert(wire_wants_write(a));
    str m;
    int fd;
    while (heard < sent) {
        wire_result r = wire_receive(b, &m, &fd);
        cr_assert_neq(r, WIRE_CLOSED);
        if (r == WIRE_AGAIN) {
            cr_assert(wire_flush(a));
            continue;
        }
        uint32_t number;
        memcpy(&number, m.data, sizeof number);
        cr_assert_eq(number, heard++);
    }
    cr_assert_not(wire_wants_write(a));
    cr_assert_eq(wire_send(a, str_of(text, EACH), -1), STATUS_OK);
    wire_close(a);
    wire_close(b);
}

Test(wire, the_largest_message_passes) {
    wire *a, *b;
    open_pair(&a, &b, LIMIT_MESSAGE_BYTES + HEADER);
    char *text = calloc(1, LIMIT_MESSAGE_BYTES);
    text[LIMIT_MESSAGE_BYTES - 1] = 'e';
    cr_assert_eq(wire_send(a, str_of(text, LIMIT_MESSAGE_BYTES), -1), STATUS_OK);
    cr_assert_eq(wire_send(a, str_from(""), -1), STATUS_LIMIT);
    str m;
    int fd;
    wire_result r;
    do {
        cr_assert(wire_flush(a));
        r = wire_receive(b, &m, &fd);
    } while (r == WIRE_AGAIN);
    cr_assert_eq(r, WIRE_MESSAGE);
    cr_assert_eq(m.bytes, LIMIT_MESSAGE_BYTES);
    cr_assert_eq(m.data[m.bytes - 1], 'e');
    free(text);
    wire_close(a);
    wire_close(b);
}

Test(wire, sending_to_a_peer_that_left_fails_without_a_signal) {
    int peer;
    wire *w = open_bare(&peer);
    close(peer);
    cr_assert_eq(wire_send(w, str_from("x"), -1), STATUS_OK);
    cr_assert_not(wire_flush(w));
    cr_assert_eq(wire_send(w, str_from("x"), -1), STATUS_CLOSED);
    expect(w, WIRE_CLOSED);
    wire_close(w);
}

Test(wire, its_descriptor_does_not_block_and_is_not_inherited) {
    int peer;
    wire *w = open_bare(&peer);
    cr_assert(fcntl(wire_fd(w), F_GETFL) & O_NONBLOCK);
    cr_assert(fcntl(wire_fd(w), F_GETFD) & FD_CLOEXEC);
    close(peer);
    wire_close(w);
    wire *none = NULL;
    cr_assert_neq(wire_open(-1, OUT_MAX, &none), STATUS_OK);
}

/* ---- sealed --------------------------------------------------------------------------------- */

static const seal_keys near_keys = {{1, 2, 3}, {4, 5, 6}}, far_keys = {{4, 5, 6}, {1, 2, 3}};

static wire *attached(int fd, const seal_keys *keys) {
    wire *w;
    cr_assert_eq(wire_open_waiting(1 << 20, &w), STATUS_OK);
    cr_assert_eq(wire_attach(w, fd, keys), STATUS_OK);
    return w;
}

Test(wire, what_is_sent_before_the_socket_is_there_arrives_sealed) {
    int fds[2];
    wire *a;
    str got;
    int fd;
    cr_assert_eq(wire_open_waiting(1 << 20, &a), STATUS_OK);
    cr_assert_eq(wire_fd(a), -1);
    cr_assert_eq(wire_receive(a, &got, &fd), WIRE_AGAIN);
    char text[32];
    for (int i = 0; i < 100; i++) {
        snprintf(text, sizeof text, "early %d", i);
        cr_assert_eq(wire_send(a, str_of(text, i == 50 ? 0 : strlen(text)), -1), STATUS_OK);
        cr_assert(wire_flush(a));
    }
    cr_assert_not(wire_wants_write(a));
    cr_assert_eq(wire_pair(fds), STATUS_OK);
    cr_assert_eq(wire_attach(a, fds[0], &near_keys), STATUS_OK);
    cr_assert_eq(wire_send(a, str_from("late"), -1), STATUS_OK);
    cr_assert(wire_flush(a));
    wire *b = attached(fds[1], &far_keys);
    for (int i = 0; i < 100; i++) {
        snprintf(text, sizeof text, "early %d", i);
        cr_assert_eq(wire_receive(b, &got, &fd), WIRE_MESSAGE);
        cr_assert(i == 50 ? got.bytes == 0 : str_equal_z(got, text));
    }
    cr_assert_eq(wire_receive(b, &got, &fd), WIRE_MESSAGE);
    cr_assert(str_equal_z(got, "late"));
    wire_close(a);
    wire_close(b);
}

/* What a sealed wire puts on its socket for these messages. */
static size_t sealed_bytes(int messages, uint8_t *out, size_t bytes_max) {
    int fds[2];
    cr_assert_eq(wire_pair(fds), STATUS_OK);
    wire *a = attached(fds[0], &near_keys);
    for (int i = 0; i < messages; i++) {
        cr_assert_eq(wire_send(a, str_of("a message of the test", (size_t)(5 + i)), -1), STATUS_OK);
    }
    cr_assert(wire_flush(a));
    ssize_t n = recv(fds[1], out, bytes_max, 0);
    cr_assert_gt(n, 0);
    close(fds[1]);
    wire_close(a);
    return (size_t)n;
}

/* How many messages a sealed wire takes from these bytes, before it ends or wants more. */
static int taken(const uint8_t *bytes, size_t count, bool *ended) {
    int fds[2], fd, messages = 0;
    str got;
    cr_assert_eq(wire_pair(fds), STATUS_OK);
    wire *b = attached(fds[1], &far_keys);
    cr_assert_eq(send(fds[0], bytes, count, 0), (ssize_t)count);
    wire_result r;
    while ((r = wire_receive(b, &got, &fd)) == WIRE_MESSAGE) {
        messages++;
    }
    *ended = r == WIRE_CLOSED;
    if (*ended) {
        cr_assert_eq(wire_receive(b, &got, &fd), WIRE_CLOSED, "an end is an end");
    }
    close(fds[0]);
    wire_close(b);
    return messages;
}

Test(wire, of_a_hundred_thousand_damaged_sealed_frames_none_is_taken) {
    uint8_t whole[512], bytes[512];
    size_t count = sealed_bytes(3, whole, sizeof whole);
    size_t first = 8 + 5 + SEAL_TAG_BYTES, second = first + 8 + 6 + SEAL_TAG_BYTES;
    uint64_t random = 12;
    bool ended;
    cr_assert_eq(taken(whole, count, &ended), 3);
    cr_assert_not(ended);
    for (int i = 0; i < 100000; i++) {
        memcpy(bytes, whole, count);
        size_t least = count;
        uint64_t flips = 1 + rng_below(&random, 4);
        for (uint64_t k = 0; k < flips; k++) {
            size_t at = (size_t)rng_below(&random, count);
            bytes[at] ^= (uint8_t)(1 << rng_below(&random, 8));
        }
        for (size_t at = 0; at < count && least == count; at++) {
            least = bytes[at] != whole[at] ? at : count;
        }
        if (least == count) {
            continue; /* flipped back */
        }
        int before = least < first ? 0 : least < second ? 1 : 2;
        int got = taken(bytes, count, &ended);
        cr_assert_eq(got, before, "%d messages, the first damage at %zu", got, least);
    }
}

Test(wire, sealed_frames_repeated_left_out_swapped_or_plain_end_the_wire) {
    uint8_t whole[512], bytes[1024];
    size_t count = sealed_bytes(3, whole, sizeof whole);
    size_t first = 8 + 5 + SEAL_TAG_BYTES, second = 8 + 6 + SEAL_TAG_BYTES;
    bool ended;
    memcpy(bytes, whole, first);
    memcpy(bytes + first, whole, count);
    cr_assert_eq(taken(bytes, first + count, &ended), 1, "repeated");
    cr_assert(ended);
    cr_assert_eq(taken(whole + first, count - first, &ended), 0, "left out");
    cr_assert(ended);
    memcpy(bytes, whole + first, second);
    memcpy(bytes + second, whole, first);
    cr_assert_eq(taken(bytes, first + second, &ended), 0, "swapped");
    cr_assert(ended);
    static const uint8_t plain[] = {0x57, 0x4C, 0, 0, 1, 0, 0, 0, 'x'};
    memcpy(bytes, plain, sizeof plain);
    memcpy(bytes + sizeof plain, whole, count);
    cr_assert_eq(taken(bytes, sizeof plain + count, &ended), 0, "plain");
    cr_assert(ended);
    for (size_t cut = 0; cut < first; cut++) {
        cr_assert_eq(taken(whole, cut, &ended), 0, "cut short");
        cr_assert_not(ended, "the rest may still come");
    }
}
