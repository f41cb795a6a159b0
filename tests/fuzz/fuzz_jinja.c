/* fuzz_jinja.c -- a chat template and a conversation, both hostile: a render ends within its
 * limits, gives the same text twice, and leaves nothing behind when it fails. */
#include "engine/base/mem.h"
#include "models/text/chat.h"
#include "models/text/jinja.h"
#include "tests/fuzz/fuzz.h"

enum { OUTPUT_MAX = 1 << 16, WALL_US = 1700000000 };

static const char conversation[] =
    "{\"messages\":[{\"role\":\"system\",\"content\":\"Be  brief.\\n\"},{\"role\":\"user\","
    "\"content\":\"h\\u00e9llo "
    "<b>\",\"n\":[1,2.5,-3,null,true]},{\"role\":\"assistant\",\"content\""
    ":null,\"tool_calls\":[{\"function\":{\"name\":\"f\",\"arguments\":{\"a\":1,\"b\":\"x\"}}}]}],"
    "\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"f\"}}],\"bos_token\":\"<s>\","
    "\"eos_token\":\"</s>\",\"add_generation_prompt\":true}";

static status render(const chat *c, str input, strbuf *out) {
    diag d = {.code = STATUS_OK};
    strbuf_append_z(out, "before");
    status s = chat_render_json(c, input, WALL_US, OUTPUT_MAX, out, &d);
    if (s != STATUS_OK) {
        CHECK(str_equal_z(strbuf_str(out), "before"));
        CHECK(d.code == s && str_utf8_valid(str_from(d.text)));
    }
    CHECK_LE(out->bytes, OUTPUT_MAX + 6);
    return s;
}

/* A template, and after a zero byte its input; without one, a conversation of every type. */
FUZZ_TARGET(jinja,
            FUZZ_ALLOWANCE_BYTES + JINJA_PARSE_MEMORY_BYTES_MAX + 2 * JINJA_MEMORY_BYTES_MAX) {
    str all = str_of((const char *)data, bytes);
    size_t end = str_find(all, str_of("", 1), 0);
    size_t source_bytes = end == SIZE_MAX ? bytes : end;
    char *source = fuzz_copy(str_of(all.data, source_bytes));
    str input =
        end == SIZE_MAX ? str_from(conversation) : str_of(all.data + end + 1, bytes - end - 1);
    char *copy = fuzz_copy(input);
    input.data = copy;
    chat *c = NULL;
    diag d = {.code = STATUS_OK};
    if (chat_open(str_of(source, source_bytes), &c, &d) == STATUS_OK) {
        mem_free(source); /* the template keeps a copy */
        strbuf first = strbuf_make(2 * OUTPUT_MAX);
        strbuf second = strbuf_make(2 * OUTPUT_MAX);
        status s = render(c, input, &first);
        CHECK_EQ(render(c, input, &second), s);
        CHECK(str_equal(strbuf_str(&first), strbuf_str(&second)));
        strbuf_close(&first);
        strbuf_close(&second);
        chat_close(c);
    } else {
        CHECK(d.text[0] != 0 && str_utf8_valid(str_from(d.text)));
        mem_free(source);
    }
    mem_free(copy);
}
