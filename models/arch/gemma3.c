/* gemma3.c -- the gemma3 family: gemma2 that normalises heads instead of capping scores, and turns
 * slowly in the one of six layers that has no window. */
#include "models/arch/gemma3.h"

#include "models/arch/llama.h"

static status open_gemma3(const gguf *file, const model_options *options, model_info *info,
                          void **out, diag *d) {
    static const llama_traits traits = {
        .arch = "gemma3",
        .pairs = OPS_ROPE_NEOX,
        .norms_after = true,
        .gelu = true,
        .scales_embedding = true,
        .head_norms = true,
        .window_base = 10000,
        .full_every = 6,
        .by_width_layers = 62,
    };
    return llama_open_as(&traits, file, options, info, out, d);
}

const family gemma3_family = {"gemma3", open_gemma3, llama_forward, llama_close, llama_share};
