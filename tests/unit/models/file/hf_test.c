/* hf_test.c -- Hugging Face folders: hf.c with hfconfig, hftokens, hfpipeline and hfweights.
 * Numbers against `transformers` are in tests/golden/check_hf.py. */
#define _GNU_SOURCE
#include "models/file/hf.h"

#include "engine/base/mem.h"
#include "models/file/gguf.h"
#include "tests/unit/models/file/hf_build.h"

static status open_changed(const hf_build_change *change, gguf **g, diag *d) {
    char folder[64];
    hf_build_write(folder, change);
    status s = gguf_open(folder, g, d);
    hf_build_remove(folder);
    return s;
}

static gguf *open_whole(const hf_build_change *change) {
    gguf *g;
    diag d = {0};
    cr_assert_eq(open_changed(change, &g, &d), STATUS_OK, "%s", d.text);
    return g;
}

static void text_is(const gguf *g, const char *key, const char *want) {
    str got;
    diag d = {0};
    cr_assert_eq(gguf_get_str(g, key, &got, &d), STATUS_OK, "%s", d.text);
    cr_assert(str_equal_z(got, want), "%s is %.*s", key, (int)got.bytes, got.data);
}

static void number_is(const gguf *g, const char *key, double want) {
    double got;
    diag d = {0};
    cr_assert_eq(gguf_get_f64(g, key, &got, &d), STATUS_OK, "%s", d.text);
    cr_assert_float_eq(got, want, 1e-9, "%s is %g", key, got);
}

Test(hf, a_folder_reads_as_a_file_with_its_keys) {
    gguf *g = open_whole(NULL);
    text_is(g, "general.architecture", "qwen3");
    number_is(g, "qwen3.block_count", 1);
    number_is(g, "qwen3.embedding_length", 32);
    number_is(g, "qwen3.feed_forward_length", 48);
    number_is(g, "qwen3.attention.head_count", 2);
    number_is(g, "qwen3.attention.head_count_kv", 1);
    number_is(g, "qwen3.attention.key_length", 16);
    number_is(g, "qwen3.context_length", 128);
    number_is(g, "qwen3.attention.layer_norm_rms_epsilon", 1e-6);
    text_is(g, "qwen3.rope.pairs", "halves");
    text_is(g, "tokenizer.ggml.model", "gpt2");
    text_is(g, "tokenizer.ggml.pre", "llama-bpe");
    text_is(g, "tokenizer.chat_template", "D");
    number_is(g, "tokenizer.ggml.eos_token_id", 6);
    number_is(g, "tokenizer.ggml.padding_token_id", 7);
    cr_assert(!gguf_has(g, "tokenizer.ggml.bos_token_id"));
    gguf_array tokens, types, merges;
    diag d;
    cr_assert_eq(gguf_get_array(g, "tokenizer.ggml.tokens", &tokens, &d), STATUS_OK);
    cr_assert_eq(gguf_get_array(g, "tokenizer.ggml.token_type", &types, &d), STATUS_OK);
    cr_assert_eq(gguf_get_array(g, "tokenizer.ggml.merges", &merges, &d), STATUS_OK);
    static const struct {
        const char *text;
        int type;
    } want[] = {{"a", 1},   {"b", 1}, {"c", 1},     {"ab", 1},
                {"abc", 1}, {"", 5},  {"<end>", 3}, {"<call>", 4}};
    cr_assert_eq(tokens.count, 8);
    for (uint64_t i = 0; i < 8; i++) {
        cr_assert(str_equal_z(gguf_array_str(&tokens, i), want[i].text));
        cr_assert_eq(gguf_array_i64(&types, i), want[i].type);
    }
    cr_assert_eq(merges.count, 2);
    cr_assert(str_equal_z(gguf_array_str(&merges, 1), "ab c"));
    gguf_close(g);
}

Test(hf, matrices_lie_where_they_lay_and_vectors_are_floats) {
    gguf *g = open_whole(NULL);
    gguf_tensor t;
    diag d = {0};
    cr_assert_eq(gguf_tensors_count(g), HF_BUILD_TENSORS);
    cr_assert_eq(gguf_tensor_find(g, "blk.0.ffn_down.weight", &t, &d), STATUS_OK, "%s", d.text);
    cr_assert_eq(t.type, GGUF_BF16);
    cr_assert(t.dims[0] == 48 && t.dims[1] == 32 && t.bytes == 48 * 32 * 2);
    cr_assert_eq(gguf_tensor_find(g, "output_norm.weight", &t, &d), STATUS_OK, "%s", d.text);
    cr_assert(t.type == GGUF_F32 && t.dims[0] == 32 && t.bytes == 32 * 4);
    for (int i = 0; i < 32; i++) {
        float got;
        memcpy(&got, (const char *)t.data + 4 * i, sizeof got);
        cr_assert(got >= 0.75f && got < 1, "element %d is %g", i, (double)got);
    }
    gguf_close(g);
}

