/* reply_parts.c -- choices, stream chunks and logprobs of the OpenAI API. */
#include <stdio.h>

#include "server/jsonout.h"
#include "server/reply.h"

int32_t reply_characters(str bytes) {
    int32_t n = 0;
    for (size_t i = 0; i < bytes.bytes; i++) {
        /* Every byte but the second and later ones of a character. */
        n += ((unsigned char)bytes.data[i] & 0xC0) != 0x80;
    }
    return n;
}

/* How logprobs name a token. Tokens that are parts of characters must stay distinct in the maps
 * of the legacy form, so their bytes are spelled out there, as OpenAI does. */
static void reply_write_token(strbuf *out, const reply *r, int32_t token, bool legacy) {
    if (r->request->tokens_as_ids) {
        strbuf_printf(out, "\"token_id:%d\"", token);
        return;
    }
    str piece = r->pieces.piece(r->pieces.self, token);
    if (!legacy || str_utf8_valid(piece)) {
        jsonout_string(out, piece);
        return;
    }
    strbuf_append_z(out, "\"bytes:");
    for (size_t i = 0; i < piece.bytes; i++) {
        strbuf_printf(out, "\\\\x%02x", (unsigned)(unsigned char)piece.data[i]);
    }
    strbuf_append_char(out, '"');
}

static void reply_write_bytes(strbuf *out, str piece) {
    strbuf_append_char(out, '[');
    for (size_t i = 0; i < piece.bytes; i++) {
        jsonout_comma(out);
        jsonout_int(out, (unsigned char)piece.data[i]);
    }
    strbuf_append_char(out, ']');
}

/* JSON has no infinity; OpenAI writes -9999 for "as good as impossible". */
static void reply_write_logprob(strbuf *out, float logprob) {
    jsonout_float(out, logprob < -9999.0f ? -9999.0f : logprob);
}

static void reply_write_chat_entry(strbuf *out, const reply *r, int32_t token, float logprob) {
    strbuf_append_char(out, '{');
    jsonout_key(out, "token");
    reply_write_token(out, r, token, false);
    jsonout_key(out, "logprob");
    reply_write_logprob(out, logprob);
    jsonout_key(out, "bytes");
    reply_write_bytes(out, r->pieces.piece(r->pieces.self, token));
}

/* {"content":[{"token","logprob","bytes","top_logprobs":[...]}]} */
static void reply_write_chat_logprobs(strbuf *out, const reply *r, const reply_part *p) {
    strbuf_append_z(out, "{\"content\":[");
    for (int32_t i = 0; i < p->tokens_count; i++) {
        const request_token *t = &p->tokens[i];
        jsonout_comma(out);
        reply_write_chat_entry(out, r, t->token, t->logprob);
        jsonout_key(out, "top_logprobs");
        strbuf_append_char(out, '[');
        for (int32_t k = 0; k < t->top_count; k++) {
            jsonout_comma(out);
            reply_write_chat_entry(out, r, t->top[k].token, t->top[k].logprob);
            strbuf_append_char(out, '}');
        }
        strbuf_append_z(out, "]}");
    }
    strbuf_append_z(out, "]}");
}

/* One row of the legacy form: a prompt token or a generated one. `score` is NULL for a prompt
 * token that nothing comes before. */
typedef struct {
    int32_t token;
    const request_token *score;
} reply_row;

static int32_t reply_rows_count(const reply_part *p) {
    return p->prompt_count + p->tokens_count;
}

static reply_row reply_row_at(const reply_part *p, int32_t i) {
    if (i >= p->prompt_count) {
        const request_token *t = &p->tokens[i - p->prompt_count];
        return (reply_row){t->token, t};
    }
    int32_t k = i - p->score_first;
    bool scored = k >= 0 && k < p->scores_count;
    return (reply_row){p->prompt[i], scored ? &p->scores[k] : NULL};
}

static void reply_write_top_map(strbuf *out, const reply *r, const request_token *t) {
    strbuf_append_char(out, '{');
    for (int32_t k = 0; k < t->top_count; k++) {
        jsonout_comma(out);
        reply_write_token(out, r, t->top[k].token, true);
        strbuf_append_char(out, ':');
        reply_write_logprob(out, t->top[k].logprob);
    }
    /* As vLLM does: the chosen token is in the map also when it is not among the top. */
    bool listed = false;
    for (int32_t k = 0; k < t->top_count; k++) {
        listed = listed || t->top[k].token == t->token;
    }
    if (!listed) {
        jsonout_comma(out);
        reply_write_token(out, r, t->token, true);
        strbuf_append_char(out, ':');
        reply_write_logprob(out, t->logprob);
    }
    strbuf_append_char(out, '}');
}

/* {"text_offset":[],"token_logprobs":[],"tokens":[],"top_logprobs":[]} */
static void reply_write_legacy_logprobs(strbuf *out, const reply *r, const reply_part *p) {
    int32_t rows = reply_rows_count(p);
    strbuf_append_z(out, "{\"text_offset\":[");
    int32_t offset = p->text_offset;
    for (int32_t i = 0; i < rows; i++) {
        jsonout_comma(out);
        jsonout_int(out, offset);
        offset += reply_characters(r->pieces.piece(r->pieces.self, reply_row_at(p, i).token));
    }
    strbuf_append_z(out, "],\"token_logprobs\":[");
    for (int32_t i = 0; i < rows; i++) {
        reply_row row = reply_row_at(p, i);
        jsonout_comma(out);
        if (row.score != NULL) {
            reply_write_logprob(out, row.score->logprob);
        } else {
            strbuf_append_z(out, "null");
        }
    }
    strbuf_append_z(out, "],\"tokens\":[");
    for (int32_t i = 0; i < rows; i++) {
        jsonout_comma(out);
        reply_write_token(out, r, reply_row_at(p, i).token, true);
    }
    strbuf_append_z(out, "],\"top_logprobs\":[");
    for (int32_t i = 0; i < rows; i++) {
        reply_row row = reply_row_at(p, i);
        jsonout_comma(out);
        if (row.score != NULL) {
            reply_write_top_map(out, r, row.score);
        } else {
            strbuf_append_z(out, "null");
        }
    }
    strbuf_append_z(out, "]}");
}

static void reply_write_logprobs(strbuf *out, const reply *r, const reply_part *p) {
    jsonout_key(out, "logprobs");
    bool chat = r->request->kind == OPENAI_CHAT;
    bool any = chat ? p->tokens_count > 0 : reply_rows_count(p) > 0;
    if (!r->request->logprobs || !any) {
        strbuf_append_z(out, "null");
    } else if (chat) {
        reply_write_chat_logprobs(out, r, p);
    } else {
        reply_write_legacy_logprobs(out, r, p);
    }
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
    reply_write_logprobs(out, r, p);
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

void reply_write_whole(strbuf *out, const reply *r, const reply_part *choices, int32_t count,
                       const reply_usage *usage) {
    reply_write_opening(out, r, false);
    for (int32_t i = 0; i < count; i++) {
        reply_write_choice(out, r, &choices[i], false);
    }
    strbuf_append_char(out, ']');
    reply_write_usage(out, usage);
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
