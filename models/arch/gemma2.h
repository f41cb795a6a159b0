/* gemma2.h -- the gemma2 family: Gemma 2.
 *
 * Purpose    Llama's forward pass with scaled embeddings, GELU, norms before and after attention
 *            and FFN, soft-caps of scores and logits, and a sliding window in every other layer
 *            (Gemma Team, "Gemma 2", arXiv 2408.00118).
 * Ownership  As family.h.
 * Threads    As model.h.
 * Limits     As llama_keys.h.
 */
#ifndef MODELS_ARCH_GEMMA2_H
#define MODELS_ARCH_GEMMA2_H

#include "models/arch/family.h"

extern const family gemma2_family;

#endif
