/* special_test.c -- finding special tokens in text: the first, and of those the longest. */
#define _GNU_SOURCE
#include "models/text/special.h"

#include "engine/base/rng.h"
#include "tests/unit/models/text/vocab_build.h"

static const vocab_build_special listed[] = {{"<a>", 3},    {"<a>b", 4}, {"<aa", 3},
                                             {"a>", 4},     {"a<", 4},   {"\u00E9!", 3},
                                             {"<a>bcd", 3}, {"plain", 1}};

static vocab open_vocab(gguf **g) {
    vocab_build_spec spec = {.pre = "gpt2", .specials = listed, .specials_count = 8};
    gguf_build b = vocab_build_file(&spec);
    vocab v;
    diag d = {0};
    cr_assert_eq(gguf_build_open(&b, g, &d), STATUS_OK, "%s", d.text);
    cr_assert_eq(vocab_open(*g, false, &v, &d), STATUS_OK, "%s", d.text);
    gguf_build_close(&b);
    return v;
}

Test(special, the_first_and_longest_is_found) {
    gguf *g;
    vocab v = open_vocab(&g);
    special s;
    cr_assert_eq(special_open(&v, &s, NULL), STATUS_OK);
    static const struct {
        const char *text;
        bool control;
        int32_t row; /* of `listed`, -1 none */
        size_t at;
    } rows[] = {{"x<a>y", true, 0, 1},     {"x<a>b", true, 1, 1},
                {"x<a>bc", true, 1, 1},    {"x<a>bcd", true, 6, 1},
                {"x<a>bcd", false, 1, 1},  {"<a>", false, 3, 1},
                {"a>", true, 3, 0},        {"x<aa>", true, 2, 1},
                {"a<a>", true, 4, 0},      {"plain", true, -1, 0},
                {"", true, -1, 0},         {"\u00E9!", true, 5, 0},
                {"\u00E9!", false, -1, 0}, {"\u00E9\u00E9!", true, 5, 2}};
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        size_t at = 0;
        size_t bytes = 0;
        int32_t id = special_find(&s, str_from(rows[i].text), 0, rows[i].control, &at, &bytes);
        int32_t expected = rows[i].row < 0 ? -1 : 256 + rows[i].row;
        cr_expect_eq(id, expected, "'%s': %d", rows[i].text, id);
        if (id >= 0) {
            cr_expect_eq(at, rows[i].at);
            cr_expect_eq(bytes, strlen(listed[rows[i].row].text));
        }
    }
    special_close(&s);
    vocab_close(&v);
    gguf_close(g);
}

/* The plain way: at each place, try every listed token. */
static int32_t find_naively(str text, size_t from, bool control, size_t *at) {
    for (size_t i = from; i < text.bytes; i++) {
        int32_t best = -1;
        for (int32_t row = 0; row < 7; row++) {
            str wanted = str_from(listed[row].text);
            bool allowed = control || listed[row].type == 4;
            if (allowed && str_starts_with(str_of(text.data + i, text.bytes - i), wanted) &&
                (best < 0 || wanted.bytes > strlen(listed[best].text))) {
                best = row;
            }
        }
        if (best >= 0) {
            *at = i;
            return 256 + best;
        }
    }
    return -1;
}

Test(special, equals_trying_every_token_at_every_place) {
    gguf *g;
    vocab v = open_vocab(&g);
    special s;
    cr_assert_eq(special_open(&v, &s, NULL), STATUS_OK);
    uint64_t seed = 12;
    for (int round = 0; round < 20000; round++) {
        char text[24];
        size_t count = rng_below(&seed, sizeof text);
        for (size_t i = 0; i < count; i++) {
            text[i] = "<a>bcd\xC3\xA9!"[rng_below(&seed, 9)];
        }
        for (size_t from = 0; from <= count; from++) {
            size_t at = 0;
            size_t bytes = 0;
            size_t naive_at = 0;
            bool control = round % 2 == 0;
            int32_t id = special_find(&s, str_of(text, count), from, control, &at, &bytes);
            cr_assert_eq(id, find_naively(str_of(text, count), from, control, &naive_at));
            cr_assert(id < 0 || at == naive_at);
        }
    }
    special_close(&s);
    vocab_close(&v);
    gguf_close(g);
}

/* Half a character as a token: looked for byte by byte it would cut the characters that hold it,
 * and the matcher of words is only safe with whole ones. */
Test(special, a_token_that_is_not_utf8_is_never_found) {
    static const vocab_build_special broken[] = {{"\xA9", 3}, {"\xC3", 4}, {"<a>", 3}};
    vocab_build_spec spec = {.pre = "qwen2", .specials = broken, .specials_count = 3};
    gguf_build b = vocab_build_file(&spec);
    tokenizer *t;
    diag d = {0};
    cr_assert_eq(vocab_build_open(&b, &t, &d), STATUS_OK, "%s", d.text);
    int32_t ids[16];
    size_t count = 0;
    str text = str_from("x\xC3\xA9\xC3\xA9<a>\xC3\xA9y");
    cr_assert_eq(tokenizer_encode(t, text, false, true, ids, 16, &count, &d), STATUS_OK);
    static const int32_t want[] = {'x', 0xC3, 0xA9, 0xC3, 0xA9, 256 + 2, 0xC3, 0xA9, 'y'};
    cr_assert_eq(count, sizeof want / sizeof want[0]);
    cr_expect_arr_eq(ids, want, sizeof want);
    gguf_build_close(&b);
    tokenizer_close(t);
}
