/* openai_test.c -- request bodies: what each field may be, and what a refusal names. */
#include "server/api/openai.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>

static const char *const models[] = {"tiny", "tiny-alias"};
static const openai_limits limits = {models, 2, 1000, 320};

static openai_request *parse(openai_kind kind, const char *body, diag *d) {
    openai_request *r = NULL;
    d->code = STATUS_OK;
    status s = openai_parse(kind, str_from(body), &limits, &r, d);
    cr_assert_eq(s == STATUS_OK, r != NULL);
    return r;
}

typedef struct {
    const char *body;
    status code;
    const char *param;
} bad;

static void assert_bad(openai_kind kind, const bad *rows, size_t count) {
    for (size_t i = 0; i < count; i++) {
        diag d;
        openai_request *r = parse(kind, rows[i].body, &d);
        cr_expect_null(r, "accepted: %s", rows[i].body);
        cr_expect_eq(d.code, rows[i].code, "%s: %s", rows[i].body, d.text);
        cr_expect_str_eq(d.param, rows[i].param, "%s: param is %s: %s", rows[i].body, d.param,
                         d.text);
        cr_expect(strlen(d.text) > 5, "%s", rows[i].body);
        openai_free(r);
    }
}

#define COUNT(rows) (sizeof(rows) / sizeof((rows)[0]))
/* A completion with one more member. */
#define P(member) "{\"prompt\":\"x\"," member "}"
#define PROMPT(value) "{\"prompt\":" value "}"

/* What is not JSON, or JSON that nobody should send. */
static const bad bad_json[] = {
    {"", STATUS_CORRUPT, ""},
    {"  \n", STATUS_CORRUPT, ""},
    {"{", STATUS_CORRUPT, ""},
    {"}", STATUS_CORRUPT, ""},
    {"[]", STATUS_INVALID, ""},
    {"\"x\"", STATUS_INVALID, ""},
    {"1", STATUS_INVALID, ""},
    {"null", STATUS_INVALID, ""},
    {"nul", STATUS_CORRUPT, ""},
    {"{\"prompt\":\"x\"} x", STATUS_CORRUPT, ""},
    {"{\"prompt\":\"x\"}{}", STATUS_CORRUPT, ""},
    {"{\"prompt\":\"x\",}", STATUS_CORRUPT, ""},
    {"{\"prompt\":\"x\" \"n\":1}", STATUS_CORRUPT, ""},
    {"{prompt:\"x\"}", STATUS_CORRUPT, ""},
    {"{'prompt':'x'}", STATUS_CORRUPT, ""},
    {"{\"prompt\" \"x\"}", STATUS_CORRUPT, ""},
    {"{\"prompt\":\"x}", STATUS_CORRUPT, "prompt"},
    {"{\"prompt\":\"\\x\"}", STATUS_CORRUPT, "prompt"},
    {"{\"prompt\":\"\\u12\"}", STATUS_CORRUPT, "prompt"},
    {"{\"prompt\":\"\\", STATUS_CORRUPT, "prompt"},
    {"{\"prompt\":\"a\nb\"}", STATUS_CORRUPT, "prompt"},
    {"{\"prompt\":\"a\tb\"}", STATUS_CORRUPT, "prompt"},
    {"{\"prompt\":\"\x01\"}", STATUS_CORRUPT, "prompt"},
    {"{\"prompt\":\"\xff\"}", STATUS_CORRUPT, "prompt"},
    {"{\"prompt\":\"\xc0\x80\"}", STATUS_CORRUPT, "prompt"},
    {"{\"prompt\":\"\xed\xa0\x80\"}", STATUS_CORRUPT, "prompt"},
    {"{\"prompt\":\"\xf4\x90\x80\x80\"}", STATUS_CORRUPT, "prompt"},
    {"{\"prompt\":\"\xe2\x82\"}", STATUS_CORRUPT, "prompt"},
    {"{\"prompt\":\"\\u0000\"}", STATUS_INVALID, "prompt"},
    {"{\"prompt\":\"\\ud800\"}", STATUS_INVALID, "prompt"},
    {"{\"prompt\":\"\\ud800\\u0041\"}", STATUS_INVALID, "prompt"},
    {"{\"prompt\":\"\\udc00\"}", STATUS_INVALID, "prompt"},
    {"\xef\xbb\xbf{\"prompt\":\"x\"}", STATUS_CORRUPT, ""},
    {"{\"prompt\":\"x\",\"prompt\":\"y\"}", STATUS_INVALID, "prompt"},
    {"{\"prompt\":\"x\",\"n\":1,\"\\u006e\":2}", STATUS_INVALID, "n"},
    {P("\"metadata\":{\"a\":1,\"a\":2}"), STATUS_INVALID, "a"},
    {P("\"x\":1/*c*/"), STATUS_CORRUPT, ""},
    {P("\"temperature\":NaN"), STATUS_CORRUPT, "temperature"},
    {P("\"temperature\":Infinity"), STATUS_CORRUPT, "temperature"},
    {P("\"temperature\":-Infinity"), STATUS_CORRUPT, "temperature"},
    {P("\"temperature\":1e400"), STATUS_INVALID, "temperature"},
    {P("\"temperature\":+1"), STATUS_CORRUPT, "temperature"},
    {P("\"temperature\":.5"), STATUS_CORRUPT, "temperature"},
    {P("\"temperature\":1."), STATUS_CORRUPT, "temperature"},
    {P("\"temperature\":1e"), STATUS_CORRUPT, "temperature"},
    {P("\"temperature\":01"), STATUS_CORRUPT, "temperature"},
    {P("\"temperature\":0x1"), STATUS_CORRUPT, ""},
    {P("\"temperature\":--1"), STATUS_CORRUPT, "temperature"},
    {P("\"metadata\":{\"a\":1e999}"), STATUS_INVALID, "metadata"},
    {P("\"n\":1000000000000000000000000000000000000000000000000000000000000000"), STATUS_INVALID,
     "n"},
};

Test(openai, refuses_what_is_not_strict_json) {
    assert_bad(OPENAI_COMPLETIONS, bad_json, COUNT(bad_json));
}

