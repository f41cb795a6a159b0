/* fuzz_message.c -- control messages: bytes that decode encode to the same bytes again, so a
 * message has one form only, and every field is in its range (the encoder checks them too). */
#include "engine/base/mem.h"
#include "engine/core/message.h"
#include "tests/fuzz/fuzz.h"

FUZZ_TARGET(message, FUZZ_ALLOWANCE_BYTES) {
    message_scratch *scratch;
    CHECK_EQ(message_scratch_open(&scratch), STATUS_OK);
    char *copy = fuzz_copy(str_of((const char *)data, bytes));
    message m;
    diag d = {.code = STATUS_OK};
    status s = message_decode(str_of(copy, bytes), scratch, &m, &d);
    if (s == STATUS_OK) {
        strbuf again = strbuf_make(LIMIT_MESSAGE_BYTES);
        CHECK_EQ(message_encode(&m, &again), STATUS_OK);
        CHECK(str_equal(strbuf_str(&again), str_of(copy, bytes)));
        CHECK(message_event_name(&m)[0] != '?');
        strbuf_close(&again);
    } else {
        CHECK(d.code == s && d.text[0] != 0 && str_utf8_valid(str_from(d.text)));
    }
    mem_free(copy);
    message_scratch_close(scratch);
}
