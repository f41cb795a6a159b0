/* fuzz_tokenizer.c -- vocabularies made from the input, then text and ids through them: text comes
 * back whole, and a stream gives what decoding all at once gives. */
#define _GNU_SOURCE
#include <unistd.h>

#include "engine/base/mem.h"
#include "models/text/bytelevel.h"
#include "models/text/detok.h"
#include "models/text/tokenizer.h"
#include "tests/fuzz/fuzz.h"

enum { TOKENS_MAX = 320, TEXT_MAX = 64, TYPE_NORMAL = 1, TYPE_CONTROL = 3, TYPE_USER = 4 };

typedef struct {
    char texts[TOKENS_MAX][TEXT_MAX];
    size_t bytes[TOKENS_MAX];
    int32_t types[TOKENS_MAX];
    size_t count;
    strbuf merges; /* as they lie in the file */
    uint64_t merges_count;
} words;

static void put(strbuf *out, uint64_t value, size_t bytes) {
    for (size_t i = 0; i < bytes; i++) {
        strbuf_append_char(out, (char)(value >> (8 * i)));
    }
}

static void put_str(strbuf *out, str s) {
    put(out, s.bytes, 8);
    strbuf_append_str(out, s);
}

static bool known(const words *w, str text) {
    for (size_t i = 0; i < w->count; i++) {
        if (str_equal(text, str_of(w->texts[i], w->bytes[i]))) {
            return true;
        }
    }
    return false;
}

static void add(words *w, str text, int32_t type) {
    if (w->count == TOKENS_MAX || text.bytes == 0 || text.bytes > TEXT_MAX || known(w, text)) {
        return;
    }
    memcpy(w->texts[w->count], text.data, text.bytes);
    w->bytes[w->count] = text.bytes;
    w->types[w->count++] = type;
}

/* Two tokens that are there become one. */
static void add_merge(words *w, size_t left, size_t right) {
    char text[2 * TEXT_MAX];
    size_t bytes = w->bytes[left] + w->bytes[right];
    memcpy(text, w->texts[left], w->bytes[left]);
    memcpy(text + w->bytes[left], w->texts[right], w->bytes[right]);
    if (bytes > TEXT_MAX || known(w, str_of(text, bytes)) || w->count == TOKENS_MAX) {
        return;
    }
    put(&w->merges, bytes + 1, 8);
    strbuf_append(&w->merges, w->texts[left], w->bytes[left]);
    strbuf_append_char(&w->merges, ' ');
    strbuf_append(&w->merges, w->texts[right], w->bytes[right]);
    w->merges_count++;
    add(w, str_of(text, bytes), TYPE_NORMAL);
}

static void make_words(fuzz_input *in, words *w) {
    for (w->count = 0; w->count < 256; w->count++) {
        w->bytes[w->count] = bytelevel_put((uint8_t)w->count, w->texts[w->count]);
        w->types[w->count] = TYPE_NORMAL;
    }
    uint32_t merges = fuzz_below(in, 40);
    for (uint32_t i = 0; i < merges; i++) {
        /* Letters first, so that few bytes of input make long words. */
        size_t left = (fuzz_below(in, 256) + 97) % w->count;
        size_t right = (fuzz_below(in, 256) + 97) % w->count;
        add_merge(w, left, right);
    }
    uint32_t specials = fuzz_below(in, 6);
    for (uint32_t i = 0; i < specials; i++) {
        int32_t type = fuzz_below(in, 2) ? TYPE_CONTROL : TYPE_USER;
        add(w, fuzz_take(in, 1 + fuzz_below(in, 12)), type);
    }
}

static str make_file(fuzz_input *in, const words *w, strbuf *out) {
    static const char *const pres[] = {"smollm", "gpt2", "llama-bpe", "qwen2", "default"};
    strbuf_append_z(out, "GGUF");
    put(out, 3, 4);
    put(out, 0, 8);
    put(out, 6, 8);
    put_str(out, str_from("tokenizer.ggml.model"));
    put(out, GGUF_KIND_STRING, 4);
    put_str(out, str_from("gpt2"));
    put_str(out, str_from("tokenizer.ggml.pre"));
    put(out, GGUF_KIND_STRING, 4);
    put_str(out, str_from(pres[fuzz_below(in, 5)]));
    put_str(out, str_from("tokenizer.ggml.tokens"));
    put(out, GGUF_KIND_ARRAY, 4);
    put(out, GGUF_KIND_STRING, 4);
    put(out, w->count, 8);
    for (size_t i = 0; i < w->count; i++) {
        put_str(out, str_of(w->texts[i], w->bytes[i]));
    }
    put_str(out, str_from("tokenizer.ggml.token_type"));
    put(out, GGUF_KIND_ARRAY, 4);
    put(out, GGUF_KIND_I32, 4);
    put(out, w->count, 8);
    for (size_t i = 0; i < w->count; i++) {
        put(out, (uint64_t)w->types[i], 4);
    }
    put_str(out, str_from("tokenizer.ggml.merges"));
    put(out, GGUF_KIND_ARRAY, 4);
    put(out, GGUF_KIND_STRING, 4);
    put(out, w->merges_count, 8);
    strbuf_append_str(out, strbuf_str(&w->merges));
    put_str(out, str_from("tokenizer.ggml.eos_token_id"));
    put(out, GGUF_KIND_U32, 4);
    put(out, fuzz_below(in, 256), 4);
    return strbuf_str(out);
}

