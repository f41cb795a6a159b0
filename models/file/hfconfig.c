/* hfconfig.c -- config.json of a Hugging Face folder, as the keys of a GGUF file. */
#include "models/file/hfconfig.h"

#include <math.h>
#include <stdio.h>

#include "engine/base/limits.h"
#include "models/file/jsonfile.h"

#define FILE_NAME "config.json"

enum { KEY_BYTES = 96, SIZE_MAX_ANY = 1 << 30 };

typedef struct {
    const char *name; /* in `architectures` */
    const char *arch;
    hfconfig_windows windows;
    bool biases, head_norms, gemma, nested;
} architecture;

static const architecture known[] = {
    {.name = "LlamaForCausalLM", .arch = "llama"},
    {.name = "MistralForCausalLM", .arch = "llama", .windows = HFCONFIG_WINDOWS_ALL},
    {.name = "Qwen2ForCausalLM",
     .arch = "qwen2",
     .windows = HFCONFIG_WINDOWS_UPPER,
     .biases = true},
    {.name = "Qwen3ForCausalLM",
     .arch = "qwen3",
     .windows = HFCONFIG_WINDOWS_UPPER,
     .head_norms = true},
    {.name = "Gemma2ForCausalLM", .arch = "gemma2", .windows = HFCONFIG_WINDOWS_ALL, .gemma = true},
    {.name = "Gemma3ForCausalLM",
     .arch = "gemma3",
     .head_norms = true,
     .windows = HFCONFIG_WINDOWS_ALL,
     .gemma = true},
    {.name = "Gemma3ForConditionalGeneration",
     .arch = "gemma3",
     .head_norms = true,
     .windows = HFCONFIG_WINDOWS_ALL,
     .gemma = true,
     .nested = true},
};

typedef struct {
    const cJSON *json;
    const char *arch;
    ggufmake *keys;
    diag *d;
} reader;

static const char *key_of(const reader *r, const char *name, char key[KEY_BYTES]) {
    (void)snprintf(key, KEY_BYTES, "%s.%s", r->arch, name);
    return key;
}

static void put_integer(const reader *r, const char *name, int64_t value) {
    char key[KEY_BYTES];
    ggufmake_u32(r->keys, key_of(r, name, key), value);
}

static void put_real(const reader *r, const char *name, double value) {
    char key[KEY_BYTES];
    ggufmake_f64(r->keys, key_of(r, name, key), value);
}

static void put_text(const reader *r, const char *name, const char *value) {
    char key[KEY_BYTES];
    ggufmake_str(r->keys, key_of(r, name, key), str_from(value));
}

/* A size; `fallback` when the field is absent or null, unless that is 0. */
static status take_size(const reader *r, const char *field, int64_t fallback, int64_t *out) {
    status s = jsonfile_integer(r->json, FILE_NAME, field, 1, SIZE_MAX_ANY, out, r->d);
    if (s == STATUS_NOTFOUND && fallback > 0) {
        *out = fallback;
        s = STATUS_OK;
    }
    return s;
}

static status take_flag(const reader *r, const char *field, bool *out) {
    *out = false;
    status s = jsonfile_flag(r->json, FILE_NAME, field, out, r->d);
    return s == STATUS_NOTFOUND ? STATUS_OK : s;
}

static status refuse(const reader *r, const char *field, const char *why) {
    return status_fail_param(r->d, STATUS_UNSUPPORTED, field, FILE_NAME ": \"%s\" %s", field, why);
}

/* ---- the architecture ----------------------------------------------------------------------- */

static status find_architecture(const cJSON *json, hfconfig *out, diag *d) {
    const cJSON *list = jsonfile_member(json, "architectures");
    const cJSON *first = cJSON_IsArray(list) ? list->child : NULL;
    if (!cJSON_IsString(first)) {
        return status_fail_param(d, STATUS_CORRUPT, "architectures",
                                 FILE_NAME ": \"architectures\" must name the model's class");
    }
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++) {
        if (str_equal_z(str_from(first->valuestring), known[i].name)) {
            out->arch = known[i].arch;
            out->biases = known[i].biases;
            out->head_norms = known[i].head_norms;
            out->windows = known[i].windows;
            out->gemma = known[i].gemma;
            out->nested = known[i].nested;
            return STATUS_OK;
        }
    }
    return status_fail_param(d, STATUS_UNSUPPORTED, "architectures",
                             FILE_NAME
                             ": \"architectures\" is \"%.80s\": LlamaForCausalLM, "
                             "MistralForCausalLM, Qwen2ForCausalLM, Qwen3ForCausalLM, "
                             "Gemma2ForCausalLM, Gemma3ForCausalLM and the text part of "
                             "Gemma3ForConditionalGeneration are supported",
                             first->valuestring);
}

