/* timedprofile.c -- profiles of the timed backend. */
#define _GNU_SOURCE
#include "engine/worker/timedprofile.h"

#include "engine/base/config.h"

#define US_OPTION(name, field, fallback, help) \
    { name, CONFIG_DOUBLE, offsetof(timedprofile, field), 0, 1e9, fallback, NULL, NULL, help }

static const config_option options[] = {
    US_OPTION("prefill-us", prefill_us, "537.32", "a prefill step"),
    US_OPTION("prefill-token-us", prefill_token_us, "540.845", "each row of it"),
    US_OPTION("prefill-context-us", prefill_context_us, "132.8446", "each token before its chunk"),
    US_OPTION("decode-us", decode_us, "3648.69", "a decode step"),
    US_OPTION("decode-seq-us", decode_seq_us, "592.084", "each sequence of it"),
    US_OPTION("decode-context-us", decode_context_us, "2.3420", "each token attended to"),
    {"kv-bytes-per-token", CONFIG_INT, offsetof(timedprofile, kv_bytes_per_token), 1, 1 << 30,
     "23040", NULL, NULL, "bytes of KV that a token would have"},
    {"kv-gbps", CONFIG_DOUBLE, offsetof(timedprofile, kv_gbps), 0, 1e6, "4", NULL, NULL,
     "gigabytes of KV received a second; 0: no wait"},
    {"kv-pages", CONFIG_INT, offsetof(timedprofile, kv_pages), 0, 1 << 24, "0", NULL, NULL,
     "pages of the KV pool; 0: as many as --kv-memory holds"},
    {"start-ms", CONFIG_INT, offsetof(timedprofile, start_ms), 0, 600000, "0", NULL, NULL,
     "before the worker is ready"},
};

static const config_table table = {"the timed backend's profile", "", options,
                                   sizeof options / sizeof options[0], NULL};

status timedprofile_read(const char *path, timedprofile *out, diag *d) {
    char flag[] = "--config";
    char *argv[] = {flag, (char *)(uintptr_t)path}; /* only read */
    config c;
    *out = (timedprofile){0};
    status s = config_parse(&c, &table, path && path[0] ? 2 : 0, argv, out, d);
    config_close(&c);
    return s;
}

int64_t timedprofile_step_us(const timedprofile *p, const timedprofile_work *w) {
    double fixed = w->prefill_rows > 0 ? p->prefill_us : 0;
    if (w->decode_rows > 0 && p->decode_us > fixed) {
        fixed = p->decode_us;
    }
    double us = fixed + p->prefill_token_us * (double)w->prefill_rows +
                p->prefill_context_us * (double)w->prefill_context +
                p->decode_seq_us * (double)w->decode_rows +
                p->decode_context_us * (double)w->decode_context;
    return (int64_t)(us < TIMEDPROFILE_STEP_US_MAX ? us : TIMEDPROFILE_STEP_US_MAX);
}

int64_t timedprofile_transfer_us(const timedprofile *p, int64_t tokens) {
    if (p->kv_gbps <= 0) {
        return 0;
    }
    double us = (double)tokens * (double)p->kv_bytes_per_token / (p->kv_gbps * 1e3);
    return (int64_t)(us < TIMEDPROFILE_STEP_US_MAX ? us : TIMEDPROFILE_STEP_US_MAX);
}
