/* nfc.h -- text in Unicode's normalization form C.
 *
 * Purpose    Some tokenizers (Qwen's) see text only after characters and their marks were put
 *            together. Private to models/text: use tokenizer.h.
 * Ownership  nfc_write appends to the caller's buffer.
 * Threads    Pure functions.
 * Limits     Time O(n log n), whatever the text. Unicode as in nfc_table.h.
 * Source     Unicode Standard Annex #15; Hangul: The Unicode Standard, section 3.12.
 */
#ifndef MODELS_TEXT_NFC_H
#define MODELS_TEXT_NFC_H

#include <stdbool.h>

#include "engine/base/str.h"

/* Form C takes at most this many times the bytes (UAX #15, section 9.3: U+1D160 and its kin). */
enum { NFC_GROWTH = 3 };

/* True when a glance shows that nothing would change. */
bool nfc_is_plain(str text);

/* Appends `text`, which is valid UTF-8, in form C; false when there is no memory. */
MUST_USE bool nfc_write(str text, strbuf *out);

#endif