/* ---- positions ------------------------------------------------------------------------------ */

/* The object that describes scaling: rope_parameters in newer files, rope_scaling in older ones. */
static const cJSON *rope_object(const cJSON *json) {
    const cJSON *newer = jsonfile_member(json, "rope_parameters");
    return newer != NULL ? newer : jsonfile_member(json, "rope_scaling");
}

static status take_rope(const reader *r, const cJSON *rope, const char *field, double fallback,
                        double *out) {
    status s = jsonfile_real(rope, FILE_NAME, field, 1e-6, 1e12, out, r->d);
    if (s == STATUS_NOTFOUND && fallback > 0) {
        *out = fallback;
        s = STATUS_OK;
    }
    return s;
}

static status put_llama3(const reader *r, const cJSON *rope) {
    double low, high, original;
    TRY(take_rope(r, rope, "low_freq_factor", 0, &low));
    TRY(take_rope(r, rope, "high_freq_factor", 0, &high));
    TRY(take_rope(r, rope, "original_max_position_embeddings", 0, &original));
    put_real(r, "rope.scaling.low_freq_factor", low);
    put_real(r, "rope.scaling.high_freq_factor", high);
    put_real(r, "rope.scaling.original_context_length", original);
    return STATUS_OK;
}

/* Yarn's context is the original one times the factor, whatever max_position_embeddings says: the
 * models' cards tell users to add the scaling alone. */
static status put_yarn(const reader *r, const cJSON *rope, double factor, int64_t *context) {
    double original, fast, slow, attention;
    double implied = 1 + 0.1 * log(factor);
    bool truncate = true;
    char key[KEY_BYTES];
    if (jsonfile_member(rope, "mscale") != NULL ||
        jsonfile_member(rope, "mscale_all_dim") != NULL) {
        return refuse(r, "mscale", "of yarn scaling is not supported");
    }
    TRY(take_rope(r, rope, "original_max_position_embeddings", (double)*context, &original));
    TRY(take_rope(r, rope, "beta_fast", 32, &fast));
    TRY(take_rope(r, rope, "beta_slow", 1, &slow));
    TRY(take_rope(r, rope, "attention_factor", implied, &attention));
    status s = jsonfile_flag(rope, FILE_NAME, "truncate", &truncate, r->d);
    if (s != STATUS_NOTFOUND) {
        TRY(s);
    }
    put_real(r, "rope.scaling.original_context_length", original);
    put_real(r, "rope.scaling.yarn_beta_fast", fast);
    put_real(r, "rope.scaling.yarn_beta_slow", slow);
    put_real(r, "rope.scaling.attn_factor", attention / implied);
    ggufmake_bool(r->keys, key_of(r, "rope.scaling.yarn_truncate", key), truncate);
    double reached = original * factor;
    if (reached > (double)*context && reached <= LIMIT_CONTEXT_TOKENS) {
        *context = (int64_t)reached;
    }
    return STATUS_OK;
}

static status put_scaling(const reader *r, const cJSON *rope, int64_t *context) {
    const char *type = "default";
    double factor;
    status s = jsonfile_text(rope, FILE_NAME, "rope_type", &type, r->d);
    if (s == STATUS_NOTFOUND) {
        s = jsonfile_text(rope, FILE_NAME, "type", &type, r->d);
    }
    if (s != STATUS_NOTFOUND) {
        TRY(s);
    }
    str name = str_from(type);
    if (str_equal_z(name, "default")) {
        return STATUS_OK;
    }
    bool yarn = str_equal_z(name, "yarn"), llama3 = str_equal_z(name, "llama3");
    if (!yarn && !llama3 && !str_equal_z(name, "linear")) {
        return status_fail_param(r->d, STATUS_UNSUPPORTED, "rope_type",
                                 FILE_NAME
                                 ": \"rope_type\" is \"%.40s\": default, linear, llama3 "
                                 "and yarn are supported",
                                 type);
    }
    TRY(take_rope(r, rope, "factor", 0, &factor));
    if (factor < 1) {
        return status_fail_param(r->d, STATUS_CORRUPT, "factor",
                                 FILE_NAME ": \"factor\" of rope scaling is %g, below 1", factor);
    }
    put_text(r, "rope.scaling.type", type);
    put_real(r, "rope.scaling.factor", factor);
    if (yarn) {
        return put_yarn(r, rope, factor, context);
    }
    return llama3 ? put_llama3(r, rope) : STATUS_OK;
}

