/* jsonin_test.c -- the strict scan against the grammar's cases and against a lenient parser. */
#include "server/http/jsonin.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>

#include "engine/base/limits.h"
#include "engine/base/rng.h"

#define ROW(good, text) \
    { good, text, sizeof(text) - 1 }

static const struct {
    bool good;
    const char *text;
    size_t bytes;
} rows[] = {
    /* RFC 8259 */
    ROW(true, "0"),
    ROW(true, "-0"),
    ROW(true, "1"),
    ROW(true, "-1.5e+10"),
    ROW(true, "1E-2"),
    ROW(true, "1.0"),
    ROW(true, "[]"),
    ROW(true, "{}"),
    ROW(true, "[ ]"),
    ROW(true, "{ }"),
    ROW(true, "\"\""),
    ROW(true, "true"),
    ROW(true, "false"),
    ROW(true, "null"),
    ROW(true, " \t\r\n[1 , 2]\n"),
    ROW(true, "{\"a\":{\"b\":[null]}}"),
    ROW(true, "\"\\\"\\\\\\/\\b\\f\\n\\r\\t\\u00Ff\""),
    ROW(true, "\"\\ud83d\\ude00\""),
    ROW(true, "\"\x7f\""),
    ROW(true, "\"\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80\""),
    ROW(true, "\"\xef\xbf\xbf\""),
    ROW(true, "{\"\":1}"),
    ROW(true, "1e308"),
    ROW(true, "1e-999"),
    ROW(true, "123456789012345678901234567890"),
    /* Numbers */
    ROW(false, "01"),
    ROW(false, "-"),
    ROW(false, "-01"),
    ROW(false, "+1"),
    ROW(false, "1."),
    ROW(false, ".1"),
    ROW(false, "1e"),
    ROW(false, "1e+"),
    ROW(false, "1.e1"),
    ROW(false, "0x1"),
    ROW(false, "1-2"),
    ROW(false, "1 2"),
    ROW(false, "1a"),
    ROW(false, "NaN"),
    ROW(false, "Infinity"),
    ROW(false, "-Infinity"),
    ROW(false, "1e309"),
    ROW(false, "-1e309"),
    ROW(false, "1_000"),
    ROW(false, "\xef\xbc\x91"),
    /* Words and structure */
    ROW(false, ""),
    ROW(false, " "),
    ROW(false, "tru"),
    ROW(false, "True"),
    ROW(false, "nulll"),
    ROW(false, "["),
    ROW(false, "]"),
    ROW(false, "[1"),
    ROW(false, "[1,"),
    ROW(false, "[1,]"),
    ROW(false, "[,1]"),
    ROW(false, "[1 1]"),
    ROW(false, "[1:1]"),
    ROW(false, "{"),
    ROW(false, "}"),
    ROW(false, "{\"a\""),
    ROW(false, "{\"a\":"),
    ROW(false, "{\"a\":1"),
    ROW(false, "{\"a\":1,}"),
    ROW(false, "{,}"),
    ROW(false, "{a:1}"),
    ROW(false, "{1:1}"),
    ROW(false, "{\"a\" 1}"),
    ROW(false, "{\"a\"::1}"),
    ROW(false, "{\"a\":1 \"b\":2}"),
    ROW(false, "{\"a\":1]"),
    ROW(false, "[1}"),
    ROW(false, "[]]"),
    ROW(false, "{}{}"),
    ROW(false, "[]x"),
    ROW(false, "//\n1"),
    ROW(false, "/**/1"),
    ROW(false, "1;"),
    ROW(false, "\0"),
    ROW(false, "1\0"),
    ROW(false, "[1]\0"),
    ROW(false, "\xef\xbb\xbf[]"),
    ROW(false, "\v1"),
    ROW(false,
        "\xc2\xa0"
        "1"),
    /* Strings */
    ROW(false, "\""),
    ROW(false, "\"a"),
    ROW(false, "'a'"),
    ROW(false, "\"\\\""),
    ROW(false, "\"\\a\""),
    ROW(false, "\"\\x41\""),
    ROW(false, "\"\\u\""),
    ROW(false, "\"\\u12\""),
    ROW(false, "\"\\u12g4\""),
    ROW(false, "\"\\U0041\""),
    ROW(false, "\"\n\""),
    ROW(false, "\"\t\""),
    ROW(false, "\"\0\""),
    ROW(false, "\"\x1f\""),
    ROW(false, "\"\x80\""),
    ROW(false, "\"\xc3\""),
    ROW(false, "\"\xc0\xaf\""),
    ROW(false, "\"\xe0\x80\xaf\""),
    ROW(false, "\"\xed\xa0\x80\""),
    ROW(false, "\"\xf5\x80\x80\x80\""),
    ROW(false, "\"\xff\""),
    ROW(false, "\"\\u0000\""),
    ROW(false, "\"\\ud800\""),
    ROW(false, "\"\\udfff\""),
    ROW(false, "\"\\ud800\\ud800\""),
    ROW(false, "\"\\ud800x\""),
    ROW(false, "\"\\ud83d\\u\""),
    ROW(false, "\"\\ud83d"),
};

