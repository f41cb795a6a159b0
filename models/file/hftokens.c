/* hftokens.c -- tokenizer.json of a Hugging Face folder, as the keys of a GGUF file. */
#include "models/file/hftokens.h"

#include <inttypes.h>

#include "engine/base/mem.h"
#include "models/file/hfpipeline.h"
#include "models/file/jsonfile.h"

#define FILE_NAME "tokenizer.json"
#define KEY "tokenizer.ggml."

/* With the numbers of tokenizer.ggml.token_type. */
enum {
    TYPE_NORMAL = 1,
    TYPE_UNKNOWN = 2,
    TYPE_CONTROL = 3,
    TYPE_USER = 4,
    TYPE_UNUSED = 5,
    TYPE_BYTE = 6
};

typedef struct {
    str text; /* NULL data: no token has this id */
    int32_t type;
} token;

typedef struct {
    const hftokens_input *in;
    const hfconfig *config;
    ggufmake *keys;
    hfpipeline pipeline;
    token *tokens; /* [count] by id */
    int32_t count;
    diag *d;
} maker;

static status bad(const maker *m, const char *what, const char *why) {
    return status_fail_param(m->d, STATUS_CORRUPT, what, FILE_NAME ": \"%s\" %s", what, why);
}

/* ---- tokens --------------------------------------------------------------------------------- */

static bool is_id(const cJSON *json, int64_t *id) {
    return jsonfile_is_integer(json, 0, HFTOKENS_IDS_MAX - 1, id);
}

/* The table's size: one more than the greatest id. */
static status count_ids(maker *m, const cJSON *vocab, const cJSON *added) {
    int64_t id, top = -1;
    for (const cJSON *t = vocab->child; t != NULL; t = t->next) {
        if (!is_id(t, &id)) {
            return status_fail_param(m->d, STATUS_CORRUPT, "vocab",
                                     FILE_NAME ": token '%.80s' must have an id below %d",
                                     t->string, HFTOKENS_IDS_MAX);
        }
        top = id > top ? id : top;
    }
    for (const cJSON *t = cJSON_IsArray(added) ? added->child : NULL; t != NULL; t = t->next) {
        if (!is_id(jsonfile_member(t, "id"), &id) ||
            !cJSON_IsString(jsonfile_member(t, "content"))) {
            return bad(m, "added_tokens", "must have ids and contents");
        }
        top = id > top ? id : top;
    }
    if (top < 0) {
        return bad(m, "vocab", "is empty");
    }
    m->count = (int32_t)top + 1;
    m->tokens = mem_calloc((size_t)m->count, sizeof m->tokens[0]);
    return m->tokens != NULL ? STATUS_OK
                             : status_fail(m->d, STATUS_NOMEM, "no memory for %d tokens", m->count);
}

static status place(maker *m, int64_t id, const char *text, int32_t type) {
    token *t = &m->tokens[id];
    if (t->text.data != NULL && !str_equal_z(t->text, text)) {
        return status_fail(m->d, STATUS_CORRUPT,
                           FILE_NAME ": tokens '%.60s' and '%.60s' both have the id %" PRId64,
                           t->text.data, text, id);
    }
    *t = (token){str_from(text), type};
    return STATUS_OK;
}

/* <0x00> to <0xFF>: single bytes of text that has no token. */
static bool is_byte(const char *text) {
    static const char digits[] = "0123456789ABCDEF";
    return strlen(text) == 6 && memcmp(text, "<0x", 3) == 0 && text[5] == '>' &&
           memchr(digits, text[3], 16) != NULL && memchr(digits, text[4], 16) != NULL;
}

static status take_added(maker *m, const cJSON *t) {
    static const char *const flags[] = {"lstrip", "rstrip", "single_word"};
    const char *text = jsonfile_member(t, "content")->valuestring;
    for (size_t i = 0; i < sizeof flags / sizeof flags[0]; i++) {
        if (cJSON_IsTrue(jsonfile_member(t, flags[i]))) {
            return status_fail_param(m->d, STATUS_UNSUPPORTED, flags[i],
                                     FILE_NAME
                                     ": the added token '%.80s' has \"%s\", which is not "
                                     "supported",
                                     text, flags[i]);
        }
    }
    int64_t id = 0;
    (void)is_id(jsonfile_member(t, "id"), &id); /* counted before */
    bool special = cJSON_IsTrue(jsonfile_member(t, "special"));
    return place(m, id, text, special ? TYPE_CONTROL : TYPE_USER);
}

