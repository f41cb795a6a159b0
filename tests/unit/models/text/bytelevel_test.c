/* bytelevel_test.c -- the byte alphabet: known letters, and there and back for every byte. */
#include "models/text/bytelevel.h"

#include <criterion/criterion.h>

/* Values known from published GPT-2 vocabularies. */
Test(bytelevel, known_bytes_have_their_published_letters) {
    static const struct {
        uint8_t byte;
        const char *letter;
    } rows[] = {{'A', "A"},       {'!', "!"},       {'~', "~"},       {' ', "\u0120"},
                {'\n', "\u010A"}, {'\t', "\u0109"}, {0, "\u0100"},    {0x7F, "\u0121"},
                {0x80, "\u0122"}, {0xA0, "\u0142"}, {0xA1, "\u00A1"}, {0xAC, "\u00AC"},
                {0xAD, "\u0143"}, {0xAE, "\u00AE"}, {0xFF, "\u00FF"}, {0x1F, "\u011F"}};
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        char out[2];
        size_t bytes = bytelevel_put(rows[i].byte, out);
        cr_expect(str_equal_z(str_of(out, bytes), rows[i].letter), "byte %d", rows[i].byte);
    }
}

Test(bytelevel, every_byte_comes_back) {
    char text[512];
    size_t bytes = 0;
    for (int b = 0; b < 256; b++) {
        bytes += bytelevel_put((uint8_t)b, text + bytes);
    }
    char back[512];
    size_t count;
    cr_assert(bytelevel_decode(str_of(text, bytes), back, &count));
    cr_assert_eq(count, 256);
    for (int b = 0; b < 256; b++) {
        cr_expect_eq((uint8_t)back[b], b);
    }
}

Test(bytelevel, letters_outside_the_alphabet_are_refused) {
    static const char *const texts[] = {" ",      "a b",  "\n",   "\u00AD",   "\u0144",
                                        "\u20AC", "\xC4", "\xFF", "<\u3000>", "\u00A0"};
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        char out[16];
        size_t count;
        cr_expect_not(bytelevel_decode(str_from(texts[i]), out, &count), "row %zu", i);
    }
}
