/* tokenizer_test.c -- opening a tokenizer, what it knows of its tokens, and what is refused. */
#define _GNU_SOURCE
#include "models/text/tokenizer.h"

#include "engine/base/rng.h"
#include "tests/unit/models/text/vocab_build.h"

Test(tokenizer, tokens_are_known_by_text_and_by_id) {
    vocab_build_spec spec = vocab_build_hello_spec();
    gguf_build b = vocab_build_file(&spec);
    gguf_build_pair_u32(&b, "tokenizer.ggml.bos_token_id", VOCAB_BUILD_START);
    gguf_build_pair_u32(&b, "tokenizer.ggml.eos_token_id", 33);
    tokenizer *t;
    diag d = {0};
    cr_assert_eq(vocab_build_open(&b, &t, &d), STATUS_OK, "%s", d.text);
    cr_expect_eq(tokenizer_vocab_count(t), VOCAB_BUILD_COUNT);
    cr_expect_eq(tokenizer_find(t, str_from("<|im_end|>")), VOCAB_BUILD_END);
    cr_expect_eq(tokenizer_find(t, str_from("<|nothing|>")), -1);
    cr_expect(str_equal_z(tokenizer_piece(t, VOCAB_BUILD_WORLD), " world"));
    cr_expect_eq(tokenizer_piece(t, -1).bytes, 0);
    cr_expect_eq(tokenizer_piece(t, VOCAB_BUILD_COUNT).bytes, 0);
    cr_expect_eq(tokenizer_piece(t, INT32_MAX).bytes, 0);
    cr_expect_eq(tokenizer_bos(t), VOCAB_BUILD_START);
    cr_expect_eq(tokenizer_eos(t), 33);
    cr_expect_eq(tokenizer_pad(t), -1);
    cr_expect(tokenizer_is_special(t, VOCAB_BUILD_END));
    cr_expect_not(tokenizer_is_special(t, VOCAB_BUILD_EXTRA));
    cr_expect_not(tokenizer_is_special(t, 33));
    cr_expect_not(tokenizer_is_special(t, -5));
    cr_expect(tokenizer_is_eog(t, 33));
    cr_expect(tokenizer_is_eog(t, VOCAB_BUILD_END));
    cr_expect_not(tokenizer_is_eog(t, VOCAB_BUILD_START));
    cr_expect_not(tokenizer_is_eog(t, VOCAB_BUILD_COUNT));
    gguf_build_close(&b);
    tokenizer_close(t);
}

Test(tokenizer, eot_and_eom_of_the_file_end_a_generation) {
    vocab_build_spec spec = vocab_build_hello_spec();
    gguf_build b = vocab_build_file(&spec);
    gguf_build_pair_u32(&b, "tokenizer.ggml.eot_token_id", 70);
    gguf_build_pair_u32(&b, "tokenizer.ggml.eom_token_id", 71);
    tokenizer *t;
    diag d = {0};
    cr_assert_eq(vocab_build_open(&b, &t, &d), STATUS_OK, "%s", d.text);
    cr_expect(tokenizer_is_eog(t, 70));
    cr_expect(tokenizer_is_eog(t, 71));
    cr_expect_not(tokenizer_is_eog(t, 72));
    gguf_build_close(&b);
    tokenizer_close(t);
}

/* add_bos_token in the file decides; without it the family does, if there is a begin token. */
Test(tokenizer, the_begin_token_is_added_when_the_file_or_the_family_says_so) {
    static const struct {
        const char *pre;
        int has_bos;
        int flag; /* -1: not in the file */
        bool adds;
    } rows[] = {{"smollm", 1, -1, false},   {"smollm", 1, 1, true},
                {"smollm", 1, 0, false},    {"llama-bpe", 1, -1, true},
                {"llama-bpe", 1, 0, false}, {"llama-bpe", 0, -1, false}};
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        vocab_build_spec spec = vocab_build_hello_spec();
        spec.pre = rows[i].pre;
        gguf_build b = vocab_build_file(&spec);
        if (rows[i].has_bos) {
            gguf_build_pair_u32(&b, "tokenizer.ggml.bos_token_id", VOCAB_BUILD_START);
        }
        if (rows[i].flag >= 0) {
            gguf_build_pair_bool(&b, "tokenizer.ggml.add_bos_token", rows[i].flag == 1);
        }
        tokenizer *t;
        diag d = {0};
        cr_assert_eq(vocab_build_open(&b, &t, &d), STATUS_OK, "%s", d.text);
        cr_expect_eq(tokenizer_adds_bos(t), rows[i].adds, "row %zu", i);
        cr_expect_not(tokenizer_adds_eos(t));
        gguf_build_close(&b);
        tokenizer_close(t);
    }
}

static void expect_refused(gguf_build *b, status expected, const char *says) {
    tokenizer *t;
    diag d = {0};
    status s = vocab_build_open(b, &t, &d);
    cr_expect_eq(s, expected, "%s: %s", status_name(s), d.text);
    cr_expect(strstr(d.text, says) != NULL, "says '%s', not '%s'", d.text, says);
    cr_expect_null(t);
    gguf_build_close(b);
}

