/* hashmodel.c -- a model whose KV is a hash of what came before. */
#include "tests/support/hashmodel.h"

#include "engine/base/check.h"
#include "engine/base/mem.h"
#include "engine/base/rng.h"

status hashmodel_open(hashmodel *h, const hashmodel_options *options) {
    *h = (hashmodel){.options = *options};
    CHECK(options->vocab > 1 && options->layers > 0);
    h->kv =
        mem_calloc((size_t)options->pages * options->layers * LIMIT_PAGE_TOKENS, sizeof(uint64_t));
    return h->kv ? STATUS_OK : STATUS_NOMEM;
}

void hashmodel_close(hashmodel *h) {
    mem_free(h->kv);
    *h = (hashmodel){0};
}

static uint64_t *cell(const hashmodel *h, uint32_t page, uint32_t layer) {
    CHECK_LT(page, h->options.pages);
    CHECK_LT(layer, h->options.layers);
    return h->kv + ((size_t)page * h->options.layers + layer) * LIMIT_PAGE_TOKENS;
}

static uint64_t *slot(const hashmodel *h, const core_seq *s, int32_t position, uint32_t layer) {
    CHECK(position >= 0 && position / LIMIT_PAGE_TOKENS < s->pages_count);
    return cell(h, s->pages[position / LIMIT_PAGE_TOKENS], layer) + position % LIMIT_PAGE_TOKENS;
}

static uint64_t kv_of(const hashmodel_options *o, uint64_t before, int32_t token, int32_t position,
                      uint32_t layer, bool prompt) {
    before ^= o->apart && prompt ? 0x9A : 0;
    uint64_t mixed = rng_mix(before ^ rng_mix((uint64_t)(uint32_t)token << 32 | layer));
    return rng_mix(mixed + (uint64_t)(uint32_t)position);
}

void hashmodel_copy_pages(hashmodel *h, const core_batch *b) {
    for (int32_t i = 0; i < b->copies_count; i++) {
        hashmodel_move(h, &b->copies[i].from, h, &b->copies[i].to, 1, 0, h->options.layers);
    }
}

void hashmodel_layer(hashmodel *h, const core_batch *b, uint32_t layer) {
    for (int32_t i = 0; i < b->seqs_count; i++) {
        const core_seq *s = &b->seqs[i];
        for (int32_t k = 0; k < s->rows; k++) {
            int32_t position = s->position_first + k;
            uint64_t before = position == 0 ? 0 : *slot(h, s, position - 1, layer);
            *slot(h, s, position, layer) = kv_of(&h->options, before, b->tokens[s->row_first + k],
                                                 position, layer, k < s->prompt_rows);
        }
    }
}

/* What a row's logits are made of: all KV up to it. */
static uint64_t digest_step(uint64_t digest, uint64_t kv) {
    return rng_mix(digest ^ kv) + 1;
}

static float logprob_of(uint64_t bits) {
    return -(float)(bits % 4096) / 256.0f;
}

static void fill_tops(uint64_t digest, int32_t vocab, int32_t count, request_token *t) {
    t->top_count = count > 0 ? count : 0;
    for (int32_t i = 0; i < t->top_count; i++) {
        uint64_t bits = rng_at(digest, 77, (uint64_t)i);
        t->top[i].token = (int32_t)(bits % (uint64_t)vocab);
        t->top[i].logprob = logprob_of(bits >> 20);
    }
}

static bool is_stop(const hashmodel_options *o, const request_params *p, int32_t token) {
    for (int32_t i = 0; i < p->stop_ids_count; i++) {
        if (p->stop_ids[i] == token) {
            return true;
        }
    }
    return token == o->eog && !p->ignore_eos;
}

