/* loadprompt.c -- the requests of a load run, as bytes. */
#define _GNU_SOURCE
#include "bench/loadprompt.h"

#include <cjson/cJSON.h>
#include <string.h>

#include "bench/loadcall.h"
#include "engine/base/limits.h"
#include "engine/base/mem.h"
#include "engine/base/rng.h"

enum {
    LOADPROMPT_ANSWER_BYTES = 64 << 20,
    LOADPROMPT_WORDS = 2000, /* of one /tokenize call */
    LOADPROMPT_FRESH = 8,    /* tokens drawn one by one at a prompt's start, so that none is the
                              * beginning of another */
    LOADPROMPT_TRIES = 4     /* to hit a chat's token count */
};

struct loadprompt {
    loadprompt_options o;
    char *model;
    bool exact;
    int32_t *pool; /* [pool_count] tokens of text in order */
    int32_t pool_count;
    int32_t *tokens;    /* [prompt_tokens] of the prompt being made */
    int32_t chat_extra; /* tokens the chat template adds to an empty message */
    strbuf answer;
};

static const char *const loadprompt_words[] = {
    "the",    "river",  "of",     "water",   "and",      "stone",     "a",       "small",   "house",
    "in",     "winter", "light",  "was",     "built",    "before",    "people",  "came",    "to",
    "market", "with",   "bread",  "their",   "horses",   "carried",   "letters", "over",    "long",
    "roads",  "from",   "city",   "after",   "rain",     "children",  "asked",   "why",     "birds",
    "return", "each",   "spring", "while",   "old",      "engineers", "drew",    "bridges", "on",
    "paper",  "for",    "answer", "nobody",  "knew",     "how",       "deep",    "green",   "lake",
    "might",  "be",     "until",  "someone", "measured", "it",        "that",    "evening", "music",
    "filled", "every",  "room",   "when",    "teacher",  "opened",    "window",  "quietly", "under",
    "bright", "stars",  "ships",  "left",    "harbour",  "carrying",  "salt",    "glass",   "seven",
    "books",  "about",  "wind"};

static void loadprompt_text(uint64_t *random, int32_t words, strbuf *out) {
    size_t count = sizeof loadprompt_words / sizeof loadprompt_words[0];
    for (int32_t i = 0; i < words; i++) {
        const char *word = loadprompt_words[rng_below(random, count)];
        strbuf_append_z(out, i == 0 ? "" : rng_below(random, 12) == 0 ? ". " : " ");
        strbuf_append_z(out, word);
    }
}

/* Asks, and parses the JSON of the answer; NULL with `d` filled when that does not work out. */
static cJSON *loadprompt_ask(loadprompt *p, const char *method, const char *path, cJSON *body,
                             int *code, diag *d) {
    char *text = body != NULL ? cJSON_PrintUnformatted(body) : NULL;
    cJSON_Delete(body);
    strbuf request = strbuf_make(LOADPROMPT_ANSWER_BYTES);
    httpclient_write(&request, p->o.url, method, path, p->o.key, str_from(text));
    cJSON_free(text);
    strbuf_clear(&p->answer);
    status s = request.failed ? status_fail(d, STATUS_NOMEM, "no memory for a request")
                              : loadcall_now(p->o.to, strbuf_str(&request), p->o.timeout_us,
                                             &p->answer, code, d);
    strbuf_close(&request);
    if (s != STATUS_OK) {
        *code = 0;
        return NULL;
    }
    cJSON *root = cJSON_ParseWithLength(p->answer.data, p->answer.bytes);
    if (*code != 200 || root == NULL) {
        cJSON_Delete(root);
        (void)status_fail(d, STATUS_IO, "%s answers %d: %.200s", path, *code,
                          p->answer.data != NULL ? p->answer.data : "");
        return NULL;
    }
    return root;
}

