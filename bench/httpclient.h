/* httpclient.h -- one HTTP response, parsed from bytes as they come (llhttp).
 *
 * Purpose    The part of an HTTP client that has no socket: requests as bytes, responses from
 *            bytes, cut anywhere.
 * Ownership  Plain data; httpclient_start prepares it for the next response. Body bytes are given
 *            to the callback as they come, borrowed for the call.
 * Threads    One thread at a time for one client.
 * Limits     HTTPCLIENT_HEADER_BYTES of a response's head. Bodies are not kept, so not limited.
 */
#ifndef BENCH_HTTPCLIENT_H
#define BENCH_HTTPCLIENT_H

#include <llhttp.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/base/status.h"
#include "engine/base/str.h"

enum { HTTPCLIENT_HEADER_BYTES = 64 << 10 };

typedef enum {
    HTTPCLIENT_MORE,  /* the response is not complete */
    HTTPCLIENT_DONE,  /* complete; bytes after it are an error of the server's */
    HTTPCLIENT_FAILED /* this is not an HTTP response */
} httpclient_progress;

typedef struct {
    llhttp_t parser;
    void *self;
    void (*body)(void *self, str bytes);
    size_t head_bytes;
    int code; /* 0 until the status line is there */
    bool head_done;
    bool done;
    bool keep; /* the connection may be used again; valid when done */
} httpclient;

/* `body` is called with each piece of the body; NULL throws it away. */
void httpclient_start(httpclient *c, void *self, void (*body)(void *self, str bytes));

httpclient_progress httpclient_feed(httpclient *c, const char *data, size_t bytes);

/* The server has closed: some responses end so. */
httpclient_progress httpclient_feed_end(httpclient *c);

/* Where "http://host:port/prefix" leads. */
typedef struct {
    char host[256];
    char port[8];
    char prefix[256]; /* of all paths; no slash at its end */
} httpclient_url;

MUST_USE status httpclient_url_read(const char *text, httpclient_url *out, diag *d);

/* Appends a request. `key` may be NULL; a body is sent as application/json. */
void httpclient_write(strbuf *out, const httpclient_url *to, const char *method, const char *path,
                      const char *key, str body);

#endif
