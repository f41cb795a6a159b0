/* eventstream.c -- server-sent events, parsed from bytes as they come. */
#include "bench/eventstream.h"

void eventstream_start(eventstream *e, void *self, void (*event)(void *self, str data)) {
    *e = (eventstream){.self = self,
                       .event = event,
                       .line = strbuf_make(EVENTSTREAM_BYTES),
                       .data = strbuf_make(EVENTSTREAM_BYTES)};
}

void eventstream_close(eventstream *e) {
    strbuf_close(&e->line);
    strbuf_close(&e->data);
}

/* A line without its end. An empty one ends the event; comments and other fields pass by. */
static void eventstream_line(eventstream *e) {
    str line = strbuf_str(&e->line);
    static const char field[] = "data";
    size_t n = sizeof field - 1;
    if (line.bytes == 0) {
        if (e->has_data) {
            e->event(e->self, strbuf_str(&e->data));
        }
        e->has_data = false;
        strbuf_clear(&e->data);
    } else if (str_starts_with(line, str_from(field)) && (line.bytes == n || line.data[n] == ':')) {
        size_t from = line.bytes > n ? n + 1 : n;
        from += from < line.bytes && line.data[from] == ' ';
        if (e->has_data) {
            strbuf_append_char(&e->data, '\n');
        }
        strbuf_append(&e->data, line.data + from, line.bytes - from);
        e->has_data = true;
    }
    e->failed = e->failed || e->line.failed || e->data.failed;
    strbuf_clear(&e->line);
}

void eventstream_feed(eventstream *e, str bytes) {
    size_t from = 0;
    for (size_t i = 0; i < bytes.bytes; i++) {
        char c = bytes.data[i];
        bool skip = c == '\n' && e->after_cr;
        e->after_cr = c == '\r';
        if (skip) {
            from = i + 1;
        } else if (c == '\n' || c == '\r') {
            strbuf_append(&e->line, bytes.data + from, i - from);
            eventstream_line(e);
            from = i + 1;
        }
    }
    strbuf_append(&e->line, bytes.data + from, bytes.bytes - from);
}
