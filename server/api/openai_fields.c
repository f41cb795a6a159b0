/* openai_fields.c -- the fields chat and completions have in common. */
#include "server/api/openai_fields.h"

#include <string.h>

enum { OPENAI_FIELDS_NAME_BYTES = 256, OPENAI_FIELDS_TEXT_BYTES = 4096 };

/* Which values of an unsupported field change nothing. */
typedef enum {
    OPENAI_HARMLESS_NONE,  /* only null */
    OPENAI_HARMLESS_FALSE, /* false */
    OPENAI_HARMLESS_EMPTY, /* "", [], {} */
    OPENAI_HARMLESS_ONE,   /* 1 */
    OPENAI_HARMLESS_ZERO   /* 0 */
} openai_harmless;

enum { OPENAI_IN_CHAT = 1, OPENAI_IN_COMPLETIONS = 2, OPENAI_IN_BOTH = 3 };

static const struct {
    const char *name;
    int32_t where;
    openai_harmless harmless;
} openai_unsupported[] = {
    {"use_beam_search", OPENAI_IN_BOTH, OPENAI_HARMLESS_FALSE},
    {"length_penalty", OPENAI_IN_BOTH, OPENAI_HARMLESS_ONE},
    {"prompt_logprobs", OPENAI_IN_BOTH, OPENAI_HARMLESS_NONE},
    {"truncate_prompt_tokens", OPENAI_IN_BOTH, OPENAI_HARMLESS_NONE},
    {"allowed_token_ids", OPENAI_IN_BOTH, OPENAI_HARMLESS_NONE},
    {"bad_words", OPENAI_IN_BOTH, OPENAI_HARMLESS_EMPTY},
    {"logits_processors", OPENAI_IN_BOTH, OPENAI_HARMLESS_EMPTY},
    {"logit_processors", OPENAI_IN_BOTH, OPENAI_HARMLESS_EMPTY},
    {"logprob_token_ids", OPENAI_IN_BOTH, OPENAI_HARMLESS_EMPTY},
    {"structured_outputs", OPENAI_IN_BOTH, OPENAI_HARMLESS_NONE},
    {"guided_json", OPENAI_IN_BOTH, OPENAI_HARMLESS_NONE},
    {"guided_regex", OPENAI_IN_BOTH, OPENAI_HARMLESS_NONE},
    {"guided_choice", OPENAI_IN_BOTH, OPENAI_HARMLESS_NONE},
    {"guided_grammar", OPENAI_IN_BOTH, OPENAI_HARMLESS_NONE},
    {"prompt_embeds", OPENAI_IN_BOTH, OPENAI_HARMLESS_NONE},
    {"typical_p", OPENAI_IN_BOTH, OPENAI_HARMLESS_ONE},
    {"top_a", OPENAI_IN_BOTH, OPENAI_HARMLESS_ZERO},
    {"mirostat", OPENAI_IN_BOTH, OPENAI_HARMLESS_ZERO},
    {"suffix", OPENAI_IN_COMPLETIONS, OPENAI_HARMLESS_EMPTY},
    {"functions", OPENAI_IN_CHAT, OPENAI_HARMLESS_EMPTY},
    {"function_call", OPENAI_IN_CHAT, OPENAI_HARMLESS_NONE},
    {"audio", OPENAI_IN_CHAT, OPENAI_HARMLESS_NONE},
    {"web_search_options", OPENAI_IN_CHAT, OPENAI_HARMLESS_NONE},
    {"chat_template", OPENAI_IN_CHAT, OPENAI_HARMLESS_NONE},
    {"echo", OPENAI_IN_CHAT, OPENAI_HARMLESS_FALSE},
};

static bool openai_fields_harmless(const cJSON *v, openai_harmless kind) {
    switch (kind) {
        case OPENAI_HARMLESS_FALSE:
            return cJSON_IsFalse(v);
        case OPENAI_HARMLESS_EMPTY:
            return (cJSON_IsString(v) && v->valuestring[0] == 0) ||
                   ((cJSON_IsArray(v) || cJSON_IsObject(v)) && v->child == NULL);
        case OPENAI_HARMLESS_ONE:
            return cJSON_IsNumber(v) && v->valuedouble >= 1 && v->valuedouble <= 1;
        case OPENAI_HARMLESS_ZERO:
            return cJSON_IsNumber(v) && v->valuedouble >= 0 && v->valuedouble <= 0;
        case OPENAI_HARMLESS_NONE:
            break;
    }
    return false;
}