Test(tokenizer, other_models_and_pre_tokenizers_are_refused_by_name) {
    vocab_build_spec spec = vocab_build_hello_spec();
    spec.model = "bert";
    gguf_build b = vocab_build_file(&spec);
    expect_refused(&b, STATUS_UNSUPPORTED, "tokenizer model 'bert'");
    spec = vocab_build_hello_spec();
    spec.pre = "falcon";
    b = vocab_build_file(&spec);
    expect_refused(&b, STATUS_UNSUPPORTED, "pre-tokenizer 'falcon'");
    b = gguf_build_make();
    expect_refused(&b, STATUS_NOTFOUND, "tokenizer.ggml.model");
}

Test(tokenizer, merges_that_do_not_fit_the_vocabulary_are_refused_by_number) {
    static const struct {
        const char *merge;
        const char *says;
    } rows[] = {{"ab", "merge 1 is not two token texts"}, {"", "merge 1 is not two token texts"},
                {" ", "merge 1 is not two token texts"},  {"h zz", "merge 1 names or makes"},
                {"zz h", "merge 1 names or makes"},       {"z z", "merge 1 names or makes"},
                {"a b c", "merge 1 names or makes"}};
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        str tokens[] = {str_from("h"), str_from("e"), str_from("he"), str_from("z")};
        str merges[] = {str_from("h e"), str_from(rows[i].merge)};
        gguf_build b = gguf_build_make();
        gguf_build_pair_str(&b, "tokenizer.ggml.model", "gpt2");
        gguf_build_array_str(&b, "tokenizer.ggml.tokens", tokens, 4);
        gguf_build_array_str(&b, "tokenizer.ggml.merges", merges, 2);
        expect_refused(&b, STATUS_CORRUPT, rows[i].says);
    }
    gguf_build b = gguf_build_make();
    str token = str_from("h");
    gguf_build_pair_str(&b, "tokenizer.ggml.model", "gpt2");
    gguf_build_array_str(&b, "tokenizer.ggml.tokens", &token, 1);
    expect_refused(&b, STATUS_NOTFOUND, "tokenizer.ggml.merges");
}

Test(tokenizer, ids_outside_the_vocabulary_are_refused_by_key) {
    static const char *const keys[] = {"tokenizer.ggml.bos_token_id", "tokenizer.ggml.eos_token_id",
                                       "tokenizer.ggml.padding_token_id",
                                       "tokenizer.ggml.eot_token_id",
                                       "tokenizer.ggml.eom_token_id"};
    for (size_t i = 0; i < sizeof keys / sizeof keys[0]; i++) {
        vocab_build_spec spec = vocab_build_hello_spec();
        gguf_build b = vocab_build_file(&spec);
        gguf_build_pair_u32(&b, keys[i], i % 2 == 0 ? VOCAB_BUILD_COUNT : UINT32_MAX);
        expect_refused(&b, STATUS_CORRUPT, keys[i]);
        b = vocab_build_file(&spec);
        gguf_build_pair_str(&b, keys[i], "2");
        expect_refused(&b, STATUS_CORRUPT, keys[i]);
    }
    vocab_build_spec spec = vocab_build_hello_spec();
    gguf_build b = vocab_build_file(&spec);
    gguf_build_pair_bool(&b, "tokenizer.ggml.add_bos_token", true);
    expect_refused(&b, STATUS_CORRUPT, "tokenizer.ggml.add_bos_token");
}

/* A whole file with bytes changed: opens or is refused, and what opens can be used. */
Test(tokenizer, a_damaged_file_never_crashes) {
    vocab_build_spec spec = vocab_build_hello_spec();
    gguf_build b = vocab_build_file(&spec);
    gguf_build_pair_u32(&b, "tokenizer.ggml.eos_token_id", 5);
    strbuf file;
    gguf_build_file(&b, &file);
    gguf_build_close(&b);
    uint64_t seed = 31;
    for (int round = 0; round < 1500; round++) {
        size_t at = rng_below(&seed, file.bytes);
        char old = file.data[at];
        file.data[at] = (char)rng_below(&seed, 256);
        gguf *g;
        tokenizer *t;
        diag d = {0};
        if (gguf_build_open_bytes(strbuf_str(&file), &g, &d) == STATUS_OK) {
            if (tokenizer_open(g, &t, &d) == STATUS_OK) {
                int32_t ids[64];
                size_t count;
                str text = str_from("hello world <|im_start|> aaaa <extra token>");
                cr_assert_eq(tokenizer_encode(t, text, true, true, ids, 64, &count, &d), STATUS_OK);
                tokenizer_close(t);
            } else {
                cr_assert(d.text[0] != 0);
            }
            gguf_close(g);
        }
        file.data[at] = old;
    }
    strbuf_close(&file);
}