static status take_tokens(maker *m, const cJSON *model) {
    const cJSON *vocab = jsonfile_member(model, "vocab");
    const cJSON *added = jsonfile_member(m->in->tokenizer, "added_tokens");
    const cJSON *unknown = jsonfile_member(model, "unk_token");
    if (!cJSON_IsObject(vocab)) {
        return bad(m, "vocab", "must be an object of texts and ids");
    }
    TRY(count_ids(m, vocab, added));
    for (const cJSON *t = vocab->child; t != NULL; t = t->next) {
        int64_t id = 0;
        (void)is_id(t, &id);
        if (m->tokens[id].text.data != NULL) {
            return status_fail(m->d, STATUS_CORRUPT,
                               FILE_NAME ": tokens '%.60s' and '%.60s' both have the id %" PRId64,
                               m->tokens[id].text.data, t->string, id);
        }
        bool byte = m->pipeline.pre == NULL && is_byte(t->string);
        bool none = cJSON_IsString(unknown) && strcmp(unknown->valuestring, t->string) == 0;
        TRY(place(m, id, t->string, byte ? TYPE_BYTE : none ? TYPE_UNKNOWN : TYPE_NORMAL));
    }
    for (const cJSON *t = cJSON_IsArray(added) ? added->child : NULL; t != NULL; t = t->next) {
        TRY(take_added(m, t));
    }
    ggufmake_array(m->keys, KEY "tokens", GGUF_KIND_STRING, (uint64_t)m->count);
    for (int32_t i = 0; i < m->count; i++) {
        bool hole = m->tokens[i].text.data == NULL;
        ggufmake_element_str(m->keys, hole ? str_from("") : m->tokens[i].text);
    }
    ggufmake_array(m->keys, KEY "token_type", GGUF_KIND_I32, (uint64_t)m->count);
    for (int32_t i = 0; i < m->count; i++) {
        ggufmake_element_i32(m->keys,
                             m->tokens[i].text.data != NULL ? m->tokens[i].type : TYPE_UNUSED);
    }
    return STATUS_OK;
}

/* The token of that text, or -1. */
static int32_t find(const maker *m, const char *text) {
    for (int32_t i = 0; i < m->count; i++) {
        if (m->tokens[i].text.data != NULL && str_equal_z(m->tokens[i].text, text)) {
            return i;
        }
    }
    return -1;
}

/* ---- merges --------------------------------------------------------------------------------- */

/* "left right", or ["left", "right"] in newer files. */
static status put_merge(const maker *m, const cJSON *json, strbuf *joined) {
    if (cJSON_IsString(json)) {
        ggufmake_element_str(m->keys, str_from(json->valuestring));
        return STATUS_OK;
    }
    const cJSON *left = cJSON_IsArray(json) ? json->child : NULL;
    const cJSON *right = left != NULL ? left->next : NULL;
    if (!cJSON_IsString(left) || !cJSON_IsString(right) || right->next != NULL ||
        strchr(left->valuestring, ' ') != NULL || strchr(right->valuestring, ' ') != NULL) {
        return bad(m, "merges", "must hold pairs of token texts without blanks");
    }
    strbuf_clear(joined);
    if (!strbuf_printf(joined, "%s %s", left->valuestring, right->valuestring)) {
        return status_fail(m->d, STATUS_LIMIT, FILE_NAME ": a merge is too long");
    }
    ggufmake_element_str(m->keys, strbuf_str(joined));
    return STATUS_OK;
}

static status put_merges(const maker *m, const cJSON *model) {
    const cJSON *merges = jsonfile_member(model, "merges");
    if (!cJSON_IsArray(merges) || cJSON_GetArraySize(merges) > HFTOKENS_MERGES_MAX) {
        return bad(m, "merges", "must be a list of at most 2097152");
    }
    strbuf joined = strbuf_make(1 << 16);
    status s = STATUS_OK;
    ggufmake_array(m->keys, KEY "merges", GGUF_KIND_STRING, (uint64_t)cJSON_GetArraySize(merges));
    for (const cJSON *p = merges->child; p != NULL && s == STATUS_OK; p = p->next) {
        s = put_merge(m, p, &joined);
    }
    strbuf_close(&joined);
    return s;
}

/* ---- the model ------------------------------------------------------------------------------ */

static status check_model(const maker *m, const cJSON *model) {
    const cJSON *type = jsonfile_member(model, "type");
    if (!cJSON_IsString(type) || strcmp(type->valuestring, "BPE") != 0) {
        return status_fail_param(m->d, STATUS_UNSUPPORTED, "model",
                                 FILE_NAME ": the model's type is \"%.40s\": BPE is supported",
                                 cJSON_IsString(type) ? type->valuestring : "");
    }
    static const char *const parts[] = {"dropout", "continuing_subword_prefix",
                                        "end_of_word_suffix"};
    for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++) {
        const cJSON *part = jsonfile_member(model, parts[i]);
        bool off = part == NULL || (cJSON_IsString(part) && part->valuestring[0] == 0) ||
                   (cJSON_IsNumber(part) && part->valuedouble == 0);
        if (!off) {
            return status_fail_param(m->d, STATUS_UNSUPPORTED, parts[i],
                                     FILE_NAME ": \"%s\" of the model is not supported", parts[i]);
        }
    }
    bool fallback = cJSON_IsTrue(jsonfile_member(model, "byte_fallback"));
    if (fallback != (m->pipeline.pre == NULL)) {
        return status_fail_param(m->d, STATUS_UNSUPPORTED, "byte_fallback",
                                 FILE_NAME
                                 ": \"byte_fallback\" must be set where blanks are "
                                 "written U+2581, and only there");
    }
    return STATUS_OK;
}

