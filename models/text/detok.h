/* detok.h -- token ids back to text, one at a time.
 *
 * Purpose    Streams may cut a UTF-8 character between tokens. A detok holds back the bytes of an
 *            unfinished character until it is whole, so everything it gives out is valid UTF-8, and
 *            the concatenation equals decoding all ids at once with invalid bytes replaced.
 * Ownership  Plain data, no heap; copy it to fork a stream.
 * Threads    One thread at a time for one detok; the tokenizer is shared.
 * Limits     At most three bytes are held back. One token gives at most DETOK_BYTES_MAX(piece).
 */
#ifndef MODELS_TEXT_DETOK_H
#define MODELS_TEXT_DETOK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/base/str.h"
#include "models/text/tokenizer.h"

/* Each invalid byte becomes the three bytes of U+FFFD. */
#define DETOK_BYTES_MAX(piece_bytes) (3 * ((piece_bytes) + 3))

typedef struct {
    char held[4]; /* [held_bytes] start of a character not yet whole */
    uint8_t held_bytes;
    bool skip_special;
} detok;

/* skip_special: control tokens give no text (and do not complete or cut a character). */
static inline detok detok_make(bool skip_special) {
    detok s = {{0, 0, 0, 0}, 0, skip_special};
    return s;
}

/* Appends the text that `id` completes to `out`; false when `out` is full (out->failed). */
MUST_USE bool detok_feed(detok *s, const tokenizer *t, int32_t id, strbuf *out);

/* The same for bytes that do not come from a token. */
MUST_USE bool detok_feed_bytes(detok *s, str bytes, strbuf *out);

/* End of the stream: held bytes can no longer be completed and become one U+FFFD. */
MUST_USE bool detok_flush(detok *s, strbuf *out);

#endif
