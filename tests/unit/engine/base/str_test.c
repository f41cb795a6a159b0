/* str_test.c -- slices, bounded buffers, and UTF-8 against a decode-then-check oracle. */
#include "engine/base/str.h"

#include <criterion/criterion.h>
#include <math.h>

/* RFC 3629 from the other side: count leading ones, assemble the value, then ask whether the value
 * needed that many bytes and is a Unicode scalar. Returns as str_utf8_next for whole input; the
 * verdict on short input is checked by completing it. */
static int oracle(const uint8_t *p, int bytes, uint32_t *value) {
    int need = p[0] < 0x80 ? 1 : __builtin_clz(~((uint32_t)p[0] << 24));
    if (p[0] >= 0x80 && (need < 2 || need > 4)) {
        return -1;
    }
    if (bytes < need) {
        return -2;
    }
    static const uint32_t lead_mask[] = {0, 0x7F, 0x1F, 0x0F, 0x07};
    static const uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
    uint32_t v = p[0] & lead_mask[need];
    for (int i = 1; i < need; i++) {
        if (p[i] / 64 != 2) {
            return -1;
        }
        v = v * 64 + p[i] % 64;
    }
    if (v < least[need] || v > 0x10FFFF || (v >= 0xD800 && v <= 0xDFFF)) {
        return -1;
    }
    *value = v;
    return need;
}

Test(str, decodes_every_three_byte_sequence_as_the_oracle) {
    for (uint32_t x = 0; x < 1u << 24; x++) {
        uint8_t p[3] = {(uint8_t)(x >> 16), (uint8_t)(x >> 8), (uint8_t)x};
        if (p[0] >= 0xF0 && p[0] < 0xF8) {
            continue; /* four bytes: below */
        }
        uint32_t want_value = 0;
        uint32_t got_value = 0;
        int want = oracle(p, 3, &want_value);
        int got = str_utf8_next((const char *)p, 3, &got_value);
        if (got != want || (want > 0 && got_value != want_value)) {
            cr_assert_fail("%02x %02x %02x: %d, want %d", p[0], p[1], p[2], got, want);
        }
    }
}

Test(str, decodes_four_byte_sequences_as_the_oracle) {
    static const uint8_t edges[] = {0x00, 0x7F, 0x80, 0x81, 0x8F, 0x90,
                                    0x9F, 0xA0, 0xBE, 0xBF, 0xC0, 0xFF};
    for (uint32_t x = 0xF0 << 8; x < 0xF8 << 8; x++) {
        for (size_t i = 0; i < sizeof edges; i++) {
            for (size_t j = 0; j < sizeof edges; j++) {
                uint8_t p[4] = {(uint8_t)(x >> 8), (uint8_t)x, edges[i], edges[j]};
                uint32_t want_value = 0;
                uint32_t got_value = 0;
                int want = oracle(p, 4, &want_value);
                cr_assert_eq(str_utf8_next((const char *)p, 4, &got_value), want);
                cr_assert(want < 0 || got_value == want_value);
            }
        }
    }
}

/* Short input is 0 exactly when some continuation makes it valid. */
Test(str, unfinished_input_waits_only_while_it_can_still_become_valid) {
    for (uint32_t x = 0; x < 1u << 16; x++) {
        uint8_t p[4] = {(uint8_t)(x >> 8), (uint8_t)x, 0x80, 0x80};
        uint32_t value;
        for (int bytes = 1; bytes <= 2; bytes++) {
            if (oracle(p, bytes, &value) != -2) {
                continue;
            }
            bool can = false;
            for (uint32_t second = 0x80; second < 0xC0 && !can; second++) {
                uint8_t full[4] = {p[0], bytes == 2 ? p[1] : (uint8_t)second, 0x80, 0x80};
                can = oracle(full, 4, &value) > 0;
            }
            cr_assert_eq(str_utf8_next((const char *)p, (size_t)bytes, &value), can ? 0 : -1,
                         "%02x %02x, %d bytes", p[0], p[1], bytes);
        }
    }
    uint32_t value;
    cr_assert_eq(str_utf8_next("", 0, &value), 0);
}

Test(str, encodes_every_scalar_so_that_it_decodes_to_itself) {
    for (uint32_t c = 0; c <= 0x10FFFF; c++) {
        if (c >= 0xD800 && c <= 0xDFFF) {
            continue;
        }
        char out[4];
        uint32_t back = 0;
        int bytes = (int)str_utf8_put(c, out);
        if (oracle((const uint8_t *)out, bytes, &back) != bytes || back != c) {
            cr_assert_fail("U+%04X", c);
        }
    }
}

Test(str, knows_valid_text) {
    static const struct {
        const char *text;
        size_t bytes;
        bool valid;
    } table[] = {
        {"", 0, true},
        {"plain", 5, true},
        {"gr\xc3\xbc\xc3\x9f", 6, true},
        {"\xf0\x9f\x98\x80", 4, true},
        {"a\0b", 3, true},
        {"\xf0\x9f\x98", 3, false},     /* cut */
        {"\xc0\xaf", 2, false},         /* overlong '/' */
        {"\xe0\x80\xaf", 3, false},     /* overlong */
        {"\xf0\x80\x80\xaf", 4, false}, /* overlong */
        {"\xed\xa0\x80", 3, false},     /* surrogate */
        {"\xf4\x90\x80\x80", 4, false}, /* past U+10FFFF */
        {"\xff", 1, false},
        {"ok\x80", 3, false},
    };
    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++) {
        cr_assert_eq(str_utf8_valid(str_of(table[i].text, table[i].bytes)), table[i].valid,
                     "row %zu", i);
    }
}

