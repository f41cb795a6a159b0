/* kubeapi.c -- credentials, a call, and what its answer means. */
#define _GNU_SOURCE
#include "server/drivers/kubeapi.h"

#include <ctype.h>
#include <stdio.h>
#include <string.h>

#include "engine/base/limits.h"
#include "engine/base/mem.h"
#include "server/http/webcall.h"

enum { TOKEN_BYTES = 16384, SAID_BYTES = 160 };

struct kubeapi {
    kubeapi_options options;
    webcall *call;
    int64_t wait_us;
    char token[TOKEN_BYTES];
    char url[KUBEAPI_PATH_BYTES];
};

status kubeapi_open(const kubeapi_options *options, kubeapi **out, diag *d) {
    kubeapi *k = mem_calloc(1, sizeof *k);
    if (!k || webcall_open(&k->call) != STATUS_OK) {
        mem_free(k);
        return status_fail(d, STATUS_NOMEM, "no memory for calls to Kubernetes");
    }
    k->options = *options;
    *out = k;
    return STATUS_OK;
}

void kubeapi_close(kubeapi *k) {
    if (k) {
        webcall_close(k->call);
        explicit_bzero(k->token, sizeof k->token);
        mem_free(k);
    }
}

int64_t kubeapi_wait_us(const kubeapi *k) {
    return k->wait_us;
}

bool kubeapi_escape(const char *text, char *out, size_t bytes) {
    size_t at = 0;
    for (; *text; text++) {
        bool plain = isalnum((unsigned char)*text) || strchr("-._~", *text);
        if (at + 4 > bytes) {
            return false;
        }
        int n = snprintf(out + at, bytes - at, plain ? "%c" : "%%%02X", (unsigned char)*text);
        at += (size_t)n;
    }
    out[at] = 0;
    return true;
}

static status read_token(kubeapi *k, diag *why) {
    const char *path = k->options.token_file;
    FILE *f = path ? fopen(path, "re") : NULL;
    k->token[0] = 0;
    if (!path) {
        return STATUS_OK;
    }
    if (!f) {
        return status_fail_errno(why, STATUS_IO, path);
    }
    size_t bytes = fread(k->token, 1, sizeof k->token - 1, f);
    (void)fclose(f);
    k->token[bytes] = 0;
    k->token[strcspn(k->token, "\r\n")] = 0;
    return k->token[0] ? STATUS_OK : status_fail(why, STATUS_CORRUPT, "%s is empty", path);
}

/* The reason that the server gives in a Status object, else what the number means. */
static void explain(const char *method, const char *path, const webcall_answer *a, diag *why) {
    static const struct {
        int32_t status;
        const char *meaning;
    } known[] = {{401, "the token is not accepted"}, {403, "the service account may not do that"},
                 {404, "there is no such object"},   {409, "written by somebody else meanwhile"},
                 {410, "too old to go on from"},     {422, "the values are not accepted"},
                 {429, "too many requests"}};
    const char *meaning = a->status >= 500 ? "the API server failed" : "refused";
    const char *said = "";
    jsonin answer = {.root = NULL};
    diag ignored;
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        meaning = known[i].status == a->status ? known[i].meaning : meaning;
    }
    bool read = jsonin_open(a->body, NULL, 0, &answer, &ignored) == STATUS_OK;
    const cJSON *message = read ? jsonin_get(answer.root, "message") : NULL;
    if (cJSON_IsString(message)) {
        said = message->valuestring;
    }
    (void)status_fail(why, STATUS_IO, "%s %.*s: %d, %s%s%.*s", method, (int)strcspn(path, "?"),
                      path, a->status, meaning, said[0] ? ": " : "", SAID_BYTES, said);
    if (read) {
        jsonin_close(&answer);
    }
}

static kubeapi_result call(kubeapi *k, const char *method, const char *path, const char *body,
                           jsonin *out, diag *why) {
    webcall_answer a;
    webcall_request q = {
        .method = method,
        .url = k->url,
        .body = str_from(body),
        .content_type = "application/merge-patch+json",
        .ca_file = k->options.ca_file,
        .timeout_ms = k->options.call_ms > 0 ? k->options.call_ms : KUBEAPI_CALL_MS,
        .answer_bytes_max = LIMIT_BODY_BYTES};
    k->wait_us = 0;
    int length = snprintf(k->url, sizeof k->url, "%s%s", k->options.url, path);
    if (length < 0 || (size_t)length >= sizeof k->url) {
        (void)status_fail(why, STATUS_LIMIT, "%s: too long a path", method);
        return KUBEAPI_FAILED;
    }
    if (read_token(k, why) != STATUS_OK) {
        return KUBEAPI_FAILED;
    }
    q.bearer = k->options.token_file ? k->token : NULL;
    if (webcall_send(k->call, &q, &a, why) != STATUS_OK) {
        return KUBEAPI_FAILED;
    }
    if (a.status == 200) {
        return jsonin_open(a.body, NULL, 0, out, why) == STATUS_OK ? KUBEAPI_FINE : KUBEAPI_FAILED;
    }
    k->wait_us = a.retry_after_s * 1000000;
    explain(method, path, &a, why);
    return a.status == 404   ? KUBEAPI_MISSING
           : a.status == 409 ? KUBEAPI_CONFLICT
           : a.status == 410 ? KUBEAPI_EXPIRED
                             : KUBEAPI_FAILED;
}

kubeapi_result kubeapi_get(kubeapi *k, const char *path, jsonin *out, diag *why) {
    return call(k, "GET", path, NULL, out, why);
}

kubeapi_result kubeapi_patch(kubeapi *k, const char *path, const char *body, jsonin *out,
                             diag *why) {
    return call(k, "PATCH", path, body, out, why);
}
