/* webcall.c -- one libcurl handle and what it is told for each call. */
#define _GNU_SOURCE
#include "server/http/webcall.h"

#include <curl/curl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <strings.h>

#include "engine/base/mem.h"

enum { ANSWER_BYTES_MAX = 4 << 20, CONNECT_MS = 5000, HEADER_BYTES = 4096 };

struct webcall {
    CURL *curl;
    strbuf body;
    char error[CURL_ERROR_SIZE];
    const webcall_request *request; /* of the call under way */
    bool too_long, ended;           /* why its answer was not taken */
    int64_t retry_after_s;
};

static pthread_once_t once = PTHREAD_ONCE_INIT;

static void start_library(void) {
    (void)curl_global_init(CURL_GLOBAL_DEFAULT); /* a failure shows at the first handle */
}

status webcall_open(webcall **out) {
    (void)pthread_once(&once, start_library);
    webcall *w = mem_calloc(1, sizeof *w);
    if (!w || !(w->curl = curl_easy_init())) {
        mem_free(w);
        return STATUS_NOMEM;
    }
    *out = w;
    return STATUS_OK;
}

void webcall_close(webcall *w) {
    if (w) {
        curl_easy_cleanup(w->curl);
        strbuf_close(&w->body);
        mem_free(w);
    }
}

static size_t on_body(char *data, size_t one, size_t bytes, void *context) {
    webcall *w = context;
    (void)one; /* always 1 */
    if (w->request->part) {
        w->ended = !w->request->part(w->request->part_context, str_of(data, bytes));
        return w->ended ? 0 : bytes;
    }
    w->too_long = !strbuf_append(&w->body, data, bytes);
    return w->too_long ? 0 : bytes;
}

static size_t on_header(char *data, size_t one, size_t bytes, void *context) {
    static const char name[] = "retry-after:";
    webcall *w = context;
    (void)one;
    if (bytes > sizeof name && strncasecmp(data, name, sizeof name - 1) == 0) {
        str value = str_of(data + sizeof name - 1, bytes - (sizeof name - 1));
        while (value.bytes && (value.data[0] == ' ' || value.data[0] == '\t')) {
            value = str_of(value.data + 1, value.bytes - 1);
        }
        while (value.bytes && (uint8_t)value.data[value.bytes - 1] <= ' ') {
            value.bytes--;
        }
        int64_t seconds;
        if (str_to_i64(value, 0, INT32_MAX, &seconds)) { /* a date is left out */
            w->retry_after_s = seconds;
        }
    }
    return bytes;
}

/* NULL when there is no memory for them. */
static struct curl_slist *make_headers(const webcall_request *r) {
    char line[HEADER_BYTES];
    struct curl_slist *list = NULL;
    struct curl_slist *next;
    (void)snprintf(line, sizeof line, "Accept: %s", r->accept ? r->accept : "application/json");
    if (!(next = curl_slist_append(list, line))) {
        return NULL;
    }
    list = next;
    for (uint32_t i = 0; i < r->headers_count; i++) {
        if (!(next = curl_slist_append(list, r->headers[i]))) {
            curl_slist_free_all(list);
            return NULL;
        }
    }
    if (r->body.bytes) {
        (void)snprintf(line, sizeof line, "Content-Type: %s",
                       r->content_type ? r->content_type : "application/json");
        /* No "Expect: 100-continue": it costs a second where the service does not know it. */
        if (!(next = curl_slist_append(list, line)) ||
            !(next = curl_slist_append(next, "Expect:"))) {
            curl_slist_free_all(list);
            return NULL;
        }
    }
    return list;
}