/* Gemma 3's layers with a window turn with a base of their own; newer files have an object for each
 * kind of layer. *rope becomes that of the others. */
static status put_near(const reader *r, const cJSON **rope) {
    const cJSON *near = jsonfile_member(*rope, "sliding_attention");
    const char *type = "default";
    double base = 10000;
    if (near == NULL) {
        TRY(take_rope(r, r->json, "rope_local_base_freq", base, &base));
    } else {
        status s = jsonfile_text(near, FILE_NAME, "rope_type", &type, r->d);
        if (s != STATUS_NOTFOUND) {
            TRY(s);
        }
        if (!str_equal_z(str_from(type), "default")) {
            return refuse(r, "rope_type",
                          "of sliding_attention other than default is not supported");
        }
        TRY(take_rope(r, near, "rope_theta", base, &base));
    }
    const cJSON *far = jsonfile_member(*rope, "full_attention");
    *rope = far != NULL || near != NULL ? far : *rope;
    put_real(r, "rope.freq_base_swa", base);
    return STATUS_OK;
}

static status put_positions(const reader *r, int64_t *context) {
    const cJSON *rope = rope_object(r->json);
    if (rope != NULL && !cJSON_IsObject(rope)) {
        return refuse(r, "rope_scaling", "is not an object");
    }
    double base = 10000, partial = 1;
    if (str_equal_z(str_from(r->arch), "gemma3")) {
        TRY(put_near(r, &rope));
        base = 1e6;
    }
    const bool inside = jsonfile_member(rope, "rope_theta") != NULL;
    TRY(take_rope(r, inside ? rope : r->json, "rope_theta", base, &base));
    TRY(take_rope(r, r->json, "partial_rotary_factor", 1, &partial));
    if (partial != 1) {
        return refuse(r, "partial_rotary_factor", "other than 1 is not supported");
    }
    put_real(r, "rope.freq_base", base);
    put_text(r, "rope.pairs", "halves"); /* nobody has reordered the heads */
    return put_scaling(r, rope, context);
}

/* ---- windows --------------------------------------------------------------------------------- */

/* Which layers have the window: a list of all; false: there is none. */
static status put_layer_types(const reader *r, int32_t layers, bool *listed) {
    const cJSON *types = jsonfile_member(r->json, "layer_types");
    char key[KEY_BYTES];
    *listed = types != NULL;
    if (types == NULL) {
        return STATUS_OK;
    }
    if (!cJSON_IsArray(types) || cJSON_GetArraySize(types) != layers) {
        return status_fail_param(
            r->d, STATUS_CORRUPT, "layer_types",
            FILE_NAME ": \"layer_types\" must name each of the %d layers' kind", layers);
    }
    ggufmake_array(r->keys, key_of(r, "attention.sliding_window_pattern", key), GGUF_KIND_I32,
                   (uint64_t)layers);
    for (const cJSON *t = types->child; t != NULL; t = t->next) {
        const str kind = str_from(cJSON_IsString(t) ? t->valuestring : "");
        const bool near = str_equal_z(kind, "sliding_attention");
        if (!near && !str_equal_z(kind, "full_attention")) {
            return refuse(r, "layer_types", "other than full and sliding attention");
        }
        ggufmake_element_i32(r->keys, near);
    }
    return STATUS_OK;
}

/* Qwen's: layers from max_window_layers on, if use_sliding_window says so. */
static status put_upper_window(const reader *r, int32_t layers, int64_t window) {
    int64_t first = 28;
    bool used, listed;
    char key[KEY_BYTES];
    TRY(take_flag(r, "use_sliding_window", &used));
    if (!used) {
        return STATUS_OK;
    }
    put_integer(r, "attention.sliding_window", window);
    TRY(put_layer_types(r, layers, &listed));
    if (listed) {
        return STATUS_OK;
    }
    status s =
        jsonfile_integer(r->json, FILE_NAME, "max_window_layers", 0, SIZE_MAX_ANY, &first, r->d);
    if (s != STATUS_NOTFOUND) {
        TRY(s);
    }
    ggufmake_array(r->keys, key_of(r, "attention.sliding_window_pattern", key), GGUF_KIND_I32,
                   (uint64_t)layers);
    for (int32_t i = 0; i < layers; i++) {
        ggufmake_element_i32(r->keys, i >= first);
    }
    return STATUS_OK;
}

