/* detok_test.c -- streamed text: never half a character, and the same as decoding at once. */
#define _GNU_SOURCE
#include "models/text/detok.h"

#include "engine/base/rng.h"
#include "tests/unit/models/text/vocab_build.h"

/* What Python's bytes.decode("utf-8", errors="replace") gives. */
static const struct {
    const char *bytes;
    size_t bytes_count;
    const char *text;
} rows[] = {
    {"abc", 3, "abc"},
    {"\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80", 9, "\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80"},
    {"\x80", 1, "\uFFFD"},
    {"\xbf\xbf", 2, "\uFFFD\uFFFD"},
    {"\x61\xc3", 2, "a\uFFFD"},
    {"\xc3\x61", 2, "\uFFFD\x61"},
    {"\xe2\x82", 2, "\uFFFD"},
    {"\xe2\x82\x61", 3, "\uFFFD\x61"},
    {"\xe2\x82\xe2\x82\xac", 5, "\uFFFD\u20AC"},
    {"\xf0\x9f\x98", 3, "\uFFFD"},
    {"\xf0\x9f\x98\x41", 4, "\uFFFD\x41"},
    {"\xf0\x9f", 2, "\uFFFD"},
    {"\xf0", 1, "\uFFFD"},
    {"\xc0\xaf", 2, "\uFFFD\uFFFD"},
    {"\xc1\xbf", 2, "\uFFFD\uFFFD"},
    {"\xe0\x80\xaf", 3, "\uFFFD\uFFFD\uFFFD"},
    {"\xe0\x9f\xbf", 3, "\uFFFD\uFFFD\uFFFD"},
    {"\xed\xa0\x80", 3, "\uFFFD\uFFFD\uFFFD"},
    {"\xed\xbf\xbf", 3, "\uFFFD\uFFFD\uFFFD"},
    {"\xf0\x80\x80\x80", 4, "\uFFFD\uFFFD\uFFFD\uFFFD"},
    {"\xf0\x8f\xbf\xbf", 4, "\uFFFD\uFFFD\uFFFD\uFFFD"},
    {"\xf4\x8f\xbf\xbf", 4, "\xf4\x8f\xbf\xbf"},
    {"\xf4\x90\x80\x80", 4, "\uFFFD\uFFFD\uFFFD\uFFFD"},
    {"\xf5\x80\x80\x80", 4, "\uFFFD\uFFFD\uFFFD\uFFFD"},
    {"\xff\xfe", 2, "\uFFFD\uFFFD"},
    {"\xf1\x80\x80\xe1\x80\xc2\x62\x80\x63\x80\xbf\x64", 12,
     "\uFFFD\uFFFD\uFFFD\x62\uFFFD\x63\uFFFD\uFFFD\x64"},
    {"\xe1\x80\xe2\xf0\x91\x92\xf1\xbf\x41", 9, "\uFFFD\uFFFD\uFFFD\uFFFD\x41"},
    {"\xf0\x9f\x98\x80\xf0\x9f\x98", 7, "\xf0\x9f\x98\x80\uFFFD"},
};

Test(detok, broken_bytes_become_what_python_makes_of_them) {
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        /* All at once, then cut in two at every place. */
        for (size_t cut = 0; cut <= rows[i].bytes_count; cut++) {
            strbuf out = strbuf_make(256);
            detok s = detok_make(false);
            cr_assert(detok_feed_bytes(&s, str_of(rows[i].bytes, cut), &out));
            cr_expect(str_utf8_valid(strbuf_str(&out)), "row %zu cut at %zu", i, cut);
            cr_assert(
                detok_feed_bytes(&s, str_of(rows[i].bytes + cut, rows[i].bytes_count - cut), &out));
            cr_assert(detok_flush(&s, &out));
            cr_expect(str_equal_z(strbuf_str(&out), rows[i].text), "row %zu cut at %zu", i, cut);
            strbuf_close(&out);
        }
    }
}

