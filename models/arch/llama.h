/* llama.h -- the llama family: Llama 1-3, Mistral, SmolLM, TinyLlama and what is laid out alike.
 *
 * Purpose    Pre-norm transformer: RMSNorm, rotary grouped-query attention, SiLU-gated FFN
 *            (Touvron et al., "LLaMA", 2023; rotary: Su et al., "RoFormer", 2021). Families that
 *            differ in traits only are opened by llama_open_as and run by the same forward pass.
 * Ownership  As family.h.
 * Threads    As model.h.
 * Limits     As llama_keys.h.
 */
#ifndef MODELS_ARCH_LLAMA_H
#define MODELS_ARCH_LLAMA_H

#include "models/arch/family.h"
#include "models/arch/llama_keys.h"

extern const family llama_family;

/* As family.open, forward, close and share. */
MUST_USE status llama_open_as(const llama_traits *traits, const gguf *file,
                              const model_options *options, model_info *info, void **out, diag *d);
MUST_USE status llama_forward(void *self, backend_kv *kv, const model_batch *b);
void llama_close(void *self);
MUST_USE status llama_share(const void *self, backend *device, int32_t rows_max,
                            int32_t logit_rows_max, void **out);

#endif
