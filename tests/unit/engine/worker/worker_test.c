/* worker_test.c -- a worker in a process of its own; the test is its gateway and its bad peers. */
#define _GNU_SOURCE
#include "engine/worker/worker.h"

#include <criterion/criterion.h>
#include <poll.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "engine/base/log.h"
#include "engine/base/rng.h"
#include "engine/base/wire.h"
#include "tests/support/tinyfile.h"

enum { EPOCH = 77, BOTH = MESSAGE_ROLE_PREFILL | MESSAGE_ROLE_DECODE };

typedef struct {
    pid_t pid;
    wire *wire;
    message_scratch *scratch;
    message_hello hello;
    char numerics[128], kv_layout[64];
} bench;

static int64_t drain_us = 30000000;

static _Noreturn void be_the_worker(int fd, const char *path) {
    static const int32_t eog[] = {TINYMODEL_EOS};
    worker_options o = {.model_path = path,
                        .backend = "cpu",
                        .roles = BOTH,
                        .worker = 3,
                        .epoch = EPOCH,
                        .gateway_fd = fd,
                        .threads = 1,
                        .threads_own = 1,
                        .cores_fd = -1,
                        .kv_bytes = 4 << 20,
                        .seqs_max = 8,
                        .prefill_chunk_tokens = 64,
                        .queue_us = 30000000,
                        .drain_us = drain_us,
                        .ring_bytes = 1 << 20,
                        .group_bytes = 64 << 10,
                        .name = "both-3",
                        .eog = eog,
                        .eog_count = 1};
    diag d = {.text = ""};
    log_setup(LOG_OFF, false, "worker");
    status s = worker_run(&o, &d);
    _exit(s == STATUS_OK ? 0 : 1);
}

static void send_message(wire *w, const message *m, int fd) {
    strbuf bytes = strbuf_make(LIMIT_MESSAGE_BYTES);
    cr_assert_eq(message_encode(m, &bytes), STATUS_OK);
    cr_assert_eq(wire_send(w, strbuf_str(&bytes), fd), STATUS_OK);
    cr_assert(wire_flush(w));
    strbuf_close(&bytes);
}

/* The next message on a wire; false when the worker has ended it. */
static bool next(bench *b, wire *w, message *m, int *fd) {
    for (;;) {
        str bytes;
        diag d;
        wire_result r = wire_receive(w, &bytes, fd);
        if (r == WIRE_CLOSED) {
            return false;
        }
        if (r == WIRE_MESSAGE && bytes.bytes == 24 && memcmp(bytes.data, "KVTSHM", 6) == 0) {
            close(*fd); /* a ring that this peer does not want */
            continue;
        }
        if (r == WIRE_MESSAGE) {
            cr_assert_eq(message_decode(bytes, b->scratch, m, &d), STATUS_OK, "%s", d.text);
            return true;
        }
        struct pollfd p = {wire_fd(w), POLLIN, 0};
        cr_assert_eq(poll(&p, 1, 60000), 1, "the worker says nothing");
    }
}

static void start(bench *b) {
    int fds[2], fd;
    message m;
    *b = (bench){0};
    tinymodel_options o = tinymodel_default(GGUF_F32);
    const char *path = tinyfile_write(&o);
    cr_assert_eq(wire_pair(fds), STATUS_OK);
    b->pid = fork();
    cr_assert_geq(b->pid, 0);
    if (b->pid == 0) {
        close(fds[0]);
        be_the_worker(fds[1], path);
    }
    close(fds[1]);
    cr_assert_eq(wire_open(fds[0], 8 << 20, &b->wire), STATUS_OK);
    cr_assert_eq(message_scratch_open(&b->scratch), STATUS_OK);
    cr_assert(next(b, b->wire, &m, &fd));
    cr_assert_eq(m.type, MESSAGE_HELLO);
    tinyfile_remove();
    b->hello = m.hello;
    snprintf(b->numerics, sizeof b->numerics, "%.*s", (int)m.hello.numerics.bytes,
             m.hello.numerics.data);
    snprintf(b->kv_layout, sizeof b->kv_layout, "%.*s", (int)m.hello.kv_layout.bytes,
             m.hello.kv_layout.data);
    b->hello.numerics = str_from(b->numerics);
    b->hello.kv_layout = str_from(b->kv_layout);
}

/* The worker's exit status, after whatever ended it. */
static int end_of(bench *b) {
    int how;
    wire_close(b->wire);
    b->wire = NULL;
    cr_assert_eq(waitpid(b->pid, &how, 0), b->pid);
    message_scratch_close(b->scratch);
    cr_assert(WIFEXITED(how), "signal %d", WTERMSIG(how));
    return WEXITSTATUS(how);
}