static const bad bad_completions[] = {
    {"{}", STATUS_INVALID, "prompt"},
    {PROMPT("null"), STATUS_INVALID, "prompt"},
    {PROMPT("1"), STATUS_INVALID, "prompt"},
    {PROMPT("true"), STATUS_INVALID, "prompt"},
    {PROMPT("{}"), STATUS_INVALID, "prompt"},
    {PROMPT("[]"), STATUS_INVALID, "prompt"},
    {PROMPT("[[]]"), STATUS_INVALID, "prompt"},
    {PROMPT("[null]"), STATUS_INVALID, "prompt"},
    {PROMPT("[true]"), STATUS_INVALID, "prompt"},
    {PROMPT("[\"a\",1]"), STATUS_INVALID, "prompt"},
    {PROMPT("[1,\"a\"]"), STATUS_INVALID, "prompt"},
    {PROMPT("[1,\"]\"]"), STATUS_INVALID, "prompt"},
    {PROMPT("[1,[2]]"), STATUS_INVALID, "prompt"},
    {PROMPT("[[1],2]"), STATUS_INVALID, "prompt"},
    {PROMPT("[[1],\"a\"]"), STATUS_INVALID, "prompt"},
    {PROMPT("[[1],[]]"), STATUS_INVALID, "prompt"},
    {PROMPT("[[[1]]]"), STATUS_INVALID, "prompt"},
    {PROMPT("[320]"), STATUS_INVALID, "prompt"},
    {PROMPT("[-1]"), STATUS_INVALID, "prompt"},
    {PROMPT("[1.5]"), STATUS_INVALID, "prompt"},
    {PROMPT("[1.0]"), STATUS_INVALID, "prompt"},
    {PROMPT("[1e1]"), STATUS_INVALID, "prompt"},
    {PROMPT("[1,null]"), STATUS_INVALID, "prompt"},
    {PROMPT("[1,true]"), STATUS_INVALID, "prompt"},
    {PROMPT("[99999999999999999999]"), STATUS_INVALID, "prompt"},
    {PROMPT("[1,]"), STATUS_CORRUPT, "prompt"},
    {PROMPT("[1"), STATUS_CORRUPT, "prompt"},
    {P("\"model\":1"), STATUS_INVALID, "model"},
    {P("\"model\":\"huge\""), STATUS_NOTFOUND, "model"},
    {P("\"model\":\"\""), STATUS_NOTFOUND, "model"},
    {P("\"model\":\"Tiny\""), STATUS_NOTFOUND, "model"},
    {P("\"temperature\":-0.1"), STATUS_INVALID, "temperature"},
    {P("\"temperature\":2.1"), STATUS_INVALID, "temperature"},
    {P("\"temperature\":\"1\""), STATUS_INVALID, "temperature"},
    {P("\"temperature\":true"), STATUS_INVALID, "temperature"},
    {P("\"temperature\":[1]"), STATUS_INVALID, "temperature"},
    {P("\"top_p\":0"), STATUS_INVALID, "top_p"},
    {P("\"top_p\":1.01"), STATUS_INVALID, "top_p"},
    {P("\"top_p\":-1"), STATUS_INVALID, "top_p"},
    {P("\"top_p\":\"0.5\""), STATUS_INVALID, "top_p"},
    {P("\"top_k\":-2"), STATUS_INVALID, "top_k"},
    {P("\"top_k\":1.5"), STATUS_INVALID, "top_k"},
    {P("\"top_k\":2147483648"), STATUS_INVALID, "top_k"},
    {P("\"min_p\":-0.1"), STATUS_INVALID, "min_p"},
    {P("\"min_p\":1.1"), STATUS_INVALID, "min_p"},
    {P("\"repetition_penalty\":0"), STATUS_INVALID, "repetition_penalty"},
    {P("\"repetition_penalty\":-1"), STATUS_INVALID, "repetition_penalty"},
    {P("\"presence_penalty\":2.1"), STATUS_INVALID, "presence_penalty"},
    {P("\"presence_penalty\":-2.1"), STATUS_INVALID, "presence_penalty"},
    {P("\"frequency_penalty\":3"), STATUS_INVALID, "frequency_penalty"},
    {P("\"frequency_penalty\":\"x\""), STATUS_INVALID, "frequency_penalty"},
    {P("\"seed\":\"5\""), STATUS_INVALID, "seed"},
    {P("\"seed\":1.5"), STATUS_INVALID, "seed"},
    {P("\"seed\":1e3"), STATUS_INVALID, "seed"},
    {P("\"seed\":true"), STATUS_INVALID, "seed"},
    {P("\"seed\":9223372036854775808"), STATUS_INVALID, "seed"},
    {P("\"seed\":-9223372036854775809"), STATUS_INVALID, "seed"},
    {P("\"n\":0"), STATUS_INVALID, "n"},
    {P("\"n\":-1"), STATUS_INVALID, "n"},
    {P("\"n\":9"), STATUS_INVALID, "n"},
    {P("\"n\":1000000"), STATUS_INVALID, "n"},
    {P("\"n\":9007199254740993"), STATUS_INVALID, "n"},
    {P("\"n\":\"1\""), STATUS_INVALID, "n"},
    {P("\"n\":true"), STATUS_INVALID, "n"},
    {P("\"n\":1.5"), STATUS_INVALID, "n"},
    {P("\"best_of\":2"), STATUS_UNSUPPORTED, "best_of"},
    {P("\"n\":2,\"best_of\":1"), STATUS_UNSUPPORTED, "best_of"},
    {P("\"max_tokens\":-1"), STATUS_INVALID, "max_tokens"},
    {P("\"max_tokens\":1001"), STATUS_INVALID, "max_tokens"},
    {P("\"max_tokens\":1e10"), STATUS_INVALID, "max_tokens"},
    {P("\"max_tokens\":1.5"), STATUS_INVALID, "max_tokens"},
    {P("\"max_tokens\":\"5\""), STATUS_INVALID, "max_tokens"},
    {P("\"max_tokens\":true"), STATUS_INVALID, "max_tokens"},
    {P("\"min_tokens\":-1"), STATUS_INVALID, "min_tokens"},
    {P("\"min_tokens\":6,\"max_tokens\":5"), STATUS_INVALID, "min_tokens"},
    {P("\"min_tokens\":17"), STATUS_INVALID, "min_tokens"},
    {P("\"ignore_eos\":1"), STATUS_INVALID, "ignore_eos"},
    {P("\"ignore_eos\":\"true\""), STATUS_INVALID, "ignore_eos"},
    {P("\"echo\":1"), STATUS_INVALID, "echo"},
    {P("\"logprobs\":21"), STATUS_INVALID, "logprobs"},
    {P("\"logprobs\":-1"), STATUS_INVALID, "logprobs"},
    {P("\"logprobs\":true"), STATUS_INVALID, "logprobs"},
    {P("\"stream\":1"), STATUS_INVALID, "stream"},
    {P("\"stream\":\"true\""), STATUS_INVALID, "stream"},
    {P("\"stream_options\":{}"), STATUS_INVALID, "stream_options"},
    {P("\"stream\":false,\"stream_options\":{}"), STATUS_INVALID, "stream_options"},
    {P("\"stream\":true,\"stream_options\":1"), STATUS_INVALID, "stream_options"},
    {P("\"stream\":true,\"stream_options\":{\"include_usage\":1}"), STATUS_INVALID,
     "include_usage"},
    {P("\"stop\":1"), STATUS_INVALID, "stop"},
    {P("\"stop\":\"\""), STATUS_INVALID, "stop"},
    {P("\"stop\":[\"\"]"), STATUS_INVALID, "stop"},
    {P("\"stop\":[1]"), STATUS_INVALID, "stop"},
    {P("\"stop\":[\"a\",null]"), STATUS_INVALID, "stop"},
    {P("\"stop\":[\"a\",\"b\",\"c\",\"d\",\"e\"]"), STATUS_INVALID, "stop"},
    {P("\"stop\":{}"), STATUS_INVALID, "stop"},
    {P("\"stop_token_ids\":5"), STATUS_INVALID, "stop_token_ids"},
    {P("\"stop_token_ids\":[320]"), STATUS_INVALID, "stop_token_ids"},
    {P("\"stop_token_ids\":[-1]"), STATUS_INVALID, "stop_token_ids"},
    {P("\"stop_token_ids\":[\"1\"]"), STATUS_INVALID, "stop_token_ids"},
    {P("\"stop_token_ids\":[1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17]"), STATUS_INVALID,
     "stop_token_ids"},
    {P("\"include_stop_str_in_output\":1"), STATUS_INVALID, "include_stop_str_in_output"},
    {P("\"logit_bias\":[]"), STATUS_INVALID, "logit_bias"},
    {P("\"logit_bias\":{\"x\":1}"), STATUS_INVALID, "logit_bias"},
    {P("\"logit_bias\":{\"320\":1}"), STATUS_INVALID, "logit_bias"},
    {P("\"logit_bias\":{\"-1\":1}"), STATUS_INVALID, "logit_bias"},
    {P("\"logit_bias\":{\"1.0\":1}"), STATUS_INVALID, "logit_bias"},
    {P("\"logit_bias\":{\"1\":101}"), STATUS_INVALID, "logit_bias"},
    {P("\"logit_bias\":{\"1\":-101}"), STATUS_INVALID, "logit_bias"},
    {P("\"logit_bias\":{\"1\":\"1\"}"), STATUS_INVALID, "logit_bias"},
    {P("\"logit_bias\":{\"1\":null}"), STATUS_INVALID, "logit_bias"},
    {P("\"skip_special_tokens\":1"), STATUS_INVALID, "skip_special_tokens"},
    {P("\"add_special_tokens\":1"), STATUS_INVALID, "add_special_tokens"},
    {P("\"return_token_ids\":1"), STATUS_INVALID, "return_token_ids"},
    {P("\"cache_salt\":1"), STATUS_INVALID, "cache_salt"},
    {P("\"cache_salt\":\"\""), STATUS_INVALID, "cache_salt"},
    {P("\"user\":1"), STATUS_INVALID, "user"},
    {P("\"prompt_cache_key\":[]"), STATUS_INVALID, "prompt_cache_key"},
    {P("\"priority\":\"high\""), STATUS_INVALID, "priority"},
    {P("\"kv_transfer_params\":[]"), STATUS_INVALID, "kv_transfer_params"},
    {P("\"kv_transfer_params\":{\"do_remote_decode\":1}"), STATUS_INVALID, "do_remote_decode"},
    {P("\"kv_transfer_params\":{\"do_remote_decode\":true,\"do_remote_prefill\":true}"),
     STATUS_INVALID, "kv_transfer_params"},
    {P("\"priority\":1000001"), STATUS_INVALID, "priority"},
    {P("\"suffix\":\"x\""), STATUS_UNSUPPORTED, "suffix"},
    {P("\"use_beam_search\":true"), STATUS_UNSUPPORTED, "use_beam_search"},
    {P("\"length_penalty\":2"), STATUS_UNSUPPORTED, "length_penalty"},
    {P("\"prompt_logprobs\":1"), STATUS_UNSUPPORTED, "prompt_logprobs"},
    {P("\"prompt_logprobs\":-1"), STATUS_UNSUPPORTED, "prompt_logprobs"},
    {P("\"truncate_prompt_tokens\":5"), STATUS_UNSUPPORTED, "truncate_prompt_tokens"},
    {P("\"allowed_token_ids\":[1]"), STATUS_UNSUPPORTED, "allowed_token_ids"},
    {P("\"bad_words\":[\"x\"]"), STATUS_UNSUPPORTED, "bad_words"},
    {P("\"logits_processors\":[\"x\"]"), STATUS_UNSUPPORTED, "logits_processors"},
    {P("\"structured_outputs\":{\"regex\":\"a\"}"), STATUS_UNSUPPORTED, "structured_outputs"},
    {P("\"guided_json\":{}"), STATUS_UNSUPPORTED, "guided_json"},
    {P("\"guided_regex\":\"a\""), STATUS_UNSUPPORTED, "guided_regex"},
    {P("\"prompt_embeds\":\"x\""), STATUS_UNSUPPORTED, "prompt_embeds"},
    {P("\"response_format\":{\"type\":\"json_object\"}"), STATUS_UNSUPPORTED, "response_format"},
    {P("\"response_format\":\"text\""), STATUS_INVALID, "response_format"},
};

