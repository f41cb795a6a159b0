/* qwen3.c -- the qwen3 family: llama that normalises every head of queries and keys. */
#include "models/arch/qwen3.h"

#include "models/arch/llama.h"

static status open_qwen3(const gguf *file, const model_options *options, model_info *info,
                         void **out, diag *d) {
    static const llama_traits traits = {
        .arch = "qwen3", .pairs = OPS_ROPE_NEOX, .head_norms = true};
    return llama_open_as(&traits, file, options, info, out, d);
}

const family qwen3_family = {"qwen3", open_qwen3, llama_forward, llama_close, llama_share};
