/* tokenizer.c -- a model file's own vocabulary, opened and asked. */
#include "models/text/tokenizer.h"

#include <float.h>
#include <inttypes.h>

#include "engine/base/mem.h"
#include "models/text/tokenizer_parts.h"

/* -- open ------------------------------------------------------------------------------------ */

#define KEY "tokenizer.ggml."
#define KEY_MERGES KEY "merges"

static status read_model(const gguf *g, bool *fallback, diag *d) {
    str model;
    TRY(gguf_get_str(g, KEY "model", &model, d));
    *fallback = str_equal_z(model, "llama");
    if (!*fallback && !str_equal_z(model, "gpt2")) {
        return status_fail_param(d, STATUS_UNSUPPORTED, KEY "model",
                                 "the tokenizer model '%.*s' is not supported (known are gpt2 and "
                                 "llama)",
                                 (int)(model.bytes < 80 ? model.bytes : 80), model.data);
    }
    return STATUS_OK;
}

/* A bool under `key`, left alone when there is none. */
static status read_bool(const gguf *g, const char *key, bool *out, diag *d) {
    return gguf_has(g, key) ? gguf_get_bool(g, key, out, d) : STATUS_OK;
}

static status open_pre(const gguf *g, tokenizer *t, diag *d) {
    str name = str_from("default");
    if (gguf_has(g, KEY "pre")) {
        TRY(gguf_get_str(g, KEY "pre", &name, d));
    }
    TRY(pretok_open(name, &t->pre, d));
    t->whole_words = pretok_whole_words(t->pre);
    TRY(read_bool(g, KEY "normalize_nfc", &t->nfc, d));
    return read_bool(g, KEY "ignore_merges", &t->whole_words, d);
}

/* GGUF files have add_space_prefix; space_prefix is the finer word of folders (hf.h). */
static status open_spacing(const gguf *g, tokenizer *t, diag *d) {
    bool prefixed = true;
    str name;
    TRY(read_bool(g, KEY "add_space_prefix", &prefixed, d));
    t->prefix = prefixed ? FALLBACK_SEGMENT : FALLBACK_NEVER;
    if (gguf_has(g, KEY "space_prefix")) {
        TRY(gguf_get_str(g, KEY "space_prefix", &name, d));
        if (!fallback_prefix_from(name, &t->prefix)) {
            return status_fail_param(d, STATUS_CORRUPT, KEY "space_prefix",
                                     "key '" KEY "space_prefix' is no place for a blank");
        }
    }
    TRY(read_bool(g, KEY "ignore_merges", &t->whole_words, d));
    return read_bool(g, KEY "space_splits", &t->splits, d);
}

static status bad_merge(uint64_t index, const char *why, diag *d) {
    return status_fail_param(d, STATUS_CORRUPT, KEY_MERGES, "merge %" PRIu64 " %s", index, why);
}

/* "left right": the two texts hold no blank of their own in the byte alphabet, so the first blank
 * after the first byte parts them. */
static status add_merge(tokenizer *t, uint64_t index, str merge, diag *d) {
    char joined[2 * TOKENIZER_LIMIT_TOKEN_BYTES];
    size_t blank = merge.bytes == 0 ? SIZE_MAX : str_find(merge, str_from(" "), 1);
    if (blank == SIZE_MAX || merge.bytes > sizeof joined) {
        return bad_merge(index, "is not two token texts with a blank between", d);
    }
    str left = str_of(merge.data, blank);
    str right = str_of(merge.data + blank + 1, merge.bytes - blank - 1);
    memcpy(joined, left.data, left.bytes);
    memcpy(joined + left.bytes, right.data, right.bytes);
    int32_t left_id = vocab_find(&t->words, left);
    int32_t right_id = vocab_find(&t->words, right);
    int32_t merged_id = vocab_find(&t->words, str_of(joined, left.bytes + right.bytes));
    if (left_id < 0 || right_id < 0 || merged_id < 0) {
        return bad_merge(index, "names or makes a text that is not in the vocabulary", d);
    }
    bpe_add(t->merges, left_id, right_id, (uint32_t)index, merged_id);
    return STATUS_OK;
}