/* A prompt that the worker computes and decodes by itself: it works. */
static void works(bench *b, request_id id) {
    int32_t prompt[40];
    request_params params = {.top_p = 1,
                             .repetition_penalty = 1,
                             .max_tokens = 6,
                             .ignore_eos = true,
                             .top_logprobs = -1,
                             .choices = 1};
    for (int32_t i = 0; i < 40; i++) {
        prompt[i] = 3 + (i * 7 + (int32_t)id) % 300;
    }
    message m = {.type = MESSAGE_RESERVE, .request = id, .attempt = 1};
    m.submit = (message_submit){.peer_worker = MESSAGE_NO_WORKER,
                                .local = true,
                                .prompt_count = 40,
                                .tokens_count = 40,
                                .tokens = prompt,
                                .params = &params};
    send_message(b->wire, &m, -1);
    int32_t tokens = 0;
    for (bool done = false; !done;) {
        int fd;
        cr_assert(next(b, b->wire, &m, &fd), "the worker has ended");
        if (m.type == MESSAGE_TOKENS && m.request == id) {
            tokens += m.tokens.tokens_count;
            done = m.tokens.done;
        }
    }
    cr_assert_eq(tokens, 6);
}

/* Introduces a peer; the test's end of its link. */
static wire *introduce(bench *b, uint32_t worker) {
    int fds[2];
    wire *w;
    cr_assert_eq(wire_pair(fds), STATUS_OK);
    message m = {.type = MESSAGE_PEER};
    m.peer = (message_peer){.worker = worker, .epoch = 500, .roles = BOTH};
    send_message(b->wire, &m, fds[1]);
    close(fds[1]);
    cr_assert_eq(wire_open(fds[0], 8 << 20, &w), STATUS_OK);
    return w;
}

/* Says hello as a peer that fits. */
static void greet(const bench *b, wire *w, uint32_t worker) {
    message m = {.type = MESSAGE_HELLO, .hello = b->hello};
    m.hello.worker = worker;
    m.hello.epoch = 500;
    send_message(w, &m, -1);
}

/* Reads what comes until the worker ends the link. */
static void expect_end(bench *b, wire *w) {
    message m;
    int fd;
    while (next(b, w, &m, &fd)) {
    }
    wire_close(w);
}

Test(worker, says_who_it_is_and_serves) {
    bench b;
    start(&b);
    cr_assert(b.hello.version == MESSAGE_VERSION && b.hello.worker == 3 && b.hello.epoch == EPOCH);
    cr_assert(b.hello.roles == BOTH && b.hello.pid == (uint32_t)b.pid);
    cr_assert(b.hello.layers == 2 && b.hello.block_tokens == 16 && b.hello.context_tokens == 512);
    cr_assert(b.hello.vocab == TINYMODEL_VOCAB && b.hello.pages >= 32);
    works(&b, 1);
    works(&b, 2);
    cr_assert_eq(end_of(&b), 0, "it ends with its gateway's link");
}

Test(worker, drains_when_told) {
    bench b;
    start(&b);
    works(&b, 1);
    message m = {.type = MESSAGE_DRAIN};
    int fd;
    send_message(b.wire, &m, -1);
    while (next(&b, b.wire, &m, &fd)) {
    }
    cr_assert_eq(end_of(&b), 0);
}

Test(worker, drains_on_sigterm) {
    bench b;
    start(&b);
    message m;
    int fd;
    cr_assert_eq(kill(b.pid, SIGTERM), 0);
    while (next(&b, b.wire, &m, &fd)) {
    }
    cr_assert_eq(end_of(&b), 0);
}

/* An answer that takes far longer than the drain may: it comes back, with its reason. */
Test(worker, hands_back_what_a_drain_does_not_finish) {
    bench b;
    drain_us = 1000;
    start(&b);
    request_params params = {.temperature = 0,
                             .max_tokens = 400,
                             .top_logprobs = -1,
                             .choices = 1,
                             .ignore_eos = true,
                             .top_p = 1,
                             .repetition_penalty = 1};
    int32_t prompt[] = {5, 6, 7};
    message m = {.type = MESSAGE_RESERVE, .request = 1, .attempt = 1};
    m.submit = (message_submit){.local = true,
                                .peer_worker = MESSAGE_NO_WORKER,
                                .prompt_count = 3,
                                .tokens_count = 3,
                                .tokens = prompt,
                                .params = &params};
    int fd;
    send_message(b.wire, &m, -1);
    while (next(&b, b.wire, &m, &fd) && m.type != MESSAGE_TOKENS) {
    }
    cr_assert_eq(m.type, MESSAGE_TOKENS);
    cr_assert_eq(kill(b.pid, SIGTERM), 0);
    bool handed_back = false;
    while (next(&b, b.wire, &m, &fd)) {
        handed_back = handed_back || (m.type == MESSAGE_PREEMPTED && m.request == 1 &&
                                      m.reason == MESSAGE_REASON_DRAINING);
    }
    cr_assert(handed_back);
    cr_assert_eq(end_of(&b), 0);
}