/* Text is looked at in words of eight bytes: a fault shows wherever it stands. */
Test(str, finds_a_fault_at_any_place_of_a_long_text) {
    char text[40];
    for (size_t bytes = 1; bytes <= sizeof text; bytes++) {
        for (size_t at = 0; at < bytes; at++) {
            memset(text, 'a', sizeof text);
            cr_assert(str_utf8_valid(str_of(text, bytes)));
            text[at] = '\xff';
            cr_assert_not(str_utf8_valid(str_of(text, bytes)), "byte %zu of %zu", at, bytes);
            text[at] = '\xc3';
            cr_assert_not(str_utf8_valid(str_of(text, bytes)), "byte %zu of %zu", at, bytes);
            if (at + 1 < bytes) {
                text[at + 1] = '\xbc';
                cr_assert(str_utf8_valid(str_of(text, bytes)), "bytes %zu of %zu", at, bytes);
            }
        }
    }
}

Test(str, integers_are_whole_strings_within_bounds) {
    static const struct {
        const char *text;
        int64_t min, max;
        bool ok;
        int64_t value;
    } table[] = {
        {"0", 0, 9, true, 0},
        {"-5", -9, 9, true, -5},
        {"9223372036854775807", INT64_MIN, INT64_MAX, true, INT64_MAX},
        {"-9223372036854775808", INT64_MIN, INT64_MAX, true, INT64_MIN},
        {"9223372036854775808", INT64_MIN, INT64_MAX, false, 0},
        {"10", 0, 9, false, 0},
        {"", 0, 9, false, 0},
        {" 1", 0, 9, false, 0},
        {"1 ", 0, 9, false, 0},
        {"+1", 0, 9, false, 0},
        {"1x", 0, 9, false, 0},
        {"-", -9, 9, false, 0},
        {"0x1", 0, 9, false, 0},
        {"000000000000000000000000001", 0, 9, false, 0},
    };
    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++) {
        int64_t value = 0;
        cr_assert_eq(str_to_i64(str_from(table[i].text), table[i].min, table[i].max, &value),
                     table[i].ok, "\"%s\"", table[i].text);
        cr_assert_eq(value, table[i].value);
    }
}

Test(str, doubles_are_finite_decimal_numbers) {
    static const struct {
        const char *text;
        bool ok;
        double value;
    } table[] = {
        {"1.5", true, 1.5}, {"-2e3", true, -2000}, {".5", true, 0.5}, {"inf", false, 0},
        {"nan", false, 0},  {"1e999", false, 0},   {"", false, 0},    {"1.5s", false, 0},
        {"-inf", false, 0}, {"+nan", false, 0},    {"1 2", false, 0}, {"0x10", false, 0},
    };
    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++) {
        double value = 0;
        cr_assert_eq(str_to_f64(str_from(table[i].text), &value), table[i].ok, "\"%s\"",
                     table[i].text);
        cr_assert_eq(value, table[i].value);
    }
}

Test(str, finds_and_compares) {
    str s = str_from("prefill-decode-prefill");
    cr_assert_eq(str_find(s, str_from("prefill"), 0), 0);
    cr_assert_eq(str_find(s, str_from("prefill"), 1), 15);
    cr_assert_eq(str_find(s, str_from("prefill"), 16), SIZE_MAX);
    cr_assert_eq(str_find(s, str_from(""), 22), 22);
    cr_assert_eq(str_find(s, str_from(""), 23), SIZE_MAX);
    cr_assert(str_starts_with(s, str_from("pre")) && !str_starts_with(s, str_from("re")));
    cr_assert(str_ends_with(s, str_from("fill")) && !str_ends_with(str_from("l"), s));
    cr_assert(str_equal(str_of(NULL, 0), str_from("")));
    cr_assert(str_equal_z(str_of("abc", 2), "ab"));
}

Test(strbuf, refuses_past_its_maximum_and_stays_failed) {
    strbuf b = strbuf_make(10);
    cr_assert(strbuf_append_z(&b, "12345"));
    cr_assert(strbuf_printf(&b, "%s", "67890"));
    cr_assert_not(strbuf_append_char(&b, 'x'));
    cr_assert(b.failed);
    cr_assert_not(strbuf_append(&b, "", 0), "a failed buffer takes nothing until it is cleared");
    cr_assert_str_eq(b.data, "1234567890");
    strbuf_clear(&b);
    cr_assert(strbuf_append_z(&b, "again"));
    cr_assert_not(strbuf_reserve(&b, SIZE_MAX));
    strbuf_close(&b);
    cr_assert_null(b.data);
}

Test(strbuf, prints_all_of_a_text_or_nothing_wherever_its_room_ends) {
    for (size_t bytes_max = 0; bytes_max < 140; bytes_max++) {
        strbuf b = strbuf_make(bytes_max);
        size_t fit = bytes_max / 10;
        for (size_t i = 0; i < fit; i++) {
            cr_assert(strbuf_printf(&b, "%05d%s", (int)i, "abcde"));
            cr_assert_eq(strlen(b.data), b.bytes);
        }
        cr_assert_not(strbuf_printf(&b, "%05d%s", 7, "abcde"));
        cr_assert(b.failed && b.bytes == 10 * fit);
        cr_assert(b.data == NULL || strlen(b.data) == b.bytes);
        strbuf_close(&b);
    }
}

Test(strbuf, consumes_from_the_front_and_stays_terminated) {
    strbuf b = strbuf_make(100000);
    for (int i = 0; i < 1000; i++) {
        cr_assert(strbuf_printf(&b, "%04d,", i));
    }
    cr_assert_eq(b.bytes, 5000);
    strbuf_consume(&b, 4990);
    cr_assert_str_eq(b.data, "0998,0999,");
    strbuf_consume(&b, 100);
    cr_assert(b.bytes == 0 && b.data[0] == '\0');
    strbuf_close(&b);
}
