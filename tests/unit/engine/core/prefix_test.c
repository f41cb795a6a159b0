/* prefix_test.c -- the prefix cache against comparison of whole token lists. */
#include "engine/core/prefix.h"

#include <criterion/criterion.h>
#include <string.h>

#include "engine/base/limits.h"
#include "engine/base/rng.h"

enum { PAGES = 32, CHAIN_MAX = 6, TOKENS = CHAIN_MAX * LIMIT_PAGE_TOKENS };

typedef struct {
    arena a;
    blocks *b;
    prefix *p;
} cache;

static cache make(uint32_t pages) {
    cache c;
    cr_assert_eq(arena_open(&c.a, blocks_bytes(pages) + prefix_bytes(pages)), STATUS_OK);
    cr_assert_eq(blocks_create(&c.a, pages, 1, &c.b), STATUS_OK);
    cr_assert_eq(prefix_create(&c.a, c.b, pages, (hash_key){3, 4}, &c.p), STATUS_OK);
    return c;
}

static void fill(int32_t *tokens, uint64_t seed) {
    for (int i = 0; i < TOKENS; i++) {
        tokens[i] = (int32_t)rng_at(seed, 0, (uint64_t)i) & 0xffff;
    }
}

static void add_all(cache *c, uint64_t salt, const int32_t *tokens, const uint32_t *ids,
                    uint32_t count) {
    prefix_chain chain = {0};
    while (chain.pages < count) {
        prefix_add(c->p, salt, &chain, tokens + chain.pages * LIMIT_PAGE_TOKENS, ids[chain.pages]);
    }
}

static void drop_all(cache *c, const uint32_t *ids, uint32_t count) {
    while (count-- > 0) {
        blocks_drop(c->b, ids[count]);
    }
}

Test(prefix, finds_the_longest_known_beginning_of_the_same_tenant_only) {
    cache c = make(8);
    int32_t tokens[TOKENS];
    uint32_t ids[4], found[CHAIN_MAX];
    prefix_chain chain;
    fill(tokens, 1);
    cr_assert(prefix_take(c.p, 4, ids));
    add_all(&c, 7, tokens, ids, 4);
    cr_assert_eq(prefix_find(c.p, 7, tokens, 3, found, &chain), 3);
    drop_all(&c, found, 3);
    cr_assert_eq(prefix_find(c.p, 7, tokens, 6, found, &chain), 4);
    cr_assert_eq(memcmp(found, ids, sizeof ids), 0);
    drop_all(&c, found, 4);
    cr_assert_eq(prefix_find(c.p, 8, tokens, 6, found, &chain), 0);
    tokens[2 * LIMIT_PAGE_TOKENS + 5] ^= 1;
    cr_assert_eq(prefix_find(c.p, 7, tokens, 6, found, &chain), 2);
    drop_all(&c, found, 2);
    tokens[0] ^= 1;
    cr_assert_eq(prefix_find(c.p, 7, tokens, 6, found, &chain), 0);
    arena_close(&c.a);
}