/* `{"type": "text"}` asks for what everybody gets. */
static status openai_fields_response_format(const cJSON *root, diag *d) {
    const cJSON *f = jsonin_get(root, "response_format");
    if (f == NULL) {
        return STATUS_OK;
    }
    const cJSON *type = cJSON_IsObject(f) ? jsonin_get(f, "type") : NULL;
    if (!cJSON_IsString(type)) {
        return status_fail_param(d, STATUS_INVALID, "response_format",
                                 "`response_format` must be an object with a string `type`");
    }
    if (strcmp(type->valuestring, "text") != 0) {
        return status_fail_param(d, STATUS_UNSUPPORTED, "response_format",
                                 "`response_format` of type `%.32s` is not supported; only `text`",
                                 type->valuestring);
    }
    return STATUS_OK;
}

static status openai_fields_tools(const cJSON *root, diag *d) {
    const cJSON *choice = jsonin_get(root, "tool_choice");
    const cJSON *tools = jsonin_get(root, "tools");
    if (tools != NULL && !cJSON_IsArray(tools)) {
        return status_fail_param(d, STATUS_INVALID, "tools", "`tools` must be an array, not %s",
                                 jsonin_kind(tools));
    }
    const cJSON *tool;
    cJSON_ArrayForEach(tool, tools) {
        if (!cJSON_IsObject(tool)) {
            return status_fail_param(d, STATUS_INVALID, "tools",
                                     "each of `tools` must be an object, not %s",
                                     jsonin_kind(tool));
        }
    }
    if (choice == NULL) {
        return STATUS_OK;
    }
    bool named = cJSON_IsObject(choice);
    if (!named && !cJSON_IsString(choice)) {
        return status_fail_param(d, STATUS_INVALID, "tool_choice",
                                 "`tool_choice` must be a string or an object, not %s",
                                 jsonin_kind(choice));
    }
    if (!named &&
        (strcmp(choice->valuestring, "none") == 0 || strcmp(choice->valuestring, "auto") == 0)) {
        return STATUS_OK;
    }
    return status_fail_param(d, STATUS_UNSUPPORTED, "tool_choice",
                             "`tool_choice` can be `none` or `auto`; forcing a call is not "
                             "supported");
}

static status openai_fields_modalities(const cJSON *root, diag *d) {
    const cJSON *m = jsonin_get(root, "modalities");
    const cJSON *one;
    cJSON_ArrayForEach(one, m) {
        if (!cJSON_IsString(one) || strcmp(one->valuestring, "text") != 0) {
            return status_fail_param(d, STATUS_UNSUPPORTED, "modalities",
                                     "`modalities` can only be [\"text\"]");
        }
    }
    return STATUS_OK;
}

status openai_fields_supported(const cJSON *root, openai_kind kind, diag *d) {
    int32_t here = kind == OPENAI_CHAT ? OPENAI_IN_CHAT : OPENAI_IN_COMPLETIONS;
    for (size_t i = 0; i < sizeof openai_unsupported / sizeof openai_unsupported[0]; i++) {
        const char *name = openai_unsupported[i].name;
        const cJSON *v = jsonin_get(root, name);
        if (v == NULL || (openai_unsupported[i].where & here) == 0 ||
            openai_fields_harmless(v, openai_unsupported[i].harmless)) {
            continue;
        }
        return status_fail_param(d, STATUS_UNSUPPORTED, name, "`%s` is not supported", name);
    }
    TRY(openai_fields_response_format(root, d));
    if (kind == OPENAI_CHAT) {
        TRY(openai_fields_tools(root, d));
        TRY(openai_fields_modalities(root, d));
    }
    return STATUS_OK;
}