/* Llama's classes have no windows: a number there is read by nobody. */
static status put_window(const reader *r, const hfconfig *c, int32_t layers) {
    int64_t window;
    status s =
        jsonfile_integer(r->json, FILE_NAME, "sliding_window", 1, SIZE_MAX_ANY, &window, r->d);
    if (s == STATUS_NOTFOUND || c->windows == HFCONFIG_WINDOWS_NONE) {
        return STATUS_OK;
    }
    TRY(s);
    if (c->windows == HFCONFIG_WINDOWS_UPPER) {
        return put_upper_window(r, layers, window);
    }
    put_integer(r, "attention.sliding_window", window);
    return STATUS_OK;
}

/* ---- what only Gemma has ----------------------------------------------------------------------
 */

/* A number; `fallback` when the field is absent, 0 when it is null. */
static status take_cap(const reader *r, const char *field, double fallback, double *out) {
    *out = 0;
    if (cJSON_GetObjectItemCaseSensitive(r->json, field) == NULL) {
        *out = fallback;
        return STATUS_OK;
    }
    status s = jsonfile_real(r->json, FILE_NAME, field, 1e-2, 1e6, out, r->d);
    return s == STATUS_NOTFOUND ? STATUS_OK : s;
}

static status put_scores(const reader *r, bool capped) {
    double scalar = 256, cap, logits_cap;
    status s = jsonfile_real(r->json, FILE_NAME, "query_pre_attn_scalar", 1e-3, 1e9, &scalar, r->d);
    if (s != STATUS_NOTFOUND) {
        TRY(s);
    }
    TRY(take_cap(r, "attn_logit_softcapping", capped ? 50 : 0, &cap));
    TRY(take_cap(r, "final_logit_softcapping", capped ? 30 : 0, &logits_cap));
    put_real(r, "attention.scale", 1 / sqrt(scalar));
    put_real(r, "attn_logit_softcapping", cap);
    put_real(r, "final_logit_softcapping", logits_cap);
    return STATUS_OK;
}

/* The embedding is the output matrix too, unless one of the objects says otherwise. */
static status take_gemma_tied(const reader *r, const cJSON *whole, bool *out) {
    const cJSON *const objects[] = {r->json, whole};
    *out = true;
    for (int i = 0; i < 2; i++) {
        bool tied = true;
        status s = jsonfile_flag(objects[i], FILE_NAME, "tie_word_embeddings", &tied, r->d);
        if (s != STATUS_NOTFOUND) {
            TRY(s);
        }
        *out = *out && tied;
    }
    return STATUS_OK;
}

static status put_gemma(const reader *r, int32_t layers) {
    const bool second = str_equal_z(str_from(r->arch), "gemma2");
    bool both_ways;
    TRY(take_flag(r, "use_bidirectional_attention", &both_ways));
    if (both_ways) {
        return refuse(r, "use_bidirectional_attention", "is not supported");
    }
    TRY(put_scores(r, second));
    bool listed;
    TRY(put_layer_types(r, layers, &listed));
    if (!listed) { /* of so many layers all but the last have the window */
        int64_t every;
        TRY(take_size(r, "sliding_window_pattern", second ? 2 : 6, &every));
        put_integer(r, "attention.sliding_window_pattern", every);
    }
    return STATUS_OK;
}

/* ---- sizes ---------------------------------------------------------------------------------- */

static status put_sizes(const reader *r, hfconfig *out) {
    int64_t layers, width, ffn, heads, kv_heads, head, vocab, context;
    double epsilon = 1e-6;
    TRY(take_size(r, "num_hidden_layers", 0, &layers));
    TRY(take_size(r, "hidden_size", 0, &width));
    TRY(take_size(r, "intermediate_size", 0, &ffn));
    /* Nested configurations leave out what is as in the smallest model of the kind. */
    TRY(take_size(r, "num_attention_heads", out->nested ? 8 : 0, &heads));
    TRY(take_size(r, "num_key_value_heads", out->nested ? 4 : heads, &kv_heads));
    if (jsonfile_member(r->json, "head_dim") == NULL && !out->gemma && width % heads != 0) {
        return refuse(r, "head_dim", "is needed where hidden_size is no multiple of the heads");
    }
    const int64_t implied = out->gemma ? 256 : width / heads > 0 ? width / heads : 1;
    TRY(take_size(r, "head_dim", implied, &head));
    TRY(take_size(r, "vocab_size", out->nested ? 262208 : 0, &vocab));
    TRY(take_size(r, "max_position_embeddings", out->nested ? 131072 : 2048, &context));
    status s = jsonfile_real(r->json, FILE_NAME, "rms_norm_eps", 0, 0.1, &epsilon, r->d);
    if (s != STATUS_NOTFOUND) {
        TRY(s);
    }
    TRY(put_positions(r, &context));
    put_integer(r, "block_count", layers);
    put_integer(r, "embedding_length", width);
    put_integer(r, "feed_forward_length", ffn);
    put_integer(r, "attention.head_count", heads);
    put_integer(r, "attention.head_count_kv", kv_heads);
    put_integer(r, "attention.key_length", head);
    put_integer(r, "attention.value_length", head);
    put_integer(r, "rope.dimension_count", head);
    put_integer(r, "vocab_size", vocab);
    put_integer(r, "context_length", context);
    put_real(r, "attention.layer_norm_rms_epsilon", epsilon);
    out->layers = layers <= LIMIT_LAYERS ? (int32_t)layers : 0;
    if (out->layers == 0) {
        return status_fail_param(r->d, STATUS_LIMIT, "num_hidden_layers",
                                 FILE_NAME
                                 ": \"num_hidden_layers\" is %lld, at most %d are allowed",
                                 (long long)layers, LIMIT_LAYERS);
    }
    TRY(put_window(r, out, out->layers));
    return out->gemma ? put_gemma(r, out->layers) : STATUS_OK;
}