Test(hf, the_hash_is_of_the_content_and_not_of_the_path) {
    static const hf_build_change other[] = {
        {"config.json", "10000", "20000"},
        {"tokenizer.json", "\"abc\":4", "\"abd\":4"},
        {"tokenizer_config.json", "\"D\"", "\"E\""},
    };
    gguf *a = open_whole(NULL), *b = open_whole(NULL);
    uint64_t hash = gguf_hash(a);
    cr_assert_eq(gguf_hash(b), hash);
    gguf_close(a);
    gguf_close(b);
    for (size_t i = 0; i < sizeof other / sizeof other[0]; i++) {
        gguf *c = open_whole(&other[i]);
        cr_assert_neq(gguf_hash(c), hash, "%s is part of it", other[i].file);
        gguf_close(c);
    }
}

Test(hf, fields_that_may_be_absent_have_their_defaults) {
    static const struct {
        hf_build_change change;
        const char *key;
        double want;
    } rows[] = {
        {{"config.json", "\"num_key_value_heads\":1,", ""}, "qwen3.attention.head_count_kv", 2},
        {{"config.json", "\"head_dim\":16,", "\"head_dim\":null,"},
         "qwen3.attention.key_length",
         16},
        {{"config.json", "\"rope_theta\":10000,", ""}, "qwen3.rope.freq_base", 10000},
        {{"config.json", "\"rope_theta\":10000,", "\"rope_parameters\":{\"rope_theta\":7e5},"},
         "qwen3.rope.freq_base",
         7e5},
        {{"config.json", "\"rms_norm_eps\":1e-6,", ""},
         "qwen3.attention.layer_norm_rms_epsilon",
         1e-6},
        {{"config.json", "Qwen3ForCausalLM\"],", "MistralForCausalLM\"],\"sliding_window\":64,"},
         "llama.attention.sliding_window",
         64},
        {{"config.json", "Qwen3ForCausalLM\"],", "MistralForCausalLM\"],\"sliding_window\":64,"},
         "llama.context_length",
         128},
        {{"config.json", "128,", "128,\"sliding_window\":64,\"use_sliding_window\":true,"},
         "qwen3.attention.sliding_window",
         64},
        {{"config.json", "128,", "128,\"sliding_window\":64,"}, "qwen3.context_length", 128},
        {{"config.json", "128,", "128,\"sliding_window\":4096,"}, "qwen3.context_length", 128},
        {{"config.json", "128,", "128,\"sliding_window\":null,"}, "qwen3.context_length", 128},
        {{"config.json", "128,", "128,\"sliding_window\":64,\"use_sliding_window\":false,"},
         "qwen3.context_length",
         128},
        {{"config.json", "128,",
          "128,\"rope_scaling\":{\"type\":\"yarn\",\"factor\":4,"
          "\"original_max_position_embeddings\":100},"},
         "qwen3.context_length",
         400},
        {{"config.json", "128,", "128,\"rope_scaling\":{\"type\":\"yarn\",\"factor\":4},"},
         "qwen3.rope.scaling.attn_factor",
         1},
        {{"config.json", "128,", "128,\"rope_scaling\":{\"rope_type\":\"linear\",\"factor\":2.5},"},
         "qwen3.rope.scaling.factor",
         2.5},
        {{"tokenizer_config.json", "\"eos_token\":\"<end>\",", ""},
         "tokenizer.ggml.eos_token_id",
         6},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        gguf *g = open_whole(&rows[i].change);
        number_is(g, rows[i].key, rows[i].want);
        gguf_close(g);
    }
}

typedef struct {
    hf_build_change change;
    status code;
    const char *says;
} refusal;

