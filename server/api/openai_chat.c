/* openai_chat.c -- a conversation, checked and brought into the form chat templates expect. */
#define _GNU_SOURCE
#include "server/api/openai_chat.h"

#include <stdio.h>
#include <string.h>

#include "engine/base/limits.h"

enum { OPENAI_CHAT_ROLE_BYTES = 64 };

static status openai_chat_nomem(diag *d) {
    return status_fail(d, STATUS_NOMEM, "no memory for the request");
}

/* "messages[3].content" */
static const char *openai_chat_param(char out[64], int32_t index, const char *field) {
    snprintf(out, 64, "messages[%d]%s", index, field);
    return out;
}

/* The text of one element of an array content. Images and sounds would need another model. */
static status openai_chat_part(const cJSON *part, int32_t index, const char **text, diag *d) {
    char param[64];
    openai_chat_param(param, index, ".content");
    if (cJSON_IsString(part)) {
        *text = part->valuestring;
        return STATUS_OK;
    }
    const cJSON *type = cJSON_IsObject(part) ? jsonin_get(part, "type") : NULL;
    if (!cJSON_IsString(type)) {
        return status_fail_param(d, STATUS_INVALID, param,
                                 "each part of `content` must be an object with a string `type`");
    }
    const char *field = strcmp(type->valuestring, "refusal") == 0 ? "refusal" : "text";
    if (strcmp(type->valuestring, "text") != 0 && strcmp(type->valuestring, "refusal") != 0) {
        return status_fail_param(d, STATUS_UNSUPPORTED, param,
                                 "a content part of type `%.32s` is not supported; only `text`",
                                 type->valuestring);
    }
    const cJSON *value = jsonin_get(part, field);
    if (!cJSON_IsString(value)) {
        return status_fail_param(d, STATUS_INVALID, param, "a content part has no string `%s`",
                                 field);
    }
    *text = value->valuestring;
    return STATUS_OK;
}

/* Parts become one string, a line break between two (as vLLM does for templates that want a
 * string, which all text templates accept). */
static status openai_chat_join(const cJSON *parts, int32_t index, strbuf *out, diag *d) {
    const cJSON *part;
    cJSON_ArrayForEach(part, parts) {
        const char *text = NULL;
        TRY(openai_chat_part(part, index, &text, d));
        if (part != parts->child) {
            strbuf_append_char(out, '\n');
        }
        strbuf_append_z(out, text);
    }
    return out->failed ? openai_chat_nomem(d) : STATUS_OK;
}

static status openai_chat_content(cJSON *message, int32_t index, bool may_lack, diag *d) {
    char param[64];
    openai_chat_param(param, index, ".content");
    const cJSON *content = jsonin_get(message, "content");
    if (content == NULL) {
        if (!may_lack) {
            return status_fail_param(d, STATUS_INVALID, param, "`content` is missing");
        }
        return STATUS_OK;
    }
    if (cJSON_IsString(content)) {
        return STATUS_OK;
    }
    if (!cJSON_IsArray(content)) {
        return status_fail_param(d, STATUS_INVALID, param,
                                 "`content` must be a string or an array of parts, not %s",
                                 jsonin_kind(content));
    }
    strbuf joined = strbuf_make(LIMIT_BODY_BYTES);
    status code = openai_chat_join(content, index, &joined, d);
    if (code == STATUS_OK) {
        cJSON *text = cJSON_CreateString(joined.data != NULL ? joined.data : "");
        if (text == NULL || !cJSON_ReplaceItemInObjectCaseSensitive(message, "content", text)) {
            cJSON_Delete(text);
            code = openai_chat_nomem(d);
        }
    }
    strbuf_close(&joined);
    return code;
}

