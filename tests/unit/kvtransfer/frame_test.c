/* frame_test.c -- headers come back as they went, and no flipped bit passes. */
#include "kvtransfer/frame.h"

#include <criterion/criterion.h>
#include <string.h>

#include "engine/base/rng.h"

static frame random_frame(uint64_t *random) {
    return (frame){.junk = rng_below(random, 2),
                   .generation = rng_next(random),
                   .request = rng_next(random),
                   .attempt = (uint32_t)rng_next(random),
                   .group = (uint32_t)rng_next(random),
                   .sequence = (uint32_t)rng_next(random),
                   .payload_bytes = rng_next(random),
                   .checksum = rng_next(random)};
}

static bool same(const frame *a, const frame *b) {
    return a->junk == b->junk && a->generation == b->generation && a->request == b->request &&
           a->attempt == b->attempt && a->group == b->group && a->sequence == b->sequence &&
           a->payload_bytes == b->payload_bytes && a->checksum == b->checksum;
}

Test(frame, comes_back_as_it_went) {
    uint64_t random = 1;
    for (int i = 0; i < 10000; i++) {
        frame f = random_frame(&random), back;
        uint8_t bytes[FRAME_BYTES];
        frame_put(&f, bytes);
        cr_assert_eq(frame_get(bytes, &back), STATUS_OK);
        cr_assert(same(&f, &back));
    }
}

Test(frame, every_field_has_its_documented_place) {
    frame f = {.junk = true,
               .generation = 0x0807060504030201,
               .request = 0x1817161514131211,
               .attempt = 0x24232221,
               .group = 0x34333231,
               .sequence = 0x44434241,
               .payload_bytes = 0x5857565554535251,
               .checksum = 0x6867666564636261};
    static const uint8_t want[56] = {
        'F',  'W',  'V',  'K',  1,    0,    1,    0,    1,    2,    3,    4,    5,    6,
        7,    8,    0x11, 0x12, 0x13, 0x14, 0x15, 0x16, 0x17, 0x18, 0x21, 0x22, 0x23, 0x24,
        0x31, 0x32, 0x33, 0x34, 0x41, 0x42, 0x43, 0x44, 0,    0,    0,    0,    0x51, 0x52,
        0x53, 0x54, 0x55, 0x56, 0x57, 0x58, 0x61, 0x62, 0x63, 0x64, 0x65, 0x66, 0x67, 0x68};
    uint8_t bytes[FRAME_BYTES];
    frame_put(&f, bytes);
    cr_assert_arr_eq(bytes, want, sizeof want);
}

Test(frame, no_changed_byte_passes) {
    uint64_t random = 2;
    for (int round = 0; round < 20; round++) {
        frame f = random_frame(&random), back;
        uint8_t bytes[FRAME_BYTES];
        frame_put(&f, bytes);
        for (int at = 0; at < FRAME_BYTES; at++) {
            for (int flip = 1; flip < 256; flip++) {
                bytes[at] ^= (uint8_t)flip;
                cr_assert_eq(frame_get(bytes, &back), STATUS_CORRUPT, "byte %d ^ %d", at, flip);
                bytes[at] ^= (uint8_t)flip;
            }
        }
    }
}

/* A sender of another version would write a sound checksum: the fields themselves are checked. */
Test(frame, sound_headers_of_another_kind_are_refused) {
    static const struct {
        int at;
        uint8_t flip;
    } cases[] = {{0, 1}, {3, 128}, {4, 3}, {5, 1}, {6, 2}, {7, 1}, {36, 1}, {39, 255}};
    uint64_t random = 3;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        frame f = random_frame(&random), back;
        uint8_t bytes[FRAME_BYTES];
        frame_put(&f, bytes);
        bytes[cases[i].at] ^= cases[i].flip;
        uint64_t sum = frame_checksum(0, bytes, 56);
        for (int b = 0; b < 8; b++) {
            bytes[56 + b] = (uint8_t)(sum >> (8 * b));
        }
        cr_assert_eq(frame_get(bytes, &back), STATUS_CORRUPT, "byte %d", cases[i].at);
    }
}

Test(frame, a_payload_checksum_sees_every_byte_the_order_and_the_runs) {
    uint8_t data[512];
    uint64_t random = 4;
    for (size_t i = 0; i < sizeof data; i++) {
        data[i] = (uint8_t)rng_next(&random);
    }
    uint64_t sum = frame_checksum(frame_checksum(0, data, 256), data + 256, 256);
    cr_assert_eq(sum, frame_checksum(frame_checksum(0, data, 256), data + 256, 256));
    cr_assert_neq(sum, frame_checksum(frame_checksum(0, data + 256, 256), data, 256));
    for (size_t i = 0; i < sizeof data; i++) {
        data[i] ^= 1;
        cr_assert_neq(frame_checksum(frame_checksum(0, data, 256), data + 256, 256), sum);
        data[i] ^= 1;
    }
}
