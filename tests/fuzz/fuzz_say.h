/* fuzz_say.h -- messages of the request protocol made from choices: well formed, seldom fitting.
 *
 * Purpose    Plain bytes hardly ever decode; these do, so that what they meet is the state machine.
 * Ownership  fuzz_say_open holds memory until fuzz_say_close; a message lives until the next.
 * Threads    One.
 * Limits     Requests 1..4, attempts 1..3, workers 0..2, prompts of at most FUZZ_SAY_TOKENS tokens.
 */
#ifndef TESTS_FUZZ_FUZZ_SAY_H
#define TESTS_FUZZ_FUZZ_SAY_H

#include "engine/core/message.h"
#include "tests/fuzz/fuzz.h"

enum { FUZZ_SAY_TOKENS = 80, FUZZ_SAY_LIST = 6, FUZZ_SAY_WORKERS = 3, FUZZ_SAY_LAYERS = 4 };

typedef struct {
    message made;
    message decoded;
    request_params params;
    int32_t ids[FUZZ_SAY_TOKENS];
    request_token tokens[FUZZ_SAY_LIST];
    message_lease leases[FUZZ_SAY_LIST];
    strbuf bytes;
    message_scratch *scratch;
} fuzz_say;

void fuzz_say_open(fuzz_say *s);
void fuzz_say_close(fuzz_say *s);

/* A request message, LEASES, DRAIN or HEARTBEAT that has gone through the encoder and the decoder;
 * NULL when the encoder refused what was chosen. */
const message *fuzz_say_next(fuzz_say *s, fuzz_input *in);

void fuzz_say_params(fuzz_input *in, request_params *p);

#endif
