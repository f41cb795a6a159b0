/* loadcall.h -- one connection of a load run, and the request on it.
 *
 * Purpose    Sends a request without blocking, reads the answer (a stream or whole), and notes the
 *            times. A kept connection serves one request after the other.
 * Ownership  loadcall_close releases socket and buffers.
 * Threads    One thread at a time.
 * Limits     LOADCALL_ANSWER_BYTES of an answer that is not a stream.
 */
#ifndef BENCH_LOADCALL_H
#define BENCH_LOADCALL_H

#include <netdb.h>
#include <stdbool.h>
#include <stdint.h>

#include "bench/eventstream.h"
#include "bench/httpclient.h"
#include "bench/loadstats.h"
#include "engine/base/str.h"

enum { LOADCALL_ANSWER_BYTES = 16 << 20 };

typedef enum {
    LOADCALL_IDLE,
    LOADCALL_CONNECTING,
    LOADCALL_SENDING,
    LOADCALL_READING
} loadcall_state;

typedef struct {
    loadcall_state state;
    int fd;       /* -1: not connected */
    int epoll_fd; /* where the socket is watched */
    uint64_t tag; /* data.u64 of its events */
    const struct addrinfo *to;
    loadstats *stats; /* takes the gaps between tokens; NULL: warm-up */
    loadstats_request record;
    str request; /* borrowed until the request has ended */
    size_t sent;
    bool stream;
    bool reused;         /* the connection has served a request before */
    bool answered;       /* a byte of the answer has come */
    bool ended;          /* [DONE] was there */
    bool failed;         /* an error event, or an event that cannot be read */
    int32_t min_tokens;  /* fewer are too few */
    int32_t text_events; /* events that carried text: tokens, where the server does not count */
    int64_t deadline_us;
    httpclient http;
    eventstream events;
    strbuf answer; /* when not a stream, or not 200 */
} loadcall;

void loadcall_open(loadcall *c, const struct addrinfo *to, int epoll_fd, uint64_t tag);
void loadcall_close(loadcall *c);

/* Starts a request whose scheduled time is already in c->record. True when it has ended at once
 * (no connection): the record is complete. */
bool loadcall_begin(loadcall *c, str request, bool stream, int64_t timeout_us);

/* The socket is ready, or `events` is 0 and the deadline may have passed. True when the request
 * has ended. */
bool loadcall_step(loadcall *c, uint32_t events);

/* A whole request and answer, blocking: for preparations. Appends the body to `answer`. */
MUST_USE status loadcall_now(const struct addrinfo *to, str request, int64_t timeout_us,
                             strbuf *answer, int *code, diag *d);

#endif
