/* tokenizer_encode_test.c -- text to ids: words, special tokens, broken bytes, limits, threads. */
#define _GNU_SOURCE
#include <pthread.h>

#include "engine/base/rng.h"
#include "models/text/detok.h"
#include "tests/unit/models/text/vocab_build.h"

enum { IDS_MAX = 64 };

static tokenizer *open_hello(const char *pre) {
    vocab_build_spec spec = vocab_build_hello_spec();
    spec.pre = pre;
    return vocab_build_tokenizer(&spec);
}

Test(tokenizer_encode, text_becomes_the_expected_ids) {
    tokenizer *t = open_hello("smollm");
    enum { H = VOCAB_BUILD_HELLO, W = VOCAB_BUILD_WORLD, A4 = VOCAB_BUILD_AAAA };
    enum { S = VOCAB_BUILD_START, E = VOCAB_BUILD_END, U = VOCAB_BUILD_USER };
    static const struct {
        const char *text;
        bool parse_special;
        int32_t ids[16];
        size_t count;
    } rows[] = {
        {"", true, {0}, 0},
        {"hello world", true, {H, W}, 2},
        {"hello  world", true, {H, ' ', W}, 3},
        {"hello12", true, {H, '1', '2'}, 3},
        {"aaaaa", true, {A4, 'a'}, 2},
        {"<|im_start|>hello<|im_end|>", true, {S, H, E}, 3},
        {"<|im_start|><|im_start|>", true, {S, S}, 2},
        /* Without parse_special only the user-defined "<|im" is cut out. */
        {"<|im_end|>", false, {U, '_', 'e', 'n', 'd', '|', '>'}, 7},
        {"<|im_endhello", true, {U, '_', 'e', 'n', 'd', 'h', 256 + 1, 'o'}, 0},
        {"hello<extra token> world", false, {H, VOCAB_BUILD_EXTRA, W}, 3},
        /* A special token ends the text for the look-ahead: both blanks stay together. */
        {"a  <|im_end|>", true, {'a', ' ', ' ', E}, 4},
        {"\xC3\xA9", true, {0xC3, 0xA9}, 2},
        {"h\xFFh", true, {'h', 0xEF, 0xBF, 0xBD, 'h'}, 5},
        {"\xE2\x82", true, {0xEF, 0xBF, 0xBD}, 3},
    };
    const size_t rows_count = sizeof rows / sizeof rows[0];
    for (size_t n = 0; n < 2 * rows_count; n++) { /* again: what the first time found is known */
        size_t i = n % rows_count;
        int32_t ids[IDS_MAX];
        size_t count = 99;
        status s = tokenizer_encode(t, str_from(rows[i].text), true, rows[i].parse_special, ids,
                                    IDS_MAX, &count, NULL);
        cr_assert_eq(s, STATUS_OK);
        if (rows[i].count == 0 && rows[i].text[0] != 0) {
            /* "_endhello": one word of letters after the sign; ends in hello's token. */
            cr_expect_eq(ids[count - 1], H, "'%s'", rows[i].text);
            continue;
        }
        cr_expect_eq(count, rows[i].count, "'%s': %zu ids", rows[i].text, count);
        cr_expect_eq(memcmp(ids, rows[i].ids, rows[i].count * sizeof *ids), 0, "'%s'",
                     rows[i].text);
    }
    tokenizer_close(t);
}

/* Families of llama 3 take a word that is a token whole, even where merges lead elsewhere. */
Test(tokenizer_encode, whole_words_come_before_merges_where_the_family_says_so) {
    static const char *const merges[] = {"b c", "a b", "ab c"};
    vocab_build_spec spec = {.pre = "llama-bpe", .merges = merges, .merges_count = 3};
    for (int llama = 0; llama < 2; llama++) {
        spec.pre = llama ? "llama-bpe" : "qwen2";
        tokenizer *t = vocab_build_tokenizer(&spec);
        int32_t ids[IDS_MAX];
        size_t count;
        cr_assert_eq(tokenizer_encode(t, str_from("abc"), false, true, ids, IDS_MAX, &count, NULL),
                     STATUS_OK);
        /* By rank "bc" is merged first, and then nothing makes "abc". */
        cr_expect_eq(count, llama ? 1 : 2);
        cr_expect_eq(ids[0], llama ? 258 : 'a');
        tokenizer_close(t);
    }
}

