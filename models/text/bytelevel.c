/* bytelevel.c -- the byte alphabet of byte-level BPE vocabularies. */
#include "models/text/bytelevel.h"

/* Bytes that stand for themselves: printable ASCII and printable Latin-1 (without the soft hyphen,
 * U+00AD, which shows as nothing). */
static bool is_printable(uint32_t c) {
    return (c >= 0x21 && c <= 0x7E) || (c >= 0xA1 && c <= 0xAC) || (c >= 0xAE && c <= 0xFF);
}

/* The others, numbered in byte order: 0x00..0x20 are 0..32, 0x7F..0xA0 are 33..66, 0xAD is 67. */
static uint32_t code_point_of(uint8_t byte) {
    if (is_printable(byte)) {
        return byte;
    }
    if (byte <= 0x20) {
        return 0x100u + byte;
    }
    return byte == 0xAD ? 0x100u + 67 : 0x100u + 33 + (byte - 0x7Fu);
}

static bool byte_of(uint32_t c, uint8_t *out) {
    if (is_printable(c)) {
        *out = (uint8_t)c;
        return true;
    }
    if (c < 0x100 || c > 0x100 + 67) {
        return false;
    }
    uint32_t index = c - 0x100;
    if (index <= 32) {
        *out = (uint8_t)index;
    } else {
        *out = index == 67 ? 0xAD : (uint8_t)(0x7F + (index - 33));
    }
    return true;
}

size_t bytelevel_put_other(uint8_t byte, char out[2]) {
    char utf8[4];
    size_t bytes = str_utf8_put(code_point_of(byte), utf8);
    memcpy(out, utf8, bytes);
    return bytes;
}

bool bytelevel_decode(str text, char *out, size_t *out_bytes) {
    size_t count = 0;
    for (size_t at = 0; at < text.bytes;) {
        uint32_t c;
        uint8_t byte;
        int n = str_utf8_next(text.data + at, text.bytes - at, &c);
        if (n <= 0 || !byte_of(c, &byte)) {
            return false;
        }
        out[count++] = (char)byte;
        at += (size_t)n;
    }
    *out_bytes = count;
    return true;
}
