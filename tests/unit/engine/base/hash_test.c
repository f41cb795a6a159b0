/* hash_test.c -- the table against a naive model; digests against outside implementations. */
#include "engine/base/hash.h"

#include <criterion/criterion.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "engine/base/rng.h"

enum { KEYS = 200, OPERATIONS = 200000 };

/* The truth: one slot per possible key. */
typedef struct {
    bool there[KEYS];
    uint64_t value[KEYS];
    uint32_t count;
} naive;

static void check_walk(const hash_table *t, const naive *n) {
    bool seen[KEYS] = {false};
    uint32_t cursor = 0;
    uint32_t count = 0;
    hash_entry e;
    while (hash_next(t, &cursor, &e)) {
        cr_assert(e.key < KEYS && n->there[e.key] && !seen[e.key]);
        cr_assert_eq(e.value, n->value[e.key]);
        seen[e.key] = true;
        count++;
    }
    cr_assert_eq(count, n->count);
    cr_assert_eq(t->count, n->count);
}

static void one_operation(hash_table *t, naive *n, uint64_t *random, uint32_t entries_max) {
    uint64_t key = rng_below(random, KEYS);
    uint64_t value = rng_next(random);
    uint64_t got = 0;
    switch (rng_below(random, 3)) {
        case 0: {
            bool fits = n->there[key] || n->count < entries_max;
            cr_assert_eq(hash_put(t, key, value), fits);
            if (fits) {
                n->count += !n->there[key];
                n->there[key] = true;
                n->value[key] = value;
            }
            break;
        }
        case 1:
            cr_assert_eq(hash_delete(t, key, &got), n->there[key]);
            if (n->there[key]) {
                cr_assert_eq(got, n->value[key]);
                n->there[key] = false;
                n->count--;
            }
            break;
        default:
            cr_assert_eq(hash_get(t, key, &got), n->there[key]);
            cr_assert(!n->there[key] || got == n->value[key]);
    }
}

Test(hash, agrees_with_a_naive_model_under_random_operations) {
    static const uint32_t sizes[] = {1, 2, 3, 12, 96, 150, KEYS};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        arena a;
        cr_assert_eq(arena_open(&a, 1 << 20), STATUS_OK);
        hash_table t;
        cr_assert_eq(hash_open(&t, &a, sizes[i], i * 7919), STATUS_OK);
        naive n = {0};
        uint64_t random = i;
        for (int op = 0; op < OPERATIONS / 7; op++) {
            one_operation(&t, &n, &random, sizes[i]);
            if (op % 512 == 0) {
                check_walk(&t, &n);
            }
        }
        check_walk(&t, &n);
        hash_clear(&t);
        cr_assert_not(hash_get(&t, 0, NULL));
        arena_close(&a);
    }
}

Test(hash, refuses_when_the_arena_is_too_small) {
    arena a;
    cr_assert_eq(arena_open(&a, 4096), STATUS_OK);
    hash_table t;
    cr_assert_eq(hash_open(&t, &a, 100000, 0), STATUS_NOMEM);
    arena_close(&a);
}

static void fill(uint8_t *out, size_t bytes) {
    for (size_t i = 0; i < bytes; i++) {
        out[i] = (uint8_t)(i * 131 + 7 + i / 256);
    }
}

Test(hash, digests_equal_outside_implementations) {
    FILE *f = fopen(WEIR_SOURCE_DIR "/tests/golden/base/checksums.txt", "r");
    cr_assert_not_null(f);
    /* One byte off alignment: page data need not be aligned. */
    static uint8_t memory[65537 + 1];
    uint8_t *data = memory + 1;
    fill(data, 65537);
    hash_key key = {0x0706050403020100u, 0x0f0e0d0c0b0a0908u};
    char name[16];
    char hex[80];
    uint64_t seed;
    size_t bytes;
    int checked = 0;
    while (fscanf(f, "%15s %" SCNx64 " %zu %79s", name, &seed, &bytes, hex) == 4) {
        uint64_t got;
        if (strcmp(name, "xxh64") == 0) {
            got = hash_checksum64(seed, data, bytes);
        } else if (strcmp(name, "siphash24") == 0) {
            got = hash_bytes(key, data, bytes);
        } else {
            continue;
        }
        char text[24];
        (void)snprintf(text, sizeof text, "%016" PRIx64, got);
        cr_assert_str_eq(text, hex, "%s of %zu bytes", name, bytes);
        checked++;
    }
    cr_assert_gt(checked, 300);
    (void)fclose(f);
}

Test(hash, siphash_equals_the_papers_vector) {
    /* Aumasson and Bernstein 2012, appendix A. */
    uint8_t message[15];
    for (uint8_t i = 0; i < 15; i++) {
        message[i] = i;
    }
    hash_key key = {0x0706050403020100u, 0x0f0e0d0c0b0a0908u};
    cr_assert_eq(hash_bytes(key, message, 15), 0xa129ca6149be45e5u);
}

Test(hash, checksum_sees_every_single_bit) {
    uint8_t data[100];
    fill(data, sizeof data);
    uint64_t whole = hash_checksum64(5, data, sizeof data);
    for (size_t bit = 0; bit < sizeof data * 8; bit++) {
        data[bit / 8] ^= (uint8_t)(1u << (bit % 8));
        cr_assert_neq(hash_checksum64(5, data, sizeof data), whole);
        data[bit / 8] ^= (uint8_t)(1u << (bit % 8));
    }
}

Test(hash, random_keys_differ) {
    hash_key a;
    hash_key b;
    cr_assert_eq(hash_key_random(&a, NULL), STATUS_OK);
    cr_assert_eq(hash_key_random(&b, NULL), STATUS_OK);
    cr_assert(a.k0 != b.k0 && a.k1 != b.k1);
}
