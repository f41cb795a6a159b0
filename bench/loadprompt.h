/* loadprompt.h -- the requests of a load run, as bytes.
 *
 * Purpose    Prompts of exactly so many tokens from synthetic English and a seed: the server's own
 *            /tokenize turns text into tokens, so any model works. The same seed and model give
 *            the same prompts.
 * Ownership  loadprompt_open holds memory; loadprompt_close gives it back.
 * Threads    One thread at a time.
 * Limits     LOADPROMPT_POOL_MAX tokens of raw material.
 */
#ifndef BENCH_LOADPROMPT_H
#define BENCH_LOADPROMPT_H

#include <netdb.h>
#include <stdbool.h>
#include <stdint.h>

#include "bench/httpclient.h"
#include "engine/base/status.h"
#include "engine/base/str.h"

enum { LOADPROMPT_POOL_MAX = 1 << 20 };

typedef struct {
    const httpclient_url *url;
    const struct addrinfo *to;
    const char *key;   /* API key or NULL */
    const char *model; /* NULL: the first of /v1/models */
    bool chat;         /* /v1/chat/completions, else /v1/completions */
    bool stream;
    bool ignore_eos;
    int32_t prompt_tokens;
    int32_t prefix_tokens; /* of these, the same in all prompts with the same prefix */
    int32_t prefixes;      /* how many there are; each prompt has one by chance; <= 1: one */
    int32_t max_tokens;
    double temperature;
    uint64_t seed;
    int64_t timeout_us;
} loadprompt_options;

typedef struct loadprompt loadprompt;

/* Asks the server for its model and tokenises the raw material. */
MUST_USE status loadprompt_open(const loadprompt_options *o, loadprompt **out, diag *d);
void loadprompt_close(loadprompt *p);

/* False when the server has no /tokenize, or one that knows no messages and this is about chats:
 * prompts are then about as long as asked. */
bool loadprompt_exact(const loadprompt *p);
const char *loadprompt_model(const loadprompt *p);

/* The n-th request, whole: head and body. For chats this asks the server to turn tokens into text
 * and counts again. */
MUST_USE status loadprompt_write(loadprompt *p, int64_t n, strbuf *out, diag *d);

#endif
