/* jsonout.h -- JSON text, written piece by piece.
 *
 * Purpose    Strings, numbers and the commas between members, appended to a strbuf. The caller
 *            writes the brackets; jsonout_key and jsonout_comma put commas where they belong.
 * Ownership  Appends to the caller's strbuf.
 * Threads    Pure functions.
 * Limits     The strbuf's maximum.
 * Source     RFC 8259. Output is ASCII but for characters of valid UTF-8, which stay as they are.
 */
#ifndef SERVER_HTTP_JSONOUT_H
#define SERVER_HTTP_JSONOUT_H

#include <stdbool.h>
#include <stdint.h>

#include "engine/base/str.h"

/* A quoted string. Bytes that are not UTF-8 become U+FFFD, one each. */
void jsonout_string(strbuf *out, str s);
void jsonout_string_z(strbuf *out, const char *zero_terminated);

/* The shortest text that reads back as this float; null when it is not finite. */
void jsonout_float(strbuf *out, float v);
void jsonout_int(strbuf *out, int64_t v);

/* A comma unless a bracket was just opened. */
void jsonout_comma(strbuf *out);

/* The comma, the quoted key (which needs no escapes) and the colon. */
void jsonout_key(strbuf *out, const char *key);

#endif