static status loadprompt_find_model(loadprompt *p, diag *d) {
    if (p->o.model != NULL) {
        p->model = mem_dup(p->o.model, strlen(p->o.model));
        return p->model != NULL ? STATUS_OK : status_fail(d, STATUS_NOMEM, "no memory");
    }
    int code = 0;
    cJSON *root = loadprompt_ask(p, "GET", "/v1/models", NULL, &code, d);
    if (root == NULL) {
        return STATUS_IO;
    }
    const cJSON *list = cJSON_GetObjectItemCaseSensitive(root, "data");
    const cJSON *id =
        cJSON_IsArray(list) ? cJSON_GetObjectItemCaseSensitive(list->child, "id") : NULL;
    if (cJSON_IsString(id)) {
        p->model = mem_dup(id->valuestring, strlen(id->valuestring));
    }
    cJSON_Delete(root);
    return p->model != NULL ? STATUS_OK
                            : status_fail(d, STATUS_CORRUPT, "/v1/models names no model");
}

static cJSON *loadprompt_object(const loadprompt *p) {
    cJSON *body = cJSON_CreateObject();
    cJSON_AddStringToObject(body, "model", p->model);
    return body;
}

static cJSON *loadprompt_messages(cJSON *body, const char *content) {
    cJSON *messages = cJSON_AddArrayToObject(body, "messages");
    cJSON *message = cJSON_CreateObject();
    cJSON_AddStringToObject(message, "role", "user");
    cJSON_AddStringToObject(message, "content", content);
    cJSON_AddItemToArray(messages, message);
    return body;
}

static int32_t loadprompt_count(const cJSON *root) {
    const cJSON *tokens = cJSON_GetObjectItemCaseSensitive(root, "tokens");
    return cJSON_IsArray(tokens) ? cJSON_GetArraySize(tokens) : -1;
}

/* Fills the pool. A server without /tokenize leaves it empty. */
static status loadprompt_fill(loadprompt *p, diag *d) {
    uint64_t random = p->o.seed;
    int64_t wanted = 4 * (int64_t)p->o.prompt_tokens + 4096;
    wanted = wanted < LOADPROMPT_POOL_MAX ? wanted : LOADPROMPT_POOL_MAX;
    p->pool = mem_alloc((size_t)wanted, sizeof *p->pool);
    if (p->pool == NULL) {
        return status_fail(d, STATUS_NOMEM, "no memory for prompts");
    }
    while (p->pool_count < wanted) {
        strbuf text = strbuf_make(1 << 20);
        loadprompt_text(&random, LOADPROMPT_WORDS, &text);
        cJSON *body = loadprompt_object(p);
        cJSON_AddStringToObject(body, "prompt", text.data);
        cJSON_AddStringToObject(body, "content", text.data); /* what llama-server reads */
        cJSON_AddBoolToObject(body, "add_special_tokens", false);
        strbuf_close(&text);
        int code = 0;
        cJSON *root = loadprompt_ask(p, "POST", "/tokenize", body, &code, d);
        if (root == NULL && (code == 404 || code == 405) && p->pool_count == 0) {
            return STATUS_OK;
        }
        if (root == NULL || loadprompt_count(root) <= 0) {
            cJSON_Delete(root);
            return root != NULL ? status_fail(d, STATUS_CORRUPT, "/tokenize gives no tokens")
                                : STATUS_IO;
        }
        const cJSON *one;
        cJSON_ArrayForEach(one, cJSON_GetObjectItemCaseSensitive(root, "tokens")) {
            if (p->pool_count < wanted) {
                p->pool[p->pool_count++] = one->valueint;
            }
        }
        cJSON_Delete(root);
    }
    p->exact = true;
    return STATUS_OK;
}