Test(jsonin, accepts_json_and_nothing_else) {
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        diag d = {.code = STATUS_OK};
        status s = jsonin_check(str_of(rows[i].text, rows[i].bytes), &d);
        cr_expect_eq(s == STATUS_OK, rows[i].good, "%s: %s", rows[i].text, d.text);
    }
}

/* What the scan accepts, cJSON must be able to build: nothing falls between the two. */
Test(jsonin, accepts_no_mutation_that_another_parser_refuses) {
    static const char *const seeds[] = {
        "{\"prompt\":[[1,2],[3]],\"stop\":[\"a\\n\",\"\\u00e9\"],\"t\":-1.5e+3,\"b\":true,\"n\":"
        "null}",
        "{\"messages\":[{\"role\":\"user\",\"content\":\"h\xc3\xa9 \\ud83d\\ude00\"}],\"x\":{}}",
    };
    static const char odd[] = "\"\\{}[]:,0-+.eEtfnu\x01\x80\xc3 \n";
    uint64_t random = 11;
    int accepted = 0;
    for (int round = 0; round < 200000; round++) {
        char text[256];
        const char *seed = seeds[rng_below(&random, 2)];
        size_t n = strlen(seed);
        memcpy(text, seed, n);
        for (uint64_t k = 1 + rng_below(&random, 4); k > 0; k--) {
            size_t at = rng_below(&random, n);
            if (rng_below(&random, 2) == 0) {
                text[at] = odd[rng_below(&random, sizeof odd - 1)];
            } else {
                memmove(text + at, text + at + 1, n - at - 1);
                n--;
            }
        }
        diag d;
        if (jsonin_check(str_of(text, n), &d) == STATUS_OK) {
            accepted++;
            cJSON *root = cJSON_ParseWithLength(text, n);
            cr_assert(root != NULL, "%.*s", (int)n, text);
            cJSON_Delete(root);
        }
        static const char *const bulk[] = {"prompt"};
        jsonin j;
        if (jsonin_open(str_of(text, n), bulk, 1, &j, &d) == STATUS_OK) {
            jsonin_close(&j);
        }
    }
    cr_assert_gt(accepted, 1000);
}

Test(jsonin, keeps_the_raw_text_of_members) {
    static const char body[] =
        "{ \"a\" : 12345678901234567890 , \"b\" : [ 1 , [ 2 ] ] , \"c\":{} }";
    static const char *const bulk[] = {"b"};
    jsonin j;
    diag d;
    cr_assert_eq(jsonin_open(str_from(body), bulk, 1, &j, &d), STATUS_OK);
    cr_assert(str_equal_z(jsonin_raw(&j, "a")->value, "12345678901234567890"));
    cr_assert(str_equal_z(jsonin_raw(&j, "b")->value, "[ 1 , [ 2 ] ]"));
    cr_assert(jsonin_raw(&j, "b")->bulk);
    cr_assert(cJSON_IsNumber(jsonin_get(j.root, "b")), "a bulk array is not built");
    cr_assert(str_equal_z(jsonin_raw(&j, "c")->value, "{}"));
    cr_assert_null(jsonin_raw(&j, "d"));
    jsonin_close(&j);
}

Test(jsonin, refuses_too_many_members) {
    for (int count = JSONIN_MEMBERS; count <= JSONIN_MEMBERS + 1; count++) {
        strbuf body = strbuf_make(1 << 20);
        for (int i = 0; i < count; i++) {
            strbuf_printf(&body, "%s\"m%d\":1", i ? "," : "{", i);
        }
        strbuf_append_char(&body, '}');
        jsonin j;
        diag d;
        status s = jsonin_open(strbuf_str(&body), NULL, 0, &j, &d);
        cr_assert_eq(s, count > JSONIN_MEMBERS ? STATUS_INVALID : STATUS_OK);
        if (s == STATUS_OK) {
            jsonin_close(&j);
        }
        strbuf_close(&body);
    }
}
