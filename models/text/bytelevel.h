/* bytelevel.h -- the byte alphabet of byte-level BPE vocabularies.
 *
 * Purpose    GPT-2 style vocabularies write each byte as one printable character, so that a token's
 *            text never holds blanks or control characters. This maps both ways.
 * Ownership  Static tables.
 * Threads    Pure functions.
 * Limits     A byte is at most two bytes of UTF-8 in the alphabet.
 * Source     The alphabet of GPT-2's encoder (Radford et al., 2019): printable Latin-1 stands for
 *            itself, the 68 other bytes take U+0100 and up in byte order.
 */
#ifndef MODELS_TEXT_BYTELEVEL_H
#define MODELS_TEXT_BYTELEVEL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/base/str.h"

/* The character for one byte that is not printable ASCII. */
size_t bytelevel_put_other(uint8_t byte, char out[2]);

/* The character for one byte, in UTF-8; returns its bytes (1 or 2). */
static inline size_t bytelevel_put(uint8_t byte, char out[2]) {
    if (byte > 0x20 && byte < 0x7F) {
        out[0] = (char)byte;
        return 1;
    }
    return bytelevel_put_other(byte, out);
}

/* The bytes a token's text stands for, into out[text.bytes]; false when the text holds a character
 * outside the alphabet. */
MUST_USE bool bytelevel_decode(str text, char *out, size_t *out_bytes);

#endif
