/* otlpspan.c -- ExportTraceServiceRequest, written by hand: the message has a dozen fields. */
#include "server/http/otlpspan.h"

#include <inttypes.h>

#include "server/http/jsonout.h"

enum {
    /* Span.flags: beside the W3C flags, whether the parent is known to be remote, and is. */
    FLAG_HAS_IS_REMOTE = 0x100,
    FLAG_IS_REMOTE = 0x200,
    STATUS_CODE_ERROR = 2
};

static void write_attributes(strbuf *out, const otlpspan_attribute *list, size_t count) {
    jsonout_key(out, "attributes");
    strbuf_append_char(out, '[');
    for (size_t i = 0; i < count; i++) {
        jsonout_comma(out);
        strbuf_append_z(out, "{\"key\":");
        jsonout_string_z(out, list[i].key);
        strbuf_append_z(out, ",\"value\":{");
        if (list[i].text.data) {
            strbuf_append_z(out, "\"stringValue\":");
            jsonout_string(out, list[i].text);
        } else {
            strbuf_printf(out, "\"intValue\":\"%" PRId64 "\"", list[i].number);
        }
        strbuf_append_z(out, "}}");
    }
    strbuf_append_char(out, ']');
}

static void write_events(strbuf *out, const otlpspan_event *list, size_t count) {
    jsonout_key(out, "events");
    strbuf_append_char(out, '[');
    for (size_t i = 0; i < count; i++) {
        jsonout_comma(out);
        strbuf_printf(out, "{\"timeUnixNano\":\"%" PRId64 "\"", list[i].at_ns);
        jsonout_key(out, "name");
        jsonout_string_z(out, list[i].name);
        write_attributes(out, list[i].attributes, list[i].attributes_count);
        strbuf_append_char(out, '}');
    }
    strbuf_append_char(out, ']');
}

static void write_status(strbuf *out, const otlpspan *s) {
    if (s->failed) {
        jsonout_key(out, "status");
        strbuf_printf(out, "{\"code\":%d", STATUS_CODE_ERROR);
        if (s->failure.bytes) {
            jsonout_key(out, "message");
            jsonout_string(out, s->failure);
        }
        strbuf_append_char(out, '}');
    }
}

void otlpspan_write(strbuf *out, const otlpspan *s) {
    unsigned flags =
        s->self.flags | FLAG_HAS_IS_REMOTE | (s->parent_remote ? (unsigned)FLAG_IS_REMOTE : 0);
    jsonout_comma(out);
    strbuf_printf(out,
                  "{\"traceId\":\"%016" PRIx64 "%016" PRIx64 "\",\"spanId\":\"%016" PRIx64 "\"",
                  s->self.trace_high, s->self.trace_low, s->self.span);
    if (s->parent) {
        strbuf_printf(out, ",\"parentSpanId\":\"%016" PRIx64 "\"", s->parent);
    }
    if (s->state.bytes) {
        jsonout_key(out, "traceState");
        jsonout_string(out, s->state);
    }
    strbuf_printf(out, ",\"flags\":%u,\"kind\":%d", flags, (int)s->kind);
    jsonout_key(out, "name");
    jsonout_string_z(out, s->name);
    strbuf_printf(out, ",\"startTimeUnixNano\":\"%" PRId64 "\",\"endTimeUnixNano\":\"%" PRId64 "\"",
                  s->start_ns, s->end_ns);
    write_attributes(out, s->attributes, s->attributes_count);
    if (s->events_count) {
        write_events(out, s->events, s->events_count);
    }
    write_status(out, s);
    strbuf_append_char(out, '}');
}

void otlpspan_begin(strbuf *out, const otlpspan_attribute *resource, size_t resource_count,
                    const char *scope, const char *version) {
    strbuf_append_z(out, "{\"resourceSpans\":[{\"resource\":{");
    write_attributes(out, resource, resource_count);
    strbuf_append_z(out, "},\"scopeSpans\":[{\"scope\":{");
    jsonout_key(out, "name");
    jsonout_string_z(out, scope);
    jsonout_key(out, "version");
    jsonout_string_z(out, version);
    strbuf_append_z(out, "},\"spans\":[");
}

void otlpspan_end(strbuf *out) {
    strbuf_append_z(out, "]}]}]}");
}
