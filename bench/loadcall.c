/* loadcall.c -- one connection of a load run, and the request on it. */
#define _GNU_SOURCE
#include "bench/loadcall.h"

#include <cjson/cJSON.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "engine/base/clock.h"

enum { LOADCALL_READ_BYTES = 64 << 10 };

void loadcall_open(loadcall *c, const struct addrinfo *to, int epoll_fd, uint64_t tag) {
    memset(c, 0, sizeof *c);
    c->fd = -1;
    c->to = to;
    c->epoll_fd = epoll_fd;
    c->tag = tag;
    c->answer = strbuf_make(LOADCALL_ANSWER_BYTES);
}

static void loadcall_disconnect(loadcall *c) {
    if (c->fd >= 0) {
        (void)close(c->fd);
        c->fd = -1;
    }
    c->reused = false;
}

void loadcall_close(loadcall *c) {
    loadcall_disconnect(c);
    eventstream_close(&c->events);
    strbuf_close(&c->answer);
}

static bool loadcall_watch(loadcall *c, int operation, uint32_t events) {
    struct epoll_event e = {.events = events, .data.u64 = c->tag};
    return c->epoll_fd < 0 || epoll_ctl(c->epoll_fd, operation, c->fd, &e) == 0;
}

/* Usage, where the answer has it: what was really counted. */
static void loadcall_read_usage(loadcall *c, const cJSON *root) {
    const cJSON *usage = cJSON_GetObjectItemCaseSensitive(root, "usage");
    const cJSON *prompt = cJSON_GetObjectItemCaseSensitive(usage, "prompt_tokens");
    const cJSON *output = cJSON_GetObjectItemCaseSensitive(usage, "completion_tokens");
    const cJSON *details = cJSON_GetObjectItemCaseSensitive(usage, "prompt_tokens_details");
    const cJSON *cached = cJSON_GetObjectItemCaseSensitive(details, "cached_tokens");
    if (cJSON_IsNumber(prompt) && cJSON_IsNumber(output)) {
        c->record.prompt_tokens = prompt->valueint;
        c->record.output_tokens = output->valueint;
    }
    if (cJSON_IsNumber(cached)) {
        c->record.cached_tokens = cached->valueint;
    }
}

/* Does a chunk bring text? The first of a chat has only the role. */
static bool loadcall_has_text(const cJSON *root) {
    const cJSON *choices = cJSON_GetObjectItemCaseSensitive(root, "choices");
    const cJSON *choice;
    cJSON_ArrayForEach(choice, choices) {
        const cJSON *text = cJSON_GetObjectItemCaseSensitive(choice, "text");
        const cJSON *delta = cJSON_GetObjectItemCaseSensitive(choice, "delta");
        const cJSON *content = cJSON_GetObjectItemCaseSensitive(delta, "content");
        if ((cJSON_IsString(text) && text->valuestring[0] != 0) ||
            (cJSON_IsString(content) && content->valuestring[0] != 0)) {
            return true;
        }
    }
    return false;
}

static void loadcall_on_event(void *self, str data) {
    loadcall *c = self;
    if (str_equal_z(data, "[DONE]")) {
        c->ended = true;
        return;
    }
    cJSON *root = cJSON_ParseWithLength(data.data, data.bytes);
    if (root == NULL || cJSON_GetObjectItemCaseSensitive(root, "error") != NULL) {
        c->failed = true;
    } else {
        loadcall_read_usage(c, root);
        if (loadcall_has_text(root)) {
            int64_t now_us = clock_now_us();
            c->text_events++;
            if (c->record.first_us == 0) {
                c->record.first_us = now_us;
            } else if (c->stats != NULL) {
                loadstats_add_gap(c->stats, now_us - c->record.last_us);
            }
            c->record.last_us = now_us;
        }
    }
    cJSON_Delete(root);
}

static void loadcall_on_body(void *self, str bytes) {
    loadcall *c = self;
    if (c->stream && c->http.code == 200) {
        eventstream_feed(&c->events, bytes);
    } else {
        strbuf_append_str(&c->answer, bytes);
    }
}

