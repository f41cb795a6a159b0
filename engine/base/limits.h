/* limits.h -- every compile-time maximum, and the inequalities between them.
 *
 * Purpose    One place to see how large anything in weir may get. Run-time settings may be smaller,
 *            never larger.
 * Ownership  None.
 * Threads    Constants.
 * Limits     This is the list.
 */
#ifndef ENGINE_BASE_LIMITS_H
#define ENGINE_BASE_LIMITS_H

#ifndef __cplusplus
#include <assert.h>
#endif

enum {
    /* Pools and processes */
    LIMIT_WORKERS = 256, /* workers of a cluster: each gateway talks to all of them */
    LIMIT_GATEWAYS = 16, /* gateways one worker serves */
    LIMIT_THREADS = 256, /* compute threads of a worker */

    /* KV cache */
    LIMIT_PAGE_TOKENS = 16, /* tokens a KV page holds: what kernels read and transfers name */
    LIMIT_BLOCK_PAGES = 16, /* pages handed out and shared together */
    LIMIT_LAYERS = 256,
    LIMIT_CONTEXT_TOKENS = 1 << 20,
    LIMIT_SEQ_PAGES = LIMIT_CONTEXT_TOKENS / LIMIT_PAGE_TOKENS,

    /* One request */
    LIMIT_CHOICES = 8,        /* n of one request: choices decoded from one prompt */
    LIMIT_BATCH_PROMPTS = 64, /* prompts in one /v1/completions call */
    LIMIT_LOGIT_BIAS = 1024,
    LIMIT_STOP_STRINGS = 4,
    LIMIT_STOP_BYTES = 256,
    LIMIT_STOP_IDS = 16,
    LIMIT_TOP_LOGPROBS = 20,

    /* HTTP and JSON */
    LIMIT_BODY_BYTES = 4 << 20,
    LIMIT_JSON_NODES = 65536,
    LIMIT_JSON_DEPTH = 64,
    LIMIT_HEADERS = 64,
    LIMIT_HEADER_BYTES = 32 << 10,
    LIMIT_API_KEYS = 64,

    /* Messages between processes. The largest is SUBMIT: a whole context of token ids (four bytes
     * each), a full logit_bias (eight bytes each) and fixed fields. */
    LIMIT_MESSAGE_BYTES = 5 << 20,

    /* Metrics of one process */
    LIMIT_METRIC_SERIES = 1024,
    LIMIT_METRIC_HISTOGRAMS = 128,
    LIMIT_METRIC_BOUNDS = 32,       /* `le` values of a histogram, without +Inf */
    LIMIT_METRIC_LABEL_BYTES = 192, /* what stands between the braces, with the end */
    LIMIT_METRIC_NAME_BYTES = 96
};

#ifndef __cplusplus
static_assert(LIMIT_CONTEXT_TOKENS % LIMIT_PAGE_TOKENS == 0, "whole pages");
static_assert(LIMIT_CONTEXT_TOKENS * 4 + LIMIT_LOGIT_BIAS * 8 + 4096 <= LIMIT_MESSAGE_BYTES,
              "a whole context fits a message");
#endif

#endif
