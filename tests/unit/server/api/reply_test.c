/* reply_test.c -- answers in the shapes of the OpenAI API, read back by another JSON parser. */
#include "server/api/reply.h"
#include "server/http/refusal.h"

#include <cjson/cJSON.h>
#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/mem.h"
#include "engine/base/rng.h"
#include "server/http/jsonin.h"
#include "server/http/jsonout.h"

/* Token 3 and 4 are the halves of an e with an acute accent. */
static str fake_piece(const void *self, int32_t token) {
    (void)self;
    static const char *const pieces[] = {"Hi", " there", "\n\"", "\xC3", "\xA9", "<|im_end|>"};
    return str_from(token >= 0 && token < 6 ? pieces[token] : "?");
}

static const reply_pieces pieces = {NULL, fake_piece};

/* The text is JSON by our own strict reader, and by cJSON it is what is expected. */
static void assert_json(const strbuf *got, const char *expected) {
    diag d;
    cr_assert_not(got->failed);
    cr_assert_eq(jsonin_check(strbuf_str(got), &d), STATUS_OK, "%s: %s", d.text, got->data);
    cJSON *a = cJSON_Parse(got->data);
    cJSON *b = cJSON_Parse(expected);
    cr_assert(b != NULL, "the expectation is no JSON: %s", expected);
    cr_expect(cJSON_Compare(a, b, 1), "got\n  %s\nexpected\n  %s", got->data, expected);
    cJSON_Delete(a);
    cJSON_Delete(b);
}

/* The same for one event of a stream. */
static void assert_event(strbuf *got, const char *expected) {
    cr_assert(str_starts_with(strbuf_str(got), str_from("data: ")));
    cr_assert(str_ends_with(strbuf_str(got), str_from("}\n\n")));
    strbuf json = strbuf_make(1 << 20);
    strbuf_append(&json, got->data + 6, got->bytes - 8);
    cr_assert(memchr(json.data, '\n', json.bytes) == NULL, "one line an event");
    assert_json(&json, expected);
    strbuf_close(&json);
    strbuf_clear(got);
}

static request_token token(int32_t id, float logprob, int32_t top, int32_t other, float lower) {
    request_token t = {.token = id, .logprob = logprob, .top_count = top};
    t.top[0] = (request_logprob){id, logprob};
    t.top[1] = (request_logprob){other, lower};
    return t;
}

#define HEAD(object) \
    "{\"id\":\"x-1\",\"object\":\"" object "\",\"created\":5,\"model\":\"m\",\"choices\":["

Test(reply, whole_with_what_a_router_takes_to_the_decode_server) {
    openai_request q = {.kind = OPENAI_COMPLETIONS, .model = str_from("m"), .kv_kept = true};
    reply r = {&q, "x-1", 5, pieces};
    reply_part part = {.text = str_from("a"), .finish = REPLY_LENGTH, .stop_token = -1};
    reply_usage usage = {7, 1, 0};
    strbuf out = strbuf_make(1 << 20);
    reply_write_whole(&out, &r, &part, 1, &usage);
    assert_json(&out,
                HEAD("text_completion")
                "{\"index\":0,\"text\":\"a\",\"logprobs\":null,\"finish_reason\":\"length\","
                "\"stop_reason\":null}],\"usage\":{\"prompt_tokens\":7,\"completion_tokens\":1,"
                "\"total_tokens\":8,\"prompt_tokens_details\":{\"cached_tokens\":0}},"
                "\"kv_transfer_params\":{\"do_remote_prefill\":true,\"do_remote_decode\":false,"
                "\"remote_block_ids\":[],\"remote_engine_id\":\"weir\",\"remote_request_id\":"
                "\"x-1\",\"remote_host\":null,\"remote_port\":null,\"tp_size\":1},"
                "\"system_fingerprint\":null}");
    strbuf_close(&out);
}

