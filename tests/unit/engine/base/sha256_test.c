/* sha256_test.c -- published vectors, an outside implementation, and both code paths. */
/* The source is included so that the portable path runs on CPUs that have the instructions too. */
#include "engine/base/sha256.c"

#include <criterion/criterion.h>
#include <inttypes.h>
#include <stdio.h>

static void expect(const uint8_t digest[SHA256_BYTES], const char *hex, const char *what) {
    char text[SHA256_HEX_BYTES];
    sha256_hex(digest, text);
    cr_assert_str_eq(text, hex, "%s", what);
}

Test(sha256, equals_the_published_vectors) {
    /* FIPS 180-4 examples as published by NIST. */
    static const struct {
        const char *text;
        const char *hex;
    } table[] = {
        {"", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"},
        {"abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"},
        {"abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq",
         "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1"},
    };
    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++) {
        uint8_t out[SHA256_BYTES];
        sha256_of(table[i].text, strlen(table[i].text), out);
        expect(out, table[i].hex, table[i].text);
    }
}

Test(sha256, takes_a_million_bytes_in_uneven_pieces) {
    static char letters[1000];
    memset(letters, 'a', sizeof letters);
    sha256 s;
    sha256_start(&s);
    size_t left = 1000000;
    for (size_t piece = 1; left; piece = piece % 997 + 1) {
        size_t take = piece < left ? piece : left;
        sha256_add(&s, letters, take);
        left -= take;
    }
    uint8_t out[SHA256_BYTES];
    sha256_finish(&s, out);
    expect(out, "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0", "a million a");
}

Test(sha256, hmac_equals_rfc_4231) {
    static const struct {
        size_t key_bytes;
        uint8_t key;
        const char *text;
        const char *hex;
    } table[] = {
        {20, 0x0b, "Hi There", "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7"},
        {131, 0xaa, "Test Using Larger Than Block-Size Key - Hash Key First",
         "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54"},
    };
    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++) {
        uint8_t key[131];
        memset(key, table[i].key, sizeof key);
        uint8_t out[SHA256_BYTES];
        sha256_hmac(key, table[i].key_bytes, table[i].text, strlen(table[i].text), out);
        expect(out, table[i].hex, table[i].text);
    }
    uint8_t out[SHA256_BYTES];
    sha256_hmac("Jefe", 4, "what do ya want for nothing?", 28, out);
    expect(out, "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843", "Jefe");
}

static void fill(uint8_t *out, size_t bytes) {
    for (size_t i = 0; i < bytes; i++) {
        out[i] = (uint8_t)(i * 131 + 7 + i / 256);
    }
}

Test(sha256, digests_equal_an_outside_implementation) {
    FILE *f = fopen(WEIR_SOURCE_DIR "/tests/golden/base/checksums.txt", "r");
    cr_assert_not_null(f);
    static uint8_t data[65537];
    fill(data, sizeof data);
    char name[16];
    char hex[80];
    uint64_t seed;
    size_t bytes;
    int checked = 0;
    while (fscanf(f, "%15s %" SCNx64 " %zu %79s", name, &seed, &bytes, hex) == 4) {
        uint8_t out[SHA256_BYTES];
        if (strcmp(name, "sha256") == 0) {
            sha256_of(data, bytes, out);
        } else if (strcmp(name, "hmac") == 0) {
            sha256_hmac(data, (size_t)seed, data, bytes, out);
        } else {
            continue;
        }
        expect(out, hex, name);
        checked++;
    }
    cr_assert_gt(checked, 150);
    (void)fclose(f);
}

Test(sha256, portable_and_native_blocks_agree) {
#if defined(__x86_64__)
    if (!has_sha_instructions()) {
        cr_skip_test("this CPU has no SHA instructions");
    }
    static uint8_t data[64 * 37];
    fill(data, sizeof data);
    for (size_t count = 0; count <= 37; count++) {
        sha256 a;
        sha256 b;
        sha256_start(&a);
        sha256_start(&b);
        blocks_portable(a.state, data, count);
        blocks_native(b.state, data, count);
        cr_assert_arr_eq(a.state, b.state, sizeof a.state);
    }
#endif
}

Test(sha256, equal_looks_at_every_byte) {
    uint8_t a[SHA256_BYTES];
    fill(a, sizeof a);
    for (size_t i = 0; i < sizeof a; i++) {
        uint8_t b[SHA256_BYTES];
        memcpy(b, a, sizeof b);
        cr_assert(sha256_equal(a, b));
        b[i] ^= 0x40;
        cr_assert_not(sha256_equal(a, b));
    }
}