static void all_refused(const refusal *rows, size_t count) {
    for (size_t i = 0; i < count; i++) {
        gguf *g = NULL;
        diag d = {0};
        status s = open_changed(&rows[i].change, &g, &d);
        cr_assert_neq(s, STATUS_OK, "accepted; expected: %s", rows[i].says);
        cr_assert(strstr(d.text, rows[i].says) != NULL, "\"%s\" lacks \"%s\"", d.text,
                  rows[i].says);
        cr_assert_eq(s, rows[i].code, "%s: %s", status_name(s), d.text);
    }
}

#define ALL_REFUSED(rows) all_refused(rows, sizeof(rows) / sizeof((rows)[0]))
#define CONFIG "config.json"
#define QWEN3 "Qwen3ForCausalLM\"],"
#define ROPE(inside) "128,\"rope_scaling\":{" inside "},"

Test(hf, configurations_that_make_no_model_are_refused_by_field) {
    static const refusal rows[] = {
        {{CONFIG, NULL, NULL}, STATUS_NOTFOUND, "there is no config.json"},
        {{CONFIG, NULL, "[]"}, STATUS_CORRUPT, "config.json: must be a JSON object"},
        {{CONFIG, NULL, "{\"a\":1}x"}, STATUS_CORRUPT, "config.json: not JSON at byte 7"},
        {{CONFIG, "{", "{{"}, STATUS_CORRUPT, "config.json: not JSON"},
        {{CONFIG, "[\"Qwen3ForCausalLM\"]", "[]"}, STATUS_CORRUPT, "\"architectures\""},
        {{CONFIG, "Qwen3ForC", "Qwen3MoeForC"}, STATUS_UNSUPPORTED, "\"Qwen3MoeForCausalLM\""},
        {{CONFIG, "\"hidden_size\":32,", ""}, STATUS_NOTFOUND, "\"hidden_size\""},
        {{CONFIG, "\"hidden_size\":32", "\"hidden_size\":0"}, STATUS_CORRUPT, "\"hidden_size\""},
        {{CONFIG, "\"hidden_size\":32", "\"hidden_size\":-1"}, STATUS_CORRUPT, "\"hidden_size\""},
        {{CONFIG, "\"hidden_size\":32", "\"hidden_size\":1e300"}, STATUS_CORRUPT, "hidden_size"},
        {{CONFIG, "\"hidden_size\":32", "\"hidden_size\":3.5"}, STATUS_CORRUPT, "hidden_size"},
        {{CONFIG, "\"hidden_size\":32", "\"hidden_size\":\"32\""}, STATUS_CORRUPT, "hidden_size"},
        {{CONFIG, "\"num_hidden_layers\":1", "\"num_hidden_layers\":257"},
         STATUS_LIMIT,
         "\"num_hidden_layers\" is 257"},
        {{CONFIG, "\"num_hidden_layers\":1", "\"num_hidden_layers\":2"},
         STATUS_NOTFOUND,
         "tensor 'model.layers.1.input_layernorm.weight' is missing"},
        {{CONFIG, "\"silu\"", "\"gelu\""}, STATUS_UNSUPPORTED, "\"hidden_act\""},
        {{CONFIG, "\"silu\"", "7"}, STATUS_CORRUPT, "\"hidden_act\""},
        {{CONFIG, "128,", "128,\"quantization_config\":{},"},
         STATUS_UNSUPPORTED,
         "\"quantization_config\""},
        {{CONFIG, "128,", "128,\"partial_rotary_factor\":0.5,"},
         STATUS_UNSUPPORTED,
         "\"partial_rotary_factor\""},
        {{CONFIG, "128,", "128,\"sliding_window\":0,"}, STATUS_CORRUPT, "\"sliding_window\""},
        {{CONFIG, "128,", "128,\"rope_scaling\":7,"}, STATUS_UNSUPPORTED, "\"rope_scaling\""},
        {{CONFIG, "128,",
          "128,\"sliding_window\":9,\"use_sliding_window\":true,\"max_window_layers\":-1,"},
         STATUS_CORRUPT,
         "\"max_window_layers\""},
        {{CONFIG, "128,",
          "128,\"sliding_window\":9,\"use_sliding_window\":true,\"layer_types\":[1],"},
         STATUS_UNSUPPORTED,
         "\"layer_types\""},
        {{CONFIG, "128,", ROPE("\"type\":\"dynamic\"")}, STATUS_UNSUPPORTED, "\"dynamic\""},
        {{CONFIG, "128,", ROPE("\"type\":\"linear\"")}, STATUS_NOTFOUND, "\"factor\""},
        {{CONFIG, "128,", ROPE("\"type\":\"linear\",\"factor\":0.5")}, STATUS_CORRUPT, "factor"},
        {{CONFIG, "128,", ROPE("\"type\":\"llama3\",\"factor\":8")},
         STATUS_NOTFOUND,
         "\"low_freq_factor\""},
        {{CONFIG, "128,", ROPE("\"type\":\"yarn\",\"factor\":8,\"mscale\":1")},
         STATUS_UNSUPPORTED,
         "\"mscale\""},
        {{CONFIG, "\"eos_token_id\":6", "\"eos_token_id\":[6,8]"},
         STATUS_CORRUPT,
         "\"eos_token_id\" 8"},
        {{CONFIG, "\"eos_token_id\":6", "\"eos_token_id\":\"6\""},
         STATUS_CORRUPT,
         "\"eos_token_id\""},
        {{CONFIG, "\"eos_token_id\":6",
          "\"eos_token_id\":[1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17]"},
         STATUS_LIMIT,
         "more than 16"},
        {{CONFIG, "\"tie_word_embeddings\":true,", ""},
         STATUS_NOTFOUND,
         "tensor 'lm_head.weight' is missing"},
        {{CONFIG, "\"head_dim\":16,\"vocab_size\":8,", ""}, STATUS_NOTFOUND, "\"vocab_size\""},
    };
    ALL_REFUSED(rows);
}

