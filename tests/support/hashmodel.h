/* hashmodel.h -- a model whose KV is a hash of what came before, and whose tokens a hash of all KV.
 *
 * Purpose    Tests of the engine without a model: a row's KV in a layer is a hash of its token, its
 *            position and the KV of the row before, read through the block table; a token is a hash
 *            of all KV of its sequence, read the same way. So one wrong, stale or missing page
 *            changes the tokens, and hashmodel_next tells from the tokens alone what is right.
 * Ownership  hashmodel_open takes memory until hashmodel_close.
 * Threads    One at a time.
 * Limits     hashmodel_options.
 */
#ifndef TESTS_SUPPORT_HASHMODEL_H
#define TESTS_SUPPORT_HASHMODEL_H

#include "engine/core/core.h"

typedef struct {
    uint32_t pages;
    uint32_t layers;
    int32_t vocab;
    int32_t eog; /* this token ends a generation, as sampler.h has it; -1: none */
    bool apart;  /* KV of a prompt's tokens is another than that of the same tokens generated */
} hashmodel_options;

typedef struct {
    hashmodel_options options;
    uint64_t *kv; /* [pages, layers, LIMIT_PAGE_TOKENS] */
} hashmodel;

MUST_USE status hashmodel_open(hashmodel *h, const hashmodel_options *options);
void hashmodel_close(hashmodel *h);

/* A step in its parts: the copies, then each layer upwards, then the results. */
void hashmodel_copy_pages(hashmodel *h, const core_batch *b);
void hashmodel_layer(hashmodel *h, const core_batch *b, uint32_t layer);
void hashmodel_results(const hashmodel *h, const core_batch *b, request_token *results);

/* Copies the cells of a transfer: from_pages[count] of one pool to to_pages[count] of another. */
void hashmodel_move(const hashmodel *from, const uint32_t *from_pages, hashmodel *to,
                    const uint32_t *to_pages, uint32_t count, uint32_t layer_first,
                    uint32_t layers);

/* Overwrites what transfers and steps have left in a page. */
void hashmodel_spoil(hashmodel *h, uint32_t page, uint32_t layer_first, uint32_t layers);

/* The oracle: what comes after tokens[count], of which the first prompt_count are the prompt. */
request_token hashmodel_next(const hashmodel_options *o, const int32_t *tokens, int32_t count,
                             int32_t prompt_count, const request_params *params, int32_t choice);

/* The oracle's score of tokens[position], which is the prompt's, as are those before it. */
request_token hashmodel_score(const hashmodel_options *o, const int32_t *tokens, int32_t position,
                              int32_t top_logprobs);

#endif