static request_token pick(const hashmodel_options *o, uint64_t digest, const request_params *p,
                          int32_t choice, int32_t index) {
    uint64_t stream = p->temperature > 0 ? rng_at(p->seed, (uint64_t)choice, (uint64_t)index) : 0;
    uint64_t bits = rng_mix(digest ^ stream);
    request_token t = {.choice = choice, .index = index};
    t.token = (int32_t)(bits % (uint64_t)o->vocab);
    while (index < p->min_tokens && is_stop(o, p, t.token)) {
        t.token = (t.token + 1) % o->vocab;
    }
    t.end = is_stop(o, p, t.token)       ? REQUEST_STOP
            : index + 1 >= p->max_tokens ? REQUEST_LENGTH
                                         : REQUEST_RUNNING;
    if (p->top_logprobs >= 0) {
        t.logprob = logprob_of(bits >> 24);
        fill_tops(digest, o->vocab, p->top_logprobs, &t);
    }
    return t;
}

static request_token score(const hashmodel_options *o, uint64_t digest, int32_t token,
                           int32_t top_logprobs) {
    request_token t = {.token = token};
    t.logprob = logprob_of(rng_mix(digest + (uint64_t)(uint32_t)token));
    fill_tops(digest, o->vocab, top_logprobs, &t);
    return t;
}

void hashmodel_results(const hashmodel *h, const core_batch *b, request_token *results) {
    for (int32_t i = 0; i < b->wants_count; i++) {
        const core_want *w = &b->wants[i];
        CHECK(w->logit_row >= 0 && w->logit_row < b->logit_rows_count);
        int32_t row = b->logit_rows[w->logit_row];
        int32_t at = 0;
        while (row >= b->seqs[at].row_first + b->seqs[at].rows) {
            CHECK_LT(++at, b->seqs_count);
        }
        const core_seq *s = &b->seqs[at];
        int32_t last = s->position_first + row - s->row_first;
        uint64_t digest = 0;
        for (uint32_t layer = 0; layer < h->options.layers; layer++) {
            for (int32_t p = 0; p <= last; p++) {
                digest = digest_step(digest, *slot(h, s, p, layer));
            }
        }
        results[i] = w->kind == CORE_WANT_SAMPLE
                         ? pick(&h->options, digest, w->params, w->choice, w->generated_count)
                         : score(&h->options, digest, w->token, w->params->top_logprobs);
    }
}

void hashmodel_move(const hashmodel *from, const uint32_t *from_pages, hashmodel *to,
                    const uint32_t *to_pages, uint32_t count, uint32_t layer_first,
                    uint32_t layers) {
    for (uint32_t i = 0; i < count; i++) {
        for (uint32_t l = layer_first; l < layer_first + layers; l++) {
            for (int k = 0; k < LIMIT_PAGE_TOKENS; k++) {
                cell(to, to_pages[i], l)[k] = cell(from, from_pages[i], l)[k];
            }
        }
    }
}

void hashmodel_spoil(hashmodel *h, uint32_t page, uint32_t layer_first, uint32_t layers) {
    for (uint32_t l = layer_first; l < layer_first + layers; l++) {
        for (int k = 0; k < LIMIT_PAGE_TOKENS; k++) {
            cell(h, page, l)[k] = rng_mix(cell(h, page, l)[k] ^ 0xBAD);
        }
    }
}

static uint64_t digest_of(const hashmodel_options *o, const int32_t *tokens, int32_t count,
                          int32_t prompt_count) {
    uint64_t digest = 0;
    for (uint32_t layer = 0; layer < o->layers; layer++) {
        uint64_t kv = 0;
        for (int32_t p = 0; p < count; p++) {
            kv = kv_of(o, kv, tokens[p], p, layer, p < prompt_count);
            digest = digest_step(digest, kv);
        }
    }
    return digest;
}

request_token hashmodel_next(const hashmodel_options *o, const int32_t *tokens, int32_t count,
                             int32_t prompt_count, const request_params *params, int32_t choice) {
    CHECK(prompt_count > 0 && prompt_count <= count);
    return pick(o, digest_of(o, tokens, count, prompt_count), params, choice, count - prompt_count);
}

request_token hashmodel_score(const hashmodel_options *o, const int32_t *tokens, int32_t position,
                              int32_t top_logprobs) {
    CHECK(position > 0);
    return score(o, digest_of(o, tokens, position, position), tokens[position], top_logprobs);
}
