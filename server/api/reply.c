/* reply.c -- answers of the OpenAI API as JSON text. */
#include "server/api/reply.h"

#include <stdio.h>

#include "server/api/reply_logprobs.h"
#include "server/http/jsonout.h"
#include "server/http/refusal.h"

void reply_write_event_error(strbuf *out, int http_code, const diag *d) {
    strbuf_append_z(out, "data: ");
    refusal_write(out, http_code, d);
    strbuf_append_z(out, "\n\n");
}

void reply_id(openai_kind kind, uint64_t high, uint64_t low, char out[48]) {
    snprintf(out, 48, "%s-%016llx%016llx", kind == OPENAI_CHAT ? "chatcmpl" : "cmpl",
             (unsigned long long)high, (unsigned long long)low);
}

void reply_write_model(strbuf *out, const char *name, const openai_limits *limits,
                       int64_t created_s) {
    strbuf_append_char(out, '{');
    jsonout_key(out, "id");
    jsonout_string_z(out, name);
    strbuf_append_z(out, ",\"object\":\"model\"");
    jsonout_key(out, "created");
    jsonout_int(out, created_s);
    strbuf_append_z(out, ",\"owned_by\":\"weir\"");
    jsonout_key(out, "root");
    jsonout_string_z(out, limits->models[0]);
    strbuf_append_z(out, ",\"parent\":null");
    jsonout_key(out, "max_model_len");
    jsonout_int(out, limits->context_tokens);
    strbuf_append_char(out, '}');
}

void reply_write_models(strbuf *out, const openai_limits *limits, int64_t created_s) {
    strbuf_append_z(out, "{\"object\":\"list\",\"data\":[");
    for (int32_t i = 0; i < limits->models_count; i++) {
        jsonout_comma(out);
        reply_write_model(out, limits->models[i], limits, created_s);
    }
    strbuf_append_z(out, "]}");
}

void reply_write_tokens(strbuf *out, const int32_t *tokens, int32_t count, int32_t context_tokens,
                        const reply_pieces *pieces) {
    strbuf_append_char(out, '{');
    jsonout_key(out, "count");
    jsonout_int(out, count);
    jsonout_key(out, "max_model_len");
    jsonout_int(out, context_tokens);
    jsonout_key(out, "tokens");
    strbuf_append_char(out, '[');
    for (int32_t i = 0; i < count; i++) {
        jsonout_comma(out);
        jsonout_int(out, tokens[i]);
    }
    strbuf_append_char(out, ']');
    if (pieces != NULL) {
        jsonout_key(out, "token_strs");
        strbuf_append_char(out, '[');
        for (int32_t i = 0; i < count; i++) {
            jsonout_comma(out);
            jsonout_string(out, pieces->piece(pieces->self, tokens[i]));
        }
        strbuf_append_char(out, ']');
    }
    strbuf_append_char(out, '}');
}

void reply_write_text(strbuf *out, str text) {
    strbuf_append_z(out, "{\"prompt\":");
    jsonout_string(out, text);
    strbuf_append_char(out, '}');
}

void reply_write_version(strbuf *out, const char *version) {
    strbuf_append_z(out, "{\"version\":");
    jsonout_string_z(out, version);
    strbuf_append_char(out, '}');
}

int32_t reply_characters(str bytes) {
    int32_t n = 0;
    for (size_t i = 0; i < bytes.bytes; i++) {
        /* Every byte but the second and later ones of a character. */
        n += ((unsigned char)bytes.data[i] & 0xC0) != 0x80;
    }
    return n;
}

static void reply_write_finish(strbuf *out, const reply_part *p) {
    static const char *const names[] = {"null", "\"stop\"", "\"length\"", "\"abort\""};
    jsonout_key(out, "finish_reason");
    strbuf_append_z(out, names[p->finish]);
    jsonout_key(out, "stop_reason");
    if (p->finish == REPLY_STOP && p->stop_string.bytes > 0) {
        jsonout_string(out, p->stop_string);
    } else if (p->finish == REPLY_STOP && p->stop_token >= 0) {
        jsonout_int(out, p->stop_token);
    } else {
        strbuf_append_z(out, "null");
    }
}

static void reply_write_ids(strbuf *out, const reply_part *p) {
    if (p->prompt_count > 0) {
        jsonout_key(out, "prompt_token_ids");
        strbuf_append_char(out, '[');
        for (int32_t i = 0; i < p->prompt_count; i++) {
            jsonout_comma(out);
            jsonout_int(out, p->prompt[i]);
        }
        strbuf_append_char(out, ']');
    }
    jsonout_key(out, "token_ids");
    strbuf_append_char(out, '[');
    for (int32_t i = 0; i < p->tokens_count; i++) {
        jsonout_comma(out);
        jsonout_int(out, p->tokens[i].token);
    }
    strbuf_append_char(out, ']');
}

