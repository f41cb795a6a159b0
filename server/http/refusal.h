/* refusal.h -- errors as the OpenAI API writes them.
 *
 * Purpose    The HTTP code of a status, its phrase, and the error object of a body.
 * Ownership  The caller's buffers; the texts are static.
 * Threads    Any.
 * Limits     Those of the buffer.
 */
#ifndef SERVER_HTTP_REFUSAL_H
#define SERVER_HTTP_REFUSAL_H

#include "engine/base/status.h"
#include "engine/base/str.h"

/* {"error":{"message","type","param","code"}} */
void refusal_write(strbuf *out, int http_code, const diag *d);

/* "Bad Request" for 400, ... */
const char *refusal_phrase(int http_code);

/* The HTTP code a status stands for: INVALID 400, NOTFOUND 404, LIMIT 429, TIMEOUT 504, ... */
int refusal_code(status s);

#endif
