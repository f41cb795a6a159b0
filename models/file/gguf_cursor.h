/* gguf_cursor.h -- bounded reads from the bytes of a GGUF file.
 *
 * Purpose    Walks a file from its start. Every read says what it is reading, so that an error
 *            names the byte offset and the thing that was cut off or out of range. Private to
 *            models/file.
 * Ownership  Borrows the bytes; strs taken point into them.
 * Threads    One thread at a time.
 * Limits     Never reads at or past `bytes`.
 */
#ifndef MODELS_FILE_GGUF_CURSOR_H
#define MODELS_FILE_GGUF_CURSOR_H

#include <stdint.h>

#include "engine/base/status.h"
#include "engine/base/str.h"

typedef struct {
    const uint8_t *data; /* [bytes] */
    uint64_t bytes;
    uint64_t at; /* <= bytes */
    diag *d;     /* where failures leave their text; may be NULL */
} gguf_cursor;

/* A name in an error message, cut to a length that leaves room for the rest: for "%.*s". */
#define GGUF_CURSOR_SHOWN(s) (int)((s).bytes < 80 ? (s).bytes : 80), (s).data

/* Little-endian, from any alignment. */
uint32_t gguf_cursor_u32(const uint8_t *p);
uint64_t gguf_cursor_u64(const uint8_t *p);

/* Moves past `bytes` bytes, which start at data + *at. `what` is a noun for the error. */
MUST_USE status gguf_cursor_take(gguf_cursor *c, uint64_t bytes, const char *what, uint64_t *at);
MUST_USE status gguf_cursor_take_u32(gguf_cursor *c, const char *what, uint32_t *out);
MUST_USE status gguf_cursor_take_u64(gguf_cursor *c, const char *what, uint64_t *out);

/* A length and as many bytes. */
MUST_USE status gguf_cursor_take_str(gguf_cursor *c, const char *what, uint64_t bytes_max,
                                     str *out);

/* A key or a tensor's name: printable UTF-8, not empty. */
MUST_USE status gguf_cursor_take_name(gguf_cursor *c, const char *what, str *out);

/* Checks a count read at byte `at` against its maximum, and against what the rest of the file could
 * hold when each entry takes at least `bytes_min`: a short file claiming millions of entries costs
 * no memory. */
MUST_USE status gguf_cursor_count(gguf_cursor *c, uint64_t at, const char *what, uint64_t count,
                                  uint64_t max, uint64_t bytes_min);

#endif