Test(tokenizer_encode, begin_and_end_tokens_frame_the_text_when_asked) {
    vocab_build_spec spec = vocab_build_hello_spec();
    gguf_build b = vocab_build_file(&spec);
    gguf_build_pair_u32(&b, "tokenizer.ggml.bos_token_id", VOCAB_BUILD_START);
    gguf_build_pair_u32(&b, "tokenizer.ggml.eos_token_id", VOCAB_BUILD_END);
    gguf_build_pair_bool(&b, "tokenizer.ggml.add_bos_token", true);
    gguf_build_pair_bool(&b, "tokenizer.ggml.add_eos_token", true);
    tokenizer *t;
    diag d = {0};
    cr_assert_eq(vocab_build_open(&b, &t, &d), STATUS_OK, "%s", d.text);
    gguf_build_close(&b);
    int32_t ids[IDS_MAX];
    size_t count;
    cr_assert_eq(tokenizer_encode(t, str_from("hello"), true, true, ids, IDS_MAX, &count, NULL),
                 STATUS_OK);
    cr_expect_eq(count, 3);
    cr_expect_eq(ids[0], VOCAB_BUILD_START);
    cr_expect_eq(ids[2], VOCAB_BUILD_END);
    cr_assert_eq(tokenizer_encode(t, str_from("hello"), false, true, ids, IDS_MAX, &count, NULL),
                 STATUS_OK);
    cr_expect_eq(count, 1);
    tokenizer_close(t);
}

Test(tokenizer_encode, too_few_places_is_a_limit_and_tells_how_many_are_needed) {
    tokenizer *t = open_hello("gpt2");
    str text = str_from("hello world aaaa!");
    int32_t all[IDS_MAX];
    size_t needed;
    cr_assert_eq(tokenizer_encode(t, text, true, true, all, IDS_MAX, &needed, NULL), STATUS_OK);
    for (size_t places = 0; places < needed; places++) {
        int32_t ids[IDS_MAX];
        size_t count = 0;
        diag d = {0};
        memset(ids, 0x55, sizeof ids);
        cr_expect_eq(tokenizer_encode(t, text, true, true, places ? ids : NULL, places, &count, &d),
                     STATUS_LIMIT);
        cr_expect_eq(count, needed);
        cr_expect_eq(memcmp(ids, all, places * sizeof *ids), 0);
        cr_expect_eq(ids[places], 0x55555555);
        cr_expect(strstr(d.text, "tokens") != NULL);
    }
    tokenizer_close(t);
}

Test(tokenizer_encode, bytes_the_vocabulary_lacks_are_dropped) {
    vocab_build_spec spec = vocab_build_hello_spec();
    spec.without = "q";
    tokenizer *t = vocab_build_tokenizer(&spec);
    int32_t ids[IDS_MAX];
    size_t count;
    cr_assert_eq(tokenizer_encode(t, str_from("heqllo"), true, true, ids, IDS_MAX, &count, NULL),
                 STATUS_OK);
    cr_expect_eq(count, 1);
    cr_expect_eq(ids[0], VOCAB_BUILD_HELLO);
    tokenizer_close(t);
}

static void append_random_text(strbuf *text, uint64_t *seed) {
    static const char *const bits[] = {"hello", " world", "aaaaaaaa", "<|im_start|>", "<|im",  "  ",
                                       "\n",    "'s",     "12",       "\u4F60",       "<extra"};
    for (uint64_t n = rng_below(seed, 40); n > 0; n--) {
        if (rng_below(seed, 2) == 0) {
            cr_assert(strbuf_append_z(text, bits[rng_below(seed, 11)]));
            continue;
        }
        uint32_t c = (uint32_t)rng_below(seed, rng_below(seed, 2) ? 0x80 : 0x30000);
        char utf8[4];
        c = (c >= 0xD800 && c <= 0xDFFF) || (c < 32 && c != '\n') || c == 127 ? '.' : c;
        cr_assert(strbuf_append(text, utf8, str_utf8_put(c, utf8)));
    }
}

static void check_round_trips(const tokenizer *t, uint64_t seed, int rounds) {
    strbuf text = strbuf_make(1 << 16);
    strbuf back = strbuf_make(1 << 16);
    int32_t ids[4096];
    for (int round = 0; round < rounds; round++) {
        strbuf_clear(&text);
        strbuf_clear(&back);
        append_random_text(&text, &seed);
        size_t count;
        cr_assert_eq(
            tokenizer_encode(t, strbuf_str(&text), false, round % 2 == 0, ids, 4096, &count, NULL),
            STATUS_OK);
        detok s = detok_make(false);
        for (size_t i = 0; i < count; i++) {
            cr_assert(detok_feed(&s, t, ids[i], &back));
        }
        cr_assert(detok_flush(&s, &back));
        cr_assert(str_equal(strbuf_str(&text), strbuf_str(&back)), "%.*s", (int)text.bytes,
                  text.data);
    }
    strbuf_close(&text);
    strbuf_close(&back);
}

