/* llama.h -- the llama family: Llama 1-3, SmolLM, TinyLlama and what is laid out alike.
 *
 * Purpose    Pre-norm transformer: RMSNorm, rotary grouped-query attention, SiLU-gated FFN
 *            (Touvron et al., "LLaMA", 2023; rotary: Su et al., "RoFormer", 2021).
 * Ownership  As family.h.
 * Threads    As model.h.
 * Limits     LLAMA_* below; head_dim as the backend's.
 */
#ifndef MODELS_ARCH_LLAMA_H
#define MODELS_ARCH_LLAMA_H

#include "models/arch/family.h"

enum { LLAMA_WIDTH_MAX = 1 << 16, LLAMA_HEADS_MAX = 1024, LLAMA_FFN_MAX = 1 << 20 };

extern const family llama_family;

#endif
