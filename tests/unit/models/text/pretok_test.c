/* pretok_test.c -- where each family cuts text. */
#include "models/text/pretok.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/rng.h"

/* Pieces joined by '|', into out. */
static void cut(const pretok *p, str text, strbuf *out) {
    pretok_run run;
    cr_assert_eq(pretok_start(p, &run, NULL), STATUS_OK);
    pretok_text(&run, text);
    str piece;
    size_t at = 0;
    strbuf_clear(out);
    while (pretok_next(&run, &piece) == PRETOK_PIECE) {
        cr_assert_eq(piece.data, text.data + at, "pieces join up");
        at += piece.bytes;
        cr_assert(strbuf_append_char(out, '|') && strbuf_append_str(out, piece));
    }
    cr_assert_eq(at, text.bytes, "every byte is in a piece");
    pretok_stop(&run);
}

/* What the `tokenizers` package does with the same expressions. */
static const struct {
    const char *pre;
    const char *text;
    const char *pieces;
} rows[] = {
    {"gpt2", "Hello world", "|Hello| world"},
    {"gpt2", "it's we'LL they've", "|it|'s| we|'|LL| they|'ve"},
    {"gpt2", "a  b", "|a| | b"},
    {"gpt2", "a   ", "|a|   "},
    {"gpt2", "a\n\n b", "|a|\n\n| b"},
    {"gpt2", "x1234 5", "|x|1234| 5"},
    {"gpt2", "caf\u00E9!? \u4F60\u597D", "|caf\u00E9|!?| \u4F60\u597D"},
    {"gpt2", "\u180E\u180E", "|\u180E\u180E"},
    {"gpt2", "a\u180Eb", "|a|\u180E|b"},
    {"gpt2", "a\u00A0b", "|a|\u00A0|b"},
    {"gpt2", " end", "| end"},
    {"gpt2", "na\u00EFve a\u0301 b", "|na\u00EFve| a|\u0301| b"},
    {"qwen2", " na\u00EFve@x Z[", "| na\u00EFve|@x| Z|["},
    {"default", "x1234", "|x|1234"},
    {"gpt-2", "x1234", "|x|1234"},
    {"smollm", "x1234 5", "|x|1|2|3|4| |5"},
    {"smollm", "a  1", "|a|  |1"},
    {"smollm", "a  b", "|a| | b"},
    {"smollm", "1's", "|1|'s"},
    {"smollm", "\u0663\u00BD\u2167", "|\u0663|\u00BD|\u2167"},
    {"llama-bpe", "x12345 67", "|x|123|45| |67"},
    {"llama-bpe", "We'Ll I'M", "|We|'Ll| I|'M"},
    {"llama-bpe", "'\u017F", "|'\u017F"},
    {"llama-bpe", ".foo(bar)\n\n x", "|.foo|(bar|)\n\n| x"},
    {"llama-bpe", "a \n \n b", "|a| \n \n| b"},
    {"llama-bpe", "tab\tx", "|tab|\tx"},
    {"llama3", "123456", "|123|456"},
    {"qwen2", "x123", "|x|1|2|3"},
    {"qwen2", "!x", "|!x"},
    {"qwen2", "  \n", "|  \n"},
    /* Letters and numbers that Unicode 14 did not have yet. */
    {"gpt2", "\U00031350\U00031351", "|\U00031350\U00031351"},
    {"gpt2", "a\U0001E4D0", "|a\U0001E4D0"},
    {"smollm", "\U0001E5F1\U0001E5F2", "|\U0001E5F1|\U0001E5F2"},
};

Test(pretok, cuts_as_the_package_does) {
    strbuf out = strbuf_make(4096);
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        pretok *p;
        cr_assert_eq(pretok_open(str_from(rows[i].pre), &p, NULL), STATUS_OK);
        cut(p, str_from(rows[i].text), &out);
        cr_expect(str_equal_z(strbuf_str(&out), rows[i].pieces), "%s '%s': %.*s", rows[i].pre,
                  rows[i].text, (int)out.bytes, out.data);
        pretok_close(p);
    }
    strbuf_close(&out);
}

/* Reads one line of pretok_cuts.txt (see make_pretok_cuts.py): the text into `text`; returns what
 * follows it. */
static const char *read_hex(const char *line, strbuf *text) {
    strbuf_clear(text);
    for (; *line != ' '; line += 2) {
        unsigned int byte;
        cr_assert_eq(sscanf(line, "%2x", &byte), 1);
        cr_assert(strbuf_append_char(text, (char)byte));
    }
    return line + 1;
}

