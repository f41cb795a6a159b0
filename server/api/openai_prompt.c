/* openai_prompt.c -- the `prompt` and `tokens` fields. */
#include "server/api/openai_prompt.h"

#include <string.h>

#include "engine/base/mem.h"

/* A cursor in text that the scan has found to be JSON: integers, commas, brackets. */
typedef struct {
    const char *at;
    const char *end;
    const char *name;
    const openai_limits *limits;
    diag *d;
} openai_prompt_text;

static status openai_prompt_add(openai_request *r, const char *name, openai_prompt p, diag *d) {
    if (r->prompts_count == LIMIT_BATCH_PROMPTS) {
        return status_fail_param(d, STATUS_INVALID, name, "at most %d prompts in one request",
                                 LIMIT_BATCH_PROMPTS);
    }
    r->prompts[r->prompts_count++] = p;
    return STATUS_OK;
}

static void openai_prompt_blanks(openai_prompt_text *t) {
    while (t->at < t->end &&
           (*t->at == ' ' || *t->at == '\t' || *t->at == '\n' || *t->at == '\r')) {
        t->at++;
    }
}

static status openai_prompt_id(openai_prompt_text *t, int32_t *out) {
    const char *from = t->at;
    while (t->at < t->end && strchr(" \t\r\n,]", *t->at) == NULL) {
        t->at++;
    }
    int64_t id;
    if (!str_to_i64(str_of(from, (size_t)(t->at - from)), 0, t->limits->vocab_count - 1, &id)) {
        size_t shown = (size_t)(t->at - from) < 32 ? (size_t)(t->at - from) : 32;
        return status_fail_param(t->d, STATUS_INVALID, t->name,
                                 "`%.*s` in `%s` is not a token id of the model (0 to %d)",
                                 (int)shown, from, t->name, t->limits->vocab_count - 1);
    }
    *out = (int32_t)id;
    return STATUS_OK;
}

/* How many ids the list that starts after its bracket can have. */
static size_t openai_prompt_room(const openai_prompt_text *t) {
    size_t commas = 0;
    for (const char *p = t->at; p < t->end && *p != ']'; p++) {
        commas += *p == ',';
    }
    return commas + 1;
}

/* At the opening bracket of a list of ids. The ids are the request's from the first on, so that
 * a failure half-way leaves nothing behind. */
static status openai_prompt_ids(openai_prompt_text *t, openai_request *r) {
    t->at++;
    size_t room = openai_prompt_room(t);
    if (room > (size_t)t->limits->context_tokens) {
        return status_fail_param(t->d, STATUS_INVALID, t->name,
                                 "`%s` has %zu tokens; the model's context is %d", t->name, room,
                                 t->limits->context_tokens);
    }
    int32_t *ids = mem_alloc(room, sizeof *ids);
    if (ids == NULL) {
        return status_fail(t->d, STATUS_NOMEM, "no memory for the request");
    }
    status code =
        openai_prompt_add(r, t->name, (openai_prompt){.tokens = ids, .tokens_count = 0}, t->d);
    if (code != STATUS_OK) {
        mem_free(ids);
        return code;
    }
    int32_t *count = &r->prompts[r->prompts_count - 1].tokens_count;
    openai_prompt_blanks(t);
    while (t->at < t->end && *t->at != ']') {
        TRY(openai_prompt_id(t, &ids[*count]));
        (*count)++;
        openai_prompt_blanks(t);
        if (t->at < t->end && *t->at == ',') {
            t->at++;
            openai_prompt_blanks(t);
        }
    }
    t->at++;
    if (*count == 0) {
        return status_fail_param(t->d, STATUS_INVALID, t->name, "a prompt may not be empty");
    }
    return STATUS_OK;
}

/* [1,2,3] or [[1,2],[3]]: text that is only integers, commas and brackets, or something else that
 * begins like it. */
static status openai_prompt_bulk(openai_prompt_text *t, bool many, openai_request *r) {
    const char *after = t->at + 1;
    while (after < t->end && strchr(" \t\r\n", *after) != NULL) {
        after++;
    }
    if (after < t->end && *after != '[') {
        return openai_prompt_ids(t, r);
    }
    if (!many) {
        return status_fail_param(t->d, STATUS_INVALID, t->name, "`%s` must be a list of token ids",
                                 t->name);
    }
    t->at = after;
    while (t->at < t->end && *t->at == '[') {
        TRY(openai_prompt_ids(t, r));
        openai_prompt_blanks(t);
        if (t->at < t->end && *t->at == ',') {
            t->at++;
        }
        openai_prompt_blanks(t);
    }
    if (t->at >= t->end || *t->at != ']') {
        return status_fail_param(t->d, STATUS_INVALID, t->name,
                                 "`%s` must be a text, a list of texts, of token ids, or of lists "
                                 "of token ids",
                                 t->name);
    }
    return STATUS_OK;
}

static status openai_prompt_texts(const cJSON *value, const char *name, openai_request *r,
                                  diag *d) {
    if (cJSON_IsString(value)) {
        return openai_prompt_add(r, name, (openai_prompt){.text = str_from(value->valuestring)}, d);
    }
    if (!cJSON_IsArray(value) || value->child == NULL) {
        return status_fail_param(d, STATUS_INVALID, name, "`%s` must be %s, not %s", name,
                                 "a text, a list of texts, of token ids, or of lists of token ids",
                                 cJSON_IsArray(value) ? "empty" : jsonin_kind(value));
    }
    const cJSON *one;
    cJSON_ArrayForEach(one, value) {
        if (!cJSON_IsString(one)) {
            return status_fail_param(d, STATUS_INVALID, name,
                                     "`%s` must be a list of texts or of token ids, not of %s",
                                     name, jsonin_kind(one));
        }
        TRY(openai_prompt_add(r, name, (openai_prompt){.text = str_from(one->valuestring)}, d));
    }
    return STATUS_OK;
}

status openai_prompt_read(const jsonin *j, const char *name, bool many, const openai_limits *limits,
                          openai_request *r, diag *d) {
    const cJSON *value = jsonin_get(j->root, name);
    if (value == NULL) {
        return status_fail_param(d, STATUS_INVALID, name, "`%s` is missing", name);
    }
    r->prompts = mem_calloc(LIMIT_BATCH_PROMPTS, sizeof *r->prompts);
    if (r->prompts == NULL) {
        return status_fail(d, STATUS_NOMEM, "no memory for the request");
    }
    const jsonin_member *raw = jsonin_raw(j, name);
    if (raw != NULL && raw->bulk) {
        openai_prompt_text t = {raw->value.data, raw->value.data + raw->value.bytes, name, limits,
                                d};
        return openai_prompt_bulk(&t, many, r);
    }
    if (!many && !cJSON_IsString(value)) {
        return status_fail_param(d, STATUS_INVALID, name, "`%s` must be a string, not %s", name,
                                 jsonin_kind(value));
    }
    return openai_prompt_texts(value, name, r, d);
}

void openai_prompt_free(openai_request *r) {
    for (int32_t i = 0; i < r->prompts_count; i++) {
        mem_free(r->prompts[i].tokens);
    }
    mem_free(r->prompts);
    r->prompts = NULL;
    r->prompts_count = 0;
}