Test(worker, a_gateway_that_talks_nonsense_is_left) {
    static const char *const texts[] = {"", "x", "\x01\x02\x03", "KVTSHM\0\1"};
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        bench b;
        message m;
        int fd;
        start(&b);
        cr_assert_eq(wire_send(b.wire, str_of(texts[i], i == 3 ? 8 : strlen(texts[i])), -1),
                     STATUS_OK);
        cr_assert(wire_flush(b.wire));
        while (next(&b, b.wire, &m, &fd)) {
        }
        cr_assert_eq(end_of(&b), 0);
    }
}

Test(worker, peers_that_do_not_fit_are_left_and_it_goes_on) {
    bench b;
    start(&b);
    for (uint32_t i = 0; i < 7; i++) {
        wire *w = introduce(&b, 10 + i);
        message m = {.type = MESSAGE_HELLO, .hello = b.hello};
        m.hello.worker = 10 + i;
        m.hello.epoch = 500;
        switch (i) {
            case 0:
                m.hello.version++;
                break;
            case 1:
                m.hello.model_hash++;
                break;
            case 2:
                m.hello.layers++;
                break;
            case 3:
                m.hello.kv_layer_page_bytes *= 2;
                break;
            case 4:
                m.hello.numerics = str_from("other");
                break;
            case 5:
                m.hello.epoch = 499;
                break;
            default:
                m.hello.worker = 9;
                break;
        }
        send_message(w, &m, -1);
        expect_end(&b, w);
    }
    works(&b, 1);
    cr_assert_eq(end_of(&b), 0);
}

Test(worker, a_peer_speaks_only_after_its_hello) {
    bench b;
    start(&b);
    wire *w = introduce(&b, 10);
    message m = {.type = MESSAGE_GRANT, .request = 1, .attempt = 1, .pages = 1};
    send_message(w, &m, -1);
    expect_end(&b, w);
    works(&b, 1);
    cr_assert_eq(end_of(&b), 0);
}

Test(worker, offers_of_memory_that_is_no_ring_end_the_link) {
    bench b;
    start(&b);
    wire *w = introduce(&b, 10);
    greet(&b, w, 10);
    static const char offer[24] = "KVTSHM\0\1\1\0\0\0\0\0\0\0\0\0\1\0\0\0\0";
    int memory = memfd_create("no ring", MFD_CLOEXEC);
    for (int i = 0; i < 3; i++) {
        cr_assert_eq(wire_send(w, str_of(offer, sizeof offer), memory), STATUS_OK);
    }
    close(memory);
    (void)wire_flush(w);
    expect_end(&b, w);
    works(&b, 1);
    cr_assert_eq(end_of(&b), 0);
}

/* Frames of random bytes, and well-formed messages with random contents, from a peer that fits. */
Test(worker, whatever_a_peer_says_the_worker_goes_on) {
    bench b;
    uint64_t random = 9;
    int said = 0;
    start(&b);
    for (uint32_t round = 0; round < 60; round++) {
        wire *w = introduce(&b, 10 + round % 5);
        greet(&b, w, 10 + round % 5);
        for (int i = 0; i < 20; i++) {
            static const message_type types[] = {MESSAGE_GRANT,    MESSAGE_QUEUED, MESSAGE_REFUSED,
                                                 MESSAGE_ANNOUNCE, MESSAGE_POSTED, MESSAGE_HANDOFF,
                                                 MESSAGE_ADOPTED,  MESSAGE_CANCEL, MESSAGE_REJECT};
            message m = {.type = types[rng_below(&random, 9)],
                         .request = 1 + rng_below(&random, 3),
                         .attempt = 1 + (uint32_t)rng_below(&random, 2)};
            request_token token = {.token = 5};
            strbuf bytes = strbuf_make(LIMIT_MESSAGE_BYTES);
            if (m.type == MESSAGE_ANNOUNCE) {
                m.announce = (message_announce){(uint32_t)rng_below(&random, 3), 0, 0, 2, 0, 1};
            } else if (m.type == MESSAGE_HANDOFF) {
                m.handoff = (message_handoff){(uint32_t)rng_below(&random, 3), 1, &token};
            } else if (m.type == MESSAGE_REJECT) {
                m.about = MESSAGE_ANNOUNCE;
                m.reason = MESSAGE_REASON_STATE;
            } else if (m.type == MESSAGE_REFUSED) {
                m.reason = MESSAGE_REASON_FULL;
            }
            if (message_encode(&m, &bytes) != STATUS_OK) {
                strbuf_close(&bytes);
                continue; /* not even an honest encoder says that */
            }
            said++;
            if (round % 2 && bytes.bytes) { /* changed on its way */
                bytes.data[rng_below(&random, bytes.bytes)] ^= (char)(1 + rng_below(&random, 255));
            }
            (void)!wire_send(w, strbuf_str(&bytes), -1);
            strbuf_close(&bytes);
            if (!wire_flush(w)) {
                break;
            }
        }
        wire_close(w);
        if (round % 10 == 9) {
            works(&b, 100 + round);
        }
    }
    cr_assert_gt(said, 300);
    cr_assert_eq(end_of(&b), 0);
}
