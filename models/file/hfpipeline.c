/* hfpipeline.c -- what happens to text around the merges, as tokenizer.json says it. */
#include "models/file/hfpipeline.h"

#include <string.h>

#include "engine/base/str.h"
#include "models/file/jsonfile.h"

#define FILE_NAME "tokenizer.json"
#define BLANK "\xE2\x96\x81" /* U+2581 */

/* Regular expressions by the family whose words they cut, as the files write them. */
static const struct {
    const char *expression, *family;
} expressions[] = {
    {"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| "
     "?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+",
     "llama-bpe"},
    {"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| "
     "?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+",
     "qwen2"},
};

typedef struct {
    hfpipeline *out;
    bool blanks;   /* the normalizer writes blanks as U+2581 */
    bool prepends; /* and puts one in front */
    bool bytes;    /* the byte alphabet is in use */
    bool digits;   /* every digit apart */
    diag *d;
} reader;

static const char *text_of(const cJSON *json, const char *key) {
    const cJSON *member = jsonfile_member(json, key);
    return cJSON_IsString(member) ? member->valuestring : "";
}

static bool flag_of(const cJSON *json, const char *key, bool fallback) {
    const cJSON *member = jsonfile_member(json, key);
    return member == NULL ? fallback : cJSON_IsTrue(member);
}

static status refuse(const reader *r, const char *part, const cJSON *json) {
    char *shown = cJSON_PrintUnformatted(json);
    status s = status_fail_param(r->d, STATUS_UNSUPPORTED, part,
                                 FILE_NAME ": the %s %.220s is not supported", part,
                                 shown != NULL ? shown : "");
    cJSON_free(shown);
    return s;
}

/* Runs `one` on each member of a Sequence under `list`, or on the thing itself. */
typedef status (*step)(reader *r, const cJSON *json);
static status each(reader *r, const cJSON *json, const char *list, step one) {
    if (strcmp(text_of(json, "type"), "Sequence") != 0) {
        return one(r, json);
    }
    const cJSON *members = jsonfile_member(json, list);
    for (const cJSON *m = cJSON_IsArray(members) ? members->child : NULL; m != NULL; m = m->next) {
        TRY(one(r, m));
    }
    return STATUS_OK;
}

/* ---- normalizers ---------------------------------------------------------------------------- */

static status normalizer(reader *r, const cJSON *json) {
    const char *type = text_of(json, "type");
    if (strcmp(type, "NFC") == 0 && !r->blanks && !r->prepends) {
        r->out->nfc = true;
        return STATUS_OK;
    }
    if (strcmp(type, "Prepend") == 0 && strcmp(text_of(json, "prepend"), BLANK) == 0) {
        r->prepends = true;
        return STATUS_OK;
    }
    const cJSON *pattern = jsonfile_member(json, "pattern");
    if (strcmp(type, "Replace") == 0 && strcmp(text_of(pattern, "String"), " ") == 0 &&
        strcmp(text_of(json, "content"), BLANK) == 0) {
        r->blanks = true;
        return STATUS_OK;
    }
    return refuse(r, "normalizer", json);
}

/* ---- pre-tokenizers ------------------------------------------------------------------------- */

static status split_step(reader *r, const cJSON *json) {
    const cJSON *pattern = jsonfile_member(json, "pattern");
    const char *expression = text_of(pattern, "Regex");
    if (r->blanks && strcmp(text_of(pattern, "String"), " ") == 0) {
        return STATUS_OK; /* Gemma's: at blanks, of which the normalizer has left none */
    }
    bool isolates = strcmp(text_of(json, "behavior"), "Isolated") == 0;
    for (size_t i = 0; i < sizeof expressions / sizeof expressions[0]; i++) {
        if (isolates && !flag_of(json, "invert", false) && r->out->pre == NULL && !r->bytes &&
            strcmp(expression, expressions[i].expression) == 0) {
            r->out->pre = expressions[i].family;
            return STATUS_OK;
        }
    }
    return refuse(r, "pre_tokenizer", json);
}

static status byte_level_step(reader *r, const cJSON *json) {
    bool cuts = flag_of(json, "use_regex", true);
    if (flag_of(json, "add_prefix_space", true) || r->bytes ||
        cuts != (r->out->pre == NULL)) { /* one cut, by whoever */
        return refuse(r, "pre_tokenizer", json);
    }
    if (cuts) {
        r->out->pre = r->digits ? "smollm" : "gpt2";
    }
    r->bytes = true;
    return STATUS_OK;
}

