/* hf_build.h -- a small Hugging Face folder for tests, whole or spoilt in one place.
 *
 * Purpose    A qwen3 model of one layer: config.json, tokenizer.json, tokenizer_config.json and one
 *            safetensors file. A test replaces a piece of one file by another.
 * Ownership  hf_build_write makes a folder under /tmp; hf_build_remove takes it away.
 * Threads    One thread at a time.
 * Limits     Every failure aborts the test.
 */
#ifndef TESTS_UNIT_MODELS_FILE_HF_BUILD_H
#define TESTS_UNIT_MODELS_FILE_HF_BUILD_H

#include <criterion/criterion.h>
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "engine/base/str.h"

/* One replacement: `old` becomes `new` in `file`; NULL `old` puts `new` in place of the whole, and
 * both NULL leave the file out. */
typedef struct {
    const char *file, *old, *new;
} hf_build_change;

#define HF_BUILD_LLAMA3_EXPRESSION                                                        \
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\\\r\\\\n\\\\p{L}\\\\p{N}]?\\\\p{L}+|\\\\p{N}{1,3}|" \
    " ?[^\\\\s\\\\p{L}\\\\p{N}]+[\\\\r\\\\n]*|\\\\s*[\\\\r\\\\n]+|\\\\s+(?!\\\\S)|\\\\s+"

static const char hf_build_config[] =
    "{\"architectures\":[\"Qwen3ForCausalLM\"],\"hidden_size\":32,\"intermediate_size\":48,"
    "\"num_hidden_layers\":1,\"num_attention_heads\":2,\"num_key_value_heads\":1,\"head_dim\":16,"
    "\"vocab_size\":8,\"max_position_embeddings\":128,\"rms_norm_eps\":1e-6,\"rope_theta\":10000,"
    "\"hidden_act\":\"silu\",\"tie_word_embeddings\":true,\"bos_token_id\":null,"
    "\"eos_token_id\":6}";

static const char hf_build_tokenizer[] =
    "{\"added_tokens\":[{\"id\":6,\"content\":\"<end>\",\"special\":true},"
    "{\"id\":7,\"content\":\"<call>\",\"special\":false}],\"normalizer\":null,"
    "\"pre_tokenizer\":{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"Split\",\"pattern\":"
    "{\"Regex\":\"" HF_BUILD_LLAMA3_EXPRESSION
    "\"},\"behavior\":\"Isolated\",\"invert\":false},"
    "{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"use_regex\":false}]},"
    "\"post_processor\":{\"type\":\"ByteLevel\"},"
    "\"model\":{\"type\":\"BPE\",\"dropout\":null,\"ignore_merges\":true,"
    "\"vocab\":{\"a\":0,\"b\":1,\"c\":2,\"ab\":3,\"abc\":4},"
    "\"merges\":[\"a b\",[\"ab\",\"c\"]]}}";

static const char hf_build_settings[] =
    "{\"eos_token\":\"<end>\",\"pad_token\":{\"content\":\"<call>\"},"
    "\"chat_template\":[{\"name\":\"tool\",\"template\":\"T\"},"
    "{\"name\":\"default\",\"template\":\"D\"}]}";

static const struct {
    const char *name;
    int rows, columns; /* columns 0: a vector */
} hf_build_tensors[] = {{"model.embed_tokens.weight", 8, 32},
                        {"model.layers.0.input_layernorm.weight", 32, 0},
                        {"model.layers.0.self_attn.q_proj.weight", 32, 32},
                        {"model.layers.0.self_attn.k_proj.weight", 16, 32},
                        {"model.layers.0.self_attn.v_proj.weight", 16, 32},
                        {"model.layers.0.self_attn.o_proj.weight", 32, 32},
                        {"model.layers.0.self_attn.q_norm.weight", 16, 0},
                        {"model.layers.0.self_attn.k_norm.weight", 16, 0},
                        {"model.layers.0.post_attention_layernorm.weight", 32, 0},
                        {"model.layers.0.mlp.gate_proj.weight", 48, 32},
                        {"model.layers.0.mlp.up_proj.weight", 48, 32},
                        {"model.layers.0.mlp.down_proj.weight", 32, 48},
                        {"model.norm.weight", 32, 0}};

enum { HF_BUILD_TENSORS = sizeof hf_build_tensors / sizeof hf_build_tensors[0] };

