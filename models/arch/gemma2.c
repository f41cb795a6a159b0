/* gemma2.c -- the gemma2 family: llama with norms after attention and FFN too, GELU, soft-caps, and
 * a window in every other layer. */
#include "models/arch/gemma2.h"

#include "models/arch/llama.h"

static status open_gemma2(const gguf *file, const model_options *options, model_info *info,
                          void **out, diag *d) {
    static const llama_traits traits = {
        .arch = "gemma2",
        .pairs = OPS_ROPE_NEOX,
        .norms_after = true,
        .gelu = true,
        .scales_embedding = true,
        .softcap = 50,
        .logits_softcap = 30,
        .full_every = 2,
        .window = 4096,
        .by_width_layers = 46,
    };
    return llama_open_as(&traits, file, options, info, out, d);
}

const family gemma2_family = {"gemma2", open_gemma2, llama_forward, llama_close, llama_share};