/* Blocks of two pages: found, held and forgotten as one, and told page by page. */
Test(prefix, finds_whole_blocks_of_pages) {
    arena a;
    blocks *b;
    prefix *p;
    prefix_chain chain = {0};
    int32_t tokens[TOKENS];
    uint32_t ids[4], found[CHAIN_MAX];
    cr_assert_eq(arena_open(&a, blocks_bytes(8) + prefix_bytes(8)), STATUS_OK);
    cr_assert_eq(blocks_create(&a, 8, 2, &b), STATUS_OK);
    cr_assert_eq(prefix_create(&a, b, 8, (hash_key){3, 4}, &p), STATUS_OK);
    fill(tokens, 1);
    cr_assert(prefix_take(p, 4, ids));
    cr_assert(ids[0] % 2 == 0 && ids[1] == ids[0] + 1 && ids[2] % 2 == 0 && ids[3] == ids[2] + 1);
    prefix_add(p, 7, &chain, tokens, ids[0]);
    prefix_add(p, 7, &chain, tokens + 2 * LIMIT_PAGE_TOKENS, ids[2]);
    cr_assert(chain.pages == 4 && prefix_count(p) == 4);
    for (uint32_t i = 0; i < 4; i++) {
        cr_assert_neq(prefix_log(p)->names[ids[i]], 0);
        blocks_drop(b, ids[i]);
    }
    cr_assert_eq(blocks_free_count(b), 8);
    cr_assert_eq(prefix_find(p, 7, tokens, 3, found, &chain), 2, "half a block is none");
    cr_assert(memcmp(found, ids, 2 * sizeof *ids) == 0 && blocks_free_count(b) == 6);
    uint64_t name = chain.name;
    cr_assert_eq(name, prefix_log(p)->names[ids[1]]);
    tokens[3 * LIMIT_PAGE_TOKENS] ^= 1;
    prefix_chain other;
    cr_assert_eq(prefix_find(p, 7, tokens, 4, found + 2, &other), 2, "its last page differs");
    uint32_t taken[6];
    cr_assert(prefix_take(p, 6, taken), "all that is not held, the other block too");
    cr_assert(prefix_count(p) == 2 && prefix_log(p)->names[ids[2]] == 0);
    prefix_validate(p);
    blocks_validate(b);
    arena_close(&a);
}

Test(prefix, same_page_of_tokens_after_another_beginning_is_another_page) {
    cache c = make(8);
    int32_t one[TOKENS], other[TOKENS];
    uint32_t ids[2], found[2];
    prefix_chain chain;
    fill(one, 1);
    fill(other, 2);
    memcpy(other + LIMIT_PAGE_TOKENS, one + LIMIT_PAGE_TOKENS, 16 * sizeof *one);
    cr_assert(prefix_take(c.p, 2, ids));
    add_all(&c, 0, one, ids, 2);
    cr_assert_eq(prefix_find(c.p, 0, other, 2, found, &chain), 0);
    cr_assert_eq(prefix_find(c.p, 0, one + LIMIT_PAGE_TOKENS, 1, found, &chain), 0);
    arena_close(&c.a);
}

Test(prefix, page_computed_twice_is_found_once_and_goes_on_as_one_chain) {
    cache c = make(8);
    int32_t tokens[TOKENS];
    uint32_t first[2], second[3], found[3];
    prefix_chain chain;
    fill(tokens, 1);
    cr_assert(prefix_take(c.p, 2, first));
    cr_assert(prefix_take(c.p, 3, second));
    add_all(&c, 0, tokens, first, 2);
    add_all(&c, 0, tokens, second, 3);
    cr_assert_eq(prefix_count(c.p), 3);
    cr_assert_eq(prefix_find(c.p, 0, tokens, 3, found, &chain), 3);
    cr_assert_eq(found[0], first[0]);
    cr_assert_eq(found[1], first[1]);
    cr_assert_eq(found[2], second[2]);
    prefix_validate(c.p);
    arena_close(&c.a);
}

Test(prefix, content_is_found_after_release_and_forgotten_on_reuse) {
    cache c = make(4);
    int32_t tokens[TOKENS];
    uint32_t ids[4], found[4];
    prefix_chain chain;
    fill(tokens, 1);
    cr_assert(prefix_take(c.p, 3, ids));
    add_all(&c, 0, tokens, ids, 3);
    drop_all(&c, ids, 3);
    cr_assert_eq(blocks_count(c.b).cached, 3);
    cr_assert(prefix_take(c.p, 2, found)); /* the empty page, then the end of the chain */
    cr_assert_eq(found[1], ids[2]);
    cr_assert_eq(prefix_find(c.p, 0, tokens, 3, found, &chain), 2);
    cr_assert_eq(blocks_count(c.b).owned, 4);
    prefix_validate(c.p);
    arena_close(&c.a);
}

