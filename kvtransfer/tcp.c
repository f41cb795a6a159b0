/* tcp.c -- sealed frames on a socket, straight from pages and straight into pages.
 *
 *     [ header, FRAME_BYTES ][ tag ][ payload: layer by layer, page by page ][ tag ]   (junk: no
 *                                                                            payload, no 2nd tag)
 *
 * Tags count 0, 1, 2, ... over the connection. The header is believed only once its tag fits, so a
 * length that a stranger wrote moves nothing; the payload goes into pages that were posted for it
 * and that nobody uses before the arrival is reported, which is after the second tag. A tag that is
 * wrong ends the channel: past it nothing says where a frame starts.
 *
 * The event descriptor is an epoll of the one socket, edge-triggered: it is cleared by reading the
 * event, and each call here goes on until the socket says it would block. */
#define _GNU_SOURCE
#include "kvtransfer/tcp.h"

#include <errno.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include "engine/base/clock.h"
#include "engine/base/failpoint.h"
#include "engine/base/hostport.h"
#include "engine/base/mem.h"

enum { HEAD_BYTES = FRAME_BYTES + SEAL_TAG_BYTES, RUNS_MAX = 64, DISCARD_BYTES = 64 << 10 };

typedef enum { NOTHING, HEAD, PAYLOAD, TAG } part;

typedef struct {
    kvt base;
    int fd; /* -1: not attached */
    int epoll_fd;
    bool sender;
    uint8_t key[SEAL_KEY_BYTES];
    uint64_t counter;
    /* the frame being sent or received */
    part part;
    uint64_t done; /* bytes of the part that have gone or come */
    uint8_t head[HEAD_BYTES], tag[SEAL_TAG_BYTES];
    seal sum; /* of the payload so far */
    frame frame;
    kvt_job job;         /* sender: being sent */
    kvt_outcome outcome; /* receiver: what the header says it is */
    int64_t busy_us;
    uint32_t sent[KVT_JOBS_MAX]; /* sender: ring of finished sequences */
    uint32_t sent_first, sent_count;
    uint8_t *discard; /* [DISCARD_BYTES] receiver: what nobody asked for goes here */
} tcp;

static bool would_block(ssize_t n) {
    return n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK);
}

/* ---- pieces of a payload -------------------------------------------------------------------- */

/* The runs of a job's pages from byte `at` on: at most RUNS_MAX, in wire order. */
static int runs_from(const tcp *t, const kvt_job *job, uint64_t at, struct iovec out[RUNS_MAX]) {
    const kvt_pool *pool = &t->base.pool;
    uint64_t run = at / pool->layer_page_bytes, inside = at % pool->layer_page_bytes;
    uint64_t total = (uint64_t)job->layers * job->pages_count;
    int count = 0;
    for (; run < total && count < RUNS_MAX; run++, inside = 0) {
        uint8_t *page = kvt_run(&t->base, job, (uint32_t)(run / job->pages_count),
                                (uint32_t)(run % job->pages_count));
        out[count++] = (struct iovec){page + inside, pool->layer_page_bytes - inside};
    }
    return count;
}

/* Takes the first `bytes` bytes of the runs into the sum. */
static void sum_runs(tcp *t, const struct iovec *runs, uint64_t bytes) {
    for (int i = 0; bytes > 0; i++) {
        uint64_t part_bytes = runs[i].iov_len < bytes ? runs[i].iov_len : bytes;
        seal_add(&t->sum, runs[i].iov_base, part_bytes);
        bytes -= part_bytes;
    }
}

static void head_tag(tcp *t, uint8_t out[SEAL_TAG_BYTES]) {
    seal s;
    seal_start(&s, t->key, t->counter++);
    seal_add(&s, t->head, FRAME_BYTES);
    seal_finish(&s, out);
}

/* What a call on the socket returned: 1 to go on, 0 when the socket would block, -1 broken. */
static int moved(tcp *t, ssize_t n) {
    if (n > 0) {
        t->done += (uint64_t)n;
        return 1;
    }
    return would_block(n) ? 0 : n < 0 && errno == EINTR ? 1 : -1;
}

/* The same of pages, whose bytes are summed as they move. */
static int moved_runs(tcp *t, const struct iovec *runs, ssize_t n) {
    if (n > 0) {
        sum_runs(t, runs, (uint64_t)n);
    }
    return moved(t, n);
}

/* ---- sending -------------------------------------------------------------------------------- */

/* Sends what is left of a piece; 1 when it has all gone, else as `moved`. */
static int send_piece(tcp *t, const uint8_t *bytes, size_t count, int more) {
    while (t->done < count) {
        int r = moved(
            t, send(t->fd, bytes + t->done, count - t->done, MSG_NOSIGNAL | MSG_DONTWAIT | more));
        if (r <= 0) {
            return r;
        }
    }
    t->done = 0;
    return 1;
}

