/* nfc_test.c -- normalization form C: what UAX #15 says, and how long it takes. Thousands of
 * strings are compared with the `tokenizers` package in tests/golden/check_hf_tokenizer.py. */
#include "models/text/nfc.h"

#include <criterion/criterion.h>

static void becomes(const char *text, const char *want) {
    strbuf out = strbuf_make(NFC_GROWTH * strlen(text));
    cr_assert(nfc_write(str_from(text), &out), "%s", text);
    cr_assert(str_equal_z(strbuf_str(&out), want), "%s became %.*s, not %s", text, (int)out.bytes,
              out.data, want);
    strbuf_close(&out);
}

Test(nfc, characters_and_marks_are_put_together) {
    static const struct {
        const char *text, *want;
    } rows[] = {
        {"", ""},
        {"plain", "plain"},
        {"e\u0301", "\u00e9"},
        {"\u00e9", "\u00e9"},
        {"\u212b", "\u00c5"},              /* the Angstrom sign is a letter */
        {"\u2126", "\u03a9"},              /* so is the Ohm sign */
        {"D\u0323\u0307", "\u1e0c\u0307"}, /* UAX #15, figure 5 */
        {"D\u0307\u0323", "\u1e0c\u0307"}, /* the same marks, the other way about */
        {"\u1e0a\u0323", "\u1e0c\u0307"},
        {"a\u0301\u0301", "\u00e1\u0301"},  /* the second is blocked */
        {"q\u0307\u0323", "q\u0323\u0307"}, /* sorted, and nothing to put together */
        {"\u0301e", "\u0301e"},             /* nothing before it */
        {"\u0958", "\u0915\u093c"},         /* excluded from composition */
        {"\u0344", "\u0308\u0301"},
        {"\uf900", "\u8c48"},
        {"\u1100\u1161\u11a8", "\uac01"},
        {"\uac00\u11a8", "\uac01"},
        {"\u1100\u1161\u1161", "\uac00\u1161"},
        {"\uac01", "\uac01"},
        {"\u1ea5", "\u1ea5"}, /* apart in three, and back */
        {"\U0001d15e", "\U0001d157\U0001d165"},
        {"\U0001d160", "\U0001d158\U0001d165\U0001d16e"}, /* three times the bytes */
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        becomes(rows[i].text, rows[i].want);
    }
}

Test(nfc, only_what_cannot_change_is_plain) {
    cr_assert(nfc_is_plain(str_from("plain, \u00e9\u02ff")));
    cr_assert(nfc_is_plain(str_from("")));
    cr_assert(!nfc_is_plain(str_from("e\u0301")));
    cr_assert(!nfc_is_plain(str_from("\u212b")));
}

/* A sort of marks that took quadratic time would not end here. */
Test(nfc, long_runs_of_marks_take_no_long_time) {
    enum { MARKS = 1 << 19 };
    strbuf text = strbuf_make(8 * MARKS), out = strbuf_make(8 * MARKS * NFC_GROWTH);
    strbuf_append_z(&text, "q");
    for (int i = 0; i < MARKS; i++) {
        strbuf_append_z(&text, i % 2 ? "\u0323" : "\u0307");
    }
    cr_assert(nfc_write(strbuf_str(&text), &out));
    cr_assert_eq(out.bytes, text.bytes);
    cr_assert(str_starts_with(strbuf_str(&out), str_from("q\u0323\u0323")));
    cr_assert(str_ends_with(strbuf_str(&out), str_from("\u0307\u0307")));
    strbuf_close(&text);
    strbuf_close(&out);
}