Test(openai, names_the_field_of_a_refused_completion) {
    assert_bad(OPENAI_COMPLETIONS, bad_completions, COUNT(bad_completions));
}

#define C(member) "{\"messages\":[{\"role\":\"user\",\"content\":\"x\"}]," member "}"
#define M(message) "{\"messages\":[{\"role\":\"user\",\"content\":\"x\"}," message "]}"

static const bad bad_chats[] = {
    {"{}", STATUS_INVALID, "messages"},
    {"{\"messages\":null}", STATUS_INVALID, "messages"},
    {"{\"messages\":\"x\"}", STATUS_INVALID, "messages"},
    {"{\"messages\":{}}", STATUS_INVALID, "messages"},
    {"{\"messages\":[]}", STATUS_INVALID, "messages"},
    {M("1"), STATUS_INVALID, "messages[1]"},
    {M("\"x\""), STATUS_INVALID, "messages[1]"},
    {M("{}"), STATUS_INVALID, "messages[1].role"},
    {M("{\"role\":1,\"content\":\"x\"}"), STATUS_INVALID, "messages[1].role"},
    {M("{\"role\":\"\",\"content\":\"x\"}"), STATUS_INVALID, "messages[1].role"},
    {M("{\"role\":\"user\"}"), STATUS_INVALID, "messages[1].content"},
    {M("{\"role\":\"user\",\"content\":null}"), STATUS_INVALID, "messages[1].content"},
    {M("{\"role\":\"user\",\"content\":1}"), STATUS_INVALID, "messages[1].content"},
    {M("{\"role\":\"user\",\"content\":{}}"), STATUS_INVALID, "messages[1].content"},
    {M("{\"role\":\"user\",\"content\":[1]}"), STATUS_INVALID, "messages[1].content"},
    {M("{\"role\":\"user\",\"content\":[{}]}"), STATUS_INVALID, "messages[1].content"},
    {M("{\"role\":\"user\",\"content\":[{\"type\":\"text\"}]}"), STATUS_INVALID,
     "messages[1].content"},
    {M("{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":1}]}"), STATUS_INVALID,
     "messages[1].content"},
    {M("{\"role\":\"user\",\"content\":[{\"type\":\"image_url\",\"image_url\":{\"url\":\"http://"
       "x\"}}]}"),
     STATUS_UNSUPPORTED, "messages[1].content"},
    {M("{\"role\":\"user\",\"content\":[{\"type\":\"input_audio\"}]}"), STATUS_UNSUPPORTED,
     "messages[1].content"},
    {M("{\"role\":\"assistant\",\"tool_calls\":1}"), STATUS_INVALID, "messages[1].tool_calls"},
    {M("{\"role\":\"assistant\",\"tool_calls\":[{}]}"), STATUS_INVALID, "messages[1].tool_calls"},
    {M("{\"role\":\"assistant\",\"tool_calls\":[{\"function\":{\"name\":1}}]}"), STATUS_INVALID,
     "messages[1].tool_calls"},
    {M("{\"role\":\"assistant\",\"tool_calls\":[{\"function\":{\"name\":\"f\",\"arguments\":\"{"
       "\"}}]}"),
     STATUS_INVALID, "messages[1].tool_calls"},
    {C("\"max_tokens\":-1"), STATUS_INVALID, "max_tokens"},
    {C("\"max_completion_tokens\":-1"), STATUS_INVALID, "max_completion_tokens"},
    {C("\"max_completion_tokens\":\"5\""), STATUS_INVALID, "max_completion_tokens"},
    {C("\"max_completion_tokens\":1001"), STATUS_INVALID, "max_completion_tokens"},
    {C("\"logprobs\":5"), STATUS_INVALID, "logprobs"},
    {C("\"top_logprobs\":5"), STATUS_INVALID, "top_logprobs"},
    {C("\"logprobs\":false,\"top_logprobs\":5"), STATUS_INVALID, "top_logprobs"},
    {C("\"logprobs\":true,\"top_logprobs\":21"), STATUS_INVALID, "top_logprobs"},
    {C("\"logprobs\":true,\"top_logprobs\":-1"), STATUS_INVALID, "top_logprobs"},
    {C("\"tools\":{}"), STATUS_INVALID, "tools"},
    {C("\"tools\":[1]"), STATUS_INVALID, "tools"},
    {C("\"tool_choice\":\"required\""), STATUS_UNSUPPORTED, "tool_choice"},
    {C("\"tool_choice\":{\"type\":\"function\",\"function\":{\"name\":\"f\"}}"), STATUS_UNSUPPORTED,
     "tool_choice"},
    {C("\"tool_choice\":1"), STATUS_INVALID, "tool_choice"},
    {C("\"response_format\":{\"type\":\"json_schema\"}"), STATUS_UNSUPPORTED, "response_format"},
    {C("\"response_format\":{}"), STATUS_INVALID, "response_format"},
    {C("\"functions\":[{\"name\":\"f\"}]"), STATUS_UNSUPPORTED, "functions"},
    {C("\"function_call\":\"auto\""), STATUS_UNSUPPORTED, "function_call"},
    {C("\"modalities\":[\"text\",\"audio\"]"), STATUS_UNSUPPORTED, "modalities"},
    {C("\"audio\":{}"), STATUS_UNSUPPORTED, "audio"},
    {C("\"web_search_options\":{}"), STATUS_UNSUPPORTED, "web_search_options"},
    {C("\"chat_template\":\"x\""), STATUS_UNSUPPORTED, "chat_template"},
    {C("\"echo\":true"), STATUS_UNSUPPORTED, "echo"},
    {C("\"chat_template_kwargs\":1"), STATUS_INVALID, "chat_template_kwargs"},
    {C("\"chat_template_kwargs\":{\"messages\":[]}"), STATUS_INVALID, "chat_template_kwargs"},
    {C("\"chat_template_kwargs\":{\"a\":1,\"bos_token\":\"x\"}"), STATUS_INVALID,
     "chat_template_kwargs"},
    {C("\"add_generation_prompt\":1"), STATUS_INVALID, "add_generation_prompt"},
    {C("\"continue_final_message\":true,\"add_generation_prompt\":true"), STATUS_INVALID,
     "continue_final_message"},
    {C("\"model\":\"nope\""), STATUS_NOTFOUND, "model"},
};