/* Checks the pieces named by the numbers at `at`; returns what follows them. */
static const char *check_cuts(const char *name, size_t name_bytes, const char *at, str text) {
    pretok *p;
    pretok_run run;
    str piece;
    cr_assert_eq(pretok_open(str_of(name, name_bytes), &p, NULL), STATUS_OK);
    cr_assert_eq(pretok_start(p, &run, NULL), STATUS_OK);
    pretok_text(&run, text);
    while (*at >= '0' && *at <= '9') {
        char *end;
        size_t wanted = strtoul(at, &end, 10);
        cr_assert_eq(pretok_next(&run, &piece), PRETOK_PIECE);
        cr_assert_eq(piece.bytes, wanted, "%.*s: a piece of %zu bytes instead of %zu in '%.*s'",
                     (int)name_bytes, name, piece.bytes, wanted, (int)text.bytes, text.data);
        at = end + (*end == ' ');
    }
    cr_assert_eq(pretok_next(&run, &piece), PRETOK_END);
    pretok_stop(&run);
    pretok_close(p);
    return at;
}

Test(pretok, cuts_hundreds_of_texts_as_the_package_did) {
    FILE *f = fopen(WEIR_SOURCE_DIR "/tests/golden/pretok_cuts.txt", "r");
    cr_assert_not_null(f);
    char line[4096];
    strbuf text = strbuf_make(4096);
    int lines = 0;
    for (; fgets(line, sizeof line, f) != NULL; lines++) {
        const char *at = read_hex(line, &text);
        while (*at >= 'a' && *at <= 'z') {
            size_t name_bytes = strcspn(at, " ");
            at = check_cuts(at, name_bytes, at + name_bytes + 1, strbuf_str(&text));
        }
        cr_assert_eq(*at, '\n');
    }
    cr_expect_geq(lines, 500);
    strbuf_close(&text);
    fclose(f);
}

Test(pretok, an_unknown_name_is_refused_with_the_name) {
    static const char *const names[] = {"deepseek-llm", "", "GPT2", "gpt2 ", "llama-spm"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        pretok *p;
        diag d = {0};
        char quoted[64];
        snprintf(quoted, sizeof quoted, "'%s'", names[i]);
        cr_expect_eq(pretok_open(str_from(names[i]), &p, &d), STATUS_UNSUPPORTED);
        cr_expect(strstr(d.text, quoted) != NULL, "%s", d.text);
        cr_expect_str_eq(d.param, "tokenizer.ggml.pre");
    }
}

Test(pretok, any_text_is_cut_without_loss) {
    static const char *const names[] = {"gpt2", "smollm", "llama-bpe", "qwen2"};
    strbuf text = strbuf_make(1 << 16);
    strbuf out = strbuf_make(1 << 20);
    uint64_t seed = 99;
    for (int round = 0; round < 2000; round++) {
        strbuf_clear(&text);
        for (uint64_t n = rng_below(&seed, 80); n > 0; n--) {
            static const uint32_t spans[] = {0x80, 0x3000, 0x3000, 0x110000};
            uint32_t c = (uint32_t)rng_below(&seed, spans[rng_below(&seed, 4)]);
            char utf8[4];
            c = c >= 0xD800 && c <= 0xDFFF ? ' ' : c;
            cr_assert(strbuf_append(&text, utf8, str_utf8_put(c, utf8)));
        }
        pretok *p;
        cr_assert_eq(pretok_open(str_from(names[round % 4]), &p, NULL), STATUS_OK);
        cut(p, strbuf_str(&text), &out);
        pretok_close(p);
    }
    strbuf_close(&text);
    strbuf_close(&out);
}

/* Long blanks make the expressions back off; that must not meet a step limit. */
Test(pretok, megabytes_of_blanks_are_cut) {
    static const char *const names[] = {"gpt2", "smollm", "llama-bpe", "qwen2"};
    enum { BYTES = 12 << 20 };
    char *blanks = malloc(BYTES);
    cr_assert_not_null(blanks);
    memset(blanks, ' ', BYTES);
    blanks[BYTES - 1] = 'x';
    for (size_t i = 0; i < 4; i++) {
        pretok *p;
        pretok_run run;
        str piece;
        cr_assert_eq(pretok_open(str_from(names[i]), &p, NULL), STATUS_OK);
        cr_assert_eq(pretok_start(p, &run, NULL), STATUS_OK);
        pretok_text(&run, str_of(blanks, BYTES));
        cr_expect_eq(pretok_next(&run, &piece), PRETOK_PIECE);
        cr_expect_eq(piece.bytes, BYTES - 2);
        cr_expect_eq(pretok_next(&run, &piece), PRETOK_PIECE);
        cr_expect_eq(piece.bytes, 2);
        cr_expect_eq(pretok_next(&run, &piece), PRETOK_END);
        pretok_stop(&run);
        pretok_close(p);
    }
    free(blanks);
}