static status loadprompt_measure_template(loadprompt *p, diag *d) {
    int code = 0;
    cJSON *root = loadprompt_ask(p, "POST", "/tokenize",
                                 loadprompt_messages(loadprompt_object(p), ""), &code, d);
    if (root == NULL) {
        return STATUS_IO;
    }
    p->chat_extra = loadprompt_count(root);
    cJSON_Delete(root);
    if (p->chat_extra == 0) {
        p->exact = false; /* this /tokenize knows no messages */
        return STATUS_OK;
    }
    if (p->chat_extra < 0 || p->chat_extra + 1 > p->o.prompt_tokens) {
        return status_fail_param(d, STATUS_INVALID, "prompt-tokens",
                                 "a chat prompt of this model has more than %d tokens",
                                 p->chat_extra);
    }
    return STATUS_OK;
}

status loadprompt_open(const loadprompt_options *o, loadprompt **out, diag *d) {
    loadprompt *p = mem_calloc(1, sizeof *p);
    if (p == NULL) {
        return status_fail(d, STATUS_NOMEM, "no memory for prompts");
    }
    p->o = *o;
    p->answer = strbuf_make(LOADPROMPT_ANSWER_BYTES);
    p->tokens = mem_alloc((size_t)o->prompt_tokens, sizeof *p->tokens);
    status s = p->tokens != NULL ? STATUS_OK : status_fail(d, STATUS_NOMEM, "no memory");
    if (s == STATUS_OK) {
        s = loadprompt_find_model(p, d);
    }
    if (s == STATUS_OK) {
        s = loadprompt_fill(p, d);
    }
    if (s == STATUS_OK && o->chat && p->exact) {
        s = loadprompt_measure_template(p, d);
    }
    if (s != STATUS_OK) {
        loadprompt_close(p);
        return s;
    }
    *out = p;
    return STATUS_OK;
}

void loadprompt_close(loadprompt *p) {
    strbuf_close(&p->answer);
    mem_free(p->pool);
    mem_free(p->tokens);
    mem_free(p->model);
    mem_free(p);
}

bool loadprompt_exact(const loadprompt *p) {
    return p->exact;
}

const char *loadprompt_model(const loadprompt *p) {
    return p->model;
}

/* The n-th prompt: the common prefix, a few tokens drawn singly, a run of the pool. */
static void loadprompt_draw(loadprompt *p, int64_t n, int32_t count) {
    uint64_t random = rng_mix(p->o.seed ^ rng_mix((uint64_t)n + 1));
    uint64_t pool = (uint64_t)p->pool_count;
    uint64_t from = rng_below(&random, pool);
    bool several = p->o.prefixes > 1;
    uint64_t group = several ? rng_mix(p->o.seed ^ rng_below(&random, (uint64_t)p->o.prefixes)) : 0;
    uint64_t group_from = several ? rng_below(&group, pool) : 0;
    for (int32_t i = 0; i < count; i++) {
        if (i < p->o.prefix_tokens) {
            bool fresh = several && i < LOADPROMPT_FRESH;
            p->tokens[i] =
                p->pool[fresh ? rng_below(&group, pool) : (group_from + (uint64_t)i) % pool];
        } else if (i < p->o.prefix_tokens + LOADPROMPT_FRESH) {
            p->tokens[i] = p->pool[rng_below(&random, pool)];
        } else {
            p->tokens[i] = p->pool[(from + (uint64_t)i) % pool];
        }
    }
}

/* The text of the first `count` of p->tokens; mem_free it. */
static char *loadprompt_detokenize(loadprompt *p, int32_t count, diag *d) {
    cJSON *body = loadprompt_object(p);
    cJSON_AddItemToObject(body, "tokens", cJSON_CreateIntArray(p->tokens, count));
    int code = 0;
    cJSON *root = loadprompt_ask(p, "POST", "/detokenize", body, &code, d);
    const cJSON *text = cJSON_GetObjectItemCaseSensitive(root, "prompt");
    char *copy = NULL;
    if (cJSON_IsString(text)) {
        copy = mem_dup(text->valuestring, strlen(text->valuestring));
    } else if (root != NULL) {
        (void)status_fail(d, STATUS_CORRUPT, "/detokenize gives no text");
    }
    cJSON_Delete(root);
    return copy;
}

