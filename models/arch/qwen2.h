/* qwen2.h -- the qwen2 family: Qwen 2 and 2.5.
 *
 * Purpose    Llama's forward pass with biases on queries, keys and values (Yang et al., "Qwen2
 *            Technical Report", 2024).
 * Ownership  As family.h.
 * Threads    As model.h.
 * Limits     As llama_keys.h.
 */
#ifndef MODELS_ARCH_QWEN2_H
#define MODELS_ARCH_QWEN2_H

#include "models/arch/family.h"

extern const family qwen2_family;

#endif
