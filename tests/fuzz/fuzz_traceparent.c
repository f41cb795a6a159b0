/* fuzz_traceparent.c -- what a client says of its trace, and the JSON that becomes of it. */
#include <cjson/cJSON.h>

#include "server/http/otlpspan.h"
#include "tests/fuzz/fuzz.h"

static void check_span(const traceparent *t, str state) {
    otlpspan_attribute text = {"text", state, 0};
    otlpspan span = {.self = *t,
                     .state = state,
                     .name = "n",
                     .kind = OTLPSPAN_SERVER,
                     .attributes = &text,
                     .attributes_count = 1};
    strbuf out = strbuf_make(1 << 20);
    otlpspan_begin(&out, &text, 1, "s", "1");
    otlpspan_write(&out, &span);
    otlpspan_end(&out);
    CHECK(!out.failed);
    cJSON *json = cJSON_ParseWithLength(out.data, out.bytes);
    CHECK(json != NULL);
    cJSON_Delete(json);
    strbuf_close(&out);
}

FUZZ_TARGET(traceparent, FUZZ_ALLOWANCE_BYTES) {
    fuzz_input in = {data, bytes, 0};
    size_t parent_bytes = fuzz_below(&in, 100);
    str header = fuzz_take(&in, parent_bytes), state = fuzz_take(&in, bytes);
    char text[TRACEPARENT_TEXT_BYTES];
    traceparent t, again;
    if (!traceparent_read(header, &t)) {
        return;
    }
    CHECK(t.span != 0 && (t.trace_high | t.trace_low) != 0);
    traceparent_write(&t, text);
    CHECK(traceparent_read(str_from(text), &again));
    CHECK(again.trace_high == t.trace_high && again.trace_low == t.trace_low &&
          again.span == t.span && again.flags == t.flags);
    /* Of version 00 the ids are what came, byte for byte. */
    CHECK(header.data[0] != '0' || header.data[1] != '0' || memcmp(text, header.data, 52) == 0);
    CHECK(!traceparent_state_fits(state) || str_utf8_valid(state));
    check_span(&t, state);
}
