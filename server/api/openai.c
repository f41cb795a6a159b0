/* openai.c -- requests of the OpenAI API, checked field by field. */
#include "server/api/openai.h"

#include <string.h>

#include "engine/base/mem.h"
#include "server/api/openai_chat.h"
#include "server/api/openai_fields.h"
#include "server/api/openai_prompt.h"
#include "server/http/jsonin.h"

static status openai_parse_chat(jsonin *j, const openai_limits *limits, openai_request *r,
                                diag *d) {
    TRY(openai_fields_generation(j, limits, r, d));
    TRY(jsonin_bool(j->root, "add_special_tokens", &r->add_special_tokens, d));
    return openai_chat_input(j->root, r, d);
}

static status openai_parse_completions(const jsonin *j, const openai_limits *limits,
                                       openai_request *r, diag *d) {
    TRY(openai_fields_generation(j, limits, r, d));
    r->add_special_tokens = true;
    TRY(jsonin_bool(j->root, "add_special_tokens", &r->add_special_tokens, d));
    return openai_prompt_read(j, "prompt", true, limits, r, d);
}

/* llama.cpp's clients say `content` where vLLM's say `prompt`. */
static status openai_parse_tokenize(jsonin *j, const openai_limits *limits, openai_request *r,
                                    diag *d) {
    bool chat = jsonin_get(j->root, "messages") != NULL;
    r->add_special_tokens = !chat;
    TRY(jsonin_bool(j->root, "add_special_tokens", &r->add_special_tokens, d));
    TRY(jsonin_bool(j->root, "return_token_strs", &r->token_strs, d));
    if (chat) {
        return openai_chat_input(j->root, r, d);
    }
    bool content = jsonin_get(j->root, "prompt") == NULL && jsonin_get(j->root, "content") != NULL;
    const char *name = content ? "content" : "prompt";
    TRY(openai_prompt_read(j, name, false, limits, r, d));
    if (r->prompts[0].tokens != NULL) {
        return status_fail_param(d, STATUS_INVALID, name, "`%s` must be a string", name);
    }
    return STATUS_OK;
}

static status openai_parse_detokenize(const jsonin *j, const openai_limits *limits,
                                      openai_request *r, diag *d) {
    const cJSON *tokens = jsonin_get(j->root, "tokens");
    if (cJSON_IsArray(tokens) && tokens->child == NULL) {
        /* No tokens are no text. */
        r->prompts = mem_calloc(1, sizeof *r->prompts);
        if (r->prompts == NULL) {
            return status_fail(d, STATUS_NOMEM, "no memory for the request");
        }
        r->prompts_count = 1;
        return STATUS_OK;
    }
    if (tokens != NULL && (jsonin_raw(j, "tokens") == NULL || !jsonin_raw(j, "tokens")->bulk)) {
        return status_fail_param(d, STATUS_INVALID, "tokens",
                                 "`tokens` must be a list of token ids");
    }
    return openai_prompt_read(j, "tokens", false, limits, r, d);
}

static status openai_parse_kind(jsonin *j, const openai_limits *limits, openai_request *r,
                                diag *d) {
    TRY(openai_fields_model(j->root, limits, r, d));
    switch (r->kind) {
        case OPENAI_CHAT:
            return openai_parse_chat(j, limits, r, d);
        case OPENAI_COMPLETIONS:
            return openai_parse_completions(j, limits, r, d);
        case OPENAI_TOKENIZE:
            return openai_parse_tokenize(j, limits, r, d);
        case OPENAI_DETOKENIZE:
            break;
    }
    return openai_parse_detokenize(j, limits, r, d);
}

status openai_parse(openai_kind kind, str body, const openai_limits *limits, openai_request **out,
                    diag *d) {
    static const char *const bulk[] = {"prompt", "tokens"};
    jsonin j;
    TRY(jsonin_open(body, bulk, sizeof bulk / sizeof bulk[0], &j, d));
    openai_request *r = mem_alloc(1, sizeof *r);
    if (r == NULL) {
        jsonin_close(&j);
        return status_fail(d, STATUS_NOMEM, "no memory for the request");
    }
    memset(r, 0, offsetof(openai_request, params.biases));
    r->kind = kind;
    status code = openai_parse_kind(&j, limits, r, d);
    r->owned = j.root;
    if (code != STATUS_OK) {
        openai_free(r);
        return code;
    }
    *out = r;
    return STATUS_OK;
}

void openai_free(openai_request *r) {
    if (r == NULL) {
        return;
    }
    openai_prompt_free(r);
    cJSON_Delete(r->template_input);
    cJSON_Delete(r->owned);
    mem_free(r);
}