static void put_model(const maker *m, const cJSON *model) {
    const hfpipeline *p = &m->pipeline;
    if (p->pre != NULL) {
        ggufmake_str(m->keys, KEY "model", str_from("gpt2"));
        ggufmake_str(m->keys, KEY "pre", str_from(p->pre));
        ggufmake_bool(m->keys, KEY "normalize_nfc", p->nfc);
    } else {
        ggufmake_str(m->keys, KEY "model", str_from("llama"));
        ggufmake_str(m->keys, KEY "space_prefix", str_from(p->prefix));
        ggufmake_bool(m->keys, KEY "space_splits", p->split);
    }
    ggufmake_bool(m->keys, KEY "ignore_merges",
                  cJSON_IsTrue(jsonfile_member(model, "ignore_merges")));
}

/* ---- special tokens ------------------------------------------------------------------------- */

/* A token in tokenizer_config.json: its text, or an object with it. NULL when there is none. */
static const char *setting(const maker *m, const char *name) {
    const cJSON *value = jsonfile_member(m->in->settings, name);
    value = cJSON_IsObject(value) ? jsonfile_member(value, "content") : value;
    return cJSON_IsString(value) ? value->valuestring : NULL;
}

/* An id under `key`: the pipeline's text if it has one, else the settings', else `fallback`. */
static status put_id(const maker *m, const char *key, const char *text, const char *name,
                     int32_t fallback) {
    const char *wanted = text != NULL ? text : setting(m, name);
    int32_t id = wanted != NULL ? find(m, wanted) : fallback;
    if (text != NULL && id < 0) {
        return status_fail_param(m->d, STATUS_CORRUPT, "post_processor",
                                 FILE_NAME
                                 ": the post_processor's token '%.80s' is not in the "
                                 "vocabulary",
                                 text);
    }
    if (id >= 0 && id < m->count) {
        ggufmake_u32(m->keys, key, id);
    }
    return STATUS_OK;
}

static status put_specials(const maker *m) {
    const hfpipeline *p = &m->pipeline;
    const hfconfig *c = m->config;
    TRY(put_id(m, KEY "bos_token_id", p->begin, "bos_token", c->begin));
    TRY(put_id(m, KEY "eos_token_id", p->end, "eos_token", c->ends_count > 0 ? c->ends[0] : -1));
    TRY(put_id(m, KEY "padding_token_id", NULL, "pad_token", -1));
    ggufmake_bool(m->keys, KEY "add_bos_token", p->begin != NULL);
    ggufmake_bool(m->keys, KEY "add_eos_token", p->end != NULL);
    for (int32_t i = 0; i < c->ends_count; i++) {
        if (c->ends[i] >= m->count) {
            return status_fail_param(m->d, STATUS_CORRUPT, "eos_token_id",
                                     "\"eos_token_id\" %d is not in the vocabulary of %d tokens",
                                     c->ends[i], m->count);
        }
    }
    ggufmake_array(m->keys, KEY "eog_token_ids", GGUF_KIND_I32, (uint64_t)c->ends_count);
    for (int32_t i = 0; i < c->ends_count; i++) {
        ggufmake_element_i32(m->keys, c->ends[i]);
    }
    return STATUS_OK;
}

/* The template of a file of its own, else of the settings: a text, or a list of named ones. */
static void put_template(const maker *m) {
    const cJSON *value = jsonfile_member(m->in->settings, "chat_template");
    const cJSON *named = cJSON_IsArray(value) ? value->child : NULL;
    for (; named != NULL; named = named->next) {
        const cJSON *name = jsonfile_member(named, "name");
        if (cJSON_IsString(name) && strcmp(name->valuestring, "default") == 0) {
            value = jsonfile_member(named, "template");
        }
    }
    if (m->in->chat_template.data != NULL) {
        ggufmake_str(m->keys, "tokenizer.chat_template", m->in->chat_template);
    } else if (cJSON_IsString(value)) {
        ggufmake_str(m->keys, "tokenizer.chat_template", str_from(value->valuestring));
    }
}

static status put_all(maker *m) {
    const cJSON *model = jsonfile_member(m->in->tokenizer, "model");
    TRY(hfpipeline_read(m->in->tokenizer, &m->pipeline, m->d));
    TRY(check_model(m, model));
    put_model(m, model);
    TRY(take_tokens(m, model));
    TRY(put_merges(m, model));
    TRY(put_specials(m));
    put_template(m);
    return STATUS_OK;
}

status hftokens_put(const hftokens_input *in, const hfconfig *c, ggufmake *keys, diag *d) {
    maker m = {.in = in, .config = c, .keys = keys, .d = d};
    status s = put_all(&m);
    mem_free(m.tokens);
    return s;
}
