/* vocab.c -- the tokens of a model file. */
#include "models/text/vocab.h"

#include <inttypes.h>
#include <stdio.h>

#include "engine/base/mem.h"
#include "engine/base/rng.h"
#include "models/text/bytelevel.h"
#include "models/text/fallback.h"
#include "models/text/tokenizer.h"

#define KEY_TOKENS "tokenizer.ggml.tokens"
#define KEY_TYPES "tokenizer.ggml.token_type"

static uint64_t hash_text(str s) {
    uint64_t h = s.bytes;
    size_t at = 0;
    for (; s.bytes - at >= 8; at += 8) {
        uint64_t word;
        memcpy(&word, s.data + at, sizeof word);
        h = rng_mix(h ^ word);
    }
    if (at < s.bytes) {
        uint64_t tail = 0;
        memcpy(&tail, s.data + at, s.bytes - at);
        h = rng_mix(h ^ tail);
    }
    return h;
}

/* The slot that holds `text`, or the empty one where it would go. */
static uint32_t slot_of(const vocab *v, str text) {
    uint32_t i = (uint32_t)hash_text(text) & v->slots_mask;
    while (v->slots[i] >= 0 && !str_equal(v->texts[v->slots[i]], text)) {
        i = (i + 1) & v->slots_mask;
    }
    return i;
}

int32_t vocab_find(const vocab *v, str text) {
    return v->slots[slot_of(v, text)];
}

static status check_tokens(const gguf_array *tokens, size_t *bytes, diag *d) {
    if (tokens->kind != GGUF_KIND_STRING || tokens->count == 0 ||
        tokens->count > TOKENIZER_LIMIT_VOCAB) {
        return status_fail_param(d, STATUS_CORRUPT, KEY_TOKENS,
                                 "key '" KEY_TOKENS "' must hold 1 to %d strings",
                                 TOKENIZER_LIMIT_VOCAB);
    }
    *bytes = 0;
    for (uint64_t i = 0; i < tokens->count; i++) {
        str s = gguf_array_str(tokens, i);
        if (s.bytes > TOKENIZER_LIMIT_TOKEN_BYTES) {
            return status_fail_param(d, STATUS_LIMIT, KEY_TOKENS,
                                     "token %" PRIu64 " has %zu bytes, at most %d are allowed", i,
                                     s.bytes, TOKENIZER_LIMIT_TOKEN_BYTES);
        }
        *bytes += s.bytes;
    }
    return STATUS_OK;
}

static status allocate(vocab *v, uint64_t count, size_t text_bytes, diag *d) {
    uint32_t slots = 16;
    while (slots / 2 < count) {
        slots *= 2;
    }
    v->count = (int32_t)count;
    v->slots_mask = slots - 1;
    v->texts = mem_alloc(count, sizeof *v->texts);
    v->pieces = mem_alloc(count, sizeof *v->pieces);
    v->types = mem_alloc(count, sizeof *v->types);
    v->bytes = mem_alloc(text_bytes, 2);
    v->slots = mem_alloc(slots, sizeof *v->slots);
    if (v->texts == NULL || v->pieces == NULL || v->types == NULL || v->bytes == NULL ||
        v->slots == NULL) {
        return status_fail(d, STATUS_NOMEM, "no memory for a vocabulary of %" PRIu64 " tokens",
                           count);
    }
    for (uint32_t i = 0; i < slots; i++) {
        v->slots[i] = -1;
    }
    return STATUS_OK;
}

static status read_types(const gguf *g, vocab *v, diag *d) {
    memset(v->types, VOCAB_NORMAL, (size_t)v->count);
    gguf_array types;
    if (!gguf_has(g, KEY_TYPES)) {
        return STATUS_OK;
    }
    TRY(gguf_get_array(g, KEY_TYPES, &types, d));
    if ((types.kind != GGUF_KIND_I32 && types.kind != GGUF_KIND_U32) ||
        types.count != (uint64_t)v->count) {
        return status_fail_param(d, STATUS_CORRUPT, KEY_TYPES,
                                 "key '" KEY_TYPES
                                 "' must hold one 32-bit integer for each of the "
                                 "%" PRId32 " tokens",
                                 v->count);
    }
    for (int32_t i = 0; i < v->count; i++) {
        int64_t type = gguf_array_i64(&types, (uint64_t)i);
        if (type < VOCAB_NORMAL || type > VOCAB_BYTE) {
            return status_fail_param(d, STATUS_CORRUPT, KEY_TYPES,
                                     "token %" PRId32 " has the unknown type %" PRId64, i, type);
        }
        v->types[i] = (uint8_t)type;
    }
    return STATUS_OK;
}

