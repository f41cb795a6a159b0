/* vocab_build.h -- small byte-level vocabularies for tests.
 *
 * Purpose    A vocabulary as a model file: the 256 byte tokens (ids 0..255 by byte), then one token
 *            for each merge in order, then the given special tokens.
 * Ownership  vocab_build_file returns a gguf_build for the caller to add to and close.
 * Threads    One thread at a time.
 * Limits     VOCAB_BUILD_TOKENS tokens. Every failure aborts the test.
 */
#ifndef TESTS_UNIT_MODELS_TEXT_VOCAB_BUILD_H
#define TESTS_UNIT_MODELS_TEXT_VOCAB_BUILD_H

#include "models/text/bytelevel.h"
#include "models/text/tokenizer.h"
#include "tests/unit/models/file/gguf_build.h"

enum { VOCAB_BUILD_TOKENS = 1024, VOCAB_BUILD_BYTE_IDS = 256 };

typedef struct {
    const char *text;
    int32_t type;
} vocab_build_special;

typedef struct {
    const char *model; /* NULL: "gpt2" */
    const char *pre;   /* NULL: the key is left out */
    const char *const *merges;
    size_t merges_count;
    const vocab_build_special *specials;
    size_t specials_count;
    const char *without; /* bytes that get no token, or NULL */
} vocab_build_spec;

static inline gguf_build vocab_build_file(const vocab_build_spec *spec) {
    static char texts[VOCAB_BUILD_TOKENS][128];
    str tokens[VOCAB_BUILD_TOKENS];
    int32_t types[VOCAB_BUILD_TOKENS];
    size_t count = 0;
    for (; count < 256; count++) {
        tokens[count] = str_of(texts[count], bytelevel_put((uint8_t)count, texts[count]));
        types[count] = 1;
        if (spec->without != NULL && count != 0 && strchr(spec->without, (int)count) != NULL) {
            tokens[count] = str_of("", 0);
        }
    }
    str merges[VOCAB_BUILD_TOKENS];
    for (size_t i = 0; i < spec->merges_count; i++, count++) {
        const char *blank = strchr(spec->merges[i], ' ');
        size_t left = blank == NULL ? 0 : (size_t)(blank - spec->merges[i]);
        cr_assert(blank != NULL && count < VOCAB_BUILD_TOKENS);
        merges[i] = str_from(spec->merges[i]);
        snprintf(texts[count], sizeof texts[count], "%.*s%s", (int)left, spec->merges[i],
                 blank + 1);
        tokens[count] = str_from(texts[count]);
        types[count] = 1;
    }
    for (size_t i = 0; i < spec->specials_count; i++, count++) {
        cr_assert(count < VOCAB_BUILD_TOKENS);
        tokens[count] = str_from(spec->specials[i].text);
        types[count] = spec->specials[i].type;
    }
    gguf_build b = gguf_build_make();
    gguf_build_pair_str(&b, "tokenizer.ggml.model", spec->model == NULL ? "gpt2" : spec->model);
    if (spec->pre != NULL) {
        gguf_build_pair_str(&b, "tokenizer.ggml.pre", spec->pre);
    }
    gguf_build_array_str(&b, "tokenizer.ggml.tokens", tokens, count);
    gguf_build_array(&b, "tokenizer.ggml.token_type", GGUF_KIND_I32, types, count, 4);
    gguf_build_array_str(&b, "tokenizer.ggml.merges", merges, spec->merges_count);
    return b;
}

static inline status vocab_build_open(gguf_build *b, tokenizer **t, diag *d) {
    gguf *g;
    *t = NULL;
    cr_assert_eq(gguf_build_open(b, &g, d), STATUS_OK, "%s", d->text);
    status s = tokenizer_open(g, t, d);
    gguf_close(g);
    return s;
}

static inline tokenizer *vocab_build_tokenizer(const vocab_build_spec *spec) {
    gguf_build b = vocab_build_file(spec);
    tokenizer *t;
    diag d = {0};
    cr_assert_eq(vocab_build_open(&b, &t, &d), STATUS_OK, "%s", d.text);
    gguf_build_close(&b);
    return t;
}

/* A vocabulary that makes "hello world" two tokens; four special tokens follow the merges. */
static const char *const vocab_build_hello[] = {
    "h e",          "l l", "he ll",          "hell o", "\xC4\xA0 w", "o r",
    "\xC4\xA0w or", "l d", "\xC4\xA0wor ld", "a a",    "aa aa"};
static const vocab_build_special vocab_build_chat[] = {
    {"<|im_start|>", 3}, {"<|im_end|>", 3}, {"<|im", 4}, {"<extra token>", 4}};

enum {
    VOCAB_BUILD_HELLO = 256 + 3,
    VOCAB_BUILD_WORLD = 256 + 8,
    VOCAB_BUILD_AAAA = 256 + 10,
    VOCAB_BUILD_START = 256 + 11,
    VOCAB_BUILD_END,
    VOCAB_BUILD_USER,
    VOCAB_BUILD_EXTRA,
    VOCAB_BUILD_COUNT
};

static inline vocab_build_spec vocab_build_hello_spec(void) {
    return (vocab_build_spec){.pre = "smollm",
                              .merges = vocab_build_hello,
                              .merges_count = 11,
                              .specials = vocab_build_chat,
                              .specials_count = 4};
}

#endif
