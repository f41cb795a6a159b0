/* otlpspan_test.c -- spans as JSON: parsed again, and looked at field by field. */
#include "server/http/otlpspan.h"

#include <cjson/cJSON.h>
#include <criterion/criterion.h>

static cJSON *parse(const otlpspan *spans, size_t count) {
    strbuf out = strbuf_make(1 << 20);
    otlpspan_attribute resource[] = {{"service.name", str_from("we\"ir"), 0}};
    otlpspan_begin(&out, resource, 1, "scope", "1.2");
    for (size_t i = 0; i < count; i++) {
        otlpspan_write(&out, &spans[i]);
    }
    otlpspan_end(&out);
    cr_assert(!out.failed);
    cJSON *json = cJSON_ParseWithLength(out.data, out.bytes);
    cr_assert_not_null(json, "%s", out.data);
    strbuf_close(&out);
    return json;
}

static const cJSON *at(const cJSON *json, const char *key) {
    const cJSON *found = cJSON_GetObjectItemCaseSensitive(json, key);
    cr_assert_not_null(found, "no %s", key);
    return found;
}

static const cJSON *first(const cJSON *json, const char *key) {
    const cJSON *found = cJSON_GetArrayItem(at(json, key), 0);
    cr_assert_not_null(found, "%s is empty", key);
    return found;
}

static const cJSON *scope_of(const cJSON *json) {
    return first(first(json, "resourceSpans"), "scopeSpans");
}

static void same(const cJSON *json, const char *key, const char *text) {
    cr_assert_str_eq(cJSON_GetStringValue(at(json, key)), text, "%s", key);
}

static otlpspan example(void) {
    return (otlpspan){.self = {0x4bf92f3577b34da6u, 0xa3ce929d0e0e4736u, 0xf067aa0ba902b7u, 1},
                      .name = "n",
                      .kind = OTLPSPAN_INTERNAL,
                      .start_ns = 1795417065976072000,
                      .end_ns = INT64_MAX};
}

Test(otlpspan, a_span_has_what_the_protocol_wants) {
    otlpspan s = example();
    otlpspan_attribute list[] = {{"text", str_from("a\nb"), 0}, {"number", {NULL, 0}, INT64_MIN}};
    otlpspan_event event = {"retry", 1795417065976072001, list, 1};
    s.kind = OTLPSPAN_SERVER;
    s.parent = 0xb7;
    s.parent_remote = true;
    s.state = str_from("a=1");
    s.attributes = list;
    s.attributes_count = 2;
    s.events = &event;
    s.events_count = 1;
    s.failed = true;
    s.failure = str_from("why");
    cJSON *json = parse(&s, 1);
    const cJSON *span = first(scope_of(json), "spans");
    same(span, "traceId", "4bf92f3577b34da6a3ce929d0e0e4736");
    same(span, "spanId", "00f067aa0ba902b7");
    same(span, "parentSpanId", "00000000000000b7");
    same(span, "traceState", "a=1");
    same(span, "name", "n");
    same(span, "startTimeUnixNano", "1795417065976072000");
    same(span, "endTimeUnixNano", "9223372036854775807");
    cr_assert_eq(at(span, "kind")->valueint, 2);
    cr_assert_eq(at(span, "flags")->valueint, 0x301);
    same(at(first(span, "attributes"), "value"), "stringValue", "a\nb");
    same(at(cJSON_GetArrayItem(at(span, "attributes"), 1), "value"), "intValue",
         "-9223372036854775808");
    same(first(span, "events"), "name", "retry");
    same(first(span, "events"), "timeUnixNano", "1795417065976072001");
    same(first(first(span, "events"), "attributes"), "key", "text");
    cr_assert_eq(at(at(span, "status"), "code")->valueint, 2);
    same(at(span, "status"), "message", "why");
    cJSON_Delete(json);
}

Test(otlpspan, what_is_not_there_is_left_out) {
    otlpspan s = example();
    cJSON *json = parse(&s, 1);
    const cJSON *span = first(scope_of(json), "spans");
    static const char *const absent[] = {"parentSpanId", "traceState", "events", "status"};
    for (size_t i = 0; i < sizeof absent / sizeof absent[0]; i++) {
        cr_assert_null(cJSON_GetObjectItemCaseSensitive(span, absent[i]), "%s", absent[i]);
    }
    cr_assert_eq(at(span, "flags")->valueint, 0x101);
    cJSON_Delete(json);
}

Test(otlpspan, an_export_says_who_made_its_spans) {
    otlpspan s[3] = {example(), example(), example()};
    cJSON *json = parse(s, 3);
    same(at(first(at(first(json, "resourceSpans"), "resource"), "attributes"), "value"),
         "stringValue", "we\"ir");
    same(at(scope_of(json), "scope"), "name", "scope");
    same(at(scope_of(json), "scope"), "version", "1.2");
    cr_assert_eq(cJSON_GetArraySize(at(scope_of(json), "spans")), 3);
    cJSON_Delete(json);
}
