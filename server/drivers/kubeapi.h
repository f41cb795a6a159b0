/* kubeapi.h -- calls to a Kubernetes API server.
 *
 * Purpose    One request and its answer as JSON, with a service account's credentials, and every
 *            way in which it can fail told by name.
 * Ownership  kubeapi_close gives back what kubeapi_open took. A jsonin that was filled is the
 *            caller's to close; it is filled with KUBEAPI_FINE only.
 * Threads    One, which may block for KUBEAPI_CALL_MS.
 * Limits     Answers of LIMIT_BODY_BYTES. A token is read anew for each call, for it is replaced
 *            about once an hour; a file that cannot be read just then fails that call alone.
 */
#ifndef SERVER_DRIVERS_KUBEAPI_H
#define SERVER_DRIVERS_KUBEAPI_H

#include "server/http/jsonin.h"

enum { KUBEAPI_CALL_MS = 5000, KUBEAPI_PATH_BYTES = 2048 };

#define KUBEAPI_ACCOUNT "/var/run/secrets/kubernetes.io/serviceaccount"

/* Texts are borrowed. */
typedef struct {
    const char *url;        /* "https://10.0.0.1:443" */
    const char *token_file; /* NULL: no token is sent */
    const char *ca_file;    /* NULL: the system's roots */
    int64_t call_ms;        /* 0: KUBEAPI_CALL_MS */
} kubeapi_options;

typedef enum {
    KUBEAPI_FINE,
    KUBEAPI_MISSING,  /* 404 */
    KUBEAPI_CONFLICT, /* 409: somebody else has written since it was read */
    KUBEAPI_EXPIRED,  /* 410: what it went on from is gone; to be read from the start */
    KUBEAPI_FAILED    /* anything else; the diag says what */
} kubeapi_result;

typedef struct kubeapi kubeapi;

MUST_USE status kubeapi_open(const kubeapi_options *options, kubeapi **out, diag *d);
void kubeapi_close(kubeapi *k);

kubeapi_result kubeapi_get(kubeapi *k, const char *path, jsonin *out, diag *why);

/* A JSON merge patch (RFC 7386); `out` is the object as it is now. */
kubeapi_result kubeapi_patch(kubeapi *k, const char *path, const char *body, jsonin *out,
                             diag *why);

/* How long the last failure asked to be left alone; 0: it did not say. */
int64_t kubeapi_wait_us(const kubeapi *k);

/* "a=b,c in (d)" as it may stand in a query; false: it does not fit. */
bool kubeapi_escape(const char *text, char *out, size_t bytes);

#endif