Test(openai, names_the_field_of_a_refused_chat) {
    assert_bad(OPENAI_CHAT, bad_chats, COUNT(bad_chats));
}

static const bad bad_tokenize[] = {
    {"{}", STATUS_INVALID, "prompt"},
    {"{\"prompt\":1}", STATUS_INVALID, "prompt"},
    {"{\"prompt\":[1]}", STATUS_INVALID, "prompt"},
    {"{\"prompt\":[\"a\"]}", STATUS_INVALID, "prompt"},
    {"{\"content\":1}", STATUS_INVALID, "content"},
    {"{\"messages\":[]}", STATUS_INVALID, "messages"},
    {"{\"prompt\":\"x\",\"add_special_tokens\":\"x\"}", STATUS_INVALID, "add_special_tokens"},
    {"{\"prompt\":\"x\",\"model\":\"nope\"}", STATUS_NOTFOUND, "model"},
};

static const bad bad_detokenize[] = {
    {"{}", STATUS_INVALID, "tokens"},
    {"{\"tokens\":\"x\"}", STATUS_INVALID, "tokens"},
    {"{\"tokens\":1}", STATUS_INVALID, "tokens"},
    {"{\"tokens\":[\"1\"]}", STATUS_INVALID, "tokens"},
    {"{\"tokens\":[[1]]}", STATUS_INVALID, "tokens"},
    {"{\"tokens\":[320]}", STATUS_INVALID, "tokens"},
    {"{\"tokens\":[1.5]}", STATUS_INVALID, "tokens"},
};

