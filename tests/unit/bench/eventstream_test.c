/* eventstream_test.c -- event streams cut at every byte. */
#include "bench/eventstream.h"

#include <criterion/criterion.h>
#include <string.h>

static void collect(void *self, str data) {
    strbuf_append_char(self, '<');
    strbuf_append_str(self, data);
    strbuf_append_char(self, '>');
}

Test(eventstream, gives_the_data_of_each_event_cut_anywhere) {
    static const struct {
        const char *text;
        const char *events;
    } rows[] = {
        {"data: a\n\n", "<a>"},
        {"data:a\n\ndata: b\n\n", "<a><b>"},
        {"data:  a\n\n", "< a>"},
        {"data: a\r\n\r\ndata: b\r\n\r\n", "<a><b>"},
        {"data: a\r\rdata: b\r\r", "<a><b>"},
        {"data: a\ndata: b\n\n", "<a\nb>"},
        {"data\n\n", "<>"},
        {"data:\n\n", "<>"},
        {": comment\n\ndata: a\n\n", "<a>"},
        {"event: x\nid: 1\nretry: 5\ndata: a\n\n", "<a>"},
        {"datax: a\n\n", ""},
        {"\n\n\n", ""},
        {"data: not finished\n", ""},
        {"data: {\"a\":\"b: c\"}\n\ndata: [DONE]\n\n", "<{\"a\":\"b: c\"}><[DONE]>"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        size_t n = strlen(rows[i].text);
        for (size_t cut = 0; cut <= n; cut++) {
            strbuf got = strbuf_make(1000);
            strbuf_append(&got, "", 0);
            eventstream e;
            eventstream_start(&e, &got, collect);
            eventstream_feed(&e, str_of(rows[i].text, cut));
            eventstream_feed(&e, str_of(rows[i].text + cut, n - cut));
            cr_assert(str_equal_z(strbuf_str(&got), rows[i].events), "row %zu cut at %zu: %.*s", i,
                      cut, (int)got.bytes, got.data);
            cr_assert_not(e.failed);
            eventstream_close(&e);
            strbuf_close(&got);
        }
    }
}
