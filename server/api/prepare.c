/* prepare.c -- template, tokeniser, context limit. */
#include "server/api/prepare.h"

#include "engine/base/clock.h"
#include "engine/base/mem.h"
#include "models/text/detok.h"

enum { RENDERED_BYTES_MAX = 16 << 20 };

void prepare_free(prepare_result *p) {
    for (int32_t i = 0; i < p->count; i++) {
        mem_free(p->prompts[i].tokens);
    }
    mem_free(p->prompts);
    *p = (prepare_result){0};
}

static const char *prompt_field(const openai_request *r) {
    return r->template_input ? "messages" : "prompt";
}

/* Takes all the ids there are: a first guess of one token a byte is always enough. */
static status encode(const prepare_model *m, const openai_request *r, str text, prepare_prompt *out,
                     diag *d) {
    size_t most = text.bytes + 2;
    if (r->kind != OPENAI_TOKENIZE && most > (size_t)m->context_tokens + 1) {
        most = (size_t)m->context_tokens + 1;
    }
    out->tokens = mem_alloc(most, sizeof *out->tokens);
    if (!out->tokens) {
        return status_fail(d, STATUS_NOMEM, "no memory to tokenise the prompt");
    }
    size_t count = 0;
    status s = tokenizer_encode(m->tokenizer, text, r->add_special_tokens, true, out->tokens, most,
                                &count, d);
    if (s == STATUS_LIMIT) {
        return status_fail_param(d, STATUS_INVALID, prompt_field(r),
                                 "This model's maximum context length is %d tokens. However, the "
                                 "prompt has %zu tokens.",
                                 m->context_tokens, count);
    }
    out->count = (int32_t)count;
    return s;
}

static bool add_token_text(const prepare_model *m, cJSON *input, const char *name, int32_t id) {
    str piece = tokenizer_piece(m->tokenizer, id);
    char *text = mem_dup(piece.data, piece.bytes);
    if (!text) {
        return false;
    }
    cJSON_DeleteItemFromObjectCaseSensitive(input, name);
    bool added = cJSON_AddStringToObject(input, name, text) != NULL;
    mem_free(text);
    return added;
}

/* Cuts the rendering after the last message's content, so that the model goes on with it. */
static status cut_after_final(const openai_request *r, strbuf *text, diag *d) {
    const cJSON *messages = cJSON_GetObjectItemCaseSensitive(r->template_input, "messages");
    const cJSON *last = cJSON_GetArrayItem(messages, cJSON_GetArraySize(messages) - 1);
    const cJSON *content = cJSON_GetObjectItemCaseSensitive(last, "content");
    str want = str_from(cJSON_IsString(content) ? content->valuestring : "");
    while (want.bytes && strchr(" \t\r\n", want.data[want.bytes - 1])) {
        want.bytes--;
    }
    while (want.bytes && strchr(" \t\r\n", want.data[0])) {
        want.data++;
        want.bytes--;
    }
    size_t at = SIZE_MAX;
    for (size_t hit = str_find(strbuf_str(text), want, 0); hit != SIZE_MAX && want.bytes;
         hit = str_find(strbuf_str(text), want, hit + 1)) {
        at = hit;
    }
    if (at == SIZE_MAX) {
        return status_fail_param(d, STATUS_INVALID, "continue_final_message",
                                 "the chat template does not contain the final message's content");
    }
    text->bytes = at + want.bytes;
    return STATUS_OK;
}

static status render(const prepare_model *m, openai_request *r, strbuf *text, diag *d) {
    if (!m->chat) {
        return status_fail_param(d, STATUS_INVALID, "messages",
                                 "this model has no chat template; use /v1/completions");
    }
    if (!add_token_text(m, r->template_input, "bos_token", tokenizer_bos(m->tokenizer)) ||
        !add_token_text(m, r->template_input, "eos_token", tokenizer_eos(m->tokenizer))) {
        return status_fail(d, STATUS_NOMEM, "no memory to render the chat template");
    }
    status s =
        chat_render(m->chat, r->template_input, clock_wall_us(), RENDERED_BYTES_MAX, text, d);
    if (s == STATUS_INVALID || s == STATUS_LIMIT) {
        diag why = *d;
        return status_fail_param(d, STATUS_INVALID, "messages", "chat template: %.300s", why.text);
    }
    if (s == STATUS_OK && r->continue_final_message) {
        s = cut_after_final(r, text, d);
    }
    return s;
}

