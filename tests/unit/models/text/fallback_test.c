/* fallback_test.c -- BPE over characters with byte fallback, against a plain scan over all pairs.
 */
#define _GNU_SOURCE
#include "models/text/fallback.h"

#include <criterion/criterion.h>

#include "engine/base/mem.h"
#include "engine/base/rng.h"
#include "models/text/tokenizer.h"
#include "tests/unit/models/file/gguf_build.h"

enum { BYTES = 256, TOKENS_MAX = 400 };

/* A file: <unk>, 256 bytes, then the texts, better scores first. */
typedef struct {
    str tokens[TOKENS_MAX];
    float scores[TOKENS_MAX];
    size_t count;
} words;

static void make(words *w, const char *const *texts, size_t count) {
    static char names[BYTES][8];
    w->tokens[0] = str_from("<unk>");
    w->scores[0] = 0;
    for (int i = 0; i < BYTES; i++) {
        snprintf(names[i], sizeof names[i], "<0x%02X>", (unsigned)i);
        w->tokens[1 + i] = str_from(names[i]);
        w->scores[1 + i] = 0;
    }
    for (size_t i = 0; i < count; i++) {
        w->tokens[1 + BYTES + i] = str_from(texts[i]);
        w->scores[1 + BYTES + i] = -(float)i;
    }
    w->count = 1 + BYTES + count;
}

static tokenizer *open_words(const words *w, const char *prefix, bool splits) {
    int32_t types[TOKENS_MAX];
    for (size_t i = 0; i < w->count; i++) {
        types[i] = i == 0 ? 2 : i <= BYTES ? 6 : 1;
    }
    gguf_build b = gguf_build_make();
    gguf_build_pair_str(&b, "tokenizer.ggml.model", "llama");
    gguf_build_array_str(&b, "tokenizer.ggml.tokens", w->tokens, w->count);
    gguf_build_array(&b, "tokenizer.ggml.token_type", GGUF_KIND_I32, types, w->count, 4);
    gguf_build_array(&b, "tokenizer.ggml.scores", GGUF_KIND_F32, w->scores, w->count, 4);
    gguf_build_pair_u32(&b, "tokenizer.ggml.unknown_token_id", 0);
    gguf_build_pair_str(&b, "tokenizer.ggml.space_prefix", prefix);
    gguf_build_pair_bool(&b, "tokenizer.ggml.space_splits", splits);
    gguf *g;
    tokenizer *t;
    diag d = {0};
    cr_assert_eq(gguf_build_open(&b, &g, &d), STATUS_OK, "%s", d.text);
    cr_assert_eq(tokenizer_open(g, &t, &d), STATUS_OK, "%s", d.text);
    gguf_close(g);
    gguf_build_close(&b);
    return t;
}

/* The ids' texts with a bar between. */
static const char *cut(const tokenizer *t, const words *w, const char *text) {
    static char shown[1024];
    int32_t ids[256];
    size_t count, at = 0;
    diag d = {0};
    cr_assert_eq(tokenizer_encode(t, str_from(text), true, true, ids, 256, &count, &d), STATUS_OK,
                 "%s", d.text);
    shown[0] = 0;
    for (size_t i = 0; i < count; i++) {
        str s = w->tokens[ids[i]];
        at += (size_t)snprintf(shown + at, sizeof shown - at, "%s%.*s", i ? "|" : "", (int)s.bytes,
                               s.data);
    }
    return shown;
}

#define B FALLBACK_BLANK

static const char *const hello[] = {B "he", "he", "l", "ll", "llo", "o", "h", "e", B, B B, "é"};

Test(fallback, blanks_are_put_where_the_file_says) {
    static const struct {
        const char *prefix, *text, *want;
    } rows[] = {{"never", "hello", "he|llo"},
                {"first", "hello", B "he|llo"},
                {"always", "hello", B "he|llo"},
                {"segment", "hello", B "he|llo"},
                {"first", " hello", B "he|llo"},
                {"always", " hello", B "he|llo"},
                {"segment", " hello", B "|" B "he|llo"},
                {"never", "", ""},
                {"segment", "", ""},
                {"segment", " ", B B},
                {"always", B "o", B "|o"},
                {"never", "x", "<0x78>"},
                {"never", "é", "é"},
                {"never", "ü", "<0xC3>|<0xBC>"},
                {"never", "\xff", "<0xEF>|<0xBF>|<0xBD>"}};
    words w;
    make(&w, hello, sizeof hello / sizeof hello[0]);
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        tokenizer *t = open_words(&w, rows[i].prefix, false);
        cr_assert_str_eq(cut(t, &w, rows[i].text), rows[i].want, "%s, %s", rows[i].prefix,
                         rows[i].text);
        tokenizer_close(t);
    }
}

