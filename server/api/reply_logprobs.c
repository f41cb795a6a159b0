/* reply_logprobs.c -- log probabilities in the shapes of the OpenAI API. */
#include "server/api/reply_logprobs.h"

#include "server/http/jsonout.h"

/* How logprobs name a token. Tokens that are parts of characters must stay distinct in the maps
 * of the legacy form, so their bytes are spelled out there, as OpenAI does. */
static void reply_logprobs_token(strbuf *out, const reply *r, int32_t token, bool legacy) {
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

static void reply_logprobs_bytes(strbuf *out, str piece) {
    strbuf_append_char(out, '[');
    for (size_t i = 0; i < piece.bytes; i++) {
        jsonout_comma(out);
        jsonout_int(out, (unsigned char)piece.data[i]);
    }
    strbuf_append_char(out, ']');
}

/* JSON has no infinity; OpenAI writes -9999 for "as good as impossible". */
static void reply_logprobs_logprob(strbuf *out, float logprob) {
    jsonout_float(out, logprob < -9999.0f ? -9999.0f : logprob);
}

static void reply_logprobs_chat_entry(strbuf *out, const reply *r, int32_t token, float logprob) {
    strbuf_append_char(out, '{');
    jsonout_key(out, "token");
    reply_logprobs_token(out, r, token, false);
    jsonout_key(out, "logprob");
    reply_logprobs_logprob(out, logprob);
    jsonout_key(out, "bytes");
    reply_logprobs_bytes(out, r->pieces.piece(r->pieces.self, token));
}

/* {"content":[{"token","logprob","bytes","top_logprobs":[...]}]} */
static void reply_logprobs_chat(strbuf *out, const reply *r, const reply_part *p) {
    strbuf_append_z(out, "{\"content\":[");
    for (int32_t i = 0; i < p->tokens_count; i++) {
        const request_token *t = &p->tokens[i];
        jsonout_comma(out);
        reply_logprobs_chat_entry(out, r, t->token, t->logprob);
        jsonout_key(out, "top_logprobs");
        strbuf_append_char(out, '[');
        for (int32_t k = 0; k < t->top_count; k++) {
            jsonout_comma(out);
            reply_logprobs_chat_entry(out, r, t->top[k].token, t->top[k].logprob);
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
} reply_logprobs_row;

/* A part has the prompt's ids for return_token_ids too; its rows are for echo alone. */
static int32_t reply_logprobs_prompt_rows(const reply *r, const reply_part *p) {
    return r->request->echo ? p->prompt_count : 0;
}

static int32_t reply_logprobs_rows_count(const reply *r, const reply_part *p) {
    return reply_logprobs_prompt_rows(r, p) + p->tokens_count;
}

static reply_logprobs_row reply_logprobs_row_at(const reply *r, const reply_part *p, int32_t i) {
    int32_t prompt_rows = reply_logprobs_prompt_rows(r, p);
    if (i >= prompt_rows) {
        const request_token *t = &p->tokens[i - prompt_rows];
        return (reply_logprobs_row){t->token, t};
    }
    int32_t k = i - p->score_first;
    bool scored = k >= 0 && k < p->scores_count;
    return (reply_logprobs_row){p->prompt[i], scored ? &p->scores[k] : NULL};
}

static void reply_logprobs_top_map(strbuf *out, const reply *r, const request_token *t) {
    strbuf_append_char(out, '{');
    for (int32_t k = 0; k < t->top_count; k++) {
        jsonout_comma(out);
        reply_logprobs_token(out, r, t->top[k].token, true);
        strbuf_append_char(out, ':');
        reply_logprobs_logprob(out, t->top[k].logprob);
    }
    /* As vLLM does: the chosen token is in the map also when it is not among the top. */
    bool listed = false;
    for (int32_t k = 0; k < t->top_count; k++) {
        listed = listed || t->top[k].token == t->token;
    }
    if (!listed) {
        jsonout_comma(out);
        reply_logprobs_token(out, r, t->token, true);
        strbuf_append_char(out, ':');
        reply_logprobs_logprob(out, t->logprob);
    }
    strbuf_append_char(out, '}');
}

/* {"text_offset":[],"token_logprobs":[],"tokens":[],"top_logprobs":[]} */
static void reply_logprobs_legacy(strbuf *out, const reply *r, const reply_part *p) {
    int32_t rows = reply_logprobs_rows_count(r, p);
    strbuf_append_z(out, "{\"text_offset\":[");
    int32_t offset = p->text_offset;
    for (int32_t i = 0; i < rows; i++) {
        jsonout_comma(out);
        jsonout_int(out, offset);
        offset +=
            reply_characters(r->pieces.piece(r->pieces.self, reply_logprobs_row_at(r, p, i).token));
    }
    strbuf_append_z(out, "],\"token_logprobs\":[");
    for (int32_t i = 0; i < rows; i++) {
        reply_logprobs_row row = reply_logprobs_row_at(r, p, i);
        jsonout_comma(out);
        if (row.score != NULL) {
            reply_logprobs_logprob(out, row.score->logprob);
        } else {
            strbuf_append_z(out, "null");
        }
    }
    strbuf_append_z(out, "],\"tokens\":[");
    for (int32_t i = 0; i < rows; i++) {
        jsonout_comma(out);
        reply_logprobs_token(out, r, reply_logprobs_row_at(r, p, i).token, true);
    }
    strbuf_append_z(out, "],\"top_logprobs\":[");
    for (int32_t i = 0; i < rows; i++) {
        reply_logprobs_row row = reply_logprobs_row_at(r, p, i);
        jsonout_comma(out);
        if (row.score != NULL) {
            reply_logprobs_top_map(out, r, row.score);
        } else {
            strbuf_append_z(out, "null");
        }
    }
    strbuf_append_z(out, "]}");
}

void reply_logprobs_write(strbuf *out, const reply *r, const reply_part *p) {
    bool chat = r->request->kind == OPENAI_CHAT;
    bool any = chat ? p->tokens_count > 0 : reply_logprobs_rows_count(r, p) > 0;
    if (!r->request->logprobs || !any) {
        strbuf_append_z(out, "null");
    } else if (chat) {
        reply_logprobs_chat(out, r, p);
    } else {
        reply_logprobs_legacy(out, r, p);
    }
}
