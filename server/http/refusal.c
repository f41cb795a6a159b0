/* refusal.c -- errors as the OpenAI API writes them. */
#include "server/http/refusal.h"

#include <stddef.h>

#include "server/http/jsonout.h"

/* vLLM's names of the types (ErrorResponse), so that its clients' handling works here. */
static const struct {
    int code;
    const char *type;
    const char *phrase;
} refusal_codes[] = {
    {200, "", "OK"},
    {400, "BadRequestError", "Bad Request"},
    {401, "AuthenticationError", "Unauthorized"},
    {403, "PermissionDeniedError", "Forbidden"},
    {404, "NotFoundError", "Not Found"},
    {405, "MethodNotAllowedError", "Method Not Allowed"},
    {408, "RequestTimeoutError", "Request Timeout"},
    {413, "RequestTooLargeError", "Content Too Large"},
    {414, "BadRequestError", "URI Too Long"},
    {415, "UnsupportedMediaTypeError", "Unsupported Media Type"},
    {417, "BadRequestError", "Expectation Failed"},
    {422, "UnprocessableEntityError", "Unprocessable Content"},
    {429, "RateLimitError", "Too Many Requests"},
    {431, "BadRequestError", "Request Header Fields Too Large"},
    {500, "InternalServerError", "Internal Server Error"},
    {501, "NotImplementedError", "Not Implemented"},
    {503, "ServiceUnavailableError", "Service Unavailable"},
    {504, "TimeoutError", "Gateway Timeout"},
    {505, "BadRequestError", "HTTP Version Not Supported"},
};

const char *refusal_phrase(int http_code) {
    for (size_t i = 0; i < sizeof refusal_codes / sizeof refusal_codes[0]; i++) {
        if (refusal_codes[i].code == http_code) {
            return refusal_codes[i].phrase;
        }
    }
    return "Unknown";
}

static const char *refusal_type(int http_code) {
    for (size_t i = 0; i < sizeof refusal_codes / sizeof refusal_codes[0]; i++) {
        if (refusal_codes[i].code == http_code) {
            return refusal_codes[i].type;
        }
    }
    return "InternalServerError";
}

int refusal_code(status s) {
    switch (s) {
        case STATUS_OK:
            return 200;
        case STATUS_INVALID:
        case STATUS_CORRUPT:
        case STATUS_UNSUPPORTED:
            /* Not 501: clients repeat what fails with a 5xx, and this will never succeed. */
            return 400;
        case STATUS_NOTFOUND:
            return 404;
        case STATUS_LIMIT:
            return 429;
        case STATUS_NOMEM:
        case STATUS_CLOSED:
            return 503;
        case STATUS_TIMEOUT:
            return 504;
        case STATUS_IO:
        case STATUS_DEVICE:
        case STATUS_MISMATCH:
            break;
    }
    return 500;
}

void refusal_write(strbuf *out, int http_code, const diag *d) {
    strbuf_append_z(out, "{\"error\":{");
    jsonout_key(out, "message");
    jsonout_string_z(out, d->text);
    jsonout_key(out, "type");
    jsonout_string_z(out, refusal_type(http_code));
    jsonout_key(out, "param");
    if (d->param[0] != 0) {
        jsonout_string_z(out, d->param);
    } else {
        strbuf_append_z(out, "null");
    }
    jsonout_key(out, "code");
    jsonout_int(out, http_code);
    strbuf_append_z(out, "}}");
}
