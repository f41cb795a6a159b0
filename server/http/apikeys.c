/* apikeys.c -- who may call. */
#define _GNU_SOURCE
#include "server/http/apikeys.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>

#include "engine/base/check.h"
#include "engine/base/limits.h"
#include "engine/base/mem.h"
#include "engine/base/sha256.h"

enum { APIKEYS_LINE_BYTES = 1024, APIKEYS_LINES_MAX = 4096 };

struct apikeys {
    int32_t count;
    uint8_t digests[LIMIT_API_KEYS][SHA256_BYTES];
};

status apikeys_open(apikeys **out) {
    *out = mem_calloc(1, sizeof **out);
    return *out != NULL ? STATUS_OK : STATUS_NOMEM;
}

void apikeys_close(apikeys *k) {
    mem_free(k);
}

int32_t apikeys_count(const apikeys *k) {
    return k->count;
}

void apikeys_identity(const apikeys *k, int32_t number, uint64_t out[2]) {
    CHECK(number >= 0 && number < k->count);
    memcpy(out, k->digests[number], 2 * sizeof *out);
}

static status apikeys_add_digest(apikeys *k, const uint8_t digest[SHA256_BYTES], diag *d) {
    if (k->count == LIMIT_API_KEYS) {
        return status_fail(d, STATUS_LIMIT, "more than %d API keys", LIMIT_API_KEYS);
    }
    memcpy(k->digests[k->count++], digest, SHA256_BYTES);
    return STATUS_OK;
}

status apikeys_add(apikeys *k, str key, diag *d) {
    if (key.bytes < APIKEYS_BYTES_MIN || key.bytes > APIKEYS_BYTES_MAX) {
        return status_fail(d, STATUS_INVALID, "an API key has %d to %d characters, not %zu",
                           APIKEYS_BYTES_MIN, APIKEYS_BYTES_MAX, key.bytes);
    }
    for (size_t i = 0; i < key.bytes; i++) {
        if (key.data[i] <= ' ' || key.data[i] >= 127) {
            return status_fail(d, STATUS_INVALID,
                               "an API key has printable ASCII characters without blanks only");
        }
    }
    uint8_t digest[SHA256_BYTES];
    sha256_of(key.data, key.bytes, digest);
    return apikeys_add_digest(k, digest, d);
}

static int apikeys_hex(char c) {
    if (c >= '0' && c <= '9') {
        return c - '0';
    }
    if (c >= 'a' && c <= 'f') {
        return c - 'a' + 10;
    }
    return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

static status apikeys_add_hex(apikeys *k, str hex, diag *d) {
    uint8_t digest[SHA256_BYTES];
    if (hex.bytes != 2 * SHA256_BYTES) {
        return status_fail(d, STATUS_INVALID, "sha256: wants 64 hex digits, not %zu", hex.bytes);
    }
    for (size_t i = 0; i < SHA256_BYTES; i++) {
        int high = apikeys_hex(hex.data[2 * i]);
        int low = apikeys_hex(hex.data[2 * i + 1]);
        if (high < 0 || low < 0) {
            return status_fail(d, STATUS_INVALID, "sha256: wants 64 hex digits");
        }
        digest[i] = (uint8_t)(high * 16 + low);
    }
    return apikeys_add_digest(k, digest, d);
}

static str apikeys_trim(char *line) {
    size_t from = strspn(line, " \t\r\n");
    size_t to = strlen(line);
    while (to > from && strchr(" \t\r\n", line[to - 1]) != NULL) {
        to--;
    }
    return str_of(line + from, to - from);
}

static status apikeys_add_line(apikeys *k, str line, bool is_private, diag *d) {
    static const char hashed[] = "sha256:";
    if (line.bytes == 0 || line.data[0] == '#') {
        return STATUS_OK;
    }
    if (str_starts_with(line, str_from(hashed))) {
        size_t n = sizeof hashed - 1;
        return apikeys_add_hex(k, str_of(line.data + n, line.bytes - n), d);
    }
    if (!is_private) {
        return status_fail(d, STATUS_INVALID,
                           "others may read the file and it has a key in the clear: chmod 600 it, "
                           "or keep sha256: digests in it");
    }
    return apikeys_add(k, line, d);
}

status apikeys_add_file(apikeys *k, const char *path, diag *d) {
    FILE *f = fopen(path, "re");
    struct stat st;
    if (f == NULL || fstat(fileno(f), &st) != 0) {
        status code = status_fail_errno(d, STATUS_IO, "%s", path);
        if (f != NULL) {
            (void)fclose(f);
        }
        return code;
    }
    bool is_private = (st.st_mode & (S_IRGRP | S_IROTH)) == 0;
    char line[APIKEYS_LINE_BYTES];
    status code = STATUS_OK;
    for (int number = 1; code == STATUS_OK && fgets(line, sizeof line, f) != NULL; number++) {
        diag why = {.code = STATUS_OK};
        bool whole = strchr(line, '\n') != NULL || feof(f);
        if (!whole || number > APIKEYS_LINES_MAX) {
            code = status_fail(&why, STATUS_LIMIT, "the line is too long, or the file");
        } else {
            code = apikeys_add_line(k, apikeys_trim(line), is_private, &why);
        }
        if (code != STATUS_OK) {
            (void)status_fail(d, code, "%s line %d: %s", path, number, why.text);
        }
    }
    explicit_bzero(line, sizeof line);
    (void)fclose(f);
    return code;
}

int32_t apikeys_find(const apikeys *k, str authorization) {
    static const char scheme[] = "Bearer ";
    size_t n = sizeof scheme - 1;
    if (authorization.bytes <= n || authorization.bytes > n + APIKEYS_BYTES_MAX ||
        strncasecmp(authorization.data, scheme, n) != 0) {
        return -1;
    }
    uint8_t digest[SHA256_BYTES];
    sha256_of(authorization.data + n, authorization.bytes - n, digest);
    /* All digests are compared, so the time says nothing about which one was close. */
    int32_t found = -1;
    for (int32_t i = 0; i < k->count; i++) {
        if (sha256_equal(digest, k->digests[i])) {
            found = i;
        }
    }
    return found;
}
