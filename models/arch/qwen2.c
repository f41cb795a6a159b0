/* qwen2.c -- the qwen2 family: llama whose queries, keys and values have biases. */
#include "models/arch/qwen2.h"

#include "models/arch/llama.h"

static status open_qwen2(const gguf *file, const model_options *options, model_info *info,
                         void **out, diag *d) {
    static const llama_traits traits = {.arch = "qwen2", .pairs = OPS_ROPE_NEOX, .biases = true};
    return llama_open_as(&traits, file, options, info, out, d);
}

const family qwen2_family = {"qwen2", open_qwen2, llama_forward, llama_close, llama_share};