/* The header of the tensors [from, to), which are BF16; *bytes is what follows it. */
static inline void hf_build_header(int from, int to, strbuf *out, size_t *bytes) {
    *bytes = 0;
    strbuf_append_char(out, '{');
    for (int i = from; i < to; i++) {
        int rows = hf_build_tensors[i].rows, columns = hf_build_tensors[i].columns;
        size_t size = (size_t)rows * (size_t)(columns > 0 ? columns : 1) * 2;
        strbuf_printf(out, "%s\"%s\":{\"dtype\":\"BF16\",\"shape\":[%d", i > from ? "," : "",
                      hf_build_tensors[i].name, rows);
        if (columns > 0) {
            strbuf_printf(out, ",%d", columns);
        }
        strbuf_printf(out, "],\"data_offsets\":[%zu,%zu]}", *bytes, *bytes + size);
        *bytes += size;
    }
    strbuf_append_char(out, '}');
}

static inline void hf_build_put(const char *folder, const char *name, const void *data,
                                size_t bytes) {
    char path[256];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *f = fopen(path, "wb");
    cr_assert(f != NULL, "%s", path);
    cr_assert_eq(fwrite(data, 1, bytes, f), bytes);
    cr_assert_eq(fclose(f), 0);
}

/* `text` with the change applied, when it is one to `file`. */
static inline strbuf hf_build_text(const char *file, str text, const hf_build_change *change) {
    strbuf out = strbuf_make(1 << 20);
    bool mine = change != NULL && strcmp(change->file, file) == 0;
    size_t at = mine && change->old != NULL ? str_find(text, str_from(change->old), 0) : 0;
    size_t old = mine ? change->old != NULL ? strlen(change->old) : text.bytes : 0;
    cr_assert(at != SIZE_MAX, "%s has no %s", file, change != NULL ? change->old : "");
    strbuf_append(&out, text.data, at);
    strbuf_append_z(&out, mine ? change->new : "");
    strbuf_append(&out, text.data + at + old, text.bytes - at - old);
    cr_assert(!out.failed);
    return out;
}

/* A safetensors file of the tensors [from, to); a change concerns its header. */
static inline void hf_build_weights(const char *folder, const char *file, int from, int to,
                                    const hf_build_change *change) {
    strbuf header = strbuf_make(1 << 20), all = strbuf_make(1 << 20);
    size_t bytes;
    hf_build_header(from, to, &header, &bytes);
    strbuf changed = hf_build_text("model.safetensors", strbuf_str(&header), change);
    for (int i = 0; i < 8; i++) {
        strbuf_append_char(&all, (char)(changed.bytes >> 8 * i));
    }
    strbuf_append_str(&all, strbuf_str(&changed));
    for (size_t i = 0; i < bytes; i++) {
        strbuf_append_char(&all, i % 2 ? 0x3F : (char)(0x40 + i / 2 % 64)); /* 0.75 to 0.99 */
    }
    cr_assert(!all.failed);
    hf_build_put(folder, file, all.data, all.bytes);
    strbuf_close(&header);
    strbuf_close(&changed);
    strbuf_close(&all);
}

static inline void hf_build_json(const char *folder, const char *file, const char *text,
                                 const hf_build_change *change) {
    bool out = change != NULL && !change->old && !change->new &&strcmp(change->file, file) == 0;
    if (!out) {
        strbuf changed = hf_build_text(file, str_from(text), change);
        hf_build_put(folder, file, changed.data, changed.bytes);
        strbuf_close(&changed);
    }
}

/* Makes `folder`, which begins as a mkdtemp template. */
static inline void hf_build_write(char folder[64], const hf_build_change *change) {
    snprintf(folder, 64, "/tmp/hf-test-XXXXXX");
    cr_assert(mkdtemp(folder) != NULL);
    hf_build_json(folder, "config.json", hf_build_config, change);
    hf_build_json(folder, "tokenizer.json", hf_build_tokenizer, change);
    hf_build_json(folder, "tokenizer_config.json", hf_build_settings, change);
    bool out = change != NULL && !change->old &&
               !change->new &&strcmp(change->file, "model.safetensors") == 0;
    if (!out) {
        hf_build_weights(folder, "model.safetensors", 0, HF_BUILD_TENSORS, change);
    }
}

static inline void hf_build_remove(const char *folder) {
    char path[512];
    DIR *d = opendir(folder);
    cr_assert(d != NULL);
    for (struct dirent *e; (e = readdir(d)) != NULL;) {
        snprintf(path, sizeof path, "%s/%s", folder, e->d_name);
        unlink(path);
    }
    closedir(d);
    rmdir(folder);
}

#endif