static int send_payload(tcp *t) {
    while (t->done < t->frame.payload_bytes) {
        struct iovec runs[RUNS_MAX];
        int count = runs_from(t, &t->job, t->done, runs);
        struct msghdr m = {.msg_iov = runs, .msg_iovlen = (size_t)count};
        int r = moved_runs(t, runs, sendmsg(t->fd, &m, MSG_NOSIGNAL | MSG_DONTWAIT | MSG_MORE));
        if (r <= 0) {
            return r;
        }
    }
    t->done = 0;
    return 1;
}

/* Goes on with the job under way. */
static void pump(tcp *t) {
    int r = t->part == NOTHING || t->base.failed ? 0 : 1;
    while (r > 0 && t->part != NOTHING) {
        switch (t->part) {
            case HEAD:
                r = send_piece(t, t->head, HEAD_BYTES, t->frame.payload_bytes ? MSG_MORE : 0);
                if (r > 0) {
                    t->part = t->frame.payload_bytes ? PAYLOAD : NOTHING;
                    seal_start(&t->sum, t->key, t->counter);
                    t->counter += t->frame.payload_bytes > 0;
                }
                break;
            case PAYLOAD:
                r = send_payload(t);
                if (r > 0) {
                    t->part = TAG;
                    seal_finish(&t->sum, t->tag);
                    if (FAILPOINT("kvt.damage")) {
                        t->tag[0] ^= 1;
                    }
                }
                break;
            case TAG:
            default:
                r = send_piece(t, t->tag, SEAL_TAG_BYTES, 0);
                if (r > 0) {
                    t->part = NOTHING;
                }
                break;
        }
    }
    t->base.failed = t->base.failed || r < 0;
    if (r > 0) {
        t->sent[(t->sent_first + t->sent_count) % KVT_JOBS_MAX] = t->job.sequence;
        t->sent_count++;
    }
}

/* A receiver never sends: what can be read of it is its end. */
static void notice_end(tcp *t) {
    char c;
    ssize_t n = recv(t->fd, &c, 1, MSG_DONTWAIT);
    if (!would_block(n) && !(n < 0 && errno == EINTR)) {
        t->base.failed = true;
    }
}

static kvt_result tcp_send(kvt *k, const kvt_job *job) {
    tcp *t = (tcp *)k;
    frame f = kvt_job_frame(k, job);
    if (f.payload_bytes > TCP_PAYLOAD_BYTES_MAX) {
        k->failed = true;
        return KVT_FAILED;
    }
    if (t->fd < 0 || t->part != NOTHING || t->sent_count == KVT_JOBS_MAX) {
        return KVT_AGAIN;
    }
    if (!kvt_load(k, job)) {
        k->failed = true;
        return KVT_FAILED;
    }
    t->job = *job;
    t->frame = f;
    frame_put(&f, t->head);
    head_tag(t, t->head + FRAME_BYTES);
    t->part = HEAD;
    t->done = 0;
    pump(t);
    return k->failed ? KVT_FAILED : KVT_DONE;
}

static bool tcp_sent(kvt *k, uint32_t *sequence) {
    tcp *t = (tcp *)k;
    if (t->fd < 0 || k->failed) {
        return false;
    }
    pump(t);
    notice_end(t);
    if (t->sent_count == 0 || k->failed) {
        return false;
    }
    *sequence = t->sent[t->sent_first];
    t->sent_first = (t->sent_first + 1) % KVT_JOBS_MAX;
    t->sent_count--;
    return true;
}

/* ---- receiving ------------------------------------------------------------------------------ */

/* As send_piece. */
static int receive_piece(tcp *t, uint8_t *bytes, size_t count) {
    while (t->done < count) {
        int r = moved(t, recv(t->fd, bytes + t->done, count - t->done, MSG_DONTWAIT));
        if (r <= 0) {
            return r;
        }
    }
    t->done = 0;
    return 1;
}

static int receive_payload(tcp *t, const kvt_job *job) {
    while (t->done < t->frame.payload_bytes) {
        struct iovec runs[RUNS_MAX];
        int count = 1;
        if (t->outcome == KVT_ARRIVED) {
            count = runs_from(t, job, t->done, runs);
        } else {
            uint64_t left = t->frame.payload_bytes - t->done;
            runs[0] = (struct iovec){t->discard, left < DISCARD_BYTES ? left : DISCARD_BYTES};
        }
        struct msghdr m = {.msg_iov = runs, .msg_iovlen = (size_t)count};
        int r = moved_runs(t, runs, recvmsg(t->fd, &m, MSG_DONTWAIT));
        if (r <= 0) {
            return r;
        }
    }
    t->done = 0;
    return 1;
}