Test(openai, names_the_field_of_a_refused_tokenisation) {
    assert_bad(OPENAI_TOKENIZE, bad_tokenize, COUNT(bad_tokenize));
    assert_bad(OPENAI_DETOKENIZE, bad_detokenize, COUNT(bad_detokenize));
}

/* What concerns the form of the answer. */
static void describe_output(const openai_request *r, strbuf *out) {
    const request_params *p = &r->params;
    if (r->echo)
        strbuf_append_z(out, " echo");
    if (r->logprobs)
        strbuf_printf(out, " logprobs=%d", p->top_logprobs);
    if (p->prompt_logprobs)
        strbuf_append_z(out, " prompt_logprobs");
    if (r->stream)
        strbuf_append_z(out, " stream");
    if (r->usage_included)
        strbuf_append_z(out, " usage");
    if (r->usage_continuous)
        strbuf_append_z(out, " continuous");
    for (int32_t i = 0; i < r->stops_count; i++) {
        strbuf_printf(out, " stop=%.*s", (int)r->stops[i].bytes, r->stops[i].data);
    }
    for (int32_t i = 0; i < p->stop_ids_count; i++)
        strbuf_printf(out, " id=%d", p->stop_ids[i]);
    if (r->stop_included)
        strbuf_append_z(out, " stop_included");
    for (int32_t i = 0; i < p->biases_count; i++) {
        strbuf_printf(out, " bias=%d:%g", p->biases[i].token, (double)p->biases[i].bias);
    }
    if (!r->special_skipped && r->kind <= OPENAI_COMPLETIONS)
        strbuf_append_z(out, " special");
    if (r->add_special_tokens != (r->kind == OPENAI_COMPLETIONS)) {
        strbuf_printf(out, " add_special=%d", r->add_special_tokens);
    }
    if (r->continue_final_message)
        strbuf_append_z(out, " continue");
    if (r->token_ids)
        strbuf_append_z(out, " ids");
    if (r->tokens_as_ids)
        strbuf_append_z(out, " as_ids");
    if (r->token_strs)
        strbuf_append_z(out, " strs");
    if (r->kv_kept) {
        strbuf_append_z(out, " kept");
    }
    if (r->cache_salt.bytes > 0) {
        strbuf_printf(out, " salt=%.*s", (int)r->cache_salt.bytes, r->cache_salt.data);
    }
    if (r->user.bytes > 0)
        strbuf_printf(out, " user=%.*s", (int)r->user.bytes, r->user.data);
}

/* All that differs from the defaults, in a fixed order. */
static void describe(const openai_request *r, strbuf *out) {
    const request_params *p = &r->params;
    strbuf_printf(out, "%.*s", (int)r->model.bytes, r->model.data);
    for (int32_t i = 0; i < r->prompts_count; i++) {
        const openai_prompt *q = &r->prompts[i];
        strbuf_printf(out, " [%.*s", (int)q->text.bytes, q->text.data ? q->text.data : "");
        for (int32_t k = 0; k < q->tokens_count; k++) {
            strbuf_printf(out, "%s%d", k ? "," : "#", q->tokens[k]);
        }
        strbuf_append_z(out, "]");
    }
    if (r->template_input != NULL) {
        char *text = cJSON_PrintUnformatted(r->template_input);
        strbuf_printf(out, " %s", text);
        cJSON_free(text);
    }
    if (p->temperature != 1)
        strbuf_printf(out, " temperature=%g", (double)p->temperature);
    if (p->top_p != 1)
        strbuf_printf(out, " top_p=%g", (double)p->top_p);
    if (p->top_k != 0)
        strbuf_printf(out, " top_k=%d", p->top_k);
    if (p->min_p != 0)
        strbuf_printf(out, " min_p=%g", (double)p->min_p);
    if (p->repetition_penalty != 1)
        strbuf_printf(out, " rep=%g", (double)p->repetition_penalty);
    if (p->presence_penalty != 0)
        strbuf_printf(out, " pres=%g", (double)p->presence_penalty);
    if (p->frequency_penalty != 0)
        strbuf_printf(out, " freq=%g", (double)p->frequency_penalty);
    if (r->seed_given)
        strbuf_printf(out, " seed=%lld", (long long)p->seed);
    if (p->max_tokens != (r->kind == OPENAI_CHAT ? -1 : 16)) {
        strbuf_printf(out, " max=%d", p->max_tokens);
    }
    if (p->min_tokens != 0)
        strbuf_printf(out, " min=%d", p->min_tokens);
    if (p->ignore_eos)
        strbuf_append_z(out, " ignore_eos");
    if (p->choices != 1)
        strbuf_printf(out, " n=%d", p->choices);
    describe_output(r, out);
}

