/* rawclient.h -- a TCP client that sends exactly the bytes a test says.
 *
 * Purpose    Malformed and unusual HTTP cannot be sent with an HTTP client.
 * Ownership  rawclient_open holds a socket; rawclient_close gives it back.
 * Threads    One thread at a time for one client.
 * Limits     RAWCLIENT_BYTES of answer are kept. Waits end after RAWCLIENT_WAIT_MS: a hang guard,
 *            far longer than any answer takes.
 */
#ifndef TESTS_SUPPORT_RAWCLIENT_H
#define TESTS_SUPPORT_RAWCLIENT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { RAWCLIENT_BYTES = 1 << 20, RAWCLIENT_WAIT_MS = 60000 };

typedef struct {
    int fd;
    char *got; /* [got_bytes] and a zero byte */
    size_t got_bytes;
    bool ended; /* the server has closed */
} rawclient;

/* Connects to 127.0.0.1. */
void rawclient_open(rawclient *c, uint16_t port);
void rawclient_close(rawclient *c);

/* False when the server has closed. */
bool rawclient_send(rawclient *c, const void *data, size_t bytes);
bool rawclient_send_z(rawclient *c, const char *text);

/* Reads until `text` has come (true) or the server closes (false). */
bool rawclient_wait_for(rawclient *c, const char *text);

/* Reads until the server closes; false at the hang guard. */
bool rawclient_wait_end(rawclient *c);

/* The status of the n-th answer (from 0) in what has come, 0 when there is none. */
int rawclient_status(const rawclient *c, int n);

/* Forgets what has come. */
void rawclient_clear(rawclient *c);

#endif
