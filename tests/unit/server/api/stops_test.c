/* stops_test.c -- against a search of the whole text, however the text arrives. */
#include "server/api/stops.h"

#include <criterion/criterion.h>
#include <string.h>

#include "engine/base/rng.h"

/* What should come out of `text`: which stop string ends first (of those that end together the
 * first listed), and how much of the text goes before it. */
typedef struct {
    int32_t hit;
    size_t bytes;
} answer;

static answer search(const str *strings, int32_t count, str text, bool include) {
    answer best = {-1, text.bytes};
    size_t best_end = SIZE_MAX;
    for (int32_t i = 0; i < count; i++) {
        size_t at = str_find(text, strings[i], 0);
        if (at != SIZE_MAX && at + strings[i].bytes < best_end) {
            best_end = at + strings[i].bytes;
            best = (answer){i, include ? best_end : at};
        }
    }
    return best;
}

/* Feeds `text` in pieces; checks what came out, and that nothing of it ever had to be taken back.
 */
static void check(const str *strings, int32_t count, str text, bool include, uint64_t *random) {
    answer want = search(strings, count, text, include);
    stops s = stops_make(strings, count);
    strbuf out = strbuf_make(1 << 16);
    int32_t hit = -1;
    for (size_t at = 0; at < text.bytes && hit < 0;) {
        size_t bytes = 1 + (size_t)rng_below(random, rng_below(random, 3) ? 3 : 40);
        bytes = bytes > text.bytes - at ? text.bytes - at : bytes;
        hit = stops_feed(&s, str_of(text.data + at, bytes), include, &out);
        at += bytes;
        cr_assert_leq(out.bytes, want.bytes, "text was sent that belongs to a stop string");
        size_t longest = 0;
        for (int32_t i = 0; i < count; i++) {
            longest = strings[i].bytes > longest ? strings[i].bytes : longest;
        }
        cr_assert(hit >= 0 || at - out.bytes < longest || longest == 0,
                  "more is held back than a stop string could need");
    }
    if (hit < 0) {
        stops_flush(&s, &out);
    }
    cr_assert_eq(hit, want.hit, "%.*s", (int)text.bytes, text.data);
    cr_assert_eq(out.bytes, want.bytes);
    cr_assert(out.bytes == 0 || memcmp(out.data, text.data, out.bytes) == 0);
    strbuf_close(&out);
}

Test(stops, find_what_a_search_of_the_whole_text_finds) {
    uint64_t random = 1;
    int hits = 0;
    for (int round = 0; round < 20000; round++) {
        char text[80], words[LIMIT_STOP_STRINGS][8];
        str strings[LIMIT_STOP_STRINGS];
        /* Two letters: stop strings overlap themselves and each other. */
        size_t bytes = (size_t)rng_below(&random, sizeof text);
        for (size_t i = 0; i < bytes; i++) {
            text[i] = (char)('a' + rng_below(&random, 2));
        }
        int32_t count = (int32_t)rng_below(&random, LIMIT_STOP_STRINGS + 1);
        for (int32_t i = 0; i < count; i++) {
            size_t length = 1 + (size_t)rng_below(&random, sizeof words[i]);
            for (size_t k = 0; k < length; k++) {
                words[i][k] = (char)('a' + rng_below(&random, 2));
            }
            strings[i] = str_of(words[i], length);
        }
        bool include = rng_below(&random, 2);
        hits += search(strings, count, str_of(text, bytes), include).hit >= 0;
        check(strings, count, str_of(text, bytes), include, &random);
    }
    cr_assert(hits > 5000 && hits < 19000, "%d", hits);
}

Test(stops, hold_back_only_what_may_still_be_one) {
    static const struct {
        const char *stop, *feed, *out;
        int32_t hit;
    } cases[] = {
        {"###", "abc", "abc", -1},   {"###", "abc#", "abc", -1},   {"###", "abc##", "abc", -1},
        {"###", "a##b", "a##b", -1}, {"###", "a####", "a", 0},     {"abab", "aababab", "a", 0},
        {"abac", "ababac", "ab", 0}, {"aab", "aaab", "a", 0},      {"x", "x", "", 0},
        {"\n\n", "a\n", "a", -1},    {"\xc3\xa9", "\xc3", "", -1},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        str stop = str_from(cases[i].stop);
        stops s = stops_make(&stop, 1);
        strbuf out = strbuf_make(100);
        cr_assert_eq(stops_feed(&s, str_from(cases[i].feed), false, &out), cases[i].hit);
        cr_assert(str_equal_z(strbuf_str(&out), cases[i].out), "case %zu: %.*s", i, (int)out.bytes,
                  out.data ? out.data : "");
        strbuf_close(&out);
    }
}

Test(stops, the_longest_allowed_stop_string_works) {
    static char stop[LIMIT_STOP_BYTES], text[3 * LIMIT_STOP_BYTES];
    memset(stop, 'a', sizeof stop);
    memset(text, 'a', sizeof text);
    stop[LIMIT_STOP_BYTES - 1] = 'b';
    text[2 * LIMIT_STOP_BYTES] = 'b';
    str s = str_of(stop, sizeof stop);
    uint64_t random = 2;
    for (int i = 0; i < 20; i++) {
        check(&s, 1, str_of(text, sizeof text), i % 2, &random);
    }
}

Test(stops, without_stop_strings_everything_passes_at_once) {
    stops s = stops_make(NULL, 0);
    strbuf out = strbuf_make(100);
    cr_assert_eq(stops_feed(&s, str_from("text"), false, &out), -1);
    cr_assert(str_equal_z(strbuf_str(&out), "text"));
    strbuf_close(&out);
}