typedef struct {
    const char *body;
    const char *meaning;
} good;

static void assert_good(openai_kind kind, const good *rows, size_t count) {
    for (size_t i = 0; i < count; i++) {
        diag d;
        openai_request *r = parse(kind, rows[i].body, &d);
        cr_assert_not_null(r, "%s: %s: %s", rows[i].body, d.param, d.text);
        strbuf text = strbuf_make(1 << 20);
        describe(r, &text);
        cr_expect_str_eq(text.data, rows[i].meaning, "%s:\n  %s", rows[i].body, text.data);
        cr_expect(r->logprobs || r->params.top_logprobs == -1 || kind >= OPENAI_TOKENIZE);
        strbuf_close(&text);
        openai_free(r);
    }
}

static const good good_completions[] = {
    {"{\"prompt\":\"x\"}", "tiny [x]"},
    {" {\t\"prompt\" :\r\n\"x\" } ", "tiny [x]"},
    {P("\"model\":\"tiny-alias\""), "tiny-alias [x]"},
    {P("\"model\":null"), "tiny [x]"},
    {PROMPT("\"\""), "tiny []"},
    {PROMPT("\"\\u00e9\\ud83d\\ude00\\n\\\"\""), "tiny [\xC3\xA9\xF0\x9F\x98\x80\n\"]"},
    {PROMPT("[\"a\",\"b\"]"), "tiny [a] [b]"},
    {PROMPT("[1,2,319]"), "tiny [#1,2,319]"},
    {PROMPT("[ 1 ,\n2 ]"), "tiny [#1,2]"},
    {PROMPT("[[1,2],[3]]"), "tiny [#1,2] [#3]"},
    {PROMPT(" [ [ 1 ] , [ 2 , 3 ] ] "), "tiny [#1] [#2,3]"},
    {P("\"temperature\":0"), "tiny [x] temperature=0"},
    {P("\"temperature\":0.5,\"top_p\":0.9,\"top_k\":40,\"min_p\":0.25"),
     "tiny [x] temperature=0.5 top_p=0.9 top_k=40 min_p=0.25"},
    {P("\"temperature\":null,\"top_p\":null,\"n\":null,\"stop\":null,\"seed\":null"), "tiny [x]"},
    {P("\"top_k\":-1"), "tiny [x]"},
    {P("\"top_k\":5.0"), "tiny [x] top_k=5"},
    {P("\"repetition_penalty\":1.5,\"presence_penalty\":-2,\"frequency_penalty\":2"),
     "tiny [x] rep=1.5 pres=-2 freq=2"},
    {P("\"seed\":9007199254740993"), "tiny [x] seed=9007199254740993"},
    {P("\"seed\":-9223372036854775808"), "tiny [x] seed=-9223372036854775808"},
    {P("\"seed\":9223372036854775807"), "tiny [x] seed=9223372036854775807"},
    {P("\"seed\":0"), "tiny [x] seed=0"},
    {P("\"max_tokens\":null"), "tiny [x]"},
    {P("\"max_tokens\":0,\"echo\":true,\"logprobs\":1"),
     "tiny [x] max=0 echo logprobs=1 prompt_logprobs"},
    {P("\"max_tokens\":1000"), "tiny [x] max=1000"},
    {P("\"max_tokens\":5,\"min_tokens\":5,\"ignore_eos\":true"), "tiny [x] max=5 min=5 ignore_eos"},
    {P("\"n\":8"), "tiny [x] n=8"},
    {P("\"n\":2,\"best_of\":2"), "tiny [x] n=2"},
    {P("\"echo\":true"), "tiny [x] echo"},
    {P("\"logprobs\":0"), "tiny [x] logprobs=0"},
    {P("\"logprobs\":20"), "tiny [x] logprobs=20"},
    {P("\"logprobs\":null"), "tiny [x]"},
    {P("\"stream\":true"), "tiny [x] stream"},
    {P("\"stream\":true,\"stream_options\":null"), "tiny [x] stream"},
    {P("\"stream\":true,\"stream_options\":{\"include_usage\":true,\"continuous_usage_stats\":"
       "true}"),
     "tiny [x] stream usage continuous"},
    {P("\"stop\":\"a\""), "tiny [x] stop=a"},
    {P("\"stop\":[]"), "tiny [x]"},
    {P("\"stop\":[\"a\",\"\\n\",\"c\",\"d\"]"), "tiny [x] stop=a stop=\n stop=c stop=d"},
    {P("\"stop_token_ids\":[1,2],\"include_stop_str_in_output\":true"),
     "tiny [x] id=1 id=2 stop_included"},
    {P("\"logit_bias\":{\"0\":-100,\"319\":0.5}"), "tiny [x] bias=0:-100 bias=319:0.5"},
    {P("\"logit_bias\":{}"), "tiny [x]"},
    {P("\"skip_special_tokens\":false,\"add_special_tokens\":false"),
     "tiny [x] special add_special=0"},
    {P("\"return_token_ids\":true,\"return_tokens_as_token_ids\":true"), "tiny [x] ids as_ids"},
    {P("\"cache_salt\":\"s\",\"user\":\"u\""), "tiny [x] salt=s user=u"},
    {P("\"kv_transfer_params\":null"), "tiny [x]"},
    {P("\"kv_transfer_params\":{\"do_remote_decode\":true,\"do_remote_prefill\":false,"
       "\"remote_engine_id\":null,\"remote_block_ids\":null,\"remote_host\":null}"),
     "tiny [x] kept"},
    {P("\"kv_transfer_params\":{\"do_remote_prefill\":true,\"remote_engine_id\":\"e\","
       "\"remote_block_ids\":[1,2],\"remote_host\":\"h\",\"remote_port\":1}"),
     "tiny [x]"},
    {P("\"suffix\":\"\",\"suffix2\":\"x\""), "tiny [x]"},
    {P("\"suffix\":null,\"use_beam_search\":false,\"length_penalty\":1.0,\"bad_words\":[]"),
     "tiny [x]"},
    {P("\"response_format\":{\"type\":\"text\"}"), "tiny [x]"},
    {P("\"something\":{\"unknown\":[1,\"2\",null,true,1e300]}"), "tiny [x]"},
    {P("\"Temperature\":\"hot\""), "tiny [x]"},
    {P("\"tools\":1,\"messages\":2"), "tiny [x]"},
};

