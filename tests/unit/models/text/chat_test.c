/* chat_test.c -- requests as variables, failures, concurrent renders. */
#define _GNU_SOURCE
#include "models/text/chat.h"

#include <criterion/criterion.h>
#include <pthread.h>
#include <stdlib.h>
#include <time.h>

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

static chat *open_chat(const char *source) {
    chat *c = NULL;
    diag d = {.code = STATUS_OK};
    cr_assert_eq(chat_open(str_from(source), &c, &d), STATUS_OK, "%s", d.text);
    return c;
}

Test(chat, members_of_the_input_are_variables) {
    static const struct {
        const char *source, *input, *expected;
    } rows[] = {
        {"{{ a }} {{ b }} {{ c }} {{ d }}", "{\"a\": 1, \"b\": 2.5, \"c\": \"x\", \"d\": null}",
         "1 2.5 x None"},
        {"{{ a }} {{ b }}", "{\"a\": true, \"b\": [false, {\"k\": []}]}",
         "True [False, {'k': []}]"},
        {"{{ a }} {{ a is integer }}", "{\"a\": 3.0}", "3 True"},
        {"{{ a }} {{ b }}", "{\"a\": -9007199254740993, \"b\": 1e300}", "-9007199254740992 1e+300"},
        {"{{ a }}", "{\"a\": 1, \"a\": 2}", "2"},
        {"{{ d }}", "{\"d\": {\"x\": 1, \"y\": 2, \"x\": 3}}", "{'x': 3, 'y': 2}"},
        {"{{ a }}|{{ a is defined }}", "{}", "|False"},
        {"{{ range }}", "{\"range\": \"mine\"}", "mine"},
        {"{{ m[0].content }}", "{\"m\": [{\"content\": \"\\u00e9\\n\"}]}", "\u00e9\n"},
    };
    for (size_t i = 0; i < COUNT(rows); i++) {
        chat *c = open_chat(rows[i].source);
        strbuf out = strbuf_make(1024);
        diag d = {.code = STATUS_OK};
        status s = chat_render_json(c, str_from(rows[i].input), 0, 1024, &out, &d);
        cr_expect_eq(s, STATUS_OK, "%s: %s", rows[i].input, d.text);
        cr_expect_str_eq(out.data, rows[i].expected, "%s", rows[i].input);
        strbuf_close(&out);
        chat_close(c);
    }
}

Test(chat, bad_input_is_refused) {
    static const struct {
        const char *input, *says;
    } rows[] = {
        {"", "not JSON"},
        {"{\"a\": ", "not JSON"},
        {"[1]", "must be an object"},
        {"\"x\"", "must be an object"},
        {"{\"a\": \"\xff\"}", "not valid UTF-8"},
        {"{\"a\": {\"\xc3\": 1}}", "not valid UTF-8"},
    };
    chat *c = open_chat("{{ a }}");
    for (size_t i = 0; i < COUNT(rows); i++) {
        strbuf out = strbuf_make(64);
        diag d = {.code = STATUS_OK};
        status s = chat_render_json(c, str_from(rows[i].input), 0, 64, &out, &d);
        cr_expect_eq(s, STATUS_INVALID, "%s", rows[i].input);
        cr_expect(strstr(d.text, rows[i].says), "%s says: %s", rows[i].input, d.text);
        cr_expect_eq(out.bytes, 0);
        strbuf_close(&out);
    }
    chat_close(c);
}

Test(chat, output_is_bounded_and_failure_leaves_the_buffer_as_it_was) {
    chat *c = open_chat("{% for i in range(10) %}0123456789{% endfor %}");
    cJSON *input = cJSON_CreateObject();
    strbuf out = strbuf_make(150);
    diag d = {.code = STATUS_OK};
    strbuf_append_z(&out, "kept");
    cr_expect_eq(chat_render(c, input, 0, 99, &out, &d), STATUS_LIMIT);
    cr_expect(strstr(d.text, "longer than 99 bytes"), "%s", d.text);
    cr_expect_str_eq(out.data, "kept");
    cr_expect_eq(chat_render(c, input, 0, 100, &out, &d), STATUS_OK, "%s", d.text);
    cr_expect_eq(out.bytes, 104);
    cr_expect_eq(chat_render(c, input, 0, 100, &out, &d), STATUS_LIMIT, "the buffer's own bound");
    cr_expect_eq(out.bytes, 104);
    cr_expect(strbuf_append_z(&out, "!"), "the buffer can still be used");
    strbuf_close(&out);
    cJSON_Delete(input);
    chat_close(c);
}

Test(chat, strftime_now_tells_the_given_time) {
    setenv("TZ", "UTC", 1);
    tzset();
    chat *c = open_chat("{{ strftime_now('%Y-%m-%d %H:%M:%S.%f%z %% %B') }}");
    cJSON *input = cJSON_CreateObject();
    static const struct {
        int64_t wall_us;
        const char *expected;
    } rows[] = {{0, "1970-01-01 00:00:00.000000 % January"},
                {951868799123456, "2000-02-29 23:59:59.123456 % February"},
                {-1, "1969-12-31 23:59:59.999999 % December"}};
    for (size_t i = 0; i < COUNT(rows); i++) {
        strbuf out = strbuf_make(128);
        diag d = {.code = STATUS_OK};
        cr_expect_eq(chat_render(c, input, rows[i].wall_us, 128, &out, &d), STATUS_OK, "%s",
                     d.text);
        cr_expect_str_eq(out.data, rows[i].expected);
        strbuf_close(&out);
    }
    cJSON_Delete(input);
    chat_close(c);
}

enum { RENDERERS = 4, RENDERS = 50 };

typedef struct {
    const chat *c;
    const cJSON *input;
    int wrong;
} renderer;

static void *render_often(void *argument) {
    renderer *r = argument;
    for (int i = 0; i < RENDERS; i++) {
        strbuf out = strbuf_make(4096);
        diag d;
        status s = chat_render(r->c, r->input, 0, 4096, &out, &d);
        r->wrong += s != STATUS_OK || strcmp(out.data, "aaaa! [1, 2, 9] k=v;1234") != 0;
        strbuf_close(&out);
    }
    return NULL;
}

Test(chat, many_threads_render_one_template) {
    chat *c = open_chat(
        "{% set x = 'a' %}{% for i in range(3) %}{% set x = x ~ 'a' %}{% endfor %}"
        "{{ 'aa' 'aa' ~ '!' }} {% do l.append(9) %}{{ l }} "
        "{% for k, v in d.items() %}{{ k }}={{ v }};{% endfor %}"
        "{% macro m(n) %}{{ n }}{{ m(n + 1) if n < 4 }}{% endmacro %}{{ m(1) }}");
    cJSON *input = cJSON_Parse("{\"l\": [1, 2], \"d\": {\"k\": \"v\"}}");
    renderer renderers[RENDERERS];
    pthread_t threads[RENDERERS];
    for (int i = 0; i < RENDERERS; i++) {
        renderers[i] = (renderer){.c = c, .input = input};
        cr_assert_eq(pthread_create(&threads[i], NULL, render_often, &renderers[i]), 0);
    }
    for (int i = 0; i < RENDERERS; i++) {
        pthread_join(threads[i], NULL);
        cr_expect_eq(renderers[i].wrong, 0);
    }
    cJSON_Delete(input);
    chat_close(c);
}
