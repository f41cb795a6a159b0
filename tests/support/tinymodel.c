/* tinymodel.c -- the GGUF writer of tinymodel.h. Layout: the format description of the ggml project
 * (docs/gguf.md). Weights are random blocks of the wanted format, scaled so that a row of `inputs`
 * elements has a norm near 1 and greedy outputs vary. */
#include "tests/support/tinymodel.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "engine/base/check.h"
#include "engine/base/mem.h"
#include "engine/base/rng.h"
#include "engine/base/str.h"

enum { TENSORS_MAX = 1024, KEYS_MAX = 64, NAME_BYTES = 64, ALIGNMENT = 32 };

enum { KIND_U32 = 4, KIND_I32 = 5, KIND_F32 = 6, KIND_BOOL = 7, KIND_STRING = 8, KIND_ARRAY = 9 };

typedef struct {
    char name[NAME_BYTES];
    uint32_t dims_count;
    uint64_t dims[2];
    gguf_type type;
    uint64_t offset, bytes;
    float gain; /* standard deviation of a matrix is gain / sqrt(dims[0]) */
} tiny_tensor;

typedef struct {
    const tinymodel_options *options;
    strbuf keys;
    uint64_t keys_count;
    tiny_tensor tensors[TENSORS_MAX];
    uint32_t tensors_count;
    strbuf data;
    uint64_t random;
} tiny;

static const char *const tiny_template =
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + "
    "message['content'] + '<|im_end|>' + '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";

/* _ stands for the byte-level letter of a blank. */
static const char *const tiny_merges[] = {
    "_ t",  "h e",   "i n",  "_ a",  "r e", "o n",  "_t he", "e r",  "_ s",  "a t",   "_ w",
    "_ o",  "e n",   "_ c",  "i t",  "i s", "a n",  "o r",   "e s",  "_ b",  "e d",   "_ f",
    "in g", "_ p",   "o u",  "_a n", "a l", "a r",  "_t o",  "_ m",  "_o f", "_ in",  "_ d",
    "_ h",  "_an d", "i c",  "a s",  "l e", "_t h", "i on",  "o m",  "l l",  "en t",  "_ n",
    "_ l",  "s t",   "_ re", "v e",  "_ e", "r o",  "l y",   "_b e", "_ g",  "_T he", "_ T",
    "c t",  "_ is",  "_s t", "u r",  "o t", "i l"};

static void tiny_raw(strbuf *b, const void *data, size_t bytes) {
    CHECK(strbuf_append(b, data, bytes));
}

static void tiny_u32(strbuf *b, uint32_t v) {
    tiny_raw(b, &v, sizeof(v));
}

static void tiny_u64(strbuf *b, uint64_t v) {
    tiny_raw(b, &v, sizeof(v));
}

static void tiny_str(strbuf *b, const char *text, size_t bytes) {
    tiny_u64(b, bytes);
    tiny_raw(b, text, bytes);
}

static bool tiny_gemma(const tinymodel_options *o) {
    return o->arch && strncmp(o->arch, "gemma", 5) == 0;
}

/* False when the key is one to leave out. */
static bool tiny_key(tiny *t, const char *key, uint32_t kind) {
    if (t->options->omit && strcmp(t->options->omit, key) == 0) {
        return false;
    }
    char own[NAME_BYTES * 2];
    snprintf(own, sizeof(own), "%s", key);
    if (tiny_gemma(t->options) && strncmp(key, "llama.", 6) == 0) {
        snprintf(own, sizeof(own), "%s.%s", t->options->arch, key + 6);
    }
    tiny_str(&t->keys, own, strlen(own));
    tiny_u32(&t->keys, kind);
    t->keys_count++;
    return true;
}

static void tiny_key_u32(tiny *t, const char *key, uint32_t v) {
    for (uint32_t i = 0; i < TINYMODEL_OVERRIDES_MAX && t->options->overrides[i].key; i++) {
        if (strcmp(t->options->overrides[i].key, key) == 0) {
            v = t->options->overrides[i].value;
        }
    }
    if (tiny_key(t, key, KIND_U32)) {
        tiny_u32(&t->keys, v);
    }
}

static void tiny_key_f32(tiny *t, const char *key, float v) {
    if (tiny_key(t, key, KIND_F32)) {
        tiny_raw(&t->keys, &v, sizeof(v));
    }
}

static void tiny_key_str(tiny *t, const char *key, const char *text) {
    if (tiny_key(t, key, KIND_STRING)) {
        tiny_str(&t->keys, text, strlen(text));
    }
}