Test(openai, reads_every_field_of_a_completion) {
    assert_good(OPENAI_COMPLETIONS, good_completions, COUNT(good_completions));
}

#define U "{\"role\":\"user\",\"content\":\"x\"}"
#define IN(members) " {\"messages\":[" U "]," members "}"

static const good good_chats[] = {
    {"{\"messages\":[" U "]}", "tiny" IN("\"add_generation_prompt\":true")},
    {C("\"max_tokens\":5"), "tiny" IN("\"add_generation_prompt\":true") " max=5"},
    {C("\"max_completion_tokens\":7,\"max_tokens\":5"),
     "tiny" IN("\"add_generation_prompt\":true") " max=7"},
    {C("\"logprobs\":true"), "tiny" IN("\"add_generation_prompt\":true") " logprobs=0"},
    {C("\"logprobs\":true,\"top_logprobs\":20"),
     "tiny" IN("\"add_generation_prompt\":true") " logprobs=20"},
    {C("\"top_logprobs\":0"), "tiny" IN("\"add_generation_prompt\":true")},
    {C("\"add_generation_prompt\":false"), "tiny" IN("\"add_generation_prompt\":false")},
    {C("\"continue_final_message\":true"),
     "tiny" IN("\"add_generation_prompt\":false") " continue"},
    {C("\"tools\":[{\"type\":\"function\"}],\"tool_choice\":\"auto\",\"parallel_tool_calls\":true"),
     "tiny" IN("\"tools\":[{\"type\":\"function\"}],\"add_generation_prompt\":true")},
    {C("\"tools\":null,\"tool_choice\":\"none\",\"documents\":[{\"text\":\"t\"}]"),
     "tiny" IN("\"documents\":[{\"text\":\"t\"}],\"add_generation_prompt\":true")},
    {C("\"chat_template_kwargs\":{\"enable_thinking\":false,\"k\":[1]}"),
     "tiny" IN("\"add_generation_prompt\":true,\"enable_thinking\":false,\"k\":[1]")},
    {C("\"reasoning_effort\":\"low\""),
     "tiny" IN("\"reasoning_effort\":\"low\",\"add_generation_prompt\":true")},
    {C("\"add_special_tokens\":true"),
     "tiny" IN("\"add_generation_prompt\":true") " add_special=1"},
    {C("\"modalities\":[\"text\"],\"store\":true,\"metadata\":{},\"service_tier\":\"auto\""),
     "tiny" IN("\"add_generation_prompt\":true")},
    {"{\"messages\":[{\"role\":\"system\",\"content\":[{\"type\":\"text\",\"text\":\"a\"},{\"type\""
     ":\"text\",\"text\":\"b\"}]},{\"role\":\"user\",\"content\":[]}]}",
     "tiny {\"messages\":[{\"role\":\"system\",\"content\":\"a\\nb\"},{\"role\":\"user\","
     "\"content\":\"\"}],\"add_generation_prompt\":true}"},
    {"{\"messages\":[{\"role\":\"assistant\",\"content\":null,\"tool_calls\":[{\"id\":\"1\","
     "\"type\":\"function\",\"function\":{\"name\":\"f\",\"arguments\":\"{\\\"a\\\": 1}\"}}]},"
     "{\"role\":\"tool\",\"tool_call_id\":\"1\",\"content\":\"ok\"}]}",
     "tiny {\"messages\":[{\"role\":\"assistant\",\"content\":null,\"tool_calls\":[{\"id\":\"1\","
     "\"type\":\"function\",\"function\":{\"name\":\"f\",\"arguments\":{\"a\":1}}}]},{\"role\":"
     "\"tool\",\"tool_call_id\":\"1\",\"content\":\"ok\"}],\"add_generation_prompt\":true}"},
    {"{\"messages\":[{\"role\":\"assistant\",\"tool_calls\":[{\"function\":{\"name\":\"f\","
     "\"arguments\":\"\"}}]}]}",
     "tiny {\"messages\":[{\"role\":\"assistant\",\"tool_calls\":[{\"function\":{\"name\":\"f\","
     "\"arguments\":{}}}]}],\"add_generation_prompt\":true}"},
};

Test(openai, reads_every_field_of_a_chat) {
    assert_good(OPENAI_CHAT, good_chats, COUNT(good_chats));
}

static const good good_tokenize[] = {
    {"{\"prompt\":\"x\"}", "tiny [x] add_special=1"},
    {"{\"content\":\"x\"}", "tiny [x] add_special=1"},
    {"{\"prompt\":\"x\",\"add_special_tokens\":false,\"return_token_strs\":true}", "tiny [x] strs"},
    {"{\"messages\":[" U "]}", "tiny" IN("\"add_generation_prompt\":true")},
};

static const good good_detokenize[] = {
    {"{\"tokens\":[1,2]}", "tiny [#1,2]"},
    {"{\"tokens\":[]}", "tiny []"},
};

static void describe_tokens(openai_kind kind, const good *rows, size_t count) {
    for (size_t i = 0; i < count; i++) {
        diag d;
        openai_request *r = parse(kind, rows[i].body, &d);
        cr_assert_not_null(r, "%s: %s", rows[i].body, d.text);
        /* Sampling has no defaults here. */
        r->params.temperature = r->params.top_p = r->params.repetition_penalty = 1;
        r->params.choices = 1;
        r->params.max_tokens = kind == OPENAI_CHAT ? -1 : 16;
        strbuf text = strbuf_make(1 << 20);
        describe(r, &text);
        cr_expect_str_eq(text.data, rows[i].meaning, "%s: %s", rows[i].body, text.data);
        strbuf_close(&text);
        openai_free(r);
    }
}

Test(openai, reads_tokenisations) {
    describe_tokens(OPENAI_TOKENIZE, good_tokenize, COUNT(good_tokenize));
    describe_tokens(OPENAI_DETOKENIZE, good_detokenize, COUNT(good_detokenize));
}