/* A prompt must leave room for at least one token, unless none is asked for. */
static status fit(const prepare_model *m, const openai_request *r, prepare_prompt *p, diag *d) {
    int32_t asked = r->params.max_tokens;
    if (p->count == 0) {
        return status_fail_param(d, STATUS_INVALID, prompt_field(r),
                                 "the prompt has no tokens; at least one is needed");
    }
    int32_t room = m->context_tokens - p->count;
    if (room < 0 || (room == 0 && asked != 0) || asked > room) {
        return status_fail_param(
            d, STATUS_INVALID, asked > 0 && room > 0 ? "max_tokens" : prompt_field(r),
            "This model's maximum context length is %d tokens. However, you requested %d tokens "
            "(%d in the prompt, %d for the completion). Please reduce the length of the prompt or "
            "completion.",
            m->context_tokens, p->count + (asked > 0 ? asked : 1), p->count, asked > 0 ? asked : 1);
    }
    p->max_tokens = asked < 0 ? room : asked;
    return STATUS_OK;
}

static status prepare_one(const prepare_model *m, openai_request *r, const openai_prompt *prompt,
                          prepare_prompt *out, diag *d) {
    if (r->template_input) {
        strbuf text = strbuf_make(RENDERED_BYTES_MAX);
        status s = render(m, r, &text, d);
        if (s == STATUS_OK) {
            s = encode(m, r, strbuf_str(&text), out, d);
        }
        strbuf_close(&text);
        return s;
    }
    if (!prompt->tokens) {
        return encode(m, r, prompt->text, out, d);
    }
    size_t count = (size_t)prompt->tokens_count;
    out->tokens = mem_alloc(count, sizeof *out->tokens);
    if (!out->tokens) {
        return status_fail(d, STATUS_NOMEM, "no memory for the prompt");
    }
    memcpy(out->tokens, prompt->tokens, count * sizeof *out->tokens);
    out->count = prompt->tokens_count;
    return STATUS_OK;
}

status prepare_prompts(const prepare_model *m, openai_request *r, prepare_result *out, diag *d) {
    *out = (prepare_result){0};
    int32_t count = r->template_input ? 1 : r->prompts_count;
    out->prompts = mem_calloc((size_t)count, sizeof *out->prompts);
    if (!out->prompts) {
        return status_fail(d, STATUS_NOMEM, "no memory for the prompts");
    }
    out->count = count;
    for (int32_t i = 0; i < count; i++) {
        status s =
            prepare_one(m, r, r->template_input ? NULL : &r->prompts[i], &out->prompts[i], d);
        if (s == STATUS_OK && r->kind != OPENAI_TOKENIZE) {
            s = fit(m, r, &out->prompts[i], d);
        }
        if (s != STATUS_OK) {
            prepare_free(out);
            return s;
        }
    }
    return STATUS_OK;
}

status prepare_text(const prepare_model *m, const openai_request *r, strbuf *out) {
    detok state = detok_make(false);
    const openai_prompt *p = &r->prompts[0];
    for (int32_t i = 0; i < p->tokens_count; i++) {
        if (!detok_feed(&state, m->tokenizer, p->tokens[i], out)) {
            return STATUS_LIMIT;
        }
    }
    return detok_flush(&state, out) ? STATUS_OK : STATUS_LIMIT;
}

str prepare_piece(const void *tokenizer_, int32_t token) {
    return tokenizer_piece(tokenizer_, token);
}