#define GEMMA(fields) "Gemma3ForCausalLM\"]," fields

Test(hf, what_gemma_does_otherwise_is_refused_by_field) {
    static const refusal rows[] = {
        {{CONFIG, QWEN3, GEMMA("\"hidden_activation\":\"gelu\",")},
         STATUS_UNSUPPORTED,
         "\"hidden_activation\""},
        {{CONFIG, QWEN3, GEMMA("\"use_bidirectional_attention\":true,")},
         STATUS_UNSUPPORTED,
         "\"use_bidirectional_attention\""},
        {{CONFIG, QWEN3, GEMMA("\"attn_logit_softcapping\":-1,")},
         STATUS_CORRUPT,
         "\"attn_logit_softcapping\""},
        {{CONFIG, QWEN3, GEMMA("\"final_logit_softcapping\":\"x\",")},
         STATUS_CORRUPT,
         "\"final_logit_softcapping\""},
        {{CONFIG, QWEN3, GEMMA("\"query_pre_attn_scalar\":0,")},
         STATUS_CORRUPT,
         "\"query_pre_attn_scalar\""},
        {{CONFIG, QWEN3, GEMMA("\"sliding_window_pattern\":0,")},
         STATUS_CORRUPT,
         "\"sliding_window_pattern\""},
        {{CONFIG, QWEN3, GEMMA("\"layer_types\":[],")}, STATUS_CORRUPT, "\"layer_types\""},
        {{CONFIG, QWEN3, GEMMA("\"layer_types\":[\"chunked_attention\"],")},
         STATUS_UNSUPPORTED,
         "\"layer_types\""},
        {{CONFIG, QWEN3,
          GEMMA("\"rope_parameters\":{\"sliding_attention\":{\"rope_type\":\"yarn\"}},")},
         STATUS_UNSUPPORTED,
         "sliding_attention"},
        {{CONFIG, QWEN3, "Gemma3ForConditionalGeneration\"],"},
         STATUS_CORRUPT,
         "\"text_config\" must be an object"},
        {{CONFIG, QWEN3, "Gemma3ForConditionalGeneration\"],\"text_config\":{\"hidden_size\":32},"},
         STATUS_NOTFOUND,
         "\"num_hidden_layers\""},
        {{CONFIG, QWEN3, GEMMA("\"layer_types\":[\"full_attention\"],")},
         STATUS_NOTFOUND,
         "'model.layers.0.pre_feedforward_layernorm.weight' is missing"},
    };
    ALL_REFUSED(rows);
}

#define TOKENIZER "tokenizer.json"

