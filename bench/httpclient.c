/* httpclient.c -- one HTTP response, parsed from bytes as they come (llhttp). */
#include "bench/httpclient.h"

#include <stdio.h>
#include <string.h>

static int httpclient_on_status(llhttp_t *p) {
    httpclient *c = p->data;
    c->code = p->status_code;
    return 0;
}

static int httpclient_on_head(llhttp_t *p) {
    httpclient *c = p->data;
    c->code = p->status_code;
    /* 100 Continue and its like come before the response. */
    c->head_done = c->code >= 200;
    return 0;
}

static int httpclient_on_body(llhttp_t *p, const char *at, size_t bytes) {
    httpclient *c = p->data;
    if (c->body != NULL && bytes > 0) {
        c->body(c->self, str_of(at, bytes));
    }
    return 0;
}

static int httpclient_on_complete(llhttp_t *p) {
    httpclient *c = p->data;
    if (!c->head_done) {
        return 0;
    }
    c->done = true;
    c->keep = llhttp_should_keep_alive(p) != 0;
    return HPE_PAUSED; /* so that what follows is seen, not parsed */
}

static const llhttp_settings_t *httpclient_settings(void) {
    static const llhttp_settings_t settings = {.on_status_complete = httpclient_on_status,
                                               .on_headers_complete = httpclient_on_head,
                                               .on_body = httpclient_on_body,
                                               .on_message_complete = httpclient_on_complete};
    return &settings;
}

void httpclient_start(httpclient *c, void *self, void (*body)(void *self, str bytes)) {
    memset(c, 0, sizeof *c);
    llhttp_init(&c->parser, HTTP_RESPONSE, httpclient_settings());
    c->parser.data = c;
    c->self = self;
    c->body = body;
}

httpclient_progress httpclient_feed(httpclient *c, const char *data, size_t bytes) {
    if (c->done) {
        return bytes == 0 ? HTTPCLIENT_DONE : HTTPCLIENT_FAILED;
    }
    llhttp_errno_t error = llhttp_execute(&c->parser, data, bytes);
    if (c->done) {
        /* Paused at the end of the message: anything after it was not asked for. */
        const char *end = llhttp_get_error_pos(&c->parser);
        return end == NULL || end == data + bytes ? HTTPCLIENT_DONE : HTTPCLIENT_FAILED;
    }
    c->head_bytes += c->head_done ? 0 : bytes;
    if (error != HPE_OK || c->head_bytes > HTTPCLIENT_HEADER_BYTES) {
        return HTTPCLIENT_FAILED;
    }
    return HTTPCLIENT_MORE;
}

httpclient_progress httpclient_feed_end(httpclient *c) {
    if (!c->done && llhttp_finish(&c->parser) != HPE_OK && !c->done) {
        return HTTPCLIENT_FAILED;
    }
    c->keep = false;
    return c->done ? HTTPCLIENT_DONE : HTTPCLIENT_FAILED;
}

static status httpclient_part(char *to, size_t room, const char *from, size_t bytes,
                              const char *what, diag *d) {
    if (bytes == 0 || bytes >= room) {
        return status_fail_param(d, STATUS_INVALID, "url", "the %s in the URL is missing or long",
                                 what);
    }
    memcpy(to, from, bytes);
    to[bytes] = 0;
    return STATUS_OK;
}

status httpclient_url_read(const char *text, httpclient_url *out, diag *d) {
    memset(out, 0, sizeof *out);
    static const char scheme[] = "http://";
    if (strncmp(text, "https://", 8) == 0) {
        return status_fail_param(d, STATUS_UNSUPPORTED, "url", "https is not supported: %.200s",
                                 text);
    }
    if (strncmp(text, scheme, sizeof scheme - 1) == 0) {
        text += sizeof scheme - 1;
    } else if (strstr(text, "://") != NULL) {
        return status_fail_param(d, STATUS_INVALID, "url", "a URL starts with http://: %.200s",
                                 text);
    }
    size_t authority = strcspn(text, "/");
    const char *colon = NULL;
    size_t host = authority;
    if (text[0] == '[') {
        const char *close = memchr(text, ']', authority);
        if (close == NULL) {
            return status_fail_param(d, STATUS_INVALID, "url", "] is missing: %.200s", text);
        }
        host = (size_t)(close - text) + 1;
        colon = host < authority && text[host] == ':' ? text + host : NULL;
    } else if ((colon = memchr(text, ':', authority)) != NULL) {
        host = (size_t)(colon - text);
    }
    TRY(httpclient_part(out->host, sizeof out->host, text, host, "host", d));
    size_t port = colon != NULL ? authority - (size_t)(colon + 1 - text) : 2;
    int64_t number;
    TRY(httpclient_part(out->port, sizeof out->port, colon != NULL ? colon + 1 : "80", port, "port",
                        d));
    if (!str_to_i64(str_from(out->port), 1, 65535, &number)) {
        return status_fail_param(d, STATUS_INVALID, "url", "no port number: %s", out->port);
    }
    size_t prefix = strlen(text + authority);
    while (prefix > 0 && text[authority + prefix - 1] == '/') {
        prefix--;
    }
    return prefix == 0 ? STATUS_OK
                       : httpclient_part(out->prefix, sizeof out->prefix, text + authority, prefix,
                                         "path", d);
}

void httpclient_write(strbuf *out, const httpclient_url *to, const char *method, const char *path,
                      const char *key, str body) {
    strbuf_printf(out, "%s %s%s HTTP/1.1\r\nHost: %s:%s\r\nUser-Agent: weir-bench\r\n", method,
                  to->prefix, path, to->host, to->port);
    if (key != NULL) {
        strbuf_printf(out, "Authorization: Bearer %s\r\n", key);
    }
    if (body.bytes > 0) {
        strbuf_printf(out, "Content-Type: application/json\r\nContent-Length: %zu\r\n", body.bytes);
    }
    strbuf_append_z(out, "\r\n");
    strbuf_append_str(out, body);
}
