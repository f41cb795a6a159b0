/* jsonfile_test.c -- JSON that comes with a model: limits, kinds and ranges. */
#define _GNU_SOURCE
#include "models/file/jsonfile.h"

#include <criterion/criterion.h>

#include "engine/base/str.h"

static status parse(str text, diag *d) {
    cJSON *tree;
    status s = jsonfile_parse(text, "f", &tree, d);
    cr_assert((s == STATUS_OK) == (tree != NULL));
    jsonfile_close(tree);
    return s;
}

Test(jsonfile, depth_is_limited_where_it_nests_and_not_in_texts) {
    strbuf deep = strbuf_make(1 << 16), text = strbuf_make(1 << 16);
    strbuf_append_z(&deep, "{\"a\":");
    strbuf_append_z(&text, "{\"a\":\"\\\"");
    for (int i = 0; i < JSONFILE_DEPTH_MAX - 1; i++) {
        strbuf_append_char(&deep, '[');
    }
    for (int i = 0; i < 1000; i++) {
        strbuf_append_char(&text, '[');
    }
    strbuf_append_z(&text, "\"}");
    diag d = {0};
    cr_assert_eq(parse(strbuf_str(&text), &d), STATUS_OK, "%s", d.text);
    size_t open = deep.bytes;
    for (int i = 0; i < JSONFILE_DEPTH_MAX - 1; i++) {
        strbuf_append_char(&deep, ']');
    }
    strbuf_append_char(&deep, '}');
    cr_assert_eq(parse(strbuf_str(&deep), &d), STATUS_OK, "%s", d.text);
    deep.data[open] = '[';
    cr_assert_eq(parse(strbuf_str(&deep), &d), STATUS_LIMIT);
    cr_assert(strstr(d.text, "more than 64 levels") != NULL, "%s", d.text);
    strbuf_close(&deep);
    strbuf_close(&text);
}

Test(jsonfile, values_are_limited) {
    strbuf many = strbuf_make(64 << 20);
    strbuf_append_z(&many, "{\"a\":[0");
    for (int i = 0; i < JSONFILE_VALUES_MAX; i++) {
        strbuf_append(&many, ",0", 2);
    }
    strbuf_append_z(&many, "]}");
    cr_assert(!many.failed);
    diag d = {0};
    cr_assert_eq(parse(strbuf_str(&many), &d), STATUS_LIMIT);
    cr_assert(strstr(d.text, "more than 8388608 values") != NULL, "%s", d.text);
    strbuf_close(&many);
}

Test(jsonfile, what_is_no_object_is_refused_at_its_byte) {
    static const struct {
        const char *text, *says;
    } rows[] = {{"", "not JSON at byte 0"},          {"{", "not JSON at byte"},
                {"{} x", "not JSON at byte 3"},      {"{\"a\":\"", "not JSON"},
                {"{\"a\":\"\\ud800\"}", "not JSON"}, {"7", "must be a JSON object"},
                {"\"{}\"", "must be a JSON object"}};
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        diag d = {0};
        cr_assert_eq(parse(str_from(rows[i].text), &d), STATUS_CORRUPT, "%s", rows[i].text);
        cr_assert(strstr(d.text, rows[i].says) != NULL, "\"%s\" lacks \"%s\"", d.text,
                  rows[i].says);
    }
    diag d = {0};
    cr_assert_eq(parse(str_from(" {} \n\t "), &d), STATUS_OK, "%s", d.text);
}

Test(jsonfile, members_have_the_kind_and_range_that_is_asked_for) {
    cJSON *o;
    diag d = {0};
    cr_assert_eq(jsonfile_parse(str_from("{\"i\":-7,\"r\":1.5,\"b\":true,\"t\":\"x\",\"n\":null,"
                                         "\"big\":9007199254740993e3,\"I\":1}"),
                                "f", &o, &d),
                 STATUS_OK);
    int64_t i;
    double r;
    bool b;
    const char *t;
    cr_assert_eq(jsonfile_integer(o, "f", "i", -7, 0, &i, &d), STATUS_OK);
    cr_assert_eq(i, -7);
    cr_assert_eq(jsonfile_integer(o, "f", "i", -6, 0, &i, &d), STATUS_CORRUPT);
    cr_assert_eq(jsonfile_integer(o, "f", "r", 0, 9, &i, &d), STATUS_CORRUPT);
    cr_assert_eq(jsonfile_integer(o, "f", "big", 0, INT64_MAX, &i, &d), STATUS_CORRUPT);
    cr_assert_eq(jsonfile_integer(o, "f", "n", 0, 9, &i, &d), STATUS_NOTFOUND);
    cr_assert_str_eq(d.text, "f: there is no \"n\"");
    cr_assert_eq(jsonfile_real(o, "f", "r", 1, 2, &r, &d), STATUS_OK);
    cr_assert_eq(r, 1.5);
    cr_assert_eq(jsonfile_real(o, "f", "r", 2, 3, &r, &d), STATUS_CORRUPT);
    cr_assert_eq(jsonfile_flag(o, "f", "b", &b, &d), STATUS_OK);
    cr_assert(b);
    cr_assert_eq(jsonfile_flag(o, "f", "i", &b, &d), STATUS_CORRUPT);
    cr_assert_eq(jsonfile_text(o, "f", "t", &t, &d), STATUS_OK);
    cr_assert_str_eq(t, "x");
    cr_assert_eq(jsonfile_text(o, "f", "b", &t, &d), STATUS_CORRUPT);
    cr_assert_null(jsonfile_member(o, "T"), "names differ by case");
    cr_assert_null(jsonfile_member(NULL, "t"));
    jsonfile_close(o);
}
