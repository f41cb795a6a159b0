/* gguf_cursor.c -- bounded reads from the bytes of a GGUF file. */
#include "models/file/gguf_cursor.h"

#include <inttypes.h>

#include "models/file/gguf.h"

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "GGUF is read in place, little-endian");

uint32_t gguf_cursor_u32(const uint8_t *p) {
    uint32_t v;
    memcpy(&v, p, sizeof v);
    return v;
}

uint64_t gguf_cursor_u64(const uint8_t *p) {
    uint64_t v;
    memcpy(&v, p, sizeof v);
    return v;
}

/* Moves past `bytes` bytes; they start at data + *at. */
status gguf_cursor_take(gguf_cursor *c, uint64_t bytes, const char *what, uint64_t *at) {
    *at = c->at;
    uint64_t left = c->bytes - c->at;
    if (bytes > left) {
        return status_fail(c->d, STATUS_CORRUPT,
                           "byte %" PRIu64 ": the file ends inside %s (%" PRIu64
                           " bytes needed, %" PRIu64 " left)",
                           c->at, what, bytes, left);
    }
    c->at += bytes;
    return STATUS_OK;
}

status gguf_cursor_take_u32(gguf_cursor *c, const char *what, uint32_t *out) {
    uint64_t at;
    TRY(gguf_cursor_take(c, sizeof *out, what, &at));
    *out = gguf_cursor_u32(c->data + at);
    return STATUS_OK;
}

status gguf_cursor_take_u64(gguf_cursor *c, const char *what, uint64_t *out) {
    uint64_t at;
    TRY(gguf_cursor_take(c, sizeof *out, what, &at));
    *out = gguf_cursor_u64(c->data + at);
    return STATUS_OK;
}

status gguf_cursor_take_str(gguf_cursor *c, const char *what, uint64_t bytes_max, str *out) {
    uint64_t from = c->at;
    uint64_t bytes;
    TRY(gguf_cursor_take_u64(c, what, &bytes));
    if (bytes > bytes_max) {
        return status_fail(c->d, STATUS_LIMIT,
                           "byte %" PRIu64 ": %s has a length of %" PRIu64
                           " bytes, at most %" PRIu64 " are allowed",
                           from, what, bytes, bytes_max);
    }
    uint64_t at;
    TRY(gguf_cursor_take(c, bytes, what, &at));
    *out = str_of((const char *)c->data + at, bytes);
    return STATUS_OK;
}

/* Keys and tensor names: text that may be shown to a user. */
status gguf_cursor_take_name(gguf_cursor *c, const char *what, str *out) {
    uint64_t from = c->at;
    TRY(gguf_cursor_take_str(c, what, GGUF_LIMIT_NAME_BYTES, out));
    bool ok = out->bytes > 0 && str_utf8_valid(*out);
    for (size_t i = 0; ok && i < out->bytes; i++) {
        unsigned char byte = (unsigned char)out->data[i];
        ok = byte >= 0x20 && byte != 0x7F;
    }
    if (!ok) {
        return status_fail(c->d, STATUS_CORRUPT,
                           "byte %" PRIu64 ": %s is empty or not printable UTF-8", from, what);
    }
    return STATUS_OK;
}

/* A count from the file, against its limit and against what could follow. */
status gguf_cursor_count(gguf_cursor *c, uint64_t at, const char *what, uint64_t count,
                         uint64_t max, uint64_t bytes_min) {
    if (count > max) {
        return status_fail(c->d, STATUS_LIMIT,
                           "byte %" PRIu64 ": %" PRIu64 " %s, at most %" PRIu64 " are allowed", at,
                           count, what, max);
    }
    if (count > (c->bytes - c->at) / bytes_min) {
        return status_fail(c->d, STATUS_CORRUPT,
                           "byte %" PRIu64 ": %" PRIu64 " %s do not fit the %" PRIu64
                           " bytes that follow",
                           at, count, what, c->bytes - c->at);
    }
    return STATUS_OK;
}
