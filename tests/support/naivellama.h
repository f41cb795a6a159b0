/* naivellama.h -- a llama forward pass in double precision, as plain as it can be.
 *
 * Purpose    The oracle of models/arch: reads a GGUF file whose matrices are F32 and computes the
 *            logits of every position of one sequence. Shares no arithmetic with the engine.
 * Ownership  Takes and frees its memory inside the call.
 * Threads    Any.
 * Limits     Small models: time is tokens x parameters, one scalar at a time.
 */
#ifndef TESTS_SUPPORT_NAIVELLAMA_H
#define TESTS_SUPPORT_NAIVELLAMA_H

#include <stdint.h>

/* Writes logits[count, vocab]. Aborts when the file is not what it should be. */
void naivellama_logits(const char *path, const int32_t *tokens, int32_t count, double *logits);

#endif