/* A message that makes the whole prompt prompt_tokens long. Text cut out of a longer one may
 * tokenise a little differently, so the count is checked and corrected. */
static char *loadprompt_chat_text(loadprompt *p, int64_t n, diag *d) {
    int32_t count = p->o.prompt_tokens - p->chat_extra;
    for (int i = 0; i < LOADPROMPT_TRIES; i++) {
        loadprompt_draw(p, n, count);
        char *text = loadprompt_detokenize(p, count, d);
        if (text == NULL) {
            return NULL;
        }
        int code = 0;
        cJSON *root = loadprompt_ask(p, "POST", "/tokenize",
                                     loadprompt_messages(loadprompt_object(p), text), &code, d);
        int32_t got = loadprompt_count(root);
        cJSON_Delete(root);
        int32_t next = count + p->o.prompt_tokens - got;
        if (got < 0 || (got != p->o.prompt_tokens && i + 1 == LOADPROMPT_TRIES)) {
            p->exact = false;
        }
        if (got < 0 || got == p->o.prompt_tokens || next < 1 || next > p->o.prompt_tokens ||
            i + 1 == LOADPROMPT_TRIES) {
            return text;
        }
        count = next;
        mem_free(text);
    }
    return NULL;
}

static status loadprompt_add_prompt(loadprompt *p, int64_t n, cJSON *body, diag *d) {
    if (p->exact && !p->o.chat) {
        loadprompt_draw(p, n, p->o.prompt_tokens);
        cJSON_AddItemToObject(body, "prompt", cJSON_CreateIntArray(p->tokens, p->o.prompt_tokens));
        return STATUS_OK;
    }
    strbuf words = strbuf_make(LIMIT_BODY_BYTES);
    char *text = NULL;
    if (p->exact) {
        text = loadprompt_chat_text(p, n, d);
        if (text == NULL) {
            return STATUS_IO;
        }
    } else {
        uint64_t random = rng_mix(p->o.seed ^ rng_mix((uint64_t)n + 1));
        loadprompt_text(&random, p->o.prompt_tokens, &words);
    }
    const char *content = text != NULL ? text : words.data;
    if (p->o.chat) {
        (void)loadprompt_messages(body, content);
    } else {
        cJSON_AddStringToObject(body, "prompt", content);
    }
    mem_free(text);
    strbuf_close(&words);
    return STATUS_OK;
}

status loadprompt_write(loadprompt *p, int64_t n, strbuf *out, diag *d) {
    cJSON *body = loadprompt_object(p);
    status s = loadprompt_add_prompt(p, n, body, d);
    if (s != STATUS_OK) {
        cJSON_Delete(body);
        return s;
    }
    cJSON_AddNumberToObject(body, p->o.chat ? "max_completion_tokens" : "max_tokens",
                            p->o.max_tokens);
    cJSON_AddNumberToObject(body, "temperature", p->o.temperature);
    cJSON_AddBoolToObject(body, "stream", p->o.stream);
    if (p->o.stream) {
        cJSON *options = cJSON_AddObjectToObject(body, "stream_options");
        cJSON_AddBoolToObject(options, "include_usage", true);
    }
    if (p->o.ignore_eos) {
        cJSON_AddBoolToObject(body, "ignore_eos", true);
    }
    char *text = cJSON_PrintUnformatted(body);
    cJSON_Delete(body);
    httpclient_write(out, p->o.url, "POST", p->o.chat ? "/v1/chat/completions" : "/v1/completions",
                     p->o.key, str_from(text));
    cJSON_free(text);
    return out->failed || text == NULL ? status_fail(d, STATUS_NOMEM, "no memory for prompts")
                                       : STATUS_OK;
}
