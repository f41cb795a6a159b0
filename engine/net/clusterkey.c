/* clusterkey.c -- read, trim, derive. */
#define _GNU_SOURCE
#include "engine/net/clusterkey.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "engine/base/log.h"

static bool is_space(char c) {
    return c == ' ' || c == '\t' || c == '\r' || c == '\n';
}

static status derive(str secret, const char *from, clusterkey *out, diag *d) {
    while (secret.bytes && is_space(secret.data[secret.bytes - 1])) {
        secret.bytes--;
    }
    while (secret.bytes && is_space(secret.data[0])) {
        secret = str_of(secret.data + 1, secret.bytes - 1);
    }
    if (secret.bytes < CLUSTERKEY_BYTES_MIN || secret.bytes > CLUSTERKEY_BYTES_MAX) {
        return status_fail(d, STATUS_INVALID,
                           "%s: a cluster key has %d to %d bytes, not %zu (make one with: "
                           "head -c 32 /dev/urandom | base64)",
                           from, CLUSTERKEY_BYTES_MIN, CLUSTERKEY_BYTES_MAX, secret.bytes);
    }
    out->given = true;
    static const char label[] = "weir cluster key 1";
    sha256_hmac(secret.data, secret.bytes, label, sizeof label - 1, out->key);
    return STATUS_OK;
}

static status read_file(const char *path, clusterkey *out, diag *d) {
    char text[CLUSTERKEY_BYTES_MAX + 64];
    struct stat st;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &st) != 0) {
        status s = status_fail_errno(d, STATUS_IO, "%s", path);
        if (fd >= 0) {
            (void)close(fd);
        }
        return s;
    }
    if (st.st_mode & (S_IRWXO)) {
        LOG(WARN, "cluster", "every user of this machine may read the key", "file=%s", path);
    }
    size_t bytes = 0;
    ssize_t n;
    do {
        n = read(fd, text + bytes, sizeof text - bytes);
        bytes += n > 0 ? (size_t)n : 0;
    } while (n > 0 || (n < 0 && errno == EINTR));
    (void)close(fd);
    if (n < 0) {
        return status_fail_errno(d, STATUS_IO, "%s", path);
    }
    return derive(str_of(text, bytes), path, out, d);
}

status clusterkey_read(const char *path, clusterkey *out, diag *d) {
    *out = (clusterkey){.given = false};
    if (path) {
        return read_file(path, out, d);
    }
    const char *text = getenv("WEIR_CLUSTER_KEY");
    return text ? derive(str_from(text), "WEIR_CLUSTER_KEY", out, d) : STATUS_OK;
}

void clusterkey_derive(const clusterkey *k, const char *purpose, uint8_t out[HANDSHAKE_KEY_BYTES]) {
    sha256_hmac(k->key, sizeof k->key, purpose, strlen(purpose), out);
}

status clusterkey_check(const clusterkey *k, const hostport *address, const char *what, diag *d) {
    char text[HOSTPORT_TEXT_BYTES];
    if (k->given || hostport_is_loopback(address)) {
        return STATUS_OK;
    }
    hostport_print(address, text);
    return status_fail_param(d, STATUS_INVALID, what,
                             "--%s %s: other hosts can reach this, so the cluster's key is needed: "
                             "--cluster-key-file FILE or WEIR_CLUSTER_KEY",
                             what, text);
}

status clusterkey_address(const clusterkey *k, const char *text, const char *what, hostport *out,
                          diag *d) {
    diag why;
    if (hostport_parse(str_from(text), false, out, &why) != STATUS_OK) {
        return status_fail_param(d, why.code, what, "--%s %s", what, why.text);
    }
    return clusterkey_check(k, out, what, d);
}