/* Templates loop over the arguments of a call, so a JSON text becomes what it says. */
static status openai_chat_arguments(cJSON *function, const char *param, diag *d) {
    const cJSON *arguments = jsonin_get(function, "arguments");
    if (!cJSON_IsString(arguments)) {
        return STATUS_OK;
    }
    str text = str_from(arguments->valuestring);
    if (text.bytes == 0) {
        text = str_from("{}");
    }
    diag why;
    if (jsonin_check(text, &why) != STATUS_OK) {
        return status_fail_param(d, STATUS_INVALID, param,
                                 "`arguments` of a tool call is not valid JSON: %.200s", why.text);
    }
    cJSON *parsed = cJSON_ParseWithLength(text.data, text.bytes);
    if (parsed == NULL || !cJSON_ReplaceItemInObjectCaseSensitive(function, "arguments", parsed)) {
        cJSON_Delete(parsed);
        return openai_chat_nomem(d);
    }
    return STATUS_OK;
}

static status openai_chat_tool_calls(cJSON *message, int32_t index, bool *any, diag *d) {
    char param[64];
    openai_chat_param(param, index, ".tool_calls");
    const cJSON *calls = jsonin_get(message, "tool_calls");
    *any = calls != NULL;
    if (calls == NULL) {
        return STATUS_OK;
    }
    if (!cJSON_IsArray(calls)) {
        return status_fail_param(d, STATUS_INVALID, param, "`tool_calls` must be an array, not %s",
                                 jsonin_kind(calls));
    }
    const cJSON *call;
    cJSON_ArrayForEach(call, calls) {
        cJSON *function =
            cJSON_IsObject(call) ? cJSON_GetObjectItemCaseSensitive(call, "function") : NULL;
        if (!cJSON_IsObject(function) || !cJSON_IsString(jsonin_get(function, "name"))) {
            return status_fail_param(d, STATUS_INVALID, param,
                                     "each tool call must have a `function` with a `name`");
        }
        TRY(openai_chat_arguments(function, param, d));
    }
    return STATUS_OK;
}

static status openai_chat_message(cJSON *message, int32_t index, diag *d) {
    char param[64];
    if (!cJSON_IsObject(message)) {
        return status_fail_param(d, STATUS_INVALID, openai_chat_param(param, index, ""),
                                 "each message must be an object, not %s", jsonin_kind(message));
    }
    const cJSON *role = jsonin_get(message, "role");
    openai_chat_param(param, index, ".role");
    if (!cJSON_IsString(role)) {
        return status_fail_param(d, STATUS_INVALID, param, "`role` must be a string");
    }
    size_t bytes = strlen(role->valuestring);
    if (bytes == 0 || bytes > OPENAI_CHAT_ROLE_BYTES) {
        return status_fail_param(d, STATUS_INVALID, param, "`role` must have 1 to %d bytes",
                                 OPENAI_CHAT_ROLE_BYTES);
    }
    bool calls = false;
    TRY(openai_chat_tool_calls(message, index, &calls, d));
    bool may_lack = calls || strcmp(role->valuestring, "assistant") == 0;
    return openai_chat_content(message, index, may_lack, d);
}

static status openai_chat_messages(cJSON *root, cJSON **out, diag *d) {
    const cJSON *messages = jsonin_get(root, "messages");
    if (messages == NULL) {
        return status_fail_param(d, STATUS_INVALID, "messages", "`messages` is missing");
    }
    if (!cJSON_IsArray(messages)) {
        return status_fail_param(d, STATUS_INVALID, "messages",
                                 "`messages` must be an array, not %s", jsonin_kind(messages));
    }
    if (messages->child == NULL) {
        return status_fail_param(d, STATUS_INVALID, "messages", "`messages` may not be empty");
    }
    int32_t index = 0;
    for (cJSON *m = messages->child; m != NULL; m = m->next) {
        TRY(openai_chat_message(m, index++, d));
    }
    *out = cJSON_DetachItemFromObjectCaseSensitive(root, "messages");
    return STATUS_OK;
}