static tokenizer *make_tokenizer(fuzz_input *in) {
    words *w = mem_calloc(1, sizeof *w);
    CHECK(w != NULL);
    w->merges = strbuf_make(1 << 20);
    make_words(in, w);
    strbuf file = strbuf_make(1 << 20);
    char path[64];
    int fd = fuzz_file(make_file(in, w, &file), path);
    gguf *g;
    tokenizer *t = NULL;
    diag d;
    CHECK_EQ(gguf_open(path, &g, &d), STATUS_OK);
    if (tokenizer_open(g, &t, &d) != STATUS_OK) {
        t = NULL; /* a special token that is not text, for one */
    }
    gguf_close(g);
    (void)close(fd);
    strbuf_close(&file);
    strbuf_close(&w->merges);
    mem_free(w);
    return t;
}

/* `s` with each maximal broken part of it replaced by U+FFFD: Unicode 15, section 3.9, table 3-8.
 */
static void mend(str s, strbuf *out) {
    for (size_t at = 0; at < s.bytes;) {
        uint32_t code;
        int n = str_utf8_next(s.data + at, s.bytes - at, &code);
        if (n > 0) {
            strbuf_append(out, s.data + at, (size_t)n);
            at += (size_t)n;
            continue;
        }
        size_t broken = s.bytes - at < 3 ? s.bytes - at : 3;
        while (broken > 1 && str_utf8_next(s.data + at, broken, &code) != 0) {
            broken--;
        }
        strbuf_append_z(out, "\xEF\xBF\xBD");
        at += broken;
    }
}

/* The ids of a text are its pieces: together they are the text. */
static void check_round_trip(const tokenizer *t, str text, bool parse_special) {
    size_t ids_max = 6 * text.bytes + 2;
    int32_t *ids = mem_alloc(ids_max, sizeof *ids);
    CHECK(ids != NULL);
    size_t count = 0;
    size_t counted = 0;
    diag d;
    CHECK_EQ(tokenizer_encode(t, text, false, parse_special, ids, ids_max, &count, &d), STATUS_OK);
    status s = tokenizer_encode(t, text, false, parse_special, NULL, 0, &counted, &d);
    CHECK(s == (count > 0 ? STATUS_LIMIT : STATUS_OK) && counted == count);
    strbuf pieces = strbuf_make(4 * text.bytes + 16);
    strbuf mended = strbuf_make(4 * text.bytes + 16);
    for (size_t i = 0; i < count; i++) {
        CHECK(ids[i] >= 0 && ids[i] < tokenizer_vocab_count(t));
        strbuf_append_str(&pieces, tokenizer_piece(t, ids[i]));
    }
    mend(text, &mended);
    CHECK(!pieces.failed && !mended.failed);
    CHECK(str_equal(strbuf_str(&pieces), strbuf_str(&mended)));
    strbuf_close(&pieces);
    strbuf_close(&mended);
    mem_free(ids);
}

/* Any ids, one at a time: always UTF-8, and in the end what their bytes give at once. */
static void check_stream(const tokenizer *t, fuzz_input *in) {
    strbuf streamed = strbuf_make(1 << 20);
    strbuf raw = strbuf_make(1 << 20);
    strbuf whole = strbuf_make(1 << 22);
    bool skip = fuzz_below(in, 2);
    detok s = detok_make(skip);
    for (int i = 0; i < 256 && !fuzz_done(in); i++) {
        int32_t id = (int32_t)fuzz_below(in, TOKENS_MAX + 8) - 4;
        str piece = tokenizer_piece(t, id);
        size_t before = streamed.bytes;
        CHECK(detok_feed(&s, t, id, &streamed));
        CHECK(s.held_bytes <= 3);
        CHECK(streamed.bytes - before <= DETOK_BYTES_MAX(piece.bytes));
        CHECK(str_utf8_valid(strbuf_str(&streamed)));
        if (!skip || !tokenizer_is_special(t, id)) {
            strbuf_append_str(&raw, piece);
        }
    }
    CHECK(detok_flush(&s, &streamed));
    mend(strbuf_str(&raw), &whole);
    CHECK(str_equal(strbuf_str(&streamed), strbuf_str(&whole)));
    strbuf_close(&streamed);
    strbuf_close(&raw);
    strbuf_close(&whole);
}

FUZZ_TARGET(tokenizer, FUZZ_ALLOWANCE_BYTES) {
    fuzz_input in = {data, bytes, 0};
    tokenizer *t = make_tokenizer(&in);
    if (t == NULL) {
        return;
    }
    uint32_t mode = fuzz_below(&in, 3);
    if (mode < 2) {
        str rest = fuzz_take(&in, 4096);
        char *copy = fuzz_copy(rest);
        check_round_trip(t, str_of(copy, rest.bytes), mode == 1);
        mem_free(copy);
    } else {
        check_stream(t, &in);
    }
    tokenizer_close(t);
}
