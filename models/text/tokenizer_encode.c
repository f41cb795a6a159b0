/* tokenizer_encode.c -- text to token ids.
 *
 * Encoding is four cuts, each inside the pieces of the one before: broken bytes become U+FFFD;
 * control and user-defined tokens are taken out; the pre-tokenizer splits what is left into words;
 * each word's bytes are merged. Most words of a text are tokens; for those the outcome of merging
 * is remembered, and found again by one look-up instead of one for each pair.
 */
#include <string.h>

#include "engine/base/mem.h"
#include "models/text/bytelevel.h"
#include "models/text/detok.h"
#include "models/text/nfc.h"
#include "models/text/tokenizer_parts.h"

enum {
    WORD_BYTES = 256, /* words up to this long need no heap */
    RECENT_BYTES = 15,
    RECENT_BITS = 6
};

/* A word that is a token, and that this text has had before: most words of a text return. */
typedef struct {
    uint64_t key[2]; /* its bytes, zeros, its length; a length of 0: none */
    int32_t id;
} recent_word;

/* One call's state: where ids go, and memory that words share. */
typedef struct {
    const tokenizer *t;
    int32_t *ids; /* [ids_max] */
    size_t ids_max;
    size_t count; /* may pass ids_max: counting goes on */
    pretok_run run;
    bpe_scratch scratch;
    int32_t word[WORD_BYTES];
    int32_t *long_word; /* [long_word_max] for words that do not fit `word`, or NULL */
    size_t long_word_max;
    recent_word recent[1 << RECENT_BITS];
} encoder;

static void put_ids(encoder *e, const int32_t *ids, size_t count) {
    for (size_t i = 0; i < count; i++, e->count++) {
        if (e->count < e->ids_max) {
            e->ids[e->count] = ids[i];
        }
    }
}

/* Where a word of up to RECENT_BYTES bytes is remembered. */
static recent_word *recent_of(encoder *e, str word, uint64_t key[2]) {
    uint8_t bytes[RECENT_BYTES + 1] = {0};
    memcpy(bytes, word.data, word.bytes);
    bytes[RECENT_BYTES] = (uint8_t)word.bytes;
    memcpy(key, bytes, sizeof bytes);
    uint64_t mixed = (key[0] ^ (key[1] << 7 | key[1] >> 57)) * 0x9E3779B97F4A7C15u;
    return &e->recent[mixed >> (64 - RECENT_BITS)];
}

/* The token that a word is, whether or not merging would find it; -1: none. */
static int32_t token_of(const tokenizer *t, str word) {
    char text[2 * WORD_BYTES];
    if (word.bytes > WORD_BYTES) {
        return -1;
    }
    size_t bytes = 0;
    for (size_t i = 0; i < word.bytes && !t->words.fallback; i++) {
        bytes += bytelevel_put((uint8_t)word.data[i], text + bytes);
    }
    int32_t id = vocab_find(&t->words, t->words.fallback ? word : str_of(text, bytes));
    return id >= 0 && t->words.types[id] == VOCAB_NORMAL ? id : -1;
}

static status symbols_for(encoder *e, size_t bytes, int32_t **out) {
    *out = e->word;
    if (bytes <= WORD_BYTES) {
        return STATUS_OK;
    }
    if (bytes > e->long_word_max) {
        mem_free(e->long_word);
        e->long_word_max = 0;
        e->long_word = mem_alloc(bytes, sizeof *e->long_word);
        if (e->long_word == NULL) {
            return STATUS_NOMEM;
        }
        e->long_word_max = bytes;
    }
    *out = e->long_word;
    return STATUS_OK;
}

static status encode_new_word(encoder *e, str word, int32_t *whole) {
    int32_t id = token_of(e->t, word);
    uint8_t joined = TOKENIZER_UNTRIED;
    if (id >= 0) {
        joined = atomic_load_explicit(&e->t->joined[id], memory_order_relaxed);
        if (e->t->whole_words || joined == TOKENIZER_JOINS) {
            put_ids(e, &id, 1);
            *whole = id;
            return STATUS_OK;
        }
    }
    int32_t *symbols;
    TRY(symbols_for(e, word.bytes, &symbols));
    size_t count = 0;
    if (e->t->words.fallback) {
        count = fallback_symbols(&e->t->words, e->t->unknown, word, symbols);
    }
    for (size_t i = 0; i < word.bytes && !e->t->words.fallback; i++) {
        int32_t byte_id = e->t->words.byte_ids[(uint8_t)word.data[i]];
        /* Some vocabularies lack bytes their training text never had; the `tokenizers` package
         * drops those, and so the ids stay equal. */
        if (byte_id >= 0) {
            symbols[count++] = byte_id;
        }
    }
    TRY(bpe_merge(e->t->merges, &e->scratch, symbols, &count));
    if (id >= 0 && joined == TOKENIZER_UNTRIED) {
        bool one = count == 1 && symbols[0] == id;
        atomic_store_explicit(&e->t->joined[id], one ? TOKENIZER_JOINS : TOKENIZER_PARTS,
                              memory_order_relaxed);
    }
    put_ids(e, symbols, count);
    return STATUS_OK;
}