static void reply_write_delta(strbuf *out, const reply_part *p) {
    jsonout_key(out, "delta");
    strbuf_append_char(out, '{');
    if (p->first) {
        strbuf_append_z(out, "\"role\":\"assistant\"");
    }
    if (p->first || p->text.bytes > 0) {
        jsonout_key(out, "content");
        jsonout_string(out, p->text);
    }
    strbuf_append_char(out, '}');
}

static void reply_write_choice(strbuf *out, const reply *r, const reply_part *p, bool streamed) {
    jsonout_comma(out);
    strbuf_append_z(out, "{\"index\":");
    jsonout_int(out, p->index);
    if (r->request->kind != OPENAI_CHAT) {
        jsonout_key(out, "text");
        jsonout_string(out, p->text);
    } else if (streamed) {
        reply_write_delta(out, p);
    } else {
        strbuf_append_z(out, ",\"message\":{\"role\":\"assistant\",\"content\":");
        jsonout_string(out, p->text);
        strbuf_append_z(out, ",\"refusal\":null}");
    }
    jsonout_key(out, "logprobs");
    reply_logprobs_write(out, r, p);
    reply_write_finish(out, p);
    if (r->request->token_ids) {
        reply_write_ids(out, p);
    }
    strbuf_append_char(out, '}');
}

static void reply_write_usage(strbuf *out, const reply_usage *u) {
    jsonout_key(out, "usage");
    strbuf_printf(out,
                  "{\"prompt_tokens\":%d,\"completion_tokens\":%d,\"total_tokens\":%d,"
                  "\"prompt_tokens_details\":{\"cached_tokens\":%d}}",
                  u->prompt_tokens, u->completion_tokens, u->prompt_tokens + u->completion_tokens,
                  u->cached_tokens);
}

static void reply_write_opening(strbuf *out, const reply *r, bool streamed) {
    const char *object = "text_completion";
    if (r->request->kind == OPENAI_CHAT) {
        object = streamed ? "chat.completion.chunk" : "chat.completion";
    }
    strbuf_append_z(out, "{\"id\":");
    jsonout_string_z(out, r->id);
    jsonout_key(out, "object");
    jsonout_string_z(out, object);
    jsonout_key(out, "created");
    jsonout_int(out, r->created_s);
    jsonout_key(out, "model");
    jsonout_string(out, r->request->model);
    jsonout_key(out, "choices");
    strbuf_append_char(out, '[');
}

/* What a router copies into the request that goes on; vLLM's members, all there. */
static void reply_write_transfer(strbuf *out, const reply *r) {
    jsonout_key(out, "kv_transfer_params");
    strbuf_append_z(out,
                    "{\"do_remote_prefill\":true,\"do_remote_decode\":false,"
                    "\"remote_block_ids\":[],\"remote_engine_id\":\"weir\","
                    "\"remote_request_id\":");
    jsonout_string_z(out, r->id);
    strbuf_append_z(out, ",\"remote_host\":null,\"remote_port\":null,\"tp_size\":1}");
}

void reply_write_whole(strbuf *out, const reply *r, const reply_part *choices, int32_t count,
                       const reply_usage *usage) {
    reply_write_opening(out, r, false);
    for (int32_t i = 0; i < count; i++) {
        reply_write_choice(out, r, &choices[i], false);
    }
    strbuf_append_char(out, ']');
    reply_write_usage(out, usage);
    if (r->request->kv_kept) {
        reply_write_transfer(out, r);
    }
    strbuf_append_z(out, ",\"system_fingerprint\":null}");
}

void reply_write_event(strbuf *out, const reply *r, const reply_part *part,
                       const reply_usage *usage) {
    strbuf_append_z(out, "data: ");
    reply_write_opening(out, r, true);
    reply_write_choice(out, r, part, true);
    strbuf_append_char(out, ']');
    if (usage != NULL) {
        reply_write_usage(out, usage);
    }
    strbuf_append_z(out, "}\n\n");
}

void reply_write_event_usage(strbuf *out, const reply *r, const reply_usage *usage) {
    strbuf_append_z(out, "data: ");
    reply_write_opening(out, r, true);
    strbuf_append_char(out, ']');
    reply_write_usage(out, usage);
    strbuf_append_z(out, "}\n\n");
}

void reply_write_event_done(strbuf *out) {
    strbuf_append_z(out, "data: [DONE]\n\n");
}
