/* seal_test.c -- known answers, any cut of the input, and no forged tag among many. */
#include "engine/base/seal.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>

#include "engine/base/clock.h"
#include "engine/base/rng.h"
#include "engine/base/sha256.h"

/* Of SipHash's reference vectors for 128-bit output: key 00..0f, input 00, 01, ... */
static const struct {
    size_t bytes;
    uint8_t tag[SEAL_TAG_BYTES];
} known[] = {
    {0,
     {0xa3, 0x81, 0x7f, 0x04, 0xba, 0x25, 0xa8, 0xe6, 0x6d, 0xf6, 0x72, 0x14, 0xc7, 0x55, 0x02,
      0x93}},
    {1,
     {0xda, 0x87, 0xc1, 0xd8, 0x6b, 0x99, 0xaf, 0x44, 0x34, 0x76, 0x59, 0x11, 0x9b, 0x22, 0xfc,
      0x45}},
};

static void key_of(uint8_t key[SEAL_KEY_BYTES]) {
    for (int i = 0; i < SEAL_KEY_BYTES; i++) {
        key[i] = (uint8_t)i;
    }
}

Test(seal, gives_the_known_answers) {
    uint8_t key[SEAL_KEY_BYTES], tag[SEAL_TAG_BYTES];
    static const uint8_t input[] = {0};
    key_of(key);
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++) {
        seal s;
        seal_start_plain(&s, key);
        seal_add(&s, input, known[i].bytes);
        seal_finish(&s, tag);
        cr_assert_arr_eq(tag, known[i].tag, SEAL_TAG_BYTES);
    }
}

static void tag_of(const uint8_t *data, size_t bytes, uint64_t counter, uint8_t *out) {
    uint8_t key[SEAL_KEY_BYTES];
    seal s;
    key_of(key);
    seal_start(&s, key, counter);
    seal_add(&s, data, bytes);
    seal_finish(&s, out);
}

Test(seal, a_tag_does_not_depend_on_how_the_bytes_come) {
    uint8_t data[200], key[SEAL_KEY_BYTES], want[SEAL_TAG_BYTES], got[SEAL_TAG_BYTES];
    uint64_t random = 3;
    key_of(key);
    for (size_t i = 0; i < sizeof data; i++) {
        data[i] = (uint8_t)rng_next(&random);
    }
    for (int round = 0; round < 20000; round++) {
        size_t bytes = rng_below(&random, sizeof data + 1);
        seal s;
        tag_of(data, bytes, 7, want);
        seal_start(&s, key, 7);
        for (size_t at = 0; at < bytes;) {
            size_t part = 1 + rng_below(&random, rng_below(&random, 2) ? 9 : 64);
            part = part < bytes - at ? part : bytes - at;
            seal_add(&s, data + at, part);
            at += part;
        }
        seal_finish(&s, got);
        cr_assert(seal_equal(want, got), "%zu bytes", bytes);
    }
}

Test(seal, counter_key_length_and_every_bit_matter) {
    uint8_t data[64] = {0}, tag[SEAL_TAG_BYTES], other[SEAL_TAG_BYTES];
    tag_of(data, 64, 0, tag);
    tag_of(data, 64, 1, other);
    cr_assert_not(seal_equal(tag, other));
    tag_of(data, 63, 0, other);
    cr_assert_not(seal_equal(tag, other));
    for (int bit = 0; bit < 64 * 8; bit++) {
        data[bit / 8] ^= (uint8_t)(1 << bit % 8);
        tag_of(data, 64, 0, other);
        cr_assert_not(seal_equal(tag, other), "bit %d", bit);
        data[bit / 8] ^= (uint8_t)(1 << bit % 8);
    }
    for (int i = 0; i < SEAL_TAG_BYTES * 8; i++) {
        memcpy(other, tag, sizeof other);
        other[i / 8] ^= (uint8_t)(1 << i % 8);
        cr_assert_not(seal_equal(tag, other), "bit %d of the tag", i);
    }
}

/* The figures in engine/net/README.md come from here: the best of many slices. */
Test(seal, its_speed_beside_that_of_hmac_is_printed) {
    static uint8_t data[1 << 20];
    static const size_t frames[] = {4096, sizeof data};
    for (size_t f = 0; f < 2; f++) {
        int64_t best[2] = {INT64_MAX, INT64_MAX};
        for (int slice = 0; slice < 20; slice++) {
            uint8_t tag[SHA256_BYTES];
            int64_t at[3];
            at[0] = clock_now_us();
            for (size_t i = 0; i < sizeof data; i += frames[f]) {
                tag_of(data + i, frames[f], i, tag);
            }
            at[1] = clock_now_us();
            for (size_t i = 0; i < sizeof data; i += frames[f]) {
                sha256_hmac("key", 3, data + i, frames[f], tag);
            }
            at[2] = clock_now_us();
            for (int k = 0; k < 2; k++) {
                best[k] = at[k + 1] - at[k] < best[k] ? at[k + 1] - at[k] : best[k];
            }
        }
        fprintf(stderr, "# frames of %zu bytes: seal %.2f GB/s, HMAC-SHA-256 %.2f GB/s\n",
                frames[f], (double)sizeof data / 1e3 / (double)(best[0] + !best[0]),
                (double)sizeof data / 1e3 / (double)(best[1] + !best[1]));
    }
}