status openai_fields_model(const cJSON *root, const openai_limits *limits, openai_request *r,
                           diag *d) {
    r->model = str_from(limits->models[0]);
    str asked = {NULL, 0};
    TRY(jsonin_string(root, "model", OPENAI_FIELDS_TEXT_BYTES, &asked, d));
    if (asked.data == NULL) {
        return STATUS_OK;
    }
    for (int32_t i = 0; i < limits->models_count; i++) {
        if (str_equal_z(asked, limits->models[i])) {
            r->model = str_from(limits->models[i]);
            return STATUS_OK;
        }
    }
    return status_fail_param(d, STATUS_NOTFOUND, "model", "the model `%.*s` does not exist",
                             (int)(asked.bytes < 100 ? asked.bytes : 100), asked.data);
}

static status openai_fields_stop_one(const cJSON *v, openai_request *r, diag *d) {
    if (!cJSON_IsString(v)) {
        return status_fail_param(d, STATUS_INVALID, "stop",
                                 "`stop` must be a string or an array of strings, not %s",
                                 jsonin_kind(v));
    }
    str s = str_from(v->valuestring);
    if (s.bytes == 0) {
        return status_fail_param(d, STATUS_INVALID, "stop", "`stop` may not be empty");
    }
    if (s.bytes > LIMIT_STOP_BYTES) {
        return status_fail_param(d, STATUS_INVALID, "stop", "a `stop` may have %d bytes, not %zu",
                                 LIMIT_STOP_BYTES, s.bytes);
    }
    if (r->stops_count == LIMIT_STOP_STRINGS) {
        return status_fail_param(d, STATUS_INVALID, "stop", "at most %d strings in `stop`",
                                 LIMIT_STOP_STRINGS);
    }
    r->stops[r->stops_count++] = s;
    return STATUS_OK;
}

static status openai_fields_stops(const cJSON *root, const openai_limits *limits, openai_request *r,
                                  diag *d) {
    const cJSON *stop = jsonin_get(root, "stop");
    const cJSON *one;
    if (stop != NULL && !cJSON_IsArray(stop)) {
        TRY(openai_fields_stop_one(stop, r, d));
    } else {
        cJSON_ArrayForEach(one, stop) {
            TRY(openai_fields_stop_one(one, r, d));
        }
    }
    const cJSON *ids = jsonin_get(root, "stop_token_ids");
    if (ids != NULL && !cJSON_IsArray(ids)) {
        return status_fail_param(d, STATUS_INVALID, "stop_token_ids",
                                 "`stop_token_ids` must be an array of integers, not %s",
                                 jsonin_kind(ids));
    }
    cJSON_ArrayForEach(one, ids) {
        if (r->params.stop_ids_count == LIMIT_STOP_IDS) {
            return status_fail_param(d, STATUS_INVALID, "stop_token_ids",
                                     "at most %d ids in `stop_token_ids`", LIMIT_STOP_IDS);
        }
        TRY(jsonin_value_int(one, "stop_token_ids", 0, limits->vocab_count - 1,
                             &r->params.stop_ids[r->params.stop_ids_count], d));
        r->params.stop_ids_count++;
    }
    return jsonin_bool(root, "include_stop_str_in_output", &r->stop_included, d);
}

static status openai_fields_bias(const cJSON *root, const openai_limits *limits, request_params *p,
                                 diag *d) {
    const cJSON *bias = jsonin_get(root, "logit_bias");
    if (bias == NULL) {
        return STATUS_OK;
    }
    if (!cJSON_IsObject(bias)) {
        return status_fail_param(d, STATUS_INVALID, "logit_bias",
                                 "`logit_bias` must be an object, not %s", jsonin_kind(bias));
    }
    const cJSON *one;
    cJSON_ArrayForEach(one, bias) {
        int64_t id;
        if (!str_to_i64(str_from(one->string), 0, limits->vocab_count - 1, &id)) {
            return status_fail_param(d, STATUS_INVALID, "logit_bias",
                                     "`%.32s` in `logit_bias` is not a token id of the model",
                                     one->string);
        }
        if (!cJSON_IsNumber(one) || !(one->valuedouble >= -100 && one->valuedouble <= 100)) {
            return status_fail_param(d, STATUS_INVALID, "logit_bias",
                                     "a `logit_bias` must be a number from -100 to 100");
        }
        if (p->biases_count == LIMIT_LOGIT_BIAS) {
            return status_fail_param(d, STATUS_INVALID, "logit_bias",
                                     "at most %d tokens in `logit_bias`", LIMIT_LOGIT_BIAS);
        }
        p->biases[p->biases_count++] = (request_bias){(int32_t)id, (float)one->valuedouble};
    }
    return STATUS_OK;
}