Test(fallback, split_words_are_merged_apart) {
    static const char *const texts[] = {"a" B, "a", B, B "a"};
    words w;
    make(&w, texts, 4);
    tokenizer *t = open_words(&w, "never", false);
    cr_assert_str_eq(cut(t, &w, "a a"), "a" B "|a");
    tokenizer_close(t);
    t = open_words(&w, "never", true);
    cr_assert_str_eq(cut(t, &w, "a a"), "a|" B "a");
    tokenizer_close(t);
}

Test(fallback, pieces_are_the_text) {
    words w;
    make(&w, hello, sizeof hello / sizeof hello[0]);
    tokenizer *t = open_words(&w, "never", false);
    cr_assert(str_equal_z(tokenizer_piece(t, 1 + BYTES), " he"));
    cr_assert(str_equal_z(tokenizer_piece(t, 1 + 0xC3), "\xC3"));
    cr_assert(str_equal(tokenizer_piece(t, 1), str_of("\0", 1)));
    cr_assert(str_equal_z(tokenizer_piece(t, 1 + BYTES + 9), "  "));
    tokenizer_close(t);
}

/* As SentencePiece does it: of all neighbours whose join is a token, the best score, leftmost. */
static size_t merge_plainly(const words *w, str text, int32_t *ids) {
    size_t from[64], to[64], count = 0;
    for (size_t i = 0; i < text.bytes; i++) {
        from[count] = i;
        to[count++] = i + 1;
    }
    for (;;) {
        size_t best = count, best_token = 0;
        for (size_t i = 0; i + 1 < count; i++) {
            for (size_t k = 1 + BYTES; k < w->count; k++) {
                bool joins =
                    str_equal(w->tokens[k], str_of(text.data + from[i], to[i + 1] - from[i]));
                if (joins && (best == count || w->scores[k] > w->scores[best_token])) {
                    best = i;
                    best_token = k;
                }
            }
        }
        if (best == count) {
            break;
        }
        to[best] = to[best + 1];
        count--;
        memmove(from + best + 1, from + best + 2, (count - best - 1) * sizeof *from);
        memmove(to + best + 1, to + best + 2, (count - best - 1) * sizeof *to);
    }
    for (size_t i = 0; i < count; i++) {
        for (size_t k = 1 + BYTES; k < w->count; k++) {
            if (str_equal(w->tokens[k], str_of(text.data + from[i], to[i] - from[i]))) {
                ids[i] = (int32_t)k;
            }
        }
    }
    return count;
}

Test(fallback, scores_merge_as_a_scan_over_all_pairs) {
    static const char *const texts[] = {"ab",   "abc", "bc",  "ca", "aa", "aab", "bca",
                                        "abab", "cc",  "ccc", "a",  "b",  "c"};
    words w;
    make(&w, texts, sizeof texts / sizeof texts[0]);
    uint64_t random = 3;
    for (int round = 0; round < 40; round++) {
        for (size_t k = 1 + BYTES; k < w.count; k++) {
            w.scores[k] = -(float)rng_below(&random, 5); /* many are equal */
        }
        tokenizer *t = open_words(&w, "never", false);
        for (int i = 0; i < 60; i++) {
            char text[64];
            size_t bytes = (size_t)rng_below(&random, sizeof text);
            for (size_t k = 0; k < bytes; k++) {
                text[k] = (char)('a' + (char)rng_below(&random, 3));
            }
            int32_t want[64], got[64];
            size_t count;
            diag d = {0};
            size_t wanted = merge_plainly(&w, str_of(text, bytes), want);
            cr_assert_eq(
                tokenizer_encode(t, str_of(text, bytes), false, false, got, 64, &count, &d),
                STATUS_OK, "%s", d.text);
            cr_assert_eq(count, wanted, "%.*s", (int)bytes, text);
            cr_assert_arr_eq(got, want, count * sizeof *got, "%.*s", (int)bytes, text);
        }
        tokenizer_close(t);
    }
}