static int take_head(tcp *t, const kvt_job *job) {
    uint8_t tag[SEAL_TAG_BYTES];
    int r = receive_piece(t, t->head, HEAD_BYTES);
    if (r <= 0) {
        return r;
    }
    head_tag(t, tag);
    if (!seal_equal(tag, t->head + FRAME_BYTES) || frame_get(t->head, &t->frame) != STATUS_OK ||
        t->frame.payload_bytes > TCP_PAYLOAD_BYTES_MAX) {
        return -1;
    }
    t->outcome = kvt_judge(&t->base, job, &t->frame);
    t->part = t->frame.payload_bytes ? PAYLOAD : NOTHING;
    seal_start(&t->sum, t->key, t->counter);
    t->counter += t->frame.payload_bytes > 0;
    return 1;
}

static int take_tag(tcp *t) {
    uint8_t tag[SEAL_TAG_BYTES];
    int r = receive_piece(t, t->tag, SEAL_TAG_BYTES);
    if (r > 0) {
        seal_finish(&t->sum, tag);
        t->part = NOTHING;
        r = seal_equal(tag, t->tag) ? 1 : -1;
    }
    return r;
}

static kvt_result tcp_receive(kvt *k, const kvt_job *job, kvt_arrival *out) {
    tcp *t = (tcp *)k;
    if (t->fd < 0) {
        return KVT_AGAIN;
    }
    int64_t started = clock_now_us();
    int r = 1;
    if (t->part == NOTHING) {
        t->part = HEAD;
        t->done = 0;
        t->busy_us = 0;
    }
    while (r > 0 && t->part != NOTHING) {
        if (t->part == HEAD) {
            r = take_head(t, job);
        } else if (t->part == PAYLOAD) {
            r = receive_payload(t, job);
            t->part = r > 0 ? TAG : PAYLOAD;
        } else {
            r = take_tag(t);
        }
    }
    t->busy_us += clock_now_us() - started;
    if (r <= 0) {
        return r < 0 ? KVT_FAILED : KVT_AGAIN;
    }
    *out = (kvt_arrival){
        .outcome = t->outcome, .bytes = t->frame.payload_bytes, .copy_us = t->busy_us};
    return KVT_DONE;
}

/* ---- the rest ------------------------------------------------------------------------------- */

static int tcp_event_fd(const kvt *k) {
    return ((const tcp *)k)->epoll_fd;
}

static void tcp_event_clear(kvt *k) {
    struct epoll_event e;
    (void)epoll_wait(tcp_event_fd(k), &e, 1, 0);
}

static void tcp_close(kvt *k) {
    tcp *t = (tcp *)k;
    if (t->epoll_fd >= 0) {
        (void)close(t->epoll_fd);
    }
    if (t->fd >= 0) {
        (void)close(t->fd);
    }
    mem_free(t->discard);
    mem_free(t);
}

static const kvt_transport tcp_transport = {"tcp",        tcp_send,        tcp_sent,  tcp_receive,
                                            tcp_event_fd, tcp_event_clear, tcp_close, NULL};

status tcp_open(const kvt_pool *pool, uint64_t generation, bool receiver, kvt **out, diag *d) {
    tcp *t = mem_calloc(1, sizeof *t);
    if (!t) {
        return status_fail(d, STATUS_NOMEM, "tcp: no memory for a channel");
    }
    t->fd = -1;
    t->sender = !receiver;
    t->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    status made = t->epoll_fd < 0 ? STATUS_IO : STATUS_OK;
    if (made == STATUS_OK && receiver) {
        t->discard = mem_alloc(DISCARD_BYTES, 1);
        made = t->discard ? STATUS_OK : STATUS_NOMEM;
    }
    if (made == STATUS_OK) {
        made = kvt_begin(&t->base, &tcp_transport, pool, generation, receiver);
    }
    if (made != STATUS_OK) {
        tcp_close(&t->base);
        return status_fail(d, made, "tcp: opening a channel: %s", status_text(made));
    }
    *out = &t->base;
    return STATUS_OK;
}

status tcp_attach(kvt *k, int fd, const seal_keys *keys, diag *d) {
    tcp *t = (tcp *)k;
    struct epoll_event e = {.events = (uint32_t)EPOLLET |
                                      (t->sender ? EPOLLOUT | EPOLLIN | EPOLLRDHUP : EPOLLIN)};
    if (t->fd >= 0) {
        (void)close(fd);
        return status_fail(d, STATUS_INVALID, "tcp: the channel has its connection");
    }
    hostport_tune(fd);
    t->fd = fd;
    memcpy(t->key, t->sender ? keys->send : keys->receive, SEAL_KEY_BYTES);
    if (epoll_ctl(t->epoll_fd, EPOLL_CTL_ADD, fd, &e) != 0) {
        return status_fail_errno(d, STATUS_IO, "tcp: polling the connection");
    }
    return STATUS_OK;
}

bool tcp_attached(const kvt *k) {
    return ((const tcp *)k)->fd >= 0;
}