static status openai_fields_sampling(const jsonin *j, openai_request *r, diag *d) {
    const cJSON *root = j->root;
    request_params *p = &r->params;
    TRY(jsonin_float(root, "temperature", 0, 2, &p->temperature, d));
    TRY(jsonin_float(root, "top_p", 0, 1, &p->top_p, d));
    if (!(p->top_p > 0)) {
        return status_fail_param(d, STATUS_INVALID, "top_p",
                                 "`top_p` must be greater than 0 and at most 1");
    }
    TRY(jsonin_int(root, "top_k", -1, INT32_MAX, &p->top_k, d));
    p->top_k = p->top_k > 0 ? p->top_k : 0;
    TRY(jsonin_float(root, "min_p", 0, 1, &p->min_p, d));
    TRY(jsonin_float(root, "repetition_penalty", 0.01, 100, &p->repetition_penalty, d));
    TRY(jsonin_float(root, "presence_penalty", -2, 2, &p->presence_penalty, d));
    TRY(jsonin_float(root, "frequency_penalty", -2, 2, &p->frequency_penalty, d));
    int64_t seed = 0;
    TRY(jsonin_int64(j, "seed", &seed, &r->seed_given, d));
    p->seed = (uint64_t)seed;
    return STATUS_OK;
}

static status openai_fields_lengths(const cJSON *root, const openai_limits *limits,
                                    openai_request *r, diag *d) {
    request_params *p = &r->params;
    p->max_tokens = r->kind == OPENAI_CHAT ? -1 : 16;
    TRY(jsonin_int(root, "max_tokens", 0, limits->context_tokens, &p->max_tokens, d));
    if (r->kind == OPENAI_CHAT) {
        TRY(jsonin_int(root, "max_completion_tokens", 0, limits->context_tokens, &p->max_tokens,
                       d));
    }
    TRY(jsonin_int(root, "min_tokens", 0, limits->context_tokens, &p->min_tokens, d));
    if (p->max_tokens >= 0 && p->min_tokens > p->max_tokens) {
        return status_fail_param(d, STATUS_INVALID, "min_tokens",
                                 "`min_tokens` (%d) is more than `max_tokens` (%d)", p->min_tokens,
                                 p->max_tokens);
    }
    TRY(jsonin_bool(root, "ignore_eos", &p->ignore_eos, d));
    TRY(jsonin_int(root, "n", 1, LIMIT_CHOICES, &p->choices, d));
    int32_t best_of = p->choices;
    TRY(jsonin_int(root, "best_of", 1, LIMIT_CHOICES, &best_of, d));
    if (best_of != p->choices) {
        return status_fail_param(d, STATUS_UNSUPPORTED, "best_of",
                                 "`best_of` other than `n` is not supported");
    }
    return STATUS_OK;
}

static status openai_fields_logprobs(const cJSON *root, openai_request *r, diag *d) {
    request_params *p = &r->params;
    p->top_logprobs = -1;
    if (r->kind == OPENAI_COMPLETIONS) {
        TRY(jsonin_int(root, "logprobs", 0, LIMIT_TOP_LOGPROBS, &p->top_logprobs, d));
        r->logprobs = p->top_logprobs >= 0;
        p->prompt_logprobs = r->logprobs && r->echo;
        return STATUS_OK;
    }
    TRY(jsonin_bool(root, "logprobs", &r->logprobs, d));
    int32_t top = -1;
    TRY(jsonin_int(root, "top_logprobs", 0, LIMIT_TOP_LOGPROBS, &top, d));
    if (top > 0 && !r->logprobs) {
        return status_fail_param(d, STATUS_INVALID, "top_logprobs",
                                 "`top_logprobs` needs `logprobs` to be true");
    }
    if (r->logprobs) {
        p->top_logprobs = top >= 0 ? top : 0;
    }
    return STATUS_OK;
}

