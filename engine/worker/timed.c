/* timed.c -- the timed backend. */
#define _GNU_SOURCE
#include "engine/worker/timed.h"

#include <errno.h>
#include <stdio.h>
#include <time.h>

#include "engine/base/check.h"
#include "engine/base/clock.h"
#include "engine/base/limits.h"
#include "engine/base/mem.h"
#include "engine/base/rng.h"
#include "models/file/gguf.h"

struct timed {
    timedprofile profile;
    model_info info;
    const int32_t *eog;
    int32_t eog_count;
    uint64_t *kv; /* [kv_pages, LIMIT_PAGE_TOKENS] */
};

/* ---- opening -------------------------------------------------------------------------------- */

static status identify(const gguf *file, int32_t context, model_info *info, diag *d) {
    str arch, name;
    char key[96];
    uint64_t trained = 0;
    gguf_array tokens;
    TRY(gguf_get_str(file, "general.architecture", &arch, d));
    (void)snprintf(info->arch, sizeof info->arch, "%.*s", (int)(arch.bytes < 31 ? arch.bytes : 31),
                   arch.data);
    if (gguf_get_str(file, "general.name", &name, NULL) == STATUS_OK) {
        (void)snprintf(info->name, sizeof info->name, "%.*s",
                       (int)(name.bytes < 63 ? name.bytes : 63), name.data);
    }
    (void)snprintf(key, sizeof key, "%s.context_length", info->arch);
    TRY(gguf_get_u64(file, key, &trained, d));
    TRY(gguf_get_array(file, "tokenizer.ggml.tokens", &tokens, d));
    if (trained < 1 || trained > LIMIT_CONTEXT_TOKENS || tokens.count < 2 ||
        tokens.count > MODEL_VOCAB_MAX) {
        return status_fail(d, STATUS_UNSUPPORTED, "a context of %llu and %llu tokens",
                           (unsigned long long)trained, (unsigned long long)tokens.count);
    }
    info->context_tokens = context > 0 && (uint64_t)context < trained ? context : (int32_t)trained;
    info->vocab = (int32_t)tokens.count;
    info->file_hash = gguf_hash(file);
    info->layers = 1;
    info->kv_layer_page_bytes = LIMIT_PAGE_TOKENS * sizeof(uint64_t);
    (void)snprintf(info->kv_layout, sizeof info->kv_layout, "timed-1");
    (void)snprintf(info->numerics, sizeof info->numerics, "timed-1");
    return STATUS_OK;
}

static uint32_t pages_of(const timed *t, uint64_t kv_bytes) {
    uint64_t least = (uint64_t)t->info.context_tokens / LIMIT_PAGE_TOKENS + 2;
    uint64_t page_bytes = (uint64_t)t->profile.kv_bytes_per_token * LIMIT_PAGE_TOKENS;
    uint64_t pages = t->profile.kv_pages ? (uint64_t)t->profile.kv_pages : kv_bytes / page_bytes;
    uint64_t most = 1u << 24;
    return (uint32_t)(pages < least ? least : pages < most ? pages : most);
}

static void sleep_until(int64_t us) {
    struct timespec at = {us / 1000000, us % 1000000 * 1000};
    while (clock_now_us() < us &&
           clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &at, NULL) == EINTR) {
    }
}

status timed_open(const timed_options *o, timed **out, diag *d) {
    gguf *file = NULL;
    int64_t started_us = clock_now_us();
    timed *t = mem_calloc(1, sizeof *t);
    if (!t) {
        return status_fail(d, STATUS_NOMEM, "no memory for the timed backend");
    }
    t->eog = o->eog;
    t->eog_count = o->eog_count;
    status s = timedprofile_read(o->profile_path, &t->profile, d);
    if (s == STATUS_OK) {
        s = gguf_open(o->model_path, &file, d);
    }
    if (s == STATUS_OK) {
        s = identify(file, o->context_tokens, &t->info, d);
        gguf_close(file);
    }
    if (s == STATUS_OK) {
        t->info.kv_pages = pages_of(t, o->kv_bytes);
        t->kv = mem_calloc((size_t)t->info.kv_pages * LIMIT_PAGE_TOKENS, sizeof *t->kv);
        s = t->kv ? STATUS_OK : status_fail(d, STATUS_NOMEM, "no memory for the KV pool");
    }
    if (s != STATUS_OK) {
        timed_close(t);
        return s;
    }
    sleep_until(started_us + t->profile.start_ms * 1000);
    *out = t;
    return STATUS_OK;
}

void timed_close(timed *t) {
    if (t) {
        mem_free(t->kv);
        mem_free(t);
    }
}

const model_info *timed_info(const timed *t) {
    return &t->info;
}

const timedprofile *timed_profile(const timed *t) {
    return &t->profile;
}

uint8_t *timed_kv_page(const timed *t, uint32_t page) {
    CHECK_LT(page, t->info.kv_pages);
    return (uint8_t *)(t->kv + (size_t)page * LIMIT_PAGE_TOKENS);
}

/* ---- steps ---------------------------------------------------------------------------------- */

static uint64_t *page_kv(const timed *t, const core_seq *s, int32_t position) {
    int32_t page = position / LIMIT_PAGE_TOKENS;
    CHECK_LT(page, s->pages_count);
    CHECK_LT(s->pages[page], t->info.kv_pages);
    return t->kv + (size_t)s->pages[page] * LIMIT_PAGE_TOKENS;
}