static status metaspace_step(reader *r, const cJSON *json) {
    const char *scheme = text_of(json, "prepend_scheme");
    if (scheme[0] == 0) { /* files older than the schemes */
        scheme = flag_of(json, "add_prefix_space", true) ? "always" : "never";
    }
    bool known = strcmp(scheme, "always") == 0 || strcmp(scheme, "first") == 0 ||
                 strcmp(scheme, "never") == 0;
    if (!known || r->out->prefix != NULL || r->blanks || r->prepends ||
        strcmp(text_of(json, "replacement"), BLANK) != 0) {
        return refuse(r, "pre_tokenizer", json);
    }
    r->out->prefix = scheme;
    r->out->split = flag_of(json, "split", true);
    return STATUS_OK;
}

static status pre_tokenizer(reader *r, const cJSON *json) {
    const char *type = text_of(json, "type");
    if (strcmp(type, "Split") == 0) {
        return split_step(r, json);
    }
    if (strcmp(type, "ByteLevel") == 0) {
        return byte_level_step(r, json);
    }
    if (strcmp(type, "Metaspace") == 0) {
        return metaspace_step(r, json);
    }
    if (strcmp(type, "Digits") == 0 && flag_of(json, "individual_digits", false) &&
        r->out->pre == NULL && !r->digits) {
        r->digits = true;
        return STATUS_OK;
    }
    return refuse(r, "pre_tokenizer", json);
}

/* The parts must make one of the two ways: bytes in their alphabet, or blanks as U+2581. */
static status settle(reader *r, const cJSON *tokenizer) {
    hfpipeline *p = r->out;
    const cJSON *pre = jsonfile_member(tokenizer, "pre_tokenizer");
    bool spaced = p->prefix != NULL || r->blanks;
    if (r->bytes == spaced || (r->digits && p->pre != NULL && strcmp(p->pre, "smollm") != 0) ||
        (r->prepends && !r->blanks) || (spaced && (p->nfc || r->digits || p->pre != NULL))) {
        return status_fail_param(
            r->d, STATUS_UNSUPPORTED, "pre_tokenizer",
            FILE_NAME ": this combination of normalizer and pre_tokenizer is not supported%s",
            pre == NULL ? " (there is no pre_tokenizer)" : "");
    }
    if (r->blanks) {
        p->prefix = r->prepends ? "segment" : "never";
    }
    return STATUS_OK;
}

/* ---- post-processors ------------------------------------------------------------------------ */

static status template_step(reader *r, const cJSON *json) {
    const cJSON *single = jsonfile_member(json, "single");
    bool text_seen = false;
    for (const cJSON *p = cJSON_IsArray(single) ? single->child : NULL; p != NULL; p = p->next) {
        const cJSON *token = jsonfile_member(p, "SpecialToken");
        const char **place = text_seen ? &r->out->end : &r->out->begin;
        if (token == NULL && jsonfile_member(p, "Sequence") != NULL && !text_seen) {
            text_seen = true;
        } else if (token != NULL && *place == NULL && text_of(token, "id")[0] != 0) {
            *place = text_of(token, "id");
        } else {
            return refuse(r, "post_processor", json);
        }
    }
    return text_seen ? STATUS_OK : refuse(r, "post_processor", json);
}

static status post_processor(reader *r, const cJSON *json) {
    const char *type = text_of(json, "type");
    if (strcmp(type, "ByteLevel") == 0) {
        return STATUS_OK; /* it moves offsets, no ids */
    }
    if (strcmp(type, "TemplateProcessing") == 0) {
        return template_step(r, json);
    }
    return refuse(r, "post_processor", json);
}

status hfpipeline_read(const cJSON *tokenizer, hfpipeline *out, diag *d) {
    hfpipeline p = {0};
    reader r = {.out = &p, .d = d};
    const cJSON *part = jsonfile_member(tokenizer, "normalizer");
    if (part != NULL) {
        TRY(each(&r, part, "normalizers", normalizer));
    }
    part = jsonfile_member(tokenizer, "pre_tokenizer");
    if (part != NULL) {
        TRY(each(&r, part, "pretokenizers", pre_tokenizer));
    }
    TRY(settle(&r, tokenizer));
    part = jsonfile_member(tokenizer, "post_processor");
    if (part != NULL) {
        TRY(each(&r, part, "processors", post_processor));
    }
    *out = p;
    return STATUS_OK;
}