static status openai_fields_streaming(const cJSON *root, openai_request *r, diag *d) {
    TRY(jsonin_bool(root, "stream", &r->stream, d));
    const cJSON *options = jsonin_get(root, "stream_options");
    if (options == NULL) {
        return STATUS_OK;
    }
    if (!cJSON_IsObject(options)) {
        return status_fail_param(d, STATUS_INVALID, "stream_options",
                                 "`stream_options` must be an object, not %s",
                                 jsonin_kind(options));
    }
    if (!r->stream) {
        return status_fail_param(d, STATUS_INVALID, "stream_options",
                                 "`stream_options` needs `stream` to be true");
    }
    TRY(jsonin_bool(options, "include_usage", &r->usage_included, d));
    return jsonin_bool(options, "continuous_usage_stats", &r->usage_continuous, d);
}

/* vLLM's field: lower goes first. */
static status openai_fields_priority(const cJSON *root, openai_request *r, diag *d) {
    return jsonin_int(root, "priority", -OPENAI_PRIORITY_MAX, OPENAI_PRIORITY_MAX, &r->priority, d);
}

/* vLLM's way to let a router drive a prefill and a decode server (README.md): what a prefill server
 * answers comes back to a decode server. Here it needs to carry nothing: the pages are found by the
 * prompt's tokens. Members that only other connectors use are not read. */
static status openai_fields_transfer(const cJSON *root, openai_request *r, diag *d) {
    static const char field[] = "kv_transfer_params";
    const cJSON *params = jsonin_get(root, field);
    bool fetched = false;
    if (params == NULL) {
        return STATUS_OK;
    }
    if (!cJSON_IsObject(params)) {
        return status_fail_param(d, STATUS_INVALID, field, "`%s` must be an object, not %s", field,
                                 jsonin_kind(params));
    }
    TRY(jsonin_bool(params, "do_remote_decode", &r->kv_kept, d));
    TRY(jsonin_bool(params, "do_remote_prefill", &fetched, d));
    if (r->kv_kept && fetched) {
        return status_fail_param(d, STATUS_INVALID, field,
                                 "`do_remote_decode` and `do_remote_prefill` of `%s` exclude each "
                                 "other",
                                 field);
    }
    return STATUS_OK;
}

status openai_fields_generation(const jsonin *j, const openai_limits *limits, openai_request *r,
                                diag *d) {
    const cJSON *root = j->root;
    r->params.temperature = 1;
    r->params.top_p = 1;
    r->params.repetition_penalty = 1;
    r->params.choices = 1;
    r->special_skipped = true;
    TRY(openai_fields_supported(root, r->kind, d));
    TRY(openai_fields_sampling(j, r, d));
    TRY(openai_fields_lengths(root, limits, r, d));
    if (r->kind == OPENAI_COMPLETIONS) {
        TRY(jsonin_bool(root, "echo", &r->echo, d));
    }
    TRY(openai_fields_logprobs(root, r, d));
    TRY(openai_fields_streaming(root, r, d));
    TRY(openai_fields_stops(root, limits, r, d));
    TRY(openai_fields_bias(root, limits, &r->params, d));
    TRY(jsonin_bool(root, "skip_special_tokens", &r->special_skipped, d));
    TRY(jsonin_bool(root, "return_token_ids", &r->token_ids, d));
    TRY(jsonin_bool(root, "return_tokens_as_token_ids", &r->tokens_as_ids, d));
    TRY(jsonin_string(root, "cache_salt", OPENAI_FIELDS_NAME_BYTES, &r->cache_salt, d));
    if (r->cache_salt.data != NULL && r->cache_salt.bytes == 0) {
        return status_fail_param(d, STATUS_INVALID, "cache_salt", "`cache_salt` may not be empty");
    }
    TRY(openai_fields_priority(root, r, d));
    TRY(openai_fields_transfer(root, r, d));
    TRY(jsonin_string(root, "prompt_cache_key", OPENAI_FIELDS_TEXT_BYTES, &r->cache_key, d));
    return jsonin_string(root, "user", OPENAI_FIELDS_TEXT_BYTES, &r->user, d);
}