Test(reply, whole_chat) {
    openai_request q = {.kind = OPENAI_CHAT, .model = str_from("m")};
    reply r = {&q, "x-1", 5, pieces};
    reply_part parts[2] = {
        {.index = 0, .text = str_from("Hi \"you\"\n"), .finish = REPLY_STOP, .stop_token = -1},
        {.index = 1, .text = str_from(""), .finish = REPLY_LENGTH, .stop_token = -1}};
    reply_usage usage = {7, 3, 4};
    strbuf out = strbuf_make(1 << 20);
    reply_write_whole(&out, &r, parts, 2, &usage);
    assert_json(&out,
                HEAD("chat.completion")
                "{\"index\":0,\"message\":{\"role\":\"assistant\",\"content"
                "\":\"Hi \\\"you\\\"\\n\","
                "\"refusal\":null},\"logprobs\":null,\"finish_reason\":\"stop\",\"stop_reason\":"
                "null},{\"index\":1,\"message\":{\"role\":\"assistant\",\"content\":\"\","
                "\"refusal\":null},\"logprobs\":null,\"finish_reason\":\"length\",\"stop_reason\":"
                "null}],\"usage\":{\"prompt_tokens\":7,\"completion_tokens\":3,\"total_tokens\":10,"
                "\"prompt_tokens_details\":{\"cached_tokens\":4}},\"system_fingerprint\":null}");
    strbuf_close(&out);
}

