/* bpe_test.c -- merging by rank against the textbook's scan over all pairs. */
#include "models/text/bpe.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/rng.h"

enum { SYMBOLS = 6, MERGES_MAX = 400, WORD_MAX = 400 };

typedef struct {
    int32_t left;
    int32_t right;
    int32_t merged;
} merge; /* its index is its rank */

/* The textbook: find the pair with the lowest rank, leftmost first; merge that one; start over. */
static size_t merge_naively(const merge *merges, size_t merges_count, int32_t *symbols,
                            size_t count) {
    for (;;) {
        size_t best_rank = merges_count;
        size_t best_at = 0;
        for (size_t i = 0; i + 1 < count; i++) {
            for (size_t rank = 0; rank < best_rank; rank++) {
                if (merges[rank].left == symbols[i] && merges[rank].right == symbols[i + 1]) {
                    best_rank = rank;
                    best_at = i;
                }
            }
        }
        if (best_rank == merges_count) {
            return count;
        }
        symbols[best_at] = merges[best_rank].merged;
        for (size_t i = best_at + 1; i + 1 < count; i++) {
            symbols[i] = symbols[i + 1];
        }
        count--;
    }
}

/* Random merges over few symbols, each pair once. When `grown` each joins earlier tokens, as
 * training makes them; otherwise the order of ranks is arbitrary. */
static size_t random_merges(uint64_t *seed, merge *out, size_t wanted, bool grown) {
    size_t count = 0;
    for (size_t tries = 0; tries < wanted * 20 && count < wanted; tries++) {
        int32_t known = SYMBOLS + (int32_t)(grown ? count : wanted);
        merge m = {(int32_t)rng_below(seed, (uint64_t)known),
                   (int32_t)rng_below(seed, (uint64_t)known), SYMBOLS + (int32_t)count};
        bool fresh = true;
        for (size_t i = 0; i < count; i++) {
            fresh = fresh && (out[i].left != m.left || out[i].right != m.right);
        }
        if (fresh) {
            out[count++] = m;
        }
    }
    return count;
}

static void compare_with_naive(uint64_t seed, bool grown) {
    merge merges[MERGES_MAX];
    size_t wanted = 1 + rng_below(&seed, MERGES_MAX - 1);
    size_t count = random_merges(&seed, merges, wanted, grown);
    bpe *b;
    cr_assert_eq(bpe_create(count, &b, NULL), STATUS_OK);
    for (size_t i = 0; i < count; i++) {
        bpe_add(b, merges[i].left, merges[i].right, (uint32_t)i, merges[i].merged);
    }
    bpe_scratch scratch = {0};
    for (int round = 0; round < 12; round++) {
        int32_t fast[WORD_MAX];
        int32_t naive[WORD_MAX];
        size_t n = rng_below(&seed, round % 3 == 0 ? WORD_MAX : 60);
        uint64_t variety = 1 + rng_below(&seed, SYMBOLS);
        for (size_t i = 0; i < n; i++) {
            fast[i] = naive[i] = (int32_t)rng_below(&seed, variety);
        }
        size_t fast_count = n;
        cr_assert_eq(bpe_merge(b, &scratch, fast, &fast_count), STATUS_OK);
        size_t naive_count = merge_naively(merges, count, naive, n);
        cr_assert_eq(fast_count, naive_count, "seed %lu", (unsigned long)seed);
        cr_assert_eq(memcmp(fast, naive, naive_count * sizeof *naive), 0);
    }
    bpe_scratch_close(&scratch);
    bpe_destroy(b);
}

Test(bpe, equals_the_textbook_on_trained_merges) {
    for (uint64_t seed = 1; seed <= 150; seed++) {
        compare_with_naive(seed * 1000003, true);
    }
}

Test(bpe, equals_the_textbook_on_merges_in_any_order) {
    for (uint64_t seed = 1; seed <= 150; seed++) {
        compare_with_naive(seed * 7777777, false);
    }
}

Test(bpe, merges_lowest_rank_first_and_leftmost_of_equals) {
    bpe *b;
    cr_assert_eq(bpe_create(3, &b, NULL), STATUS_OK);
    bpe_add(b, 1, 2, 0, 10);
    bpe_add(b, 0, 1, 1, 11);
    bpe_add(b, 0, 0, 2, 12);
    bpe_scratch scratch = {0};
    static const struct {
        int32_t in[6];
        size_t in_count;
        int32_t out[6];
        size_t out_count;
    } rows[] = {{{0, 1, 2}, 3, {0, 10}, 2},
                {{0, 1, 1, 2}, 4, {11, 10}, 2},
                {{0, 0, 0}, 3, {12, 0}, 2},
                {{0, 0, 1, 2}, 4, {12, 10}, 2},
                {{2, 2}, 2, {2, 2}, 2},
                {{0}, 1, {0}, 1},
                {{0}, 0, {0}, 0}};
    for (size_t r = 0; r < sizeof rows / sizeof rows[0]; r++) {
        int32_t word[6];
        memcpy(word, rows[r].in, sizeof word);
        size_t count = rows[r].in_count;
        cr_assert_eq(bpe_merge(b, &scratch, word, &count), STATUS_OK);
        cr_expect_eq(count, rows[r].out_count, "row %zu", r);
        cr_expect_eq(memcmp(word, rows[r].out, count * sizeof *word), 0, "row %zu", r);
    }
    bpe_destroy(b);
}

Test(bpe, the_later_of_two_merges_of_one_pair_holds) {
    bpe *b;
    cr_assert_eq(bpe_create(2, &b, NULL), STATUS_OK);
    bpe_add(b, 1, 2, 0, 10);
    bpe_add(b, 1, 2, 1, 11);
    bpe_scratch scratch = {0};
    int32_t word[2] = {1, 2};
    size_t count = 2;
    cr_assert_eq(bpe_merge(b, &scratch, word, &count), STATUS_OK);
    cr_expect_eq(word[0], 11);
    bpe_destroy(b);
}

/* 2^20 equal symbols and merges that double them: one token is left. A scan over all pairs would
 * need some 10^12 steps, which the suite's time limit would notice. */
Test(bpe, a_word_of_a_million_symbols_is_merged) {
    enum { LEVELS = 20, COUNT = 1 << LEVELS };
    bpe *b;
    cr_assert_eq(bpe_create(LEVELS, &b, NULL), STATUS_OK);
    for (int32_t i = 0; i < LEVELS; i++) {
        bpe_add(b, i, i, (uint32_t)i, i + 1);
    }
    int32_t *word = calloc(COUNT, sizeof *word);
    cr_assert_not_null(word);
    bpe_scratch scratch = {0};
    size_t count = COUNT;
    cr_assert_eq(bpe_merge(b, &scratch, word, &count), STATUS_OK);
    cr_expect_eq(count, 1);
    cr_expect_eq(word[0], LEVELS);
    bpe_scratch_close(&scratch);
    bpe_destroy(b);
    free(word);
}
