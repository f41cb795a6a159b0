/* reply_logprobs.h -- log probabilities in the shapes of the OpenAI API.
 *
 * Purpose    The value of a choice's `logprobs` member: chat completions have an object a token,
 *            completions four parallel arrays (the legacy form). null when none were asked for.
 * Ownership  Appends to the caller's strbuf; all else is borrowed for the call.
 * Threads    Pure functions.
 * Limits     The strbuf's maximum.
 */
#ifndef SERVER_API_REPLY_LOGPROBS_H
#define SERVER_API_REPLY_LOGPROBS_H

#include "server/api/reply.h"

void reply_logprobs_write(strbuf *out, const reply *r, const reply_part *p);

#endif
