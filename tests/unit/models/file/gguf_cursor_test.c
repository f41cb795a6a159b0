/* gguf_cursor_test.c -- bounded reads: never past the end, errors with the byte and the noun. */
#include "models/file/gguf_cursor.h"

#include <criterion/criterion.h>

static const uint8_t bytes[] = {1, 2, 3, 4, 5, 0, 0, 0, 0, 0, 0, 0, 'h', 'e', 'l', 'l', 'o'};

Test(gguf_cursor, reads_little_endian_from_any_alignment) {
    diag d = {0};
    gguf_cursor c = {bytes, sizeof bytes, 0, &d};
    uint32_t v;
    cr_assert_eq(gguf_cursor_take_u32(&c, "a number", &v), STATUS_OK);
    cr_expect_eq(v, 0x04030201u);
    cr_expect_eq(c.at, 4);
    str s;
    cr_assert_eq(gguf_cursor_take_str(&c, "a word", 5, &s), STATUS_OK);
    cr_expect(str_equal_z(s, "hello"));
    cr_expect_eq(gguf_cursor_u32(bytes + 1), 0x05040302u);
    cr_expect_eq(c.at, sizeof bytes);
}

Test(gguf_cursor, stops_at_the_end_and_says_where) {
    diag d = {0};
    gguf_cursor c = {bytes, sizeof bytes, 14, &d};
    uint32_t v;
    cr_expect_eq(gguf_cursor_take_u32(&c, "a number", &v), STATUS_CORRUPT);
    cr_expect_str_eq(d.text, "byte 14: the file ends inside a number (4 bytes needed, 3 left)");
    cr_expect_eq(c.at, 14);
    uint64_t at;
    cr_expect_eq(gguf_cursor_take(&c, UINT64_MAX, "a lot", &at), STATUS_CORRUPT);
    cr_expect_eq(gguf_cursor_take(&c, 3, "the rest", &at), STATUS_OK);
    cr_expect_eq(gguf_cursor_take(&c, 0, "nothing", &at), STATUS_OK);
    cr_expect_eq(gguf_cursor_take(&c, 1, "one more", &at), STATUS_CORRUPT);
}

Test(gguf_cursor, a_count_must_be_allowed_and_must_fit_the_rest) {
    static const struct {
        uint64_t count;
        status expected;
    } rows[] = {{0, STATUS_OK},
                {5, STATUS_OK},
                {6, STATUS_CORRUPT},
                {10, STATUS_CORRUPT},
                {11, STATUS_LIMIT},
                {UINT64_MAX, STATUS_LIMIT},
                {1ull << 63, STATUS_LIMIT}};
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        gguf_cursor c = {bytes, sizeof bytes, 2, NULL}; /* 15 bytes left: five of three */
        cr_expect_eq(gguf_cursor_count(&c, 2, "things", rows[i].count, 10, 3), rows[i].expected);
    }
}
