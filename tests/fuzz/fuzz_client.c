/* fuzz_client.c -- responses of a server to the load generator: verdict, body and events do not
 * depend on how the bytes are cut. */
#include "bench/eventstream.h"
#include "bench/httpclient.h"
#include "engine/base/mem.h"
#include "engine/base/rng.h"
#include "tests/fuzz/fuzz.h"

typedef struct {
    httpclient http;
    eventstream events;
    strbuf body;
    strbuf log; /* each event with its length before it */
    uint32_t count;
    httpclient_progress progress;
} reading;

static void on_event(void *self, str data) {
    reading *r = self;
    r->count++;
    strbuf_printf(&r->log, "%zu:", data.bytes);
    strbuf_append_str(&r->log, data);
}

static void on_body(void *self, str bytes) {
    reading *r = self;
    strbuf_append_str(&r->body, bytes);
    eventstream_feed(&r->events, bytes);
}

/* All of `s` in pieces; `state` 0: in one. */
static void read_all(reading *r, str s, uint64_t state) {
    *r = (reading){.body = strbuf_make(1 << 20), .log = strbuf_make(1 << 22)};
    httpclient_start(&r->http, r, on_body);
    eventstream_start(&r->events, r, on_event);
    for (size_t at = 0; at < s.bytes && r->progress != HTTPCLIENT_FAILED;) {
        size_t left = s.bytes - at;
        size_t n = state == 0 ? left : 1 + (size_t)rng_below(&state, left < 8 ? left : 8);
        char *piece = fuzz_copy(str_of(s.data + at, n));
        r->progress = httpclient_feed(&r->http, piece, n);
        mem_free(piece);
        at += n;
    }
    if (r->progress == HTTPCLIENT_MORE) {
        r->progress = httpclient_feed_end(&r->http);
    }
}

static void end(reading *r) {
    eventstream_close(&r->events);
    strbuf_close(&r->body);
    strbuf_close(&r->log);
}

FUZZ_TARGET(client, FUZZ_ALLOWANCE_BYTES) {
    str s = str_of((const char *)data, bytes);
    reading whole;
    reading cut;
    read_all(&whole, s, 0);
    for (uint64_t seed = 1; seed <= 2; seed++) {
        read_all(&cut, s, seed);
        CHECK_EQ(cut.progress, whole.progress);
        CHECK_EQ(cut.http.code, whole.http.code);
        if (whole.progress == HTTPCLIENT_DONE) {
            CHECK(whole.http.code >= 200);
            CHECK_EQ(cut.http.keep, whole.http.keep);
            CHECK(str_equal(strbuf_str(&cut.body), strbuf_str(&whole.body)));
            CHECK(cut.count == whole.count && cut.events.failed == whole.events.failed);
            CHECK(str_equal(strbuf_str(&cut.log), strbuf_str(&whole.log)));
        }
        end(&cut);
    }
    end(&whole);
}