/* Bodies at and past a limit, too long for a table. */
static void assert_repeated(const char *before, const char *unit, int times, const char *after,
                            const char *param) {
    strbuf body = strbuf_make(8 << 20);
    strbuf_append_z(&body, before);
    for (int i = 0; i < times; i++) {
        if (i > 0 && unit[0] != '[' && unit[0] != 'x' && unit[0] != '\xC3') {
            strbuf_append_char(&body, ',');
        }
        strbuf_append_z(&body, unit);
    }
    for (int i = 0; unit[0] == '[' && unit[1] == 0 && i < times; i++) {
        strbuf_append_char(&body, ']');
    }
    strbuf_append_z(&body, after);
    cr_assert_not(body.failed);
    diag d;
    openai_request *r = parse(OPENAI_COMPLETIONS, body.data, &d);
    if (param == NULL) {
        cr_expect_not_null(r, "%s %s * %d: %s", before, unit, times, d.text);
    } else {
        cr_expect_null(r, "%s %s * %d", before, unit, times);
        cr_expect_str_eq(d.param, param, "%s: %s", d.param, d.text);
    }
    openai_free(r);
    strbuf_close(&body);
}

Test(openai, holds_every_limit) {
    /* Depth: the body's own object is one level. */
    assert_repeated("{\"prompt\":\"x\",\"a\":", "[", 63, "}", NULL);
    assert_repeated("{\"prompt\":\"x\",\"a\":", "[", 64, "}", "a");
    assert_repeated("{\"prompt\":\"x\",\"a\":", "[", 100000, "}", "a");
    /* Values: the object, the prompt, the array. */
    assert_repeated("{\"prompt\":\"x\",\"a\":[", "1", 65536 - 3, "]}", NULL);
    assert_repeated("{\"prompt\":\"x\",\"a\":[", "1", 65536 - 2, "]}", "a");
    assert_repeated("{\"prompt\":\"x\",\"a\":[", "{}", 1000000, "]}", "a");
    assert_repeated("{\"prompt\":\"x\",\"a\":{\"b\":[", "1", 4000, "]}}", NULL);
    /* A prompt of ids is not held to the count of values, but to the context. */
    assert_repeated("{\"prompt\":[", "7", 1000, "]}", NULL);
    assert_repeated("{\"prompt\":[", "7", 1001, "]}", "prompt");
    assert_repeated("{\"prompt\":[", "7", 1000000, "]}", "prompt");
    assert_repeated("{\"prompt\":[", "[7]", 64, "]}", "prompt");
    assert_repeated("{\"prompt\":[", "\"a\"", 64, "]}", NULL);
    assert_repeated("{\"prompt\":[", "\"a\"", 65, "]}", "prompt");
    /* Strings. */
    assert_repeated("{\"prompt\":\"x\",\"stop\":\"", "x", 256, "\"}", NULL);
    assert_repeated("{\"prompt\":\"x\",\"stop\":\"", "x", 257, "\"}", "stop");
    assert_repeated("{\"prompt\":\"x\",\"cache_salt\":\"", "x", 256, "\"}", NULL);
    assert_repeated("{\"prompt\":\"x\",\"cache_salt\":\"", "x", 257, "\"}", "cache_salt");
    assert_repeated("{\"prompt\":\"", "\xC3\xA9", 1000000, "\"}", NULL);
    assert_repeated("{\"prompt\":\"", "x", 5000000, "\"}", "");
}

Test(openai, takes_lists_of_id_lists_up_to_the_batch_limit) {
    for (int over = 0; over <= 1; over++) {
        strbuf body = strbuf_make(1 << 20);
        strbuf_append_z(&body, "{\"prompt\":[[1]");
        for (int i = 1; i < LIMIT_BATCH_PROMPTS + over; i++) {
            strbuf_append_z(&body, ",[2,3]");
        }
        strbuf_append_z(&body, "]}");
        diag d;
        openai_request *r = parse(OPENAI_COMPLETIONS, body.data, &d);
        cr_assert_eq(r == NULL, over == 1);
        cr_assert(over == 1 || r->prompts_count == LIMIT_BATCH_PROMPTS);
        openai_free(r);
        strbuf_close(&body);
    }
}

/* A large vocabulary: 1024 biases fit, 1025 do not. */
Test(openai, limits_logit_bias) {
    openai_limits large = limits;
    large.vocab_count = 100000;
    for (int count = LIMIT_LOGIT_BIAS; count <= LIMIT_LOGIT_BIAS + 1; count++) {
        strbuf body = strbuf_make(1 << 20);
        strbuf_append_z(&body, "{\"prompt\":\"x\",\"logit_bias\":{");
        for (int i = 0; i < count; i++) {
            strbuf_printf(&body, "%s\"%d\":1", i ? "," : "", i);
        }
        strbuf_append_z(&body, "}}");
        openai_request *r = NULL;
        diag d;
        status s = openai_parse(OPENAI_COMPLETIONS, strbuf_str(&body), &large, &r, &d);
        cr_assert_eq(s, count <= LIMIT_LOGIT_BIAS ? STATUS_OK : STATUS_INVALID);
        cr_assert(s == STATUS_OK || strcmp(d.param, "logit_bias") == 0);
        openai_free(r);
        strbuf_close(&body);
    }
}

/* Every cut of a body is refused and leaks nothing (the sanitizer builds tell). */
Test(openai, refuses_every_cut_of_a_body) {
    static const char *const bodies[] = {
        "{\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"\\u00e9\"}]}]"
        ","
        "\"tools\":[{}],\"chat_template_kwargs\":{\"a\":{\"b\":1}},\"stop\":[\"a\"],\"seed\":12}",
        "{\"prompt\":[[1,2],[3]],\"logit_bias\":{\"1\":1.5e0},\"stream\":true}",
    };
    for (int k = 0; k < 2; k++) {
        size_t n = strlen(bodies[k]);
        openai_kind kind = k == 0 ? OPENAI_CHAT : OPENAI_COMPLETIONS;
        for (size_t cut = 0; cut <= n; cut++) {
            openai_request *r = NULL;
            diag d;
            status s = openai_parse(kind, str_of(bodies[k], cut), &limits, &r, &d);
            cr_assert_eq(s == STATUS_OK, cut == n, "cut at %zu", cut);
            openai_free(r);
        }
    }
}