/* The letter that stands for a byte in byte-level BPE: printable Latin-1 stands for itself, the
 * others for code points from 256 on (Radford et al. 2019, the GPT-2 vocabulary). */
static uint32_t tiny_letter(uint32_t byte) {
    uint32_t hidden = 0;
    for (uint32_t i = 0; i <= byte; i++) {
        bool shown = (i >= 33 && i <= 126) || (i >= 161 && i <= 172) || i >= 174;
        if (i == byte) {
            return shown ? byte : 256 + hidden;
        }
        hidden += shown ? 0 : 1;
    }
    return byte;
}

/* The text of a merge with blanks' letters in place; `joined` leaves out the space between. */
static size_t tiny_merge_text(const char *merge, bool joined, char *out) {
    size_t bytes = 0;
    for (const char *p = merge; *p; p++) {
        if (*p == '_') {
            bytes += str_utf8_put(tiny_letter(' '), out + bytes);
        } else if (*p != ' ' || !joined) {
            out[bytes++] = *p;
        }
    }
    return bytes;
}

static void tiny_array(tiny *t, const char *key, uint32_t kind, uint64_t count) {
    CHECK(tiny_key(t, key, KIND_ARRAY));
    tiny_u32(&t->keys, kind);
    tiny_u64(&t->keys, count);
}

static void tiny_vocabulary(tiny *t) {
    static const char *const control[] = {"<|endoftext|>", "<|im_start|>", "<|im_end|>"};
    const uint64_t merges = sizeof(tiny_merges) / sizeof(tiny_merges[0]);
    CHECK_EQ(3 + 256 + merges, TINYMODEL_VOCAB);
    tiny_key_str(t, "tokenizer.ggml.model", "gpt2");
    tiny_key_str(t, "tokenizer.ggml.pre", "smollm");
    tiny_array(t, "tokenizer.ggml.tokens", KIND_STRING, TINYMODEL_VOCAB);
    for (uint32_t i = 0; i < 3; i++) {
        tiny_str(&t->keys, control[i], strlen(control[i]));
    }
    char text[NAME_BYTES];
    for (uint32_t i = 0; i < 256; i++) {
        tiny_str(&t->keys, text, str_utf8_put(tiny_letter(i), text));
    }
    for (uint64_t i = 0; i < merges; i++) {
        tiny_str(&t->keys, text, tiny_merge_text(tiny_merges[i], true, text));
    }
    tiny_array(t, "tokenizer.ggml.token_type", KIND_I32, TINYMODEL_VOCAB);
    for (uint32_t i = 0; i < TINYMODEL_VOCAB; i++) {
        tiny_u32(&t->keys, i < 3 ? 3 : 1);
    }
    tiny_array(t, "tokenizer.ggml.merges", KIND_STRING, merges);
    for (uint64_t i = 0; i < merges; i++) {
        tiny_str(&t->keys, text, tiny_merge_text(tiny_merges[i], false, text));
    }
    tiny_key_u32(t, "tokenizer.ggml.bos_token_id", TINYMODEL_BOS);
    tiny_key_u32(t, "tokenizer.ggml.eos_token_id", TINYMODEL_EOS);
    tiny_key_u32(t, "tokenizer.ggml.unknown_token_id", 0);
    if (tiny_key(t, "tokenizer.ggml.add_bos_token", KIND_BOOL)) {
        tiny_raw(&t->keys, "", 1);
    }
    tiny_key_str(t, "tokenizer.chat_template", tiny_template);
}