static void write_rows(timed *t, const core_seq *s, const int32_t *tokens) {
    int32_t at = s->position_first;
    uint64_t before = at == 0 ? 0 : page_kv(t, s, at - 1)[(at - 1) % LIMIT_PAGE_TOKENS];
    for (int32_t k = 0; k < s->rows; k++, at++) {
        before = rng_mix(before ^ rng_mix((uint64_t)(uint32_t)tokens[s->row_first + k] << 32 |
                                          (uint64_t)(uint32_t)at));
        page_kv(t, s, at)[at % LIMIT_PAGE_TOKENS] = before;
    }
}

static timedprofile_work work_of(const core_batch *b) {
    timedprofile_work w = {0};
    for (int32_t i = 0; i < b->seqs_count; i++) {
        const core_seq *s = &b->seqs[i];
        if (s->rows == 1) {
            w.decode_rows++;
            w.decode_context += s->position_first + 1;
        } else {
            w.prefill_rows += s->rows;
            w.prefill_context += s->position_first;
        }
    }
    return w;
}

void timed_run(timed *t, const core_batch *b, int64_t started_us) {
    for (int32_t i = 0; i < b->copies_count; i++) {
        memcpy(timed_kv_page(t, b->copies[i].to), timed_kv_page(t, b->copies[i].from),
               t->info.kv_layer_page_bytes);
    }
    for (int32_t i = 0; i < b->seqs_count; i++) {
        write_rows(t, &b->seqs[i], b->tokens);
    }
    timedprofile_work work = work_of(b);
    sleep_until(started_us + timedprofile_step_us(&t->profile, &work));
}

/* ---- results -------------------------------------------------------------------------------- */

/* A sum, not a chain, so that reading a long context costs little; the factors tell positions
 * apart. */
static uint64_t digest(const timed *t, const core_seq *s, int32_t last) {
    uint64_t sum = 0;
    for (int32_t at = 0; at <= last; at += LIMIT_PAGE_TOKENS) {
        const uint64_t *kv = page_kv(t, s, at);
        int32_t count = last + 1 - at < LIMIT_PAGE_TOKENS ? last + 1 - at : LIMIT_PAGE_TOKENS;
        for (int32_t k = 0; k < count; k++) {
            sum += kv[k] * (2 * (uint64_t)(at + k) + 1);
        }
    }
    return rng_mix(sum);
}

static float logprob_of(uint64_t bits) {
    return -(float)(bits % 4096) / 256.0f;
}

static void add_logprobs(const timed *t, uint64_t bits, int32_t top, request_token *out) {
    out->logprob = logprob_of(rng_mix(bits + (uint64_t)(uint32_t)out->token));
    out->top_count = top > 0 ? top : 0;
    for (int32_t i = 0; i < out->top_count; i++) {
        uint64_t other = rng_at(bits, 1, (uint64_t)i);
        out->top[i].token = (int32_t)(other % (uint64_t)t->info.vocab);
        out->top[i].logprob = logprob_of(other >> 32);
    }
}

static bool ends(const timed *t, const request_params *p, int32_t token) {
    for (int32_t i = 0; i < p->stop_ids_count; i++) {
        if (p->stop_ids[i] == token) {
            return true;
        }
    }
    for (int32_t i = 0; i < t->eog_count && !p->ignore_eos; i++) {
        if (t->eog[i] == token) {
            return true;
        }
    }
    return false;
}

static void pick(const timed *t, uint64_t bits, const core_want *w, request_token *out) {
    const request_params *p = w->params;
    int32_t index = w->generated_count;
    uint64_t random =
        p->temperature > 0 ? rng_at(p->seed, (uint64_t)(uint32_t)w->choice, (uint64_t)index) : 0;
    *out = (request_token){.choice = w->choice, .index = index};
    out->token = (int32_t)(rng_mix(bits ^ random) % (uint64_t)t->info.vocab);
    /* No more than so many ids can end it, so another comes up soon. */
    for (int32_t i = 0; index < p->min_tokens && i < t->info.vocab && ends(t, p, out->token); i++) {
        out->token = (out->token + 1) % t->info.vocab;
    }
    out->end = ends(t, p, out->token)       ? REQUEST_STOP
               : index + 1 >= p->max_tokens ? REQUEST_LENGTH
                                            : REQUEST_RUNNING;
    if (p->top_logprobs >= 0) {
        add_logprobs(t, bits, p->top_logprobs, out);
    }
}

void timed_results(const timed *t, const core_batch *b, request_token *results) {
    for (int32_t i = 0; i < b->wants_count; i++) {
        const core_want *w = &b->wants[i];
        CHECK_LT(w->logit_row, b->logit_rows_count);
        int32_t row = b->logit_rows[w->logit_row], at = 0;
        while (row >= b->seqs[at].row_first + b->seqs[at].rows) {
            at++;
            CHECK_LT(at, b->seqs_count);
        }
        const core_seq *s = &b->seqs[at];
        uint64_t bits = digest(t, s, s->position_first + row - s->row_first);
        if (w->kind == CORE_WANT_SAMPLE) {
            pick(t, bits, w, &results[i]);
        } else {
            results[i] = (request_token){.token = w->token, .index = w->position};
            add_logprobs(t, bits, w->params->top_logprobs, &results[i]);
        }
    }
}
