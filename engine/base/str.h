/* str.h -- slices and bounded growing buffers.
 *
 * Purpose    `str` is a borrowed run of bytes, not terminated. `strbuf` is a growing buffer that
 *            knows its maximum, so no input can make it grow without end.
 * Ownership  A str borrows. A strbuf owns its bytes; strbuf_close frees them.
 * Threads    One thread at a time.
 * Limits     strbuf: the maximum given at creation. Appending past it fails, sets `failed`, and
 *            every later append fails too, so a writer may check once at the end.
 */
#ifndef ENGINE_BASE_STR_H
#define ENGINE_BASE_STR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "engine/base/status.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
    const char *data; /* [bytes], may be NULL when bytes is 0 */
    size_t bytes;
} str;

typedef struct {
    char *data; /* [bytes] and a zero byte after them; NULL before the first append */
    size_t bytes;
    size_t capacity;
    size_t bytes_max;
    bool failed;
} strbuf;

static inline str str_from(const char *zero_terminated) {
    str s = {zero_terminated, zero_terminated ? strlen(zero_terminated) : 0};
    return s;
}

static inline str str_of(const char *data, size_t bytes) {
    str s = {data, bytes};
    return s;
}

bool str_equal(str a, str b);
bool str_equal_z(str a, const char *zero_terminated);
bool str_starts_with(str s, str prefix);
bool str_ends_with(str s, str suffix);

/* The offset of the first occurrence at or after `from`, or SIZE_MAX. */
size_t str_find(str s, str needle, size_t from);

/* Decimal, whole string, within [min, max]; false otherwise. */
MUST_USE bool str_to_i64(str s, int64_t min, int64_t max, int64_t *out);

/* A finite decimal number, whole string. */
MUST_USE bool str_to_f64(str s, double *out);

/* A buffer that will hold at most `bytes_max` bytes. Takes no memory yet. */
static inline strbuf strbuf_make(size_t bytes_max) {
    strbuf b = {NULL, 0, 0, bytes_max, false};
    return b;
}

void strbuf_close(strbuf *b);
void strbuf_clear(strbuf *b);

/* Makes room for `bytes` more; false when that passes the maximum or memory. */
bool strbuf_reserve(strbuf *b, size_t bytes);
bool strbuf_append(strbuf *b, const void *data, size_t bytes);
bool strbuf_append_str(strbuf *b, str s);
bool strbuf_append_z(strbuf *b, const char *zero_terminated);
bool strbuf_append_char(strbuf *b, char c);
bool strbuf_printf(strbuf *b, const char *format, ...) PRINTF_LIKE(2, 3);

/* Drops the first `bytes` bytes. */
void strbuf_consume(strbuf *b, size_t bytes);

static inline str strbuf_str(const strbuf *b) {
    str s = {b->data, b->bytes};
    return s;
}

/* Bytes of the first UTF-8 character of [data, data+bytes): 1..4 when whole and well formed
 * (RFC 3629: no surrogates, no overlong forms), 0 when more bytes could complete it, -1 when it
 * can never be valid. Writes the code point when it is whole. */
int str_utf8_next(const char *data, size_t bytes, uint32_t *code_point);

/* Encodes one code point; returns its bytes (1..4). */
size_t str_utf8_put(uint32_t code_point, char out[4]);

/* True when the whole slice is well-formed UTF-8. */
bool str_utf8_valid(str s);

#ifdef __cplusplus
}
#endif
#endif