Test(hf, tokenizers_that_would_give_other_ids_are_refused_by_part) {
    static const refusal rows[] = {
        {{TOKENIZER, NULL, NULL}, STATUS_NOTFOUND, "there is no tokenizer.json"},
        {{TOKENIZER, "\"BPE\"", "\"Unigram\""}, STATUS_UNSUPPORTED, "\"Unigram\""},
        {{TOKENIZER, "\"dropout\":null", "\"dropout\":0.1"}, STATUS_UNSUPPORTED, "\"dropout\""},
        {{TOKENIZER, "\"dropout\":null", "\"byte_fallback\":true"},
         STATUS_UNSUPPORTED,
         "\"byte_fallback\""},
        {{TOKENIZER, "\"normalizer\":null", "\"normalizer\":{\"type\":\"NFKC\"}"},
         STATUS_UNSUPPORTED,
         "normalizer {\"type\":\"NFKC\"}"},
        {{TOKENIZER, "\"normalizer\":null",
          "\"normalizer\":{\"type\":\"Sequence\","
          "\"normalizers\":[{\"type\":\"Lowercase\"}]}"},
         STATUS_UNSUPPORTED,
         "normalizer {\"type\":\"Lowercase\"}"},
        {{TOKENIZER, "{1,3}", "{1,4}"}, STATUS_UNSUPPORTED, "pre_tokenizer {\"type\":\"Split\""},
        {{TOKENIZER, "\"Isolated\"", "\"Removed\""}, STATUS_UNSUPPORTED, "pre_tokenizer"},
        {{TOKENIZER, "\"invert\":false", "\"invert\":true"}, STATUS_UNSUPPORTED, "pre_tokenizer"},
        {{TOKENIZER, "\"use_regex\":false", "\"use_regex\":true"},
         STATUS_UNSUPPORTED,
         "pre_tokenizer {\"type\":\"ByteLevel\""},
        {{TOKENIZER, "\"add_prefix_space\":false,", ""}, STATUS_UNSUPPORTED, "\"ByteLevel\""},
        {{TOKENIZER, "\"post_processor\":{\"type\":\"ByteLevel\"}",
          "\"post_processor\":{\"type\":\"BertProcessing\"}"},
         STATUS_UNSUPPORTED,
         "post_processor {\"type\":\"BertProcessing\"}"},
        {{TOKENIZER, "\"post_processor\":{\"type\":\"ByteLevel\"}",
          "\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":["
          "{\"SpecialToken\":{\"id\":\"<no>\"}},{\"Sequence\":{}}]}"},
         STATUS_CORRUPT,
         "token '<no>'"},
        {{TOKENIZER, "\"post_processor\":{\"type\":\"ByteLevel\"}",
          "\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":[]}"},
         STATUS_UNSUPPORTED,
         "post_processor"},
        {{TOKENIZER, "\"special\":true", "\"special\":true,\"rstrip\":true"},
         STATUS_UNSUPPORTED,
         "'<end>' has \"rstrip\""},
        {{TOKENIZER, "\"id\":6", "\"id\":4"},
         STATUS_CORRUPT,
         "'abc' and '<end>' both have the id 4"},
        {{TOKENIZER, "\"id\":6", "\"id\":-1"}, STATUS_CORRUPT, "added_tokens"},
        {{TOKENIZER, "\"id\":6", "\"id\":1e18"}, STATUS_CORRUPT, "added_tokens"},
        {{TOKENIZER, "\"c\":2", "\"c\":1"}, STATUS_CORRUPT, "'b' and 'c' both have the id 1"},
        {{TOKENIZER, "\"c\":2", "\"c\":1048576"}, STATUS_CORRUPT, "token 'c' must have an id"},
        {{TOKENIZER, "\"c\":2", "\"c\":\"2\""}, STATUS_CORRUPT, "token 'c' must have an id"},
        {{TOKENIZER, "{\"a\":0,\"b\":1,\"c\":2,\"ab\":3,\"abc\":4}", "[]"},
         STATUS_CORRUPT,
         "\"vocab\""},
        {{TOKENIZER, "[\"ab\",\"c\"]", "[\"ab\"]"}, STATUS_CORRUPT, "\"merges\""},
        {{TOKENIZER, "[\"ab\",\"c\"]", "[\"a b\",\"c\"]"}, STATUS_CORRUPT, "\"merges\""},
        {{TOKENIZER, "[\"ab\",\"c\"]", "7"}, STATUS_CORRUPT, "\"merges\""},
        {{TOKENIZER, "\"pre_tokenizer\"", "\"x\""}, STATUS_UNSUPPORTED, "no pre_tokenizer"},
    };
    ALL_REFUSED(rows);
}

#define WEIGHTS "model.safetensors"

Test(hf, weights_that_do_not_fit_are_refused_by_name) {
    static const refusal rows[] = {
        {{WEIGHTS, NULL, NULL}, STATUS_NOTFOUND, "neither model.safetensors nor"},
        {{WEIGHTS, "q_norm", "x_norm"},
         STATUS_UNSUPPORTED,
         "x_norm.weight' is not part of a qwen3"},
        {{WEIGHTS, "layers.0.mlp.up_proj", "layers.7.mlp.up_proj"},
         STATUS_NOTFOUND,
         "'model.layers.0.mlp.up_proj.weight' is missing"},
        {{WEIGHTS, "k_norm", "q_norm"}, STATUS_CORRUPT, "appears twice"},
        {{WEIGHTS, "\"BF16\"", "\"I16\""}, STATUS_UNSUPPORTED, "has the dtype I16"},
        {{WEIGHTS, "[0,512]", "[0,510]"}, STATUS_CORRUPT, "which is not its shape in BF16"},
    };
    ALL_REFUSED(rows);
}

/* ---- shards ---------------------------------------------------------------------------------- */

/* Two files, the second from tensor `cut` on, and an index that a test may spoil. */
static status open_sharded(const hf_build_change *change, gguf **g, diag *d) {
    static const hf_build_change alone = {WEIGHTS, NULL, NULL};
    enum { CUT = 5 };
    char folder[64];
    hf_build_write(folder, &alone);
    hf_build_weights(folder, "one.safetensors", 0, CUT, NULL);
    hf_build_weights(folder, "two.safetensors", CUT, HF_BUILD_TENSORS, NULL);
    strbuf index = strbuf_make(1 << 16);
    strbuf_append_z(&index, "{\"weight_map\":{");
    for (int i = 0; i < HF_BUILD_TENSORS; i++) {
        strbuf_printf(&index, "%s\"%s\":\"%s.safetensors\"", i ? "," : "", hf_build_tensors[i].name,
                      i < CUT ? "one" : "two");
    }
    strbuf_append_z(&index, "}}");
    hf_build_json(folder, "model.safetensors.index.json", index.data, change);
    strbuf_close(&index);
    status s = gguf_open(folder, g, d);
    hf_build_remove(folder);
    return s;
}

Test(hf, shards_hold_what_one_file_would) {
    gguf *one = open_whole(NULL), *two;
    diag d = {0};
    cr_assert_eq(open_sharded(NULL, &two, &d), STATUS_OK, "%s", d.text);
    cr_assert_eq(gguf_tensors_count(two), HF_BUILD_TENSORS);
    for (uint64_t i = 0; i < HF_BUILD_TENSORS; i++) {
        gguf_tensor a, b;
        cr_assert_eq(gguf_tensor_at(one, i, &a, &d), STATUS_OK);
        cr_assert_eq(gguf_tensor_at(two, i, &b, &d), STATUS_OK);
        cr_assert(str_equal(a.name, b.name) && a.bytes == b.bytes && a.type == b.type);
    }
    gguf_close(one);
    gguf_close(two);
}

Test(hf, an_index_that_lies_is_refused) {
#define INDEX "model.safetensors.index.json"
    static const refusal rows[] = {
        {{INDEX, "\"weight_map\"", "\"map\""}, STATUS_CORRUPT, "\"weight_map\""},
        {{INDEX, "\"one.safetensors\"", "\"../one.safetensors\""},
         STATUS_CORRUPT,
         "not in '../one.safetensors'"},
        {{INDEX, "\"one.safetensors\"", "\"/etc/x.safetensors\""}, STATUS_CORRUPT, "not in '/etc"},
        {{INDEX, "\"one.safetensors\"", "\".safetensors\""}, STATUS_CORRUPT, "not in"},
        {{INDEX, "\"one.safetensors\"", "\"config.json\""}, STATUS_CORRUPT, "not in 'config.json'"},
        {{INDEX, "\"one.safetensors\"", "7"}, STATUS_CORRUPT, "not in 'a value'"},
        {{INDEX, "\"one.safetensors\"", "\"three.safetensors\""}, STATUS_IO, "three.safetensors"},
        {{INDEX, "\"one.safetensors\"", "\"two.safetensors\""},
         STATUS_CORRUPT,
         "tensor 'model.embed_tokens.weight' is not in two.safetensors"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        gguf *g = NULL;
        diag d = {0};
        status s = open_sharded(&rows[i].change, &g, &d);
        cr_assert_eq(s, rows[i].code, "%s: %s", status_name(s), d.text);
        cr_assert(strstr(d.text, rows[i].says) != NULL, "\"%s\" lacks \"%s\"", d.text,
                  rows[i].says);
    }
}