Test(reply, stop_reasons) {
    openai_request q = {.kind = OPENAI_COMPLETIONS, .model = str_from("m")};
    reply r = {&q, "x-1", 5, pieces};
    static const struct {
        reply_finish finish;
        const char *stop;
        int32_t id;
        const char *expected;
    } rows[] = {
        {REPLY_OPEN, "", -1, "\"finish_reason\":null,\"stop_reason\":null"},
        {REPLY_STOP, "", -1, "\"finish_reason\":\"stop\",\"stop_reason\":null"},
        {REPLY_STOP, "\n\"", -1, "\"finish_reason\":\"stop\",\"stop_reason\":\"\\n\\\"\""},
        {REPLY_STOP, "", 0, "\"finish_reason\":\"stop\",\"stop_reason\":0"},
        {REPLY_LENGTH, "", -1, "\"finish_reason\":\"length\",\"stop_reason\":null"},
        {REPLY_ABORT, "", -1, "\"finish_reason\":\"abort\",\"stop_reason\":null"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        reply_part part = {.text = str_from("t"),
                           .finish = rows[i].finish,
                           .stop_string = str_from(rows[i].stop),
                           .stop_token = rows[i].id};
        strbuf out = strbuf_make(1 << 20);
        reply_write_event(&out, &r, &part, NULL);
        char expected[512];
        snprintf(expected, sizeof expected,
                 HEAD("text_completion") "{\"index\":0,\"text\":\"t\",\"logprobs\":null,%s}]}",
                 rows[i].expected);
        assert_event(&out, expected);
        strbuf_close(&out);
    }
}

Test(reply, chat_stream) {
    openai_request q = {.kind = OPENAI_CHAT, .model = str_from("m")};
    reply r = {&q, "x-1", 5, pieces};
    reply_usage usage = {7, 3, 0};
    strbuf out = strbuf_make(1 << 20);
    reply_part part = {.first = true, .stop_token = -1};
    reply_write_event(&out, &r, &part, NULL);
    assert_event(&out, HEAD("chat.completion.chunk")
                 "{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":\"\"},\"logprobs"
                 "\":null,"
                 "\"finish_reason\":null,\"stop_reason\":null}]}");
    part = (reply_part){.text = str_from("Hi"), .stop_token = -1};
    reply_write_event(&out, &r, &part, &usage);
    assert_event(&out, HEAD("chat.completion.chunk")
                 "{\"index\":0,\"delta\":{\"content\":\"Hi\"},\"logprobs\":null,\"finish_reason\":"
                 "null,\"stop_reason\":null}],\"usage\":{\"prompt_tokens\":7,\"completion_toke"
                 "ns\":3,"
                 "\"total_tokens\":10,\"prompt_tokens_details\":{\"cached_tokens\":0}}}");
    part = (reply_part){.finish = REPLY_STOP, .stop_token = -1};
    reply_write_event(&out, &r, &part, NULL);
    assert_event(&out, HEAD("chat.completion.chunk")
                 "{\"index\":0,\"delta\":{},\"logprobs\":null,\"finish_reason\":\"stop\","
                 "\"stop_reason\":null}]}");
    reply_write_event_usage(&out, &r, &usage);
    assert_event(&out, HEAD("chat.completion.chunk")
                 "],\"usage\":{\"prompt_tokens\":7,\"completion_tokens\":3,\"total_tokens\":10,"
                 "\"prompt_tokens_details\":{\"cached_tokens\":0}}}");
    reply_write_event_done(&out);
    cr_assert_str_eq(out.data, "data: [DONE]\n\n");
    strbuf_close(&out);
}

Test(reply, chat_logprobs_give_exact_bytes_of_half_characters) {
    openai_request q = {.kind = OPENAI_CHAT, .model = str_from("m"), .logprobs = true};
    reply r = {&q, "x-1", 5, pieces};
    request_token tokens[2] = {token(0, -0.5f, 2, 3, -1.25f), token(4, -INFINITY, 0, 0, 0)};
    reply_part part = {
        .text = str_from("Hi"), .tokens = tokens, .tokens_count = 2, .stop_token = -1};
    strbuf out = strbuf_make(1 << 20);
    reply_write_event(&out, &r, &part, NULL);
    assert_event(&out, HEAD("chat.completion.chunk")
                 "{\"index\":0,\"delta\":{\"content\":\"Hi\"},\"logprobs\":{\"content"
                 "\":[{\"token\":"
                 "\"Hi\",\"logprob\":-0.5,\"bytes\":[72,105],\"top_logprobs\":[{\"token\":\"Hi\","
                 "\"logprob\":-0.5,\"bytes\":[72,105]},{\"token\":\"\\ufffd\",\"logprob\":-1.25,"
                 "\"bytes\":[195]}]},{\"token\":\"\\ufffd\",\"logprob\":-9999,\"bytes\":[169],"
                 "\"top_logprobs\":[]}]},\"finish_reason\":null,\"stop_reason\":null}]}");
    q.tokens_as_ids = true;
    part.tokens_count = 1;
    tokens[0].top_count = 0;
    reply_write_event(&out, &r, &part, NULL);
    assert_event(&out, HEAD("chat.completion.chunk")
                 "{\"index\":0,\"delta\":{\"content\":\"Hi\"},\"logprobs\":{\"content"
                 "\":[{\"token\":"
                 "\"token_id:0\",\"logprob\":-0.5,\"bytes\":[72,105],\"top_logprobs\":[]}]},"
                 "\"finish_reason\":null,\"stop_reason\":null}]}");
    strbuf_close(&out);
}

Test(reply, legacy_logprobs_with_echo_begin_with_null) {
    openai_request q = {
        .kind = OPENAI_COMPLETIONS, .model = str_from("m"), .logprobs = true, .echo = true};
    reply r = {&q, "x-1", 5, pieces};
    static const int32_t prompt[3] = {0, 3, 4};
    request_token scores[2] = {token(3, -2, 1, 0, 0), token(4, -3, 0, 0, 0)};
    request_token tokens[1] = {token(1, -0.25f, 2, 3, -4)};
    reply_part part = {.text = str_from("Hi\xC3\xA9 there"),
                       .tokens = tokens,
                       .tokens_count = 1,
                       .prompt = prompt,
                       .prompt_count = 3,
                       .scores = scores,
                       .scores_count = 2,
                       .score_first = 1,
                       .finish = REPLY_LENGTH,
                       .stop_token = -1};
    strbuf out = strbuf_make(1 << 20);
    reply_usage usage = {3, 1, 0};
    reply_write_whole(&out, &r, &part, 1, &usage);
    assert_json(&out,
                HEAD("text_completion")
                "{\"index\":0,\"text\":\"Hi\xC3\xA9 there\",\"logprobs\":{\"text_offset\":[0,2"
                ",3,3],"
                "\"token_logprobs\":[null,-2,-3,-0.25],\"tokens\":[\"Hi\",\"bytes:\\\\xc3\","
                "\"bytes:\\\\xa9\",\" there\"],\"top_logprobs\":[null,{\"bytes:\\\\xc3\":-2},"
                "{\"bytes:\\\\xa9\":-3},{\" there\":-0.25,\"bytes:\\\\xc3\":-4}]},\"finish_rea"
                "son\":"
                "\"length\",\"stop_reason\":null}],\"usage\":{\"prompt_tokens\":3,"
                "\"completion_tokens\":1,\"total_tokens\":4,\"prompt_tokens_details\":{"
                "\"cached_tokens\":0}},\"system_fingerprint\":null}");
    strbuf_close(&out);
}

/* The chosen token is in the map also when it is not among the most likely. */
Test(reply, legacy_logprobs_always_have_the_chosen_token) {
    openai_request q = {.kind = OPENAI_COMPLETIONS, .model = str_from("m"), .logprobs = true};
    reply r = {&q, "x-1", 5, pieces};
    request_token t = token(1, -5, 1, 0, 0);
    t.top[0] = (request_logprob){0, -0.125f};
    reply_part part = {.text = str_from(" there"),
                       .tokens = &t,
                       .tokens_count = 1,
                       .text_offset = 9,
                       .stop_token = -1};
    strbuf out = strbuf_make(1 << 20);
    reply_write_event(&out, &r, &part, NULL);
    assert_event(&out, HEAD("text_completion")
                 "{\"index\":0,\"text\":\" there\",\"logprobs\":{\"text_offset\":[9],"
                 "\"token_logprobs\":[-5],\"tokens\":[\" there\"],\"top_logprobs\":[{\"Hi\":-0.125,"
                 "\" there\":-5}]},\"finish_reason\":null,\"stop_reason\":null}]}");
    strbuf_close(&out);
}

Test(reply, token_ids) {
    openai_request q = {.kind = OPENAI_COMPLETIONS, .model = str_from("m"), .token_ids = true};
    reply r = {&q, "x-1", 5, pieces};
    static const int32_t prompt[2] = {7, 8};
    request_token tokens[2] = {{.token = 1}, {.token = 2}};
    reply_part part = {.text = str_from("t"),
                       .tokens = tokens,
                       .tokens_count = 2,
                       .prompt = prompt,
                       .prompt_count = 2,
                       .stop_token = -1};
    strbuf out = strbuf_make(1 << 20);
    reply_write_event(&out, &r, &part, NULL);
    assert_event(&out, HEAD("text_completion")
                 "{\"index\":0,\"text\":\"t\",\"logprobs\":null,\"finish_reason\":null,"
                 "\"stop_reason\":null,\"prompt_token_ids\":[7,8],\"token_ids\":[1,2]}]}");
    strbuf_close(&out);
}

Test(reply, errors_have_vllms_shape) {
    static const struct {
        int code;
        const char *type;
    } rows[] = {
        {400, "BadRequestError"},         {401, "AuthenticationError"},
        {404, "NotFoundError"},           {405, "MethodNotAllowedError"},
        {413, "RequestTooLargeError"},    {415, "UnsupportedMediaTypeError"},
        {429, "RateLimitError"},          {500, "InternalServerError"},
        {503, "ServiceUnavailableError"}, {504, "TimeoutError"},
        {599, "InternalServerError"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        diag d;
        (void)status_fail_param(&d, STATUS_INVALID, i % 2 ? "stop" : "", "no \"%s\"", "x");
        strbuf out = strbuf_make(1 << 20);
        refusal_write(&out, rows[i].code, &d);
        char expected[256];
        snprintf(
            expected, sizeof expected,
            "{\"error\":{\"message\":\"no \\\"x\\\"\",\"type\":\"%s\",\"param\":%s,\"code\":%d}"
            "}",
            rows[i].type, i % 2 ? "\"stop\"" : "null", rows[i].code);
        assert_json(&out, expected);
        strbuf_clear(&out);
        reply_write_event_error(&out, rows[i].code, &d);
        assert_event(&out, expected);
        strbuf_close(&out);
    }
}

Test(reply, lists) {
    static const char *const models[] = {"m", "alias \"x\""};
    openai_limits limits = {models, 2, 1000, 320};
    strbuf out = strbuf_make(1 << 20);
    reply_write_models(&out, &limits, 9);
    assert_json(&out,
                "{\"object\":\"list\",\"data\":[{\"id\":\"m\",\"object\":\"model\",\"created\":9,"
                "\"owned_by\":\"weir\",\"root\":\"m\",\"parent\":null,\"max_model_len\":1000},"
                "{\"id\":\"alias \\\"x\\\"\",\"object\":\"model\",\"created\":9,\"owned_by\":"
                "\"weir\",\"root\":\"m\",\"parent\":null,\"max_model_len\":1000}]}");
    strbuf_clear(&out);
    static const int32_t tokens[2] = {0, 3};
    reply_write_tokens(&out, tokens, 2, 1000, NULL);
    assert_json(&out, "{\"count\":2,\"max_model_len\":1000,\"tokens\":[0,3]}");
    strbuf_clear(&out);
    reply_write_tokens(&out, tokens, 2, 1000, &pieces);
    assert_json(&out,
                "{\"count\":2,\"max_model_len\":1000,\"tokens\":[0,3],\"token_strs\":[\"Hi\","
                "\"\\ufffd\"]}");
    strbuf_clear(&out);
    reply_write_tokens(&out, NULL, 0, 1000, &pieces);
    assert_json(&out, "{\"count\":0,\"max_model_len\":1000,\"tokens\":[],\"token_strs\":[]}");
    strbuf_clear(&out);
    reply_write_text(&out, str_from("a\tb"));
    assert_json(&out, "{\"prompt\":\"a\\tb\"}");
    strbuf_clear(&out);
    reply_write_version(&out, "0.1");
    assert_json(&out, "{\"version\":\"0.1\"}");
    strbuf_close(&out);
}

/* Every valid UTF-8 string survives a round trip through another parser. */
Test(jsonout, strings_round_trip) {
    uint64_t random = 5;
    for (int round = 0; round < 20000; round++) {
        char text[64];
        size_t n = 0;
        for (uint64_t i = rng_below(&random, 12); i > 0; i--) {
            uint32_t c;
            do {
                static const uint32_t tops[] = {0x20, 0x80, 0x800, 0x10000, 0x110000};
                c = 1 + (uint32_t)rng_below(&random, tops[rng_below(&random, 5)] - 1);
            } while (c >= 0xD800 && c <= 0xDFFF);
            n += str_utf8_put(c, text + n);
        }
        strbuf out = strbuf_make(1000);
        jsonout_string(&out, str_of(text, n));
        cJSON *back = cJSON_Parse(out.data);
        diag d;
        cr_assert_eq(jsonin_check(strbuf_str(&out), &d), STATUS_OK, "%s", out.data);
        cr_assert(cJSON_IsString(back));
        cr_assert(str_equal(str_from(back->valuestring), str_of(text, n)), "%s", out.data);
        cJSON_Delete(back);
        strbuf_close(&out);
    }
}

Test(jsonout, invalid_bytes_become_replacement_characters) {
    strbuf out = strbuf_make(100);
    jsonout_string(&out, str_of("a\xFF\xC3(\xE2\x82\0b", 8));
    cr_assert_str_eq(out.data, "\"a\xEF\xBF\xBD\xEF\xBF\xBD(\xEF\xBF\xBD\xEF\xBF\xBD\\u0000b\"");
    strbuf_close(&out);
}

Test(jsonout, floats_read_back_exactly) {
    uint64_t random = 6;
    for (int i = 0; i < 100000; i++) {
        uint32_t bits = (uint32_t)rng_next(&random);
        float v;
        memcpy(&v, &bits, sizeof v);
        strbuf out = strbuf_make(100);
        jsonout_float(&out, v);
        if (isfinite(v)) {
            cr_assert(strtof(out.data, NULL) == v, "%s", out.data);
        } else {
            cr_assert_str_eq(out.data, "null");
        }
        strbuf_close(&out);
    }
}