static void set_options(webcall *w, const webcall_request *r, struct curl_slist *headers) {
    CURL *c = w->curl;
    curl_easy_reset(c); /* the connection stays */
    (void)curl_easy_setopt(c, CURLOPT_URL, r->url);
    (void)curl_easy_setopt(c, CURLOPT_CUSTOMREQUEST, r->method);
    (void)curl_easy_setopt(c, CURLOPT_PROTOCOLS_STR, "http,https");
    (void)curl_easy_setopt(c, CURLOPT_PROXY, "");
    (void)curl_easy_setopt(c, CURLOPT_NOSIGNAL, 1L);
    (void)curl_easy_setopt(c, CURLOPT_HTTPHEADER, headers);
    (void)curl_easy_setopt(c, CURLOPT_ERRORBUFFER, w->error);
    (void)curl_easy_setopt(c, CURLOPT_WRITEFUNCTION, on_body);
    (void)curl_easy_setopt(c, CURLOPT_WRITEDATA, w);
    (void)curl_easy_setopt(c, CURLOPT_HEADERFUNCTION, on_header);
    (void)curl_easy_setopt(c, CURLOPT_HEADERDATA, w);
    (void)curl_easy_setopt(c, CURLOPT_CONNECTTIMEOUT_MS, (long)CONNECT_MS);
    if (r->part) { /* a call that lasts as long as something comes */
        (void)curl_easy_setopt(c, CURLOPT_LOW_SPEED_LIMIT, 1L);
        (void)curl_easy_setopt(c, CURLOPT_LOW_SPEED_TIME, (long)((r->timeout_ms + 999) / 1000));
    } else {
        (void)curl_easy_setopt(c, CURLOPT_TIMEOUT_MS, (long)r->timeout_ms);
    }
    if (r->bearer) {
        (void)curl_easy_setopt(c, CURLOPT_HTTPAUTH, (long)CURLAUTH_BEARER);
        (void)curl_easy_setopt(c, CURLOPT_XOAUTH2_BEARER, r->bearer);
    }
    if (r->ca_file) {
        (void)curl_easy_setopt(c, CURLOPT_CAINFO, r->ca_file);
    }
    if (r->body.bytes) {
        (void)curl_easy_setopt(c, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)r->body.bytes);
        (void)curl_easy_setopt(c, CURLOPT_POSTFIELDS, r->body.data);
    }
}

static status explain(const webcall *w, CURLcode code, diag *d) {
    const webcall_request *r = w->request;
    status s = w->too_long                        ? STATUS_LIMIT
               : w->ended                         ? STATUS_CLOSED
               : code == CURLE_OPERATION_TIMEDOUT ? STATUS_TIMEOUT
               : code == CURLE_OUT_OF_MEMORY      ? STATUS_NOMEM
                                                  : STATUS_IO;
    const char *why = w->too_long   ? "the answer is too long"
                      : w->ended    ? "ended by the caller"
                      : w->error[0] ? w->error
                                    : curl_easy_strerror(code);
    return status_fail(d, s, "%s %s: %s", r->method, r->url, why);
}

status webcall_send(webcall *w, const webcall_request *request, webcall_answer *out, diag *d) {
    strbuf_close(&w->body);
    w->body = strbuf_make(request->answer_bytes_max ? request->answer_bytes_max : ANSWER_BYTES_MAX);
    w->request = request;
    w->too_long = w->ended = false;
    w->retry_after_s = 0;
    w->error[0] = 0;
    struct curl_slist *headers = make_headers(request);
    if (!headers) {
        return status_fail(d, STATUS_NOMEM, "%s: no memory for a call", request->url);
    }
    set_options(w, request, headers);
    CURLcode code = curl_easy_perform(w->curl);
    long answered = 0;
    (void)curl_easy_getinfo(w->curl, CURLINFO_RESPONSE_CODE, &answered);
    curl_slist_free_all(headers);
    if (code != CURLE_OK) {
        return explain(w, code, d);
    }
    *out = (webcall_answer){.status = (int32_t)answered,
                            .body = strbuf_str(&w->body),
                            .retry_after_s = w->retry_after_s};
    return STATUS_OK;
}
