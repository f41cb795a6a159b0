/* vocab_test.c -- tokens of a model file: texts, bytes, types, and what is refused. */
#define _GNU_SOURCE
#include "models/text/vocab.h"

#include "tests/unit/models/text/vocab_build.h"

static status open_file(gguf_build *b, vocab *v, diag *d) {
    gguf *g;
    cr_assert_eq(gguf_build_open(b, &g, d), STATUS_OK, "%s", d->text);
    status s = vocab_open(g, false, v, d);
    gguf_close(g); /* a vocabulary does not need its file any more */
    gguf_build_close(b);
    return s;
}

Test(vocab, tokens_have_a_text_and_the_bytes_it_stands_for) {
    vocab_build_spec spec = vocab_build_hello_spec();
    gguf_build b = vocab_build_file(&spec);
    vocab v;
    diag d = {0};
    cr_assert_eq(open_file(&b, &v, &d), STATUS_OK, "%s", d.text);
    cr_expect_eq(v.count, VOCAB_BUILD_COUNT);
    cr_expect(str_equal_z(v.texts[VOCAB_BUILD_WORLD], "\u0120world"));
    cr_expect(str_equal_z(v.pieces[VOCAB_BUILD_WORLD], " world"));
    cr_expect(str_equal_z(v.pieces[VOCAB_BUILD_EXTRA], "<extra token>"));
    cr_expect_eq(v.types[VOCAB_BUILD_START], VOCAB_CONTROL);
    cr_expect_eq(v.piece_bytes_max, strlen("<extra token>"));
    for (int byte = 0; byte < 256; byte++) {
        cr_expect_eq(v.byte_ids[byte], byte);
        cr_expect_eq(v.pieces[byte].bytes, 1);
        cr_expect_eq((uint8_t)v.pieces[byte].data[0], byte);
    }
    for (int32_t id = 0; id < v.count; id++) {
        cr_expect_eq(vocab_find(&v, v.texts[id]), id);
    }
    cr_expect_eq(vocab_find(&v, str_from("nowhere")), -1);
    cr_expect_eq(vocab_find(&v, str_from("")), -1);
    vocab_close(&v);
}

Test(vocab, empty_texts_are_holes_and_missing_bytes_are_known) {
    vocab_build_spec spec = {.pre = "gpt2", .without = "\x04q"};
    gguf_build b = vocab_build_file(&spec);
    vocab v;
    diag d = {0};
    cr_assert_eq(open_file(&b, &v, &d), STATUS_OK, "%s", d.text);
    cr_expect_eq(v.byte_ids[4], -1);
    cr_expect_eq(v.byte_ids['q'], -1);
    cr_expect_eq(v.byte_ids['r'], 'r');
    cr_expect_eq(v.pieces[4].bytes, 0);
    vocab_close(&v);
}

Test(vocab, bad_vocabularies_are_refused_by_name) {
    static char big[TOKENIZER_LIMIT_TOKEN_BYTES + 1];
    memset(big, 'x', sizeof big);
    str same[] = {str_from("a"), str_from("b"), str_from("a")};
    str one_big[] = {str_from("a"), str_of(big, sizeof big)};
    int32_t numbers[] = {1, 2, 3};
    int32_t types_bad[] = {1, 7};
    float types_float[] = {1, 1};
    static const char *const says[] = {"has no key 'tokenizer.ggml.tokens'",
                                       "must hold 1 to",
                                       "must hold 1 to",
                                       "tokens 0 and 2 have the same text",
                                       "token 1 has 4097 bytes",
                                       "one 32-bit integer for each of the 2 tokens",
                                       "token 1 has the unknown type 7",
                                       "one 32-bit integer for each of the 2 tokens",
                                       "is not an array"};
    for (size_t row = 0; row < sizeof says / sizeof says[0]; row++) {
        gguf_build b = gguf_build_make();
        if (row == 1) {
            gguf_build_array(&b, "tokenizer.ggml.tokens", GGUF_KIND_I32, numbers, 3, 4);
        } else if (row == 2) {
            gguf_build_array_str(&b, "tokenizer.ggml.tokens", same, 0);
        } else if (row == 3) {
            gguf_build_array_str(&b, "tokenizer.ggml.tokens", same, 3);
        } else if (row == 4) {
            gguf_build_array_str(&b, "tokenizer.ggml.tokens", one_big, 2);
        } else if (row == 8) {
            gguf_build_pair_str(&b, "tokenizer.ggml.tokens", "a");
        } else if (row > 4) {
            gguf_build_array_str(&b, "tokenizer.ggml.tokens", same, 2);
        }
        if (row == 5) {
            gguf_build_array(&b, "tokenizer.ggml.token_type", GGUF_KIND_I32, numbers, 3, 4);
        } else if (row == 6) {
            gguf_build_array(&b, "tokenizer.ggml.token_type", GGUF_KIND_I32, types_bad, 2, 4);
        } else if (row == 7) {
            gguf_build_array(&b, "tokenizer.ggml.token_type", GGUF_KIND_F32, types_float, 2, 4);
        }
        vocab v;
        diag d = {0};
        cr_expect_neq(open_file(&b, &v, &d), STATUS_OK, "row %zu", row);
        cr_expect(strstr(d.text, says[row]) != NULL, "row %zu says '%s'", row, d.text);
    }
}