static status encode_word(encoder *e, str word) {
    int32_t whole = -1;
    if (word.bytes < 1 || word.bytes > RECENT_BYTES) {
        return encode_new_word(e, word, &whole);
    }
    uint64_t key[2];
    recent_word *recent = recent_of(e, word, key);
    if (recent->key[0] == key[0] && recent->key[1] == key[1]) {
        put_ids(e, &recent->id, 1);
        return STATUS_OK;
    }
    TRY(encode_new_word(e, word, &whole));
    if (whole >= 0) {
        *recent = (recent_word){{key[0], key[1]}, whole};
    }
    return STATUS_OK;
}

static status encode_plain(encoder *e, str text, diag *d) {
    pretok_text(&e->run, text);
    for (;;) {
        str word;
        pretok_result r = pretok_next(&e->run, &word);
        if (r == PRETOK_END) {
            return STATUS_OK;
        }
        if (r == PRETOK_FAILED) {
            return status_fail(d, STATUS_LIMIT, "the pre-tokenizer gave up on the text");
        }
        if (encode_word(e, word) != STATUS_OK) {
            return status_fail(d, STATUS_NOMEM, "no memory to merge a word of %zu bytes",
                               word.bytes);
        }
    }
}

static status encode_normal(encoder *e, str text, diag *d) {
    if (!e->t->nfc || nfc_is_plain(text)) {
        return encode_plain(e, text, d);
    }
    strbuf normal = strbuf_make(NFC_GROWTH * text.bytes);
    status s = nfc_write(text, &normal)
                   ? encode_plain(e, strbuf_str(&normal), d)
                   : status_fail(d, STATUS_NOMEM, "no memory to normalise %zu bytes", text.bytes);
    strbuf_close(&normal);
    return s;
}

/* A stretch of text between special tokens, in a vocabulary of text. */
static status encode_stretch(encoder *e, str text, bool first, diag *d) {
    strbuf written = strbuf_make(FALLBACK_BLANK_BYTES * (text.bytes + 1));
    status s = STATUS_OK;
    if (!fallback_write(text, e->t->prefix, first, &written)) {
        s = STATUS_NOMEM;
    }
    str left = strbuf_str(&written);
    while (s == STATUS_OK && left.bytes > 0) {
        size_t bytes = e->t->splits ? fallback_word(left) : left.bytes;
        s = encode_word(e, str_of(left.data, bytes));
        left = str_of(left.data + bytes, left.bytes - bytes);
    }
    strbuf_close(&written);
    return s == STATUS_OK ? s
                          : status_fail(d, s, "no memory to merge %zu bytes of text", text.bytes);
}

static status encode_text(encoder *e, str text, bool parse_special, diag *d) {
    size_t from = 0;
    while (from < text.bytes) {
        size_t at = text.bytes;
        size_t bytes = 0;
        int32_t id = special_find(&e->t->specials, text, from, parse_special, &at, &bytes);
        str plain = str_of(text.data + from, at - from);
        TRY(e->t->words.fallback ? encode_stretch(e, plain, from == 0, d)
                                 : encode_normal(e, plain, d));
        if (id >= 0) {
            put_ids(e, &id, 1);
        }
        from = at + bytes;
    }
    return STATUS_OK;
}

/* The text with broken bytes replaced: what decoding all of it at once gives. */
static status replace_broken(str text, strbuf *out, diag *d) {
    *out = strbuf_make(3 * text.bytes);
    detok s = detok_make(false);
    if (!detok_feed_bytes(&s, text, out) || !detok_flush(&s, out)) {
        strbuf_close(out);
        return status_fail(d, STATUS_NOMEM, "no memory for %zu bytes of text", text.bytes);
    }
    return STATUS_OK;
}

static status encode_all(encoder *e, str text, bool add_special, bool parse_special, diag *d) {
    if (add_special && e->t->adds_bos) {
        put_ids(e, &e->t->bos, 1);
    }
    if (str_utf8_valid(text)) {
        TRY(encode_text(e, text, parse_special, d));
    } else {
        strbuf clean;
        TRY(replace_broken(text, &clean, d));
        status s = encode_text(e, strbuf_str(&clean), parse_special, d);
        strbuf_close(&clean);
        TRY(s);
    }
    if (add_special && e->t->adds_eos) {
        put_ids(e, &e->t->eos, 1);
    }
    return STATUS_OK;
}

status tokenizer_encode(const tokenizer *t, str text, bool add_special, bool parse_special,
                        int32_t *ids, size_t ids_max, size_t *count, diag *d) {
    *count = 0;
    if (text.bytes > TOKENIZER_LIMIT_TEXT_BYTES) {
        return status_fail(d, STATUS_LIMIT, "the text has %zu bytes, at most %d are allowed",
                           text.bytes, TOKENIZER_LIMIT_TEXT_BYTES);
    }
    encoder e = {.t = t, .ids = ids, .ids_max = ids_max};
    if (t->pre != NULL) {
        TRY(pretok_start(t->pre, &e.run, d));
    }
    status s = encode_all(&e, text, add_special, parse_special, d);
    pretok_stop(&e.run);
    bpe_scratch_close(&e.scratch);
    mem_free(e.long_word);
    TRY(s);
    *count = e.count;
    if (e.count > ids_max) {
        return status_fail(d, STATUS_LIMIT, "the text has %zu tokens, at most %zu are allowed",
                           e.count, ids_max);
    }
    return STATUS_OK;
}
