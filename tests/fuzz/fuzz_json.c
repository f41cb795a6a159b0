/* fuzz_json.c -- request bodies: what is accepted is within every limit, and JSON that was read is
 * read again the same after it was written. */
#include "engine/base/mem.h"
#include "engine/core/message.h"
#include "server/api/openai.h"
#include "server/http/jsonin.h"
#include "tests/fuzz/fuzz.h"

enum { CONTEXT = 4096, VOCAB = 1000 };

/* The whole text is in memory as raw bytes, a tree of at most LIMIT_JSON_NODES values, and what the
 * request keeps of it. */
enum { JSON_ALLOWANCE_BYTES = FUZZ_ALLOWANCE_BYTES };

static void check_params(const openai_request *r) {
    const request_params *p = &r->params;
    request_params checked = *p;
    checked.max_tokens = p->max_tokens < 0 ? 0 : p->max_tokens;
    diag d;
    CHECK_EQ(message_params_check(&checked, &d), STATUS_OK);
    CHECK(p->max_tokens >= -1 && p->choices >= 1 && p->choices <= LIMIT_CHOICES);
    CHECK(r->stops_count >= 0 && r->stops_count <= LIMIT_STOP_STRINGS);
    for (int32_t i = 0; i < r->stops_count; i++) {
        CHECK(r->stops[i].bytes > 0 && r->stops[i].bytes <= LIMIT_STOP_BYTES);
    }
    for (int32_t i = 0; i < p->biases_count; i++) {
        CHECK(p->biases[i].token >= 0 && p->biases[i].token < VOCAB);
    }
    for (int32_t i = 0; i < p->stop_ids_count; i++) {
        CHECK(p->stop_ids[i] >= 0 && p->stop_ids[i] < VOCAB);
    }
}

static void check_request(const openai_request *r) {
    CHECK(r->prompts_count >= 0 && r->prompts_count <= LIMIT_BATCH_PROMPTS);
    for (int32_t i = 0; i < r->prompts_count; i++) {
        const openai_prompt *p = &r->prompts[i];
        CHECK(p->tokens != NULL || str_utf8_valid(p->text));
        for (int32_t t = 0; p->tokens != NULL && t < p->tokens_count; t++) {
            CHECK(p->tokens[t] >= 0 && p->tokens[t] < VOCAB);
        }
    }
    CHECK(r->template_input == NULL || cJSON_IsObject(r->template_input));
    CHECK(r->kind != OPENAI_CHAT || r->template_input != NULL);
    CHECK(r->template_input != NULL || r->prompts_count > 0);
    if (r->kind == OPENAI_CHAT || r->kind == OPENAI_COMPLETIONS) {
        check_params(r);
    }
}

/* Read, written by cJSON, read again: the same tree. */
static void check_again(const jsonin *j) {
    char *text = cJSON_PrintUnformatted(j->root);
    CHECK(text != NULL);
    jsonin again;
    diag d;
    CHECK_EQ(jsonin_open(str_from(text), NULL, 0, &again, &d), STATUS_OK);
    CHECK(cJSON_Compare(j->root, again.root, true));
    jsonin_close(&again);
    cJSON_free(text);
}

FUZZ_TARGET(json, JSON_ALLOWANCE_BYTES) {
    static const char *const models[] = {"m", "n"};
    static const openai_limits limits = {models, 2, CONTEXT, VOCAB};
    fuzz_input in = {data, bytes, 0};
    openai_kind kind = (openai_kind)(fuzz_below(&in, 256) & 3);
    str rest = fuzz_take(&in, bytes);
    char *copy = fuzz_copy(rest);
    str body = str_of(copy, rest.bytes);
    diag d = {.code = STATUS_OK};
    jsonin j;
    bool read = jsonin_open(body, NULL, 0, &j, &d) == STATUS_OK;
    if (read) {
        CHECK_EQ(jsonin_check(body, &d), STATUS_OK);
        check_again(&j);
        jsonin_close(&j);
    }
    openai_request *r = NULL;
    d = (diag){.code = STATUS_OK};
    status s = openai_parse(kind, body, &limits, &r, &d);
    if (s == STATUS_OK) {
        check_request(r);
        openai_free(r);
    } else {
        CHECK(d.code == s && d.text[0] != 0 && str_utf8_valid(str_from(d.text)));
    }
    mem_free(copy);
}