static bool loadcall_end(loadcall *c, loadstats_result result) {
    c->record.result = result;
    c->record.end_us = clock_now_us();
    c->state = LOADCALL_IDLE;
    bool keep = c->http.done && c->http.keep && (result != LOADSTATS_MALFORMED);
    if (!keep) {
        loadcall_disconnect(c);
    }
    c->reused = keep;
    return true;
}

/* The answer is complete: was it what was asked for? */
static bool loadcall_judge(loadcall *c) {
    int code = c->http.code;
    if (code != 200) {
        return loadcall_end(c, code == 429 || code == 503 ? LOADSTATS_REFUSED
                               : code >= 500              ? LOADSTATS_SERVER
                               : code >= 400              ? LOADSTATS_CLIENT
                                                          : LOADSTATS_MALFORMED);
    }
    if (c->stream) {
        c->failed = c->failed || c->events.failed;
        if (c->record.output_tokens == 0) {
            c->record.output_tokens = c->text_events;
        }
    } else {
        cJSON *root = cJSON_ParseWithLength(c->answer.data, c->answer.bytes);
        c->failed = root == NULL;
        loadcall_read_usage(c, root);
        cJSON_Delete(root);
    }
    if (c->failed) {
        return loadcall_end(c, LOADSTATS_MALFORMED);
    }
    if (c->stream && !c->ended) {
        return loadcall_end(c, LOADSTATS_CUT);
    }
    return loadcall_end(c,
                        c->record.output_tokens < c->min_tokens ? LOADSTATS_SHORT : LOADSTATS_OK);
}

static bool loadcall_connect(loadcall *c) {
    c->fd = socket(c->to->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (c->fd < 0) {
        return loadcall_end(c, LOADSTATS_CONNECT);
    }
    int one = 1;
    (void)setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    c->state = LOADCALL_CONNECTING;
    if ((connect(c->fd, c->to->ai_addr, c->to->ai_addrlen) != 0 && errno != EINPROGRESS) ||
        !loadcall_watch(c, EPOLL_CTL_ADD, EPOLLOUT)) {
        return loadcall_end(c, LOADSTATS_CONNECT);
    }
    return false;
}

/* The connection broke. One that was kept may have been closed by the server just before this
 * request: that says nothing about the request, which goes out again on a new one. */
static bool loadcall_broken(loadcall *c) {
    if (c->reused && !c->answered) {
        loadcall_disconnect(c);
        c->sent = 0;
        httpclient_start(&c->http, c, loadcall_on_body);
        return loadcall_connect(c);
    }
    return loadcall_end(c, LOADSTATS_CUT);
}

static bool loadcall_send(loadcall *c) {
    while (c->sent < c->request.bytes) {
        ssize_t n =
            send(c->fd, c->request.data + c->sent, c->request.bytes - c->sent, MSG_NOSIGNAL);
        if (n < 0 && errno == EAGAIN) {
            return loadcall_watch(c, EPOLL_CTL_MOD, EPOLLOUT | EPOLLIN) ? false
                                                                        : loadcall_broken(c);
        }
        if (n < 0 && errno != EINTR) {
            return loadcall_broken(c);
        }
        c->sent += n > 0 ? (size_t)n : 0;
    }
    c->state = LOADCALL_READING;
    return loadcall_watch(c, EPOLL_CTL_MOD, EPOLLIN) ? false : loadcall_broken(c);
}

bool loadcall_begin(loadcall *c, str request, bool stream, int64_t timeout_us) {
    c->request = request;
    c->sent = 0;
    c->stream = stream;
    c->answered = c->ended = c->failed = false;
    c->text_events = 0;
    strbuf_clear(&c->answer);
    eventstream_close(&c->events);
    eventstream_start(&c->events, c, loadcall_on_event);
    httpclient_start(&c->http, c, loadcall_on_body);
    c->record.sent_us = clock_now_us();
    c->deadline_us = c->record.sent_us + timeout_us;
    if (c->fd < 0) {
        return loadcall_connect(c);
    }
    c->state = LOADCALL_SENDING;
    return loadcall_send(c);
}

static bool loadcall_read(loadcall *c) {
    char buffer[LOADCALL_READ_BYTES];
    for (;;) {
        ssize_t n = recv(c->fd, buffer, sizeof buffer, 0);
        if (n < 0 && errno == EAGAIN) {
            return false;
        }
        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n < 0) {
            return loadcall_broken(c);
        }
        if (n == 0) {
            bool done = httpclient_feed_end(&c->http) == HTTPCLIENT_DONE;
            return done ? loadcall_judge(c) : loadcall_broken(c);
        }
        c->answered = true;
        switch (httpclient_feed(&c->http, buffer, (size_t)n)) {
            case HTTPCLIENT_MORE:
                break;
            case HTTPCLIENT_DONE:
                return loadcall_judge(c);
            case HTTPCLIENT_FAILED:
                return loadcall_end(c, LOADSTATS_MALFORMED);
        }
    }
}