/* Words that a text has had before are remembered while it is encoded. */
static void check_twice_is_the_same_twice(const tokenizer *t, uint64_t seed, int rounds) {
    enum { TIMES = 4, MOST = 1 << 14 };
    strbuf text = strbuf_make(1 << 16);
    strbuf again = strbuf_make(1 << 18);
    static int32_t once[MOST], many[MOST];
    for (int round = 0; round < rounds; round++) {
        strbuf_clear(&text);
        strbuf_clear(&again);
        append_random_text(&text, &seed);
        for (int i = 0; i < TIMES; i++) {
            cr_assert(strbuf_append_str(&again, strbuf_str(&text)));
            cr_assert(strbuf_append_z(&again, "<|im_start|>"));
        }
        size_t count, all;
        cr_assert_eq(tokenizer_encode(t, strbuf_str(&text), false, true, once, MOST, &count, NULL),
                     STATUS_OK);
        cr_assert_eq(tokenizer_encode(t, strbuf_str(&again), false, true, many, MOST, &all, NULL),
                     STATUS_OK);
        cr_assert_eq(all, TIMES * (count + 1), "%.*s", (int)text.bytes, text.data);
        for (size_t i = 0; i < TIMES; i++) {
            cr_assert_arr_eq(many + i * (count + 1), once, count * sizeof *once, "%.*s",
                             (int)text.bytes, text.data);
        }
    }
    strbuf_close(&text);
    strbuf_close(&again);
}

Test(tokenizer_encode, a_text_that_returns_gets_the_same_ids_again) {
    static const char *const names[] = {"gpt2", "smollm", "llama-bpe", "qwen2"};
    for (size_t i = 0; i < 4; i++) {
        tokenizer *t = open_hello(names[i]);
        check_twice_is_the_same_twice(t, 99 + i, 500);
        tokenizer_close(t);
    }
}

Test(tokenizer_encode, decoding_gives_the_text_back) {
    static const char *const names[] = {"gpt2", "smollm", "llama-bpe", "qwen2", NULL};
    for (size_t i = 0; i < 5; i++) {
        tokenizer *t = open_hello(names[i]);
        check_round_trips(t, 77 + i, 1000);
        tokenizer_close(t);
    }
}

static tokenizer *open_model(void) {
    const char *path = getenv("WEIR_TEST_MODEL");
    if (path == NULL) {
        cr_skip_test("WEIR_TEST_MODEL is not set");
    }
    gguf *g;
    tokenizer *t;
    diag d = {0};
    cr_assert_eq(gguf_open(path, &g, &d), STATUS_OK, "%s", d.text);
    cr_assert_eq(tokenizer_open(g, &t, &d), STATUS_OK, "%s", d.text);
    gguf_close(g);
    return t;
}

Test(tokenizer_encode, decoding_with_the_default_model_gives_the_text_back) {
    tokenizer *t = open_model();
    check_round_trips(t, 5, 5000);
    check_twice_is_the_same_twice(t, 6, 5000);
    tokenizer_close(t);
}

/* One word of a megabyte; a scan over all pairs would run into the suite's time limit. */
Test(tokenizer_encode, a_megabyte_without_a_blank_is_encoded) {
    tokenizer *t = open_hello("smollm");
    enum { BYTES = 1 << 20 };
    char *text = malloc(BYTES);
    int32_t *ids = malloc(BYTES * sizeof *ids);
    cr_assert(text != NULL && ids != NULL);
    memset(text, 'a', BYTES);
    size_t count;
    cr_assert_eq(tokenizer_encode(t, str_of(text, BYTES), true, true, ids, BYTES, &count, NULL),
                 STATUS_OK);
    cr_expect_eq(count, BYTES / 4);
    cr_expect_eq(ids[count - 1], VOCAB_BUILD_AAAA);
    free(text);
    free(ids);
    tokenizer_close(t);
}

typedef struct {
    const tokenizer *t;
    uint64_t seed;
} worker;

static void *encode_in_a_thread(void *p) {
    const worker *w = p;
    check_round_trips(w->t, w->seed, 500);
    return NULL;
}

Test(tokenizer_encode, threads_share_one_tokenizer) {
    tokenizer *t = open_hello("llama-bpe");
    pthread_t threads[4];
    worker workers[4];
    for (size_t i = 0; i < 4; i++) {
        workers[i] = (worker){t, i};
        cr_assert_eq(pthread_create(&threads[i], NULL, encode_in_a_thread, &workers[i]), 0);
    }
    for (size_t i = 0; i < 4; i++) {
        pthread_join(threads[i], NULL);
    }
    tokenizer_close(t);
}