/* Moves a member of the request into the template's input; an absent one stays absent. */
static status openai_chat_move(cJSON *root, const char *name, cJSON *input, diag *d) {
    if (jsonin_get(root, name) == NULL) {
        return STATUS_OK;
    }
    cJSON *v = cJSON_DetachItemFromObjectCaseSensitive(root, name);
    if (!cJSON_AddItemToObject(input, name, v)) {
        cJSON_Delete(v);
        return openai_chat_nomem(d);
    }
    return STATUS_OK;
}

/* chat_template_kwargs become variables of the template, but for those that are ours. */
static status openai_chat_kwargs(cJSON *root, cJSON *input, diag *d) {
    const cJSON *kwargs = jsonin_get(root, "chat_template_kwargs");
    if (kwargs == NULL) {
        return STATUS_OK;
    }
    if (!cJSON_IsObject(kwargs)) {
        return status_fail_param(d, STATUS_INVALID, "chat_template_kwargs",
                                 "`chat_template_kwargs` must be an object, not %s",
                                 jsonin_kind(kwargs));
    }
    static const char *const ours[] = {"messages",
                                       "tools",
                                       "documents",
                                       "chat_template",
                                       "bos_token",
                                       "eos_token",
                                       "strftime_now",
                                       "raise_exception",
                                       "tokenize",
                                       "add_generation_prompt",
                                       "continue_final_message"};
    cJSON *object = cJSON_DetachItemFromObjectCaseSensitive(root, "chat_template_kwargs");
    status code = STATUS_OK;
    while (code == STATUS_OK && object->child != NULL) {
        cJSON *one = cJSON_DetachItemViaPointer(object, object->child);
        for (size_t i = 0; i < sizeof ours / sizeof ours[0]; i++) {
            if (strcmp(one->string, ours[i]) == 0) {
                code = status_fail_param(d, STATUS_INVALID, "chat_template_kwargs",
                                         "`%s` may not be set in `chat_template_kwargs`", ours[i]);
            }
        }
        if (code != STATUS_OK || !cJSON_AddItemToObject(input, one->string, one)) {
            cJSON_Delete(one);
            code = code != STATUS_OK ? code : openai_chat_nomem(d);
        }
    }
    cJSON_Delete(object);
    return code;
}

static status openai_chat_flags(const cJSON *root, openai_request *r, cJSON *input, diag *d) {
    bool prompt = true;
    TRY(jsonin_bool(root, "continue_final_message", &r->continue_final_message, d));
    bool given = jsonin_get(root, "add_generation_prompt") != NULL;
    TRY(jsonin_bool(root, "add_generation_prompt", &prompt, d));
    if (r->continue_final_message && prompt) {
        if (given) {
            return status_fail_param(d, STATUS_INVALID, "continue_final_message",
                                     "`continue_final_message` and `add_generation_prompt` cannot "
                                     "both be true");
        }
        prompt = false;
    }
    if (cJSON_AddBoolToObject(input, "add_generation_prompt", prompt) == NULL) {
        return openai_chat_nomem(d);
    }
    return STATUS_OK;
}

static status openai_chat_fill(cJSON *root, openai_request *r, cJSON *input, diag *d) {
    cJSON *messages = NULL;
    TRY(openai_chat_messages(root, &messages, d));
    if (!cJSON_AddItemToObject(input, "messages", messages)) {
        cJSON_Delete(messages);
        return openai_chat_nomem(d);
    }
    TRY(openai_chat_move(root, "tools", input, d));
    TRY(openai_chat_move(root, "documents", input, d));
    TRY(openai_chat_move(root, "reasoning_effort", input, d));
    TRY(openai_chat_flags(root, r, input, d));
    return openai_chat_kwargs(root, input, d);
}

status openai_chat_input(cJSON *root, openai_request *r, diag *d) {
    cJSON *input = cJSON_CreateObject();
    if (input == NULL) {
        return openai_chat_nomem(d);
    }
    status code = openai_chat_fill(root, r, input, d);
    if (code != STATUS_OK) {
        cJSON_Delete(input);
        return code;
    }
    r->template_input = input;
    return STATUS_OK;
}