bool loadcall_step(loadcall *c, uint32_t events) {
    if (c->state == LOADCALL_IDLE) {
        if (events != 0) {
            loadcall_disconnect(c); /* the server has closed a kept connection */
        }
        return false;
    }
    if (events == 0) {
        return clock_now_us() >= c->deadline_us ? loadcall_end(c, LOADSTATS_TIMEOUT) : false;
    }
    if (c->state == LOADCALL_CONNECTING) {
        int error = 0;
        socklen_t bytes = sizeof error;
        if (getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &error, &bytes) != 0 || error != 0) {
            return loadcall_end(c, LOADSTATS_CONNECT);
        }
        c->state = LOADCALL_SENDING;
    }
    /* A server that refuses early answers before it has read everything. */
    if (c->state == LOADCALL_SENDING && (events & (EPOLLIN | EPOLLHUP | EPOLLERR)) != 0) {
        bool ended = loadcall_read(c);
        if (ended || c->state != LOADCALL_SENDING) {
            return ended;
        }
    }
    return c->state == LOADCALL_SENDING ? loadcall_send(c) : loadcall_read(c);
}

static void loadcall_append(void *self, str bytes) {
    strbuf_append_str(self, bytes);
}

status loadcall_now(const struct addrinfo *to, str request, int64_t timeout_us, strbuf *answer,
                    int *code, diag *d) {
    httpclient http;
    httpclient_start(&http, answer, loadcall_append);
    int fd = socket(to->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct timeval wait = {.tv_sec = timeout_us / 1000000, .tv_usec = timeout_us % 1000000};
    status s = STATUS_OK;
    if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &wait, sizeof wait) != 0 ||
        setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &wait, sizeof wait) != 0 ||
        connect(fd, to->ai_addr, to->ai_addrlen) != 0) {
        s = status_fail_errno(d, STATUS_IO, "no connection to the server");
    }
    for (size_t sent = 0; s == STATUS_OK && sent < request.bytes;) {
        ssize_t n = send(fd, request.data + sent, request.bytes - sent, MSG_NOSIGNAL);
        if (n < 0 && errno != EINTR) {
            s = status_fail_errno(d, STATUS_IO, "the server does not take the request");
        }
        sent += n > 0 ? (size_t)n : 0;
    }
    httpclient_progress p = HTTPCLIENT_MORE;
    while (s == STATUS_OK && p == HTTPCLIENT_MORE) {
        char buffer[LOADCALL_READ_BYTES];
        ssize_t n = recv(fd, buffer, sizeof buffer, 0);
        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n < 0) {
            s = status_fail_errno(d, STATUS_IO, "no answer from the server");
        } else {
            p = n == 0 ? httpclient_feed_end(&http) : httpclient_feed(&http, buffer, (size_t)n);
        }
    }
    if (s == STATUS_OK && (p != HTTPCLIENT_DONE || answer->failed)) {
        s = status_fail(d, STATUS_CORRUPT, "the server's answer is malformed or too large");
    }
    *code = http.code;
    if (fd >= 0) {
        (void)close(fd);
    }
    return s;
}
