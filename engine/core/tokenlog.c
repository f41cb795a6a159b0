/* tokenlog.c -- generated tokens by page and offset. */
#include "engine/core/tokenlog.h"

#include <string.h>

#include "engine/base/check.h"

uint64_t tokenlog_bytes(uint32_t pages) {
    CHECK(pages > 0);
    return (uint64_t)pages * LIMIT_PAGE_TOKENS *
               (sizeof(float) + 1 + LIMIT_TOP_LOGPROBS * sizeof(request_logprob)) +
           256;
}

status tokenlog_open(tokenlog *l, arena *a, uint32_t pages) {
    size_t rows = (size_t)pages * LIMIT_PAGE_TOKENS;
    CHECK(rows > 0);
    l->logprobs = ARENA_TAKE(a, rows, float);
    l->top_counts = ARENA_TAKE(a, rows, uint8_t);
    l->tops = ARENA_TAKE(a, rows * LIMIT_TOP_LOGPROBS, request_logprob);
    l->pages = pages;
    return l->logprobs && l->top_counts && l->tops ? STATUS_OK : STATUS_NOMEM;
}

static size_t tokenlog_row(const tokenlog *l, uint32_t page, int32_t position) {
    CHECK_LT(page, l->pages);
    CHECK(position >= 0);
    return (size_t)page * LIMIT_PAGE_TOKENS + (size_t)(position % LIMIT_PAGE_TOKENS);
}

void tokenlog_put(tokenlog *l, uint32_t page, int32_t position, const request_token *t) {
    size_t row = tokenlog_row(l, page, position);
    CHECK(t->top_count >= 0 && t->top_count <= LIMIT_TOP_LOGPROBS);
    l->logprobs[row] = t->logprob;
    l->top_counts[row] = (uint8_t)t->top_count;
    memcpy(&l->tops[row * LIMIT_TOP_LOGPROBS], t->top,
           (size_t)t->top_count * sizeof(request_logprob));
}

void tokenlog_get(const tokenlog *l, uint32_t page, int32_t position, request_token *t) {
    size_t row = tokenlog_row(l, page, position);
    t->logprob = l->logprobs[row];
    t->top_count = l->top_counts[row];
    CHECK(t->top_count <= LIMIT_TOP_LOGPROBS);
    memcpy(t->top, &l->tops[row * LIMIT_TOP_LOGPROBS],
           (size_t)t->top_count * sizeof(request_logprob));
}
