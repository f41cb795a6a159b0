/* qwen3.h -- the qwen3 family, its dense models.
 *
 * Purpose    Llama's forward pass with an RMS norm of each head of queries and keys before they
 *            turn (Yang et al., "Qwen3 Technical Report", 2025).
 * Ownership  As family.h.
 * Threads    As model.h.
 * Limits     As llama_keys.h.
 */
#ifndef MODELS_ARCH_QWEN3_H
#define MODELS_ARCH_QWEN3_H

#include "models/arch/family.h"

extern const family qwen3_family;

#endif
