/* webcall.h -- calls to other services' HTTP APIs: Kubernetes, Ray, etcd, trace collectors.
 *
 * Purpose    One request and its answer, over HTTP or HTTPS, on libcurl: TLS and its trust are not
 *            weir's to write. Nothing of a user's request goes this way; the protocol between
 *            weir's own processes does not either.
 * Ownership  webcall_open takes what webcall_close gives back; an answer's body lives until the
 *            next call.
 * Threads    One thread a webcall; it keeps its connection from one call to the next. Calls block,
 *            so they are made by threads that have nothing else to do.
 * Limits     An answer has at most `answer_bytes_max` bytes, a call at most `timeout_ms`; no
 *            redirects are followed, no proxy of the environment is used, and only http and https
 *            are spoken.
 */
#ifndef SERVER_HTTP_WEBCALL_H
#define SERVER_HTTP_WEBCALL_H

#include <stdbool.h>
#include <stdint.h>

#include "engine/base/str.h"

typedef struct webcall webcall;

typedef struct {
    const char *method;         /* "GET", "PUT", ... */
    const char *url;            /* http: or https: */
    str body;                   /* none when it has no bytes */
    const char *content_type;   /* of the body; NULL: application/json */
    const char *accept;         /* NULL: application/json */
    const char *bearer;         /* token, or NULL */
    const char *const *headers; /* [headers_count] more of them: "name: value" */
    uint32_t headers_count;
    const char *ca_file;     /* PEM, instead of the system's roots; NULL: those */
    int64_t timeout_ms;      /* of the whole call; with `part`, between two parts */
    size_t answer_bytes_max; /* 0: 4 MiB */
    /* Told of each piece of the answer as it comes, in place of `body` below (a watch); false ends
     * the call. */
    bool (*part)(void *context, str piece);
    void *part_context;
} webcall_request;

typedef struct {
    int32_t status; /* 200, ... */
    str body;
    int64_t retry_after_s; /* of Retry-After in seconds; 0: none */
} webcall_answer;

MUST_USE status webcall_open(webcall **out);
void webcall_close(webcall *w);

/* STATUS_OK with whatever status the service answered; else nothing was answered whole: STATUS_IO,
 * STATUS_TIMEOUT, STATUS_LIMIT (too long an answer), STATUS_CLOSED (`part` ended it). */
MUST_USE status webcall_send(webcall *w, const webcall_request *request, webcall_answer *out,
                             diag *d);

#endif
