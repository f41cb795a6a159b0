/* gemma3.h -- the gemma3 family: the text models of Gemma 3.
 *
 * Purpose    Gemma 2's forward pass with norms of heads instead of soft-caps; five of six layers
 *            have a window and turn with a base of their own (Gemma Team, "Gemma 3 Technical
 *            Report", arXiv 2503.19786).
 * Ownership  As family.h.
 * Threads    As model.h.
 * Limits     As llama_keys.h.
 */
#ifndef MODELS_ARCH_GEMMA3_H
#define MODELS_ARCH_GEMMA3_H

#include "models/arch/family.h"

extern const family gemma3_family;

#endif
