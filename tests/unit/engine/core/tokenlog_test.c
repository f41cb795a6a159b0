/* tokenlog_test.c -- generated tokens are kept by page and offset. */
#include "engine/core/tokenlog.h"

#include <criterion/criterion.h>

Test(tokenlog, gives_back_logprobs_of_each_position) {
    arena a;
    tokenlog l;
    cr_assert_eq(arena_open(&a, tokenlog_bytes(3)), STATUS_OK);
    cr_assert_eq(tokenlog_open(&l, &a, 3), STATUS_OK);
    for (int32_t i = 0; i < 3 * LIMIT_PAGE_TOKENS; i++) {
        request_token t = {.logprob = (float)i, .top_count = i % (LIMIT_TOP_LOGPROBS + 1)};
        for (int32_t k = 0; k < t.top_count; k++) {
            t.top[k].token = i * 100 + k;
        }
        tokenlog_put(&l, (uint32_t)(2 - i / LIMIT_PAGE_TOKENS), i, &t);
    }
    for (int32_t i = 0; i < 3 * LIMIT_PAGE_TOKENS; i++) {
        request_token t = {.token = 1};
        tokenlog_get(&l, (uint32_t)(2 - i / LIMIT_PAGE_TOKENS), i, &t);
        cr_assert_float_eq(t.logprob, (float)i, 0);
        cr_assert_eq(t.top_count, i % (LIMIT_TOP_LOGPROBS + 1));
        for (int32_t k = 0; k < t.top_count; k++) {
            cr_assert_eq(t.top[k].token, i * 100 + k);
        }
        cr_assert_eq(t.token, 1, "the rest is the caller's");
    }
    arena_close(&a);
}