static void tiny_settings(tiny *t) {
    const tinymodel_options *o = t->options;
    tiny_key_str(t, "general.architecture", o->arch ? o->arch : "llama");
    tiny_key_str(t, "general.name", "tiny");
    tiny_key_u32(t, "llama.block_count", o->layers);
    tiny_key_u32(t, "llama.context_length", o->context);
    tiny_key_u32(t, "llama.embedding_length", o->width);
    tiny_key_u32(t, "llama.feed_forward_length", o->ffn);
    tiny_key_u32(t, "llama.attention.head_count", o->heads);
    tiny_key_u32(t, "llama.attention.head_count_kv", o->kv_heads);
    tiny_key_f32(t, "llama.attention.layer_norm_rms_epsilon", 1e-5f);
    tiny_key_u32(t, "llama.vocab_size", TINYMODEL_VOCAB);
    if (o->window > 0) {
        tiny_key_u32(t, "llama.attention.sliding_window", o->window);
    }
    if (o->head_dim) {
        tiny_key_u32(t, "llama.attention.key_length", o->head_dim);
        tiny_key_u32(t, "llama.attention.value_length", o->head_dim);
    }
    if (o->rope_base > 0) {
        tiny_key_f32(t, "llama.rope.freq_base", o->rope_base);
    }
    if (o->rope_linear > 0) {
        tiny_key_str(t, "llama.rope.scaling.type", "linear");
        tiny_key_f32(t, "llama.rope.scaling.factor", o->rope_linear);
    }
    for (uint32_t i = 0; i < TINYMODEL_REALS_MAX && o->reals[i].key; i++) {
        tiny_key_f32(t, o->reals[i].key, o->reals[i].value);
    }
    tiny_vocabulary(t);
    /* Keys that no well-formed tiny model has, so that a test can add them. */
    for (uint32_t i = 0; i < TINYMODEL_OVERRIDES_MAX && o->overrides[i].key; i++) {
        static const char *const extra[] = {"llama.expert_count", "llama.rope.dimension_count",
                                            "llama.attention.sliding_window_pattern"};
        for (uint32_t e = 0; e < 3; e++) {
            if (strcmp(o->overrides[i].key, extra[e]) == 0) {
                tiny_key_u32(t, extra[e], 0);
            }
        }
    }
}