static status open_merges(const gguf *g, tokenizer *t, diag *d) {
    gguf_array merges;
    TRY(gguf_get_array(g, KEY_MERGES, &merges, d));
    if (merges.kind != GGUF_KIND_STRING || merges.count > TOKENIZER_LIMIT_MERGES) {
        return status_fail_param(d, STATUS_CORRUPT, KEY_MERGES,
                                 "key '" KEY_MERGES "' must hold at most %d strings",
                                 TOKENIZER_LIMIT_MERGES);
    }
    TRY(bpe_create(merges.count, &t->merges, d));
    for (uint64_t i = 0; i < merges.count; i++) {
        TRY(add_merge(t, i, gguf_array_str(&merges, i), d));
    }
    return STATUS_OK;
}

#define KEY_SCORES KEY "scores"

static status open_scores(const gguf *g, tokenizer *t, diag *d) {
    gguf_array scores;
    TRY(gguf_get_array(g, KEY_SCORES, &scores, d));
    if (scores.kind != GGUF_KIND_F32 || scores.count != (uint64_t)t->words.count) {
        return status_fail_param(d, STATUS_CORRUPT, KEY_SCORES,
                                 "key '" KEY_SCORES "' must hold one float for each token");
    }
    float *values = mem_alloc(scores.count, sizeof *values);
    if (values == NULL) {
        return status_fail(d, STATUS_NOMEM, "no memory for the tokenizer");
    }
    status s = STATUS_OK;
    for (uint64_t i = 0; i < scores.count && s == STATUS_OK; i++) {
        values[i] = (float)gguf_array_f64(&scores, i);
        if (!(values[i] >= -FLT_MAX && values[i] <= FLT_MAX)) {
            s = status_fail_param(d, STATUS_CORRUPT, KEY_SCORES,
                                  "the score of token %" PRIu64 " is not a finite number", i);
        }
    }
    if (s == STATUS_OK) {
        s = fallback_merges(&t->words, values, &t->merges, d);
    }
    mem_free(values);
    return s;
}

static status read_id(const gguf *g, const char *key, const tokenizer *t, int32_t *out, diag *d) {
    *out = -1;
    if (!gguf_has(g, key)) {
        return STATUS_OK;
    }
    uint64_t id;
    TRY(gguf_get_u64(g, key, &id, d));
    if (id >= (uint64_t)t->words.count) {
        return status_fail_param(d, STATUS_CORRUPT, key,
                                 "key '%s' is %" PRIu64 ", the vocabulary has %" PRId32 " tokens",
                                 key, id, t->words.count);
    }
    *out = (int32_t)id;
    return STATUS_OK;
}

static status read_flag(const gguf *g, const char *key, int32_t id, bool *flag, diag *d) {
    if (gguf_has(g, key)) {
        TRY(gguf_get_bool(g, key, flag, d));
        if (*flag && id < 0) {
            return status_fail_param(d, STATUS_CORRUPT, key,
                                     "key '%s' is set, but the file names no such token", key);
        }
    }
    *flag = *flag && id >= 0;
    return STATUS_OK;
}

#define KEY_ENDS KEY "eog_token_ids"

/* Folders name all ends of a generation. */
static status read_ends(const gguf *g, tokenizer *t, diag *d) {
    gguf_array ids;
    if (!gguf_has(g, KEY_ENDS)) {
        return STATUS_OK;
    }
    TRY(gguf_get_array(g, KEY_ENDS, &ids, d));
    for (uint64_t i = 0; i < ids.count; i++) {
        int64_t id = ids.kind == GGUF_KIND_I32 ? gguf_array_i64(&ids, i) : -1;
        if (id < 0 || id >= t->words.count) {
            return status_fail_param(d, STATUS_CORRUPT, KEY_ENDS,
                                     "key '" KEY_ENDS "' must hold ids of tokens");
        }
        t->eog[id] = true;
    }
    return STATUS_OK;
}