/* <0xAB> */
static int32_t byte_value(str text) {
    static const char digits[] = "0123456789ABCDEF";
    const char *high = text.bytes == 6 ? memchr(digits, text.data[3], 16) : NULL;
    const char *low = high != NULL ? memchr(digits, text.data[4], 16) : NULL;
    if (low == NULL || memcmp(text.data, "<0x", 3) != 0 || text.data[5] != '>') {
        return -1;
    }
    return (int32_t)((high - digits) * 16 + (low - digits));
}

/* The bytes of a token that is text: one, or the text with U+2581 as blanks. */
static bool fallback_decode(str text, uint8_t type, char *out, size_t *bytes) {
    *bytes = 0;
    if (type == VOCAB_BYTE) {
        int32_t value = byte_value(text);
        if (value >= 0) {
            out[(*bytes)++] = (char)value;
        }
        return value >= 0;
    }
    if (type != VOCAB_NORMAL && type != VOCAB_USER) {
        return false;
    }
    const str blank = str_of(FALLBACK_BLANK, FALLBACK_BLANK_BYTES);
    for (size_t i = 0; i < text.bytes;) {
        bool is_blank = str_starts_with(str_of(text.data + i, text.bytes - i), blank);
        out[(*bytes)++] = is_blank ? ' ' : text.data[i];
        i += is_blank ? FALLBACK_BLANK_BYTES : 1;
    }
    return true;
}

/* Copies one token's text to *at, then the bytes it stands for; moves *at behind them. */
static void copy_token(vocab *v, int32_t id, str text, char **at) {
    memcpy(*at, text.data, text.bytes);
    v->texts[id] = str_of(*at, text.bytes);
    v->pieces[id] = v->texts[id]; /* control tokens and the like stand for their own text */
    *at += text.bytes;
    size_t bytes;
    if (v->fallback ? fallback_decode(text, v->types[id], *at, &bytes)
                    : v->types[id] == VOCAB_NORMAL && bytelevel_decode(text, *at, &bytes)) {
        v->pieces[id] = str_of(*at, bytes);
        *at += bytes;
    }
    if (v->pieces[id].bytes > v->piece_bytes_max) {
        v->piece_bytes_max = v->pieces[id].bytes;
    }
}

static void find_bytes(vocab *v) {
    for (int byte = 0; byte < 256; byte++) {
        char text[8];
        size_t bytes = v->fallback ? (size_t)snprintf(text, sizeof text, "<0x%02X>", (unsigned)byte)
                                   : bytelevel_put((uint8_t)byte, text);
        v->byte_ids[byte] = vocab_find(v, str_of(text, bytes));
    }
}

static status read_tokens(const gguf_array *tokens, vocab *v, diag *d) {
    char *at = v->bytes;
    for (int32_t id = 0; id < v->count; id++) {
        copy_token(v, id, gguf_array_str(tokens, (uint64_t)id), &at);
        str text = v->texts[id];
        if (text.bytes == 0) {
            continue; /* a hole in the vocabulary: has an id, never a text */
        }
        uint32_t slot = slot_of(v, text);
        if (v->slots[slot] >= 0) {
            return status_fail_param(d, STATUS_CORRUPT, KEY_TOKENS,
                                     "tokens %" PRId32 " and %" PRId32 " have the same text",
                                     v->slots[slot], id);
        }
        v->slots[slot] = id;
    }
    find_bytes(v);
    return STATUS_OK;
}

status vocab_open(const gguf *g, bool fallback, vocab *out, diag *d) {
    vocab v = {.fallback = fallback};
    gguf_array tokens;
    size_t text_bytes = 0;
    TRY(gguf_get_array(g, KEY_TOKENS, &tokens, d));
    TRY(check_tokens(&tokens, &text_bytes, d));
    status s = allocate(&v, tokens.count, text_bytes, d);
    if (s == STATUS_OK) {
        s = read_types(g, &v, d);
    }
    if (s == STATUS_OK) {
        s = read_tokens(&tokens, &v, d);
    }
    if (s != STATUS_OK) {
        vocab_close(&v);
        return s;
    }
    *out = v;
    return STATUS_OK;
}

void vocab_close(vocab *v) {
    mem_free(v->texts);
    mem_free(v->pieces);
    mem_free(v->types);
    mem_free(v->bytes);
    mem_free(v->slots);
    *v = (vocab){0};
}