/* A vector when rows is 0. */
static void tiny_add(tiny *t, gguf_type type, uint64_t inputs, uint64_t rows, float gain,
                     const char *name) {
    const tinymodel_options *o = t->options;
    if (o->omit && strcmp(o->omit, name) == 0) {
        return;
    }
    if (o->narrow && strcmp(o->narrow, name) == 0) {
        inputs /= 2;
    }
    CHECK_LT(t->tensors_count, TENSORS_MAX);
    tiny_tensor *x = &t->tensors[t->tensors_count++];
    snprintf(x->name, sizeof(x->name), "%s", name);
    x->dims_count = rows ? 2 : 1;
    x->dims[0] = inputs;
    x->dims[1] = rows ? rows : 1;
    x->type = type;
    x->gain = gain;
    uint64_t elements = x->dims[0] * x->dims[1];
    x->bytes = elements / gguf_type_block_elements(type) * gguf_type_block_bytes(type);
    const tiny_tensor *last = t->tensors_count > 1 ? x - 1 : NULL;
    uint64_t end = last ? last->offset + last->bytes : 0;
    x->offset = (end + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
}

/* Random numbers of a tensor depend on its name alone, so that one more tensor changes no other. */
static uint64_t tiny_seed(uint64_t seed, const char *name) {
    uint64_t h = rng_mix(seed);
    for (; *name; name++) {
        h = rng_mix(h ^ (uint8_t)*name);
    }
    return h;
}

static float tiny_normal(uint64_t *random) {
    /* The sum of twelve uniforms has variance 1: no libm, so the same bits everywhere. */
    double sum = 0;
    for (int i = 0; i < 12; i++) {
        sum += rng_unit(rng_next(random));
    }
    return (float)(sum - 6);
}

/* A positive normal number of binary16, truncated. */
static uint16_t tiny_half(float v) {
    uint32_t bits;
    memcpy(&bits, &v, sizeof(bits));
    uint32_t sign = bits >> 16 & 0x8000u;
    int32_t exponent = (int32_t)(bits >> 23 & 255) - 112;
    if (exponent <= 0) {
        return (uint16_t)sign;
    }
    CHECK_LT(exponent, 31);
    return (uint16_t)(sign | (uint32_t)exponent << 10 | (bits >> 13 & 1023));
}

static void tiny_put_half(uint8_t *at, float v) {
    uint16_t h = tiny_half(v);
    memcpy(at, &h, sizeof(h));
}

/* Fills one block with random bytes, then sets its scales: `spread` is the standard deviation the
 * elements should have. The divisors are the deviation of uniform codes of each format. */
static void tiny_block(gguf_type type, uint8_t *block, float spread, uint64_t *random) {
    uint32_t bytes = gguf_type_block_bytes(type);
    for (uint32_t i = 0; i < bytes; i++) {
        block[i] = (uint8_t)(rng_next(random) >> 56);
    }
    float vary = 0.75f + 0.5f * (float)rng_unit(rng_next(random));
    switch (type) {
        case GGUF_Q4_0:
            tiny_put_half(block, spread * vary / 4.6f);
            break;
        case GGUF_Q4_1:
            tiny_put_half(block, spread * vary / 4.6f);
            tiny_put_half(block + 2, -7.5f * spread * vary / 4.6f);
            break;
        case GGUF_Q5_0:
            tiny_put_half(block, spread * vary / 9.2f);
            break;
        case GGUF_Q5_1:
            tiny_put_half(block, spread * vary / 9.2f);
            tiny_put_half(block + 2, -15.5f * spread * vary / 9.2f);
            break;
        case GGUF_Q8_0:
            tiny_put_half(block, spread * vary / 74.0f);
            break;
        case GGUF_Q4_K: /* scales of 6 bits, mean 31.5; mins likewise */
            tiny_put_half(block, spread / 258.0f);
            tiny_put_half(block + 2, 7.5f * spread / 258.0f);
            break;
        case GGUF_Q5_K:
            tiny_put_half(block, spread / 516.0f);
            tiny_put_half(block + 2, 15.5f * spread / 516.0f);
            break;
        case GGUF_Q6_K: /* 16 scales of int8 before the last two bytes */
            for (uint32_t i = 0; i < 16; i++) {
                block[192 + i] = (uint8_t)(8 + (block[192 + i] & 15));
            }
            tiny_put_half(block + 208, spread / (18.5f * 15.5f));
            break;
        default:
            UNREACHABLE();
    }
}

static void tiny_element(gguf_type type, float v, strbuf *out) {
    uint32_t bits;
    memcpy(&bits, &v, sizeof(bits));
    if (type == GGUF_F32) {
        tiny_raw(out, &v, sizeof(v));
        return;
    }
    uint16_t half = type == GGUF_F16 ? tiny_half(v) : (uint16_t)(bits >> 16);
    tiny_raw(out, &half, sizeof(half));
}

static void tiny_fill(tiny *t, const tiny_tensor *x) {
    while (t->data.bytes < x->offset) {
        tiny_raw(&t->data, "", 1);
    }
    uint64_t random = tiny_seed(t->options->seed, x->name);
    float spread = x->gain / sqrtf((float)x->dims[0]);
    uint64_t elements = x->dims[0] * x->dims[1];
    if (gguf_type_block_elements(x->type) > 1) {
        uint8_t block[256];
        for (uint64_t i = 0; i < elements; i += gguf_type_block_elements(x->type)) {
            tiny_block(x->type, block, spread, &random);
            tiny_raw(&t->data, block, gguf_type_block_bytes(x->type));
        }
        return;
    }
    for (uint64_t i = 0; i < elements; i++) {
        float normal = tiny_normal(&random);
        /* Vectors: norms and rope factors near 1 (gain > 0), biases near 0 (gain < 0). */
        float v = spread * normal;
        if (x->dims_count == 1) {
            v = x->gain > 0 ? 1.0f + 0.1f * fabsf(normal) : 0.2f * normal;
        }
        tiny_element(x->type, v, &t->data);
    }
}

static void tiny_layer(tiny *t, uint32_t layer) {
    const tinymodel_options *o = t->options;
    uint64_t head = o->head_dim ? o->head_dim : o->width / o->heads;
    uint64_t q = head * o->heads, kv = head * o->kv_heads;
    const struct {
        const char *name;
        gguf_type type;
        uint64_t inputs, rows;
        float gain;
    } parts[] = {{"attn_norm.weight", GGUF_F32, o->width, 0, 1},
                 {"attn_q.weight", o->type, o->width, q, 2},
                 {"attn_k.weight", o->type, o->width, kv, 2},
                 {"attn_v.weight", o->type, o->width, kv, 1},
                 {"attn_output.weight", o->type, q, o->width, 1},
                 {"ffn_norm.weight", GGUF_F32, o->width, 0, 1},
                 {"ffn_gate.weight", o->type, o->width, o->ffn, 1},
                 {"ffn_up.weight", o->type, o->width, o->ffn, 1},
                 {"ffn_down.weight", o->type, o->ffn, o->width, 1},
                 {"attn_q.bias", GGUF_F32, q, 0, -1},
                 {"attn_k.bias", GGUF_F32, kv, 0, -1},
                 {"attn_v.bias", GGUF_F32, kv, 0, -1},
                 {"attn_output.bias", GGUF_F32, o->width, 0, -1}};
    uint32_t count = o->biases ? 13 : 9;
    for (uint32_t i = 0; i < count; i++) {
        char name[NAME_BYTES];
        snprintf(name, sizeof(name), "blk.%u.%s", layer, parts[i].name);
        tiny_add(t, parts[i].type, parts[i].inputs, parts[i].rows, parts[i].gain, name);
    }
    static const char *const norms[] = {"post_attention_norm", "post_ffw_norm", "attn_q_norm",
                                        "attn_k_norm"};
    uint32_t norms_count = !tiny_gemma(o) ? 0 : strcmp(o->arch, "gemma3") == 0 ? 4 : 2;
    for (uint32_t i = 0; i < norms_count; i++) {
        char name[NAME_BYTES];
        snprintf(name, sizeof(name), "blk.%u.%s.weight", layer, norms[i]);
        tiny_add(t, GGUF_F32, i < 2 ? o->width : head, 0, 1, name);
    }
}

static void tiny_tensors(tiny *t) {
    const tinymodel_options *o = t->options;
    /* The embedding is also the output: a gain of 3 spreads the logits enough to tell tokens
     * apart. Gemma multiplies what it looks up, and layers should still count beside it. */
    tiny_add(t, o->type, o->width, TINYMODEL_VOCAB, tiny_gemma(o) ? 1 : 3, "token_embd.weight");
    for (uint32_t i = 0; i < o->layers; i++) {
        tiny_layer(t, i);
    }
    tiny_add(t, GGUF_F32, o->width, 0, 1, "output_norm.weight");
    if (!o->tied) {
        tiny_add(t, o->type, o->width, TINYMODEL_VOCAB, 3, "output.weight");
    }
    if (o->freq_factors) {
        uint64_t head = o->head_dim ? o->head_dim : o->width / o->heads;
        tiny_add(t, GGUF_F32, head / 2, 0, 1, "rope_freqs.weight");
    }
    for (uint32_t i = 0; i < t->tensors_count; i++) {
        tiny_fill(t, &t->tensors[i]);
    }
}

static void tiny_assemble(const tiny *t, strbuf *out) {
    tiny_raw(out, "GGUF", 4);
    tiny_u32(out, 3);
    tiny_u64(out, t->tensors_count);
    tiny_u64(out, t->keys_count);
    tiny_raw(out, t->keys.data, t->keys.bytes);
    for (uint32_t i = 0; i < t->tensors_count; i++) {
        const tiny_tensor *x = &t->tensors[i];
        tiny_str(out, x->name, strlen(x->name));
        tiny_u32(out, x->dims_count);
        for (uint32_t j = 0; j < x->dims_count; j++) {
            tiny_u64(out, x->dims[j]);
        }
        tiny_u32(out, (uint32_t)x->type);
        tiny_u64(out, x->offset);
    }
    while (out->bytes % ALIGNMENT) {
        tiny_raw(out, "", 1);
    }
    tiny_raw(out, t->data.data, t->data.bytes);
}

tinymodel_options tinymodel_default(gguf_type type) {
    bool k = gguf_type_block_elements(type) == 256;
    return (tinymodel_options){.seed = 1,
                               .type = type,
                               .layers = 2,
                               .width = k ? 256 : 64,
                               .heads = 4,
                               .kv_heads = 2,
                               .ffn = k ? 512 : 128,
                               .context = 512,
                               .tied = true,
                               .rope_base = 10000};
}

bool tinymodel_type_from(const char *text, gguf_type *out) {
    static const gguf_type types[] = {GGUF_F32,  GGUF_F16,  GGUF_BF16, GGUF_Q4_0,
                                      GGUF_Q4_1, GGUF_Q5_0, GGUF_Q5_1, GGUF_Q8_0,
                                      GGUF_Q4_K, GGUF_Q5_K, GGUF_Q6_K};
    for (size_t i = 0; i < sizeof(types) / sizeof(types[0]); i++) {
        if (strcasecmp(text, gguf_type_name(types[i])) == 0) {
            *out = types[i];
            return true;
        }
    }
    return false;
}

status tinymodel_write(const char *path, const tinymodel_options *o, diag *d) {
    tiny *t = mem_calloc(1, sizeof(*t));
    CHECK(t != NULL);
    t->options = o;
    t->keys = strbuf_make(1 << 20);
    t->data = strbuf_make(TINYMODEL_BYTES_MAX);
    strbuf whole = strbuf_make(TINYMODEL_BYTES_MAX + (2 << 20));
    tiny_settings(t);
    tiny_tensors(t);
    tiny_assemble(t, &whole);
    status result = STATUS_OK;
    FILE *f = fopen(path, "wb");
    if (!f || fwrite(whole.data, 1, whole.bytes, f) != whole.bytes) {
        result = status_fail_errno(d, STATUS_IO, "%s", path);
    }
    if (f && fclose(f) != 0 && result == STATUS_OK) {
        result = status_fail_errno(d, STATUS_IO, "%s", path);
    }
    strbuf_close(&whole);
    strbuf_close(&t->data);
    strbuf_close(&t->keys);
    mem_free(t);
    return result;
}