static status read_ids(const gguf *g, tokenizer *t, diag *d) {
    int32_t eot;
    int32_t eom;
    TRY(read_id(g, KEY "bos_token_id", t, &t->bos, d));
    TRY(read_id(g, KEY "eos_token_id", t, &t->eos, d));
    TRY(read_id(g, KEY "padding_token_id", t, &t->pad, d));
    TRY(read_id(g, KEY "eot_token_id", t, &eot, d));
    TRY(read_id(g, KEY "eom_token_id", t, &eom, d));
    TRY(read_id(g, KEY "unknown_token_id", t, &t->unknown, d));
    t->adds_bos = t->pre != NULL ? pretok_adds_bos(t->pre) : t->bos >= 0;
    TRY(read_flag(g, KEY "add_bos_token", t->bos, &t->adds_bos, d));
    TRY(read_flag(g, KEY "add_eos_token", t->eos, &t->adds_eos, d));
    t->eog = mem_calloc((size_t)t->words.count, sizeof *t->eog);
    t->joined = mem_calloc((size_t)t->words.count, sizeof *t->joined);
    if (t->eog == NULL || t->joined == NULL) {
        return status_fail(d, STATUS_NOMEM, "no memory for the tokenizer");
    }
    /* Files name one end token, while chat models end turns with another: known by its text. */
    const int32_t ends[] = {t->eos,
                            eot,
                            eom,
                            vocab_find(&t->words, str_from("<|im_end|>")),
                            vocab_find(&t->words, str_from("<|eot_id|>")),
                            vocab_find(&t->words, str_from("<|eom_id|>")),
                            vocab_find(&t->words, str_from("<end_of_turn>")),
                            vocab_find(&t->words, str_from("<|end_of_text|>")),
                            vocab_find(&t->words, str_from("<|endoftext|>"))};
    for (size_t i = 0; i < sizeof ends / sizeof ends[0]; i++) {
        if (ends[i] >= 0) {
            t->eog[ends[i]] = true;
        }
    }
    return read_ends(g, t, d);
}

static status open_parts(const gguf *g, tokenizer *t, diag *d) {
    bool fallback;
    TRY(read_model(g, &fallback, d));
    TRY(fallback ? open_spacing(g, t, d) : open_pre(g, t, d));
    TRY(vocab_open(g, fallback, &t->words, d));
    TRY(special_open(&t->words, &t->specials, d));
    TRY(fallback && !gguf_has(g, KEY_MERGES) ? open_scores(g, t, d) : open_merges(g, t, d));
    return read_ids(g, t, d);
}

status tokenizer_open(const gguf *g, tokenizer **out, diag *d) {
    *out = NULL;
    tokenizer *t = mem_calloc(1, sizeof *t);
    if (t == NULL) {
        return status_fail(d, STATUS_NOMEM, "no memory for the tokenizer");
    }
    status s = open_parts(g, t, d);
    if (s != STATUS_OK) {
        tokenizer_close(t);
        return s;
    }
    *out = t;
    return STATUS_OK;
}

void tokenizer_close(tokenizer *t) {
    if (t == NULL) {
        return;
    }
    pretok_close(t->pre);
    bpe_destroy(t->merges);
    special_close(&t->specials);
    vocab_close(&t->words);
    mem_free(t->eog);
    mem_free((void *)t->joined);
    mem_free(t);
}

/* -- tokens ---------------------------------------------------------------------------------- */

static bool is_token(const tokenizer *t, int32_t id) {
    return id >= 0 && id < t->words.count;
}

str tokenizer_piece(const tokenizer *t, int32_t id) {
    return is_token(t, id) ? t->words.pieces[id] : str_of("", 0);
}

int32_t tokenizer_find(const tokenizer *t, str text) {
    return vocab_find(&t->words, text);
}

int32_t tokenizer_vocab_count(const tokenizer *t) {
    return t->words.count;
}

size_t tokenizer_piece_bytes_max(const tokenizer *t) {
    return t->words.piece_bytes_max;
}

int32_t tokenizer_bos(const tokenizer *t) {
    return t->bos;
}

int32_t tokenizer_eos(const tokenizer *t) {
    return t->eos;
}

int32_t tokenizer_pad(const tokenizer *t) {
    return t->pad;
}

bool tokenizer_adds_bos(const tokenizer *t) {
    return t->adds_bos;
}

bool tokenizer_adds_eos(const tokenizer *t) {
    return t->adds_eos;
}

bool tokenizer_is_special(const tokenizer *t, int32_t id) {
    return is_token(t, id) && t->words.types[id] == VOCAB_CONTROL;
}

bool tokenizer_is_eog(const tokenizer *t, int32_t id) {
    return is_token(t, id) && t->eog[id];
}