Test(detok, any_cutting_of_any_bytes_gives_the_same_valid_text) {
    uint64_t seed = 4;
    for (int round = 0; round < 5000; round++) {
        static const char alphabet[] =
            "a\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80\xed\xa0\xf4\x90\xff\xe0";
        char bytes[40];
        size_t count = rng_below(&seed, sizeof bytes);
        for (size_t i = 0; i < count; i++) {
            bytes[i] = alphabet[rng_below(&seed, sizeof alphabet - 1)];
        }
        strbuf whole = strbuf_make(256);
        strbuf cut = strbuf_make(256);
        detok s = detok_make(false);
        cr_assert(detok_feed_bytes(&s, str_of(bytes, count), &whole));
        cr_assert(detok_flush(&s, &whole));
        cr_assert(str_utf8_valid(strbuf_str(&whole)));
        s = detok_make(false);
        for (size_t at = 0; at < count;) {
            size_t n = 1 + rng_below(&seed, 4);
            n = n < count - at ? n : count - at;
            cr_assert(detok_feed_bytes(&s, str_of(bytes + at, n), &cut));
            cr_assert(str_utf8_valid(strbuf_str(&cut)));
            cr_assert(s.held_bytes <= 3);
            at += n;
        }
        cr_assert(detok_flush(&s, &cut));
        cr_assert(str_equal(strbuf_str(&whole), strbuf_str(&cut)));
        strbuf_close(&whole);
        strbuf_close(&cut);
    }
}

Test(detok, a_character_over_several_tokens_appears_when_it_is_whole) {
    vocab_build_spec spec = vocab_build_hello_spec();
    tokenizer *t = vocab_build_tokenizer(&spec);
    strbuf out = strbuf_make(64);
    detok s = detok_make(true);
    static const int32_t ids[] = {0xF0, 0x9F, 0x98};
    for (size_t i = 0; i < 3; i++) {
        cr_assert(detok_feed(&s, t, ids[i], &out));
        cr_expect_eq(out.bytes, 0);
    }
    detok fork = s; /* a copy goes on by itself */
    cr_assert(detok_feed(&s, t, 0x80, &out));
    cr_expect(str_equal_z(strbuf_str(&out), "\xF0\x9F\x98\x80"));
    strbuf_clear(&out);
    cr_assert(detok_feed(&fork, t, VOCAB_BUILD_HELLO, &out));
    cr_expect(str_equal_z(strbuf_str(&out), "\uFFFDhello"));
    strbuf_close(&out);
    tokenizer_close(t);
}

Test(detok, control_tokens_are_left_out_only_when_asked) {
    vocab_build_spec spec = vocab_build_hello_spec();
    tokenizer *t = vocab_build_tokenizer(&spec);
    static const int32_t ids[] = {
        VOCAB_BUILD_START, VOCAB_BUILD_HELLO, VOCAB_BUILD_EXTRA, VOCAB_BUILD_END, -1,
        VOCAB_BUILD_COUNT};
    for (int skip = 0; skip < 2; skip++) {
        strbuf out = strbuf_make(128);
        detok s = detok_make(skip == 1);
        for (size_t i = 0; i < sizeof ids / sizeof ids[0]; i++) {
            cr_assert(detok_feed(&s, t, ids[i], &out));
        }
        cr_assert(detok_flush(&s, &out));
        cr_expect(str_equal_z(strbuf_str(&out), skip ? "hello<extra token>"
                                                     : "<|im_start|>hello<extra token><|im_end|>"));
        strbuf_close(&out);
    }
    tokenizer_close(t);
}

Test(detok, a_full_buffer_is_reported) {
    strbuf out = strbuf_make(2);
    detok s = detok_make(false);
    cr_expect_not(detok_feed_bytes(&s, str_from("abc"), &out));
    cr_expect(out.failed);
    strbuf_close(&out);
    out = strbuf_make(2);
    cr_expect_not(detok_feed_bytes(&s, str_from("\x80"), &out));
    strbuf_close(&out);
}