/* The naive model: what tokens each page holds from the start, whole; none when forgotten. */
typedef struct {
    bool known;
    uint64_t salt;
    uint32_t pages;
    int32_t tokens[TOKENS];
} naive_page;

static uint32_t naive_find(const naive_page *m, uint64_t salt, const int32_t *tokens,
                           uint32_t most) {
    for (uint32_t n = 0; n < most; n++) {
        bool found = false;
        for (uint32_t i = 0; i < PAGES; i++) {
            found = found || (m[i].known && m[i].salt == salt && m[i].pages == n + 1 &&
                              memcmp(m[i].tokens, tokens,
                                     (n + 1) * LIMIT_PAGE_TOKENS * sizeof *tokens) == 0);
        }
        if (!found) {
            return n;
        }
    }
    return most;
}

/* A few beginnings that branch, so that there is much to share. */
static void draw_tokens(int32_t *tokens, uint64_t *random) {
    uint64_t branch = 0;
    for (int i = 0; i < TOKENS; i++) {
        if (i % LIMIT_PAGE_TOKENS == 0) {
            branch = branch * 3 + rng_below(random, 2);
        }
        tokens[i] = (int32_t)(branch * 100) + i % LIMIT_PAGE_TOKENS;
    }
}

typedef struct {
    uint32_t ids[CHAIN_MAX];
    uint32_t count;
} holder;

Test(prefix, equals_comparison_of_token_lists_over_random_operations) {
    cache c = make(PAGES);
    static naive_page m[PAGES];
    static holder held[8];
    uint64_t random = 5;
    uint64_t hits = 0;
    for (int i = 0; i < 100000; i++) {
        holder *h = &held[rng_below(&random, 8)];
        if (h->count > 0) {
            drop_all(&c, h->ids, h->count);
            h->count = 0;
            continue;
        }
        int32_t tokens[TOKENS];
        draw_tokens(tokens, &random);
        uint64_t salt = rng_below(&random, 2);
        uint32_t most = 1 + (uint32_t)rng_below(&random, CHAIN_MAX);
        prefix_chain chain;
        uint32_t found = prefix_find(c.p, salt, tokens, most, h->ids, &chain);
        cr_assert_eq(found, naive_find(m, salt, tokens, most), "operation %d", i);
        hits += found;
        for (uint32_t k = 0; k < found; k++) {
            const naive_page *p = &m[h->ids[k]];
            cr_assert(p->known && p->salt == salt && p->pages == k + 1);
            cr_assert_eq(memcmp(p->tokens, tokens, (k + 1) * LIMIT_PAGE_TOKENS * sizeof *tokens),
                         0);
        }
        h->count = found;
        if (!prefix_take(c.p, most - found, h->ids + found)) {
            drop_all(&c, h->ids, found);
            h->count = 0;
            continue;
        }
        h->count = most;
        for (uint32_t k = found; k < most; k++) {
            naive_page *p = &m[h->ids[k]];
            p->known = false;
        }
        for (uint32_t k = found; k < most; k++) {
            naive_page *p = &m[h->ids[k]];
            /* The first page of a page's tokens stays the findable one. */
            p->known = naive_find(m, salt, tokens, k + 1) <= k;
            p->salt = salt;
            p->pages = k + 1;
            memcpy(p->tokens, tokens, (k + 1) * LIMIT_PAGE_TOKENS * sizeof *tokens);
            prefix_add(c.p, salt, &chain, tokens + k * LIMIT_PAGE_TOKENS, h->ids[k]);
            cr_assert_eq(blocks_is_cached(c.b, h->ids[k]), p->known);
        }
        if (i % 64 == 0) {
            prefix_validate(c.p);
            blocks_validate(c.b);
        }
    }
    cr_assert_gt(hits, 1000);
    arena_close(&c.a);
}