/* ---- tokens --------------------------------------------------------------------------------- */

static status add_end(const char *file, const cJSON *value, hfconfig *out, diag *d) {
    int64_t id;
    if (!jsonfile_is_integer(value, 0, INT32_MAX, &id)) {
        return status_fail_param(d, STATUS_CORRUPT, "eos_token_id",
                                 "%s: \"eos_token_id\" must be token ids", file);
    }
    for (int32_t i = 0; i < out->ends_count; i++) {
        if (out->ends[i] == id) {
            return STATUS_OK;
        }
    }
    if (out->ends_count == HFCONFIG_ENDS_MAX) {
        return status_fail_param(d, STATUS_LIMIT, "eos_token_id",
                                 "%s: \"eos_token_id\" names more than %d tokens", file,
                                 HFCONFIG_ENDS_MAX);
    }
    out->ends[out->ends_count++] = (int32_t)id;
    return STATUS_OK;
}

static status add_ends(const cJSON *json, const char *file, hfconfig *out, diag *d) {
    const cJSON *value = jsonfile_member(json, "eos_token_id");
    if (!cJSON_IsArray(value)) {
        return value == NULL ? STATUS_OK : add_end(file, value, out, d);
    }
    for (const cJSON *id = value->child; id != NULL; id = id->next) {
        TRY(add_end(file, id, out, d));
    }
    return STATUS_OK;
}

status hfconfig_read(const cJSON *config, const cJSON *generation, hfconfig *out, ggufmake *keys,
                     diag *d) {
    hfconfig c = {.begin = -1};
    TRY(find_architecture(config, &c, d));
    const reader r = {c.nested ? jsonfile_member(config, "text_config") : config, c.arch, keys, d};
    if (!cJSON_IsObject(r.json)) {
        return status_fail_param(d, STATUS_CORRUPT, "text_config",
                                 FILE_NAME ": \"text_config\" must be an object");
    }
    if (jsonfile_member(config, "quantization_config") != NULL) {
        return refuse(&r, "quantization_config",
                      "is set: quantised folders are not supported (use the original weights or a "
                      "GGUF file)");
    }
    const char *wanted = c.gemma ? "gelu_pytorch_tanh" : "silu", *act = wanted;
    const char *field = c.gemma ? "hidden_activation" : "hidden_act";
    status s = jsonfile_text(r.json, FILE_NAME, field, &act, d);
    if (s != STATUS_NOTFOUND) {
        TRY(s);
    }
    if (!str_equal_z(str_from(act), wanted)) {
        return refuse(&r, field,
                      c.gemma ? "other than gelu_pytorch_tanh is not supported"
                              : "other than silu is not supported");
    }
    ggufmake_str(keys, "general.architecture", str_from(c.arch));
    TRY(c.gemma ? take_gemma_tied(&r, config, &c.tied)
                : take_flag(&r, "tie_word_embeddings", &c.tied));
    TRY(put_sizes(&r, &c));
    int64_t begin = -1;
    s = jsonfile_integer(r.json, FILE_NAME, "bos_token_id", 0, INT32_MAX, &begin, d);
    if (s != STATUS_NOTFOUND) {
        TRY(s);
    }
    c.begin = (int32_t)begin;
    TRY(add_ends(config, FILE_NAME, &c, d));
    TRY(add_ends(c.nested ? r.json : NULL, FILE_NAME, &c, d));
    TRY(add_ends(generation, "generation_config.json", &c, d));
    *out = c;
    return STATUS_OK;
}
