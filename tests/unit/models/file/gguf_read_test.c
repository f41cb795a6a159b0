/* gguf_read_test.c -- broken and hostile GGUF files are refused by name and never crash. */
#define _GNU_SOURCE
#include "models/file/gguf_read.h"
#include "tests/unit/models/file/gguf_build.h"

static void put_u64(strbuf *file, size_t at, uint64_t v) {
    memcpy(file->data + at, &v, sizeof v);
}

static void put_u32(strbuf *file, size_t at, uint32_t v) {
    memcpy(file->data + at, &v, sizeof v);
}

/* A valid file with known places: header 24 bytes, one pair "k" (u32), one string array, one
 * tensor "t" of 4 x 2 F32. */
static void valid_file(strbuf *file) {
    gguf_build b = gguf_build_make();
    gguf_build_pair_u32(&b, "k", 7);
    str words[] = {str_from("ab"), str_from("c")};
    gguf_build_array_str(&b, "words", words, 2);
    int16_t numbers[] = {1, 2, 3};
    gguf_build_array(&b, "numbers", GGUF_KIND_I16, numbers, 3, 2);
    gguf_build_pair_str(&b, "s", "text");
    gguf_build_pair_bool(&b, "flag", true);
    float values[8] = {0};
    gguf_build_tensor(&b, "t", 4, 2, GGUF_F32, values, sizeof values);
    gguf_build_tensor(&b, "u", 4, 1, GGUF_F32, values, 16);
    gguf_build_file(&b, file);
    gguf_build_close(&b);
}

/* Opens data[bytes] from a heap block of exactly that size, so that AddressSanitizer sees any read
 * past the end; then reads whatever was accepted. */
static status read_exact(const char *data, size_t bytes) {
    uint8_t *copy = malloc(bytes == 0 ? 1 : bytes);
    cr_assert_not_null(copy);
    memcpy(copy, data, bytes);
    gguf_file f;
    diag d = {0};
    status s = gguf_read_file(copy, bytes, &f, &d);
    if (s == STATUS_OK) {
        uint64_t sum = 0;
        for (uint64_t i = 0; i < f.tensors_count; i++) {
            const gguf_tensor *t = &f.tensors[i];
            cr_assert((const uint8_t *)t->data >= copy);
            cr_assert((const uint8_t *)t->data + t->bytes <= copy + bytes);
            for (uint64_t j = 0; j < t->bytes; j++) {
                sum += ((const uint8_t *)t->data)[j];
            }
        }
        for (uint64_t i = 0; i < f.pairs_count; i++) {
            const gguf_array *a = &f.pairs[i].array;
            for (uint64_t j = 0; f.pairs[i].kind == GGUF_KIND_ARRAY && j < a->count; j++) {
                if (a->kind == GGUF_KIND_STRING) {
                    str w = gguf_array_str(a, j);
                    cr_assert((const uint8_t *)w.data + w.bytes <= copy + bytes);
                } else if (a->kind != GGUF_KIND_U64 && a->kind != GGUF_KIND_F32 &&
                           a->kind != GGUF_KIND_F64) {
                    sum += (uint64_t)gguf_array_i64(a, j);
                }
            }
        }
        volatile uint64_t sink = sum;
        (void)sink;
        gguf_read_free(&f);
    } else {
        cr_assert(d.text[0] != 0 && d.code == s);
    }
    free(copy);
    return s;
}

Test(gguf_read, a_file_cut_anywhere_is_refused) {
    strbuf file;
    valid_file(&file);
    cr_assert_eq(read_exact(file.data, file.bytes), STATUS_OK);
    for (size_t bytes = 0; bytes < file.bytes; bytes++) {
        cr_assert_neq(read_exact(file.data, bytes), STATUS_OK, "cut to %zu bytes", bytes);
    }
    strbuf_close(&file);
}

Test(gguf_read, any_changed_byte_is_refused_or_stays_inside_the_file) {
    strbuf file;
    valid_file(&file);
    for (size_t at = 0; at < file.bytes; at++) {
        char old = file.data[at];
        for (int v = 0; v < 256; v++) {
            file.data[at] = (char)v;
            (void)read_exact(file.data, file.bytes);
        }
        file.data[at] = old;
    }
    strbuf_close(&file);
}

Test(gguf_read, random_wide_mutations_never_crash) {
    strbuf file;
    valid_file(&file);
    strbuf copy = strbuf_make(GGUF_BUILD_BYTES_MAX);
    uint64_t state = 20240607;
    static const uint64_t extreme[] = {0,          1,          UINT64_MAX,       UINT64_MAX - 7,
                                       INT64_MAX,  1ull << 32, UINT32_MAX,       1ull << 63,
                                       1ull << 61, 1 << 24,    (1ull << 62) + 1, 255};
    for (int round = 0; round < 20000; round++) {
        strbuf_clear(&copy);
        cr_assert(strbuf_append(&copy, file.data, file.bytes));
        for (int edits = 0; edits < 1 + round % 3; edits++) {
            state = state * 6364136223846793005u + 1442695040888963407u;
            put_u64(&copy, (state >> 33) % (copy.bytes - 8), extreme[(state >> 20) % 12]);
        }
        (void)read_exact(copy.data, copy.bytes);
    }
    strbuf_close(&copy);
    strbuf_close(&file);
}

/* Each row breaks one place of a valid file; the error must say what is wrong where. */
typedef struct {
    const char *name;
    const char *anchor; /* bytes to search for; the edit is at `offset` from their start */
    long offset;
    int width; /* 4 or 8 bytes */
    uint64_t value;
    status expected;
    const char *says;
} edit_row;

static const edit_row edit_rows[] = {
    {"magic", "GGUF", 0, 4, 0x46554746, STATUS_CORRUPT, "byte 0: not a GGUF file"},
    {"version 1", "GGUF", 4, 4, 1, STATUS_UNSUPPORTED, "version 1"},
    {"version 4", "GGUF", 4, 4, 4, STATUS_UNSUPPORTED, "version 4"},
    {"big-endian", "GGUF", 4, 4, 3u << 24, STATUS_UNSUPPORTED, "big-endian"},
    {"tensor count", "GGUF", 8, 8, UINT64_MAX, STATUS_LIMIT, "byte 8"},
    {"tensor count past the file", "GGUF", 8, 8, 60000, STATUS_CORRUPT, "60000 tensors do not fit"},
    {"key count", "GGUF", 16, 8, 1ull << 40, STATUS_LIMIT, "byte 16"},
    {"key count past the file", "GGUF", 16, 8, 60000, STATUS_CORRUPT, "60000 metadata keys"},
    {"key length", "k\4", -8, 8, UINT64_MAX, STATUS_LIMIT, "byte 24: a metadata key"},
    {"key empty", "k\4", -8, 8, 0, STATUS_CORRUPT, "byte 24: a metadata key is empty"},
    {"value kind", "k\4", 1, 4, 13, STATUS_CORRUPT, "key 'k' has a value of unknown kind 13"},
    {"array kind", "words", 9, 4, 77, STATUS_CORRUPT, "key 'words' has a value of unknown kind 77"},
    {"nested array", "words", 9, 4, 9, STATUS_UNSUPPORTED, "'words' is an array of arrays"},
    {"array length", "words", 13, 8, UINT64_MAX, STATUS_LIMIT, "array elements"},
    {"array past the file", "words", 13, 8, 1 << 20, STATUS_CORRUPT, "array elements do not fit"},
    {"string length", "words", 21, 8, UINT64_MAX - 8, STATUS_LIMIT, "a string of a metadata array"},
    {"string past the file", "words", 21, 8, 5000, STATUS_CORRUPT, "the file ends inside"},
    {"bool of 2", "flag", 8, 4, 2, STATUS_CORRUPT, "key 'flag' is a bool with the value 2"},
    {"no dimensions", "t\2", 1, 4, 0, STATUS_CORRUPT, "tensor 't' has 0 dimensions"},
    {"five dimensions", "t\2", 1, 4, 5, STATUS_CORRUPT, "tensor 't' has 5 dimensions"},
    {"empty dimension", "t\2", 5, 8, 0, STATUS_CORRUPT, "dimension 0 of tensor 't'"},
    {"product overflows", "t\2", 5, 8, 1ull << 63, STATUS_CORRUPT, "dimension 1 of tensor 't'"},
    {"bytes overflow", "t\2", 5, 8, 1ull << 62, STATUS_CORRUPT, "tensor 't'"},
    {"type with blocks", "t\2", 21, 4, GGUF_Q4_K, STATUS_CORRUPT, "not whole Q4_K blocks of 256"},
    {"unaligned offset", "t\2", 25, 8, 3, STATUS_CORRUPT, "'t': offset 3 is not a multiple"},
    {"offset past the end", "t\2", 25, 8, 4096, STATUS_CORRUPT, "'t': offset 4096 and size 32"},
    {"offset overflows", "t\2", 25, 8, UINT64_MAX - 31, STATUS_CORRUPT, "past the end of the file"},
    {"size past the end", "t\2", 5, 8, 4000, STATUS_CORRUPT, "tensor 't'"},
};

Test(gguf_read, errors_name_the_byte_the_key_or_the_tensor) {
    for (size_t i = 0; i < sizeof edit_rows / sizeof edit_rows[0]; i++) {
        const edit_row *row = &edit_rows[i];
        strbuf file;
        valid_file(&file);
        size_t at = str_find(strbuf_str(&file), str_from(row->anchor), 0);
        cr_assert(at != SIZE_MAX, "%s", row->name);
        at = (size_t)((long)at + row->offset);
        if (row->width == 4) {
            put_u32(&file, at, (uint32_t)row->value);
        } else {
            put_u64(&file, at, row->value);
        }
        gguf *g;
        diag d = {0};
        status s = gguf_build_open_bytes(strbuf_str(&file), &g, &d);
        cr_expect_eq(s, row->expected, "%s: %s: %s", row->name, status_name(s), d.text);
        cr_expect(strstr(d.text, row->says) != NULL, "%s: says '%s'", row->name, d.text);
        cr_expect_null(g);
        strbuf_close(&file);
    }
}

static void expect_refused(gguf_build *b, status expected, const char *says) {
    gguf *g;
    diag d = {0};
    cr_expect_eq(gguf_build_open(b, &g, &d), expected, "%s", d.text);
    cr_expect(strstr(d.text, says) != NULL, "says '%s', not '%s'", d.text, says);
    gguf_build_close(b);
}

Test(gguf_read, a_name_given_twice_is_refused) {
    gguf_build b = gguf_build_make();
    gguf_build_pair_u32(&b, "same.key", 1);
    gguf_build_pair_u32(&b, "other", 1);
    gguf_build_pair_u32(&b, "same.key", 2);
    expect_refused(&b, STATUS_CORRUPT, "metadata key 'same.key' appears twice");
    b = gguf_build_make();
    float v[4] = {0};
    gguf_build_tensor(&b, "w", 4, 1, GGUF_F32, v, 16);
    gguf_build_tensor(&b, "w", 4, 1, GGUF_F32, v, 16);
    expect_refused(&b, STATUS_CORRUPT, "tensor 'w' appears twice");
}

Test(gguf_read, names_that_cannot_be_shown_are_refused) {
    static const char *const names[] = {"a\nb", "\xff", "\x1b[31m", "del\x7f"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        gguf_build b = gguf_build_make();
        gguf_build_pair_u32(&b, names[i], 1);
        expect_refused(&b, STATUS_CORRUPT, "not printable UTF-8");
    }
}

Test(gguf_read, alignment_must_be_a_power_of_two_in_range) {
    static const uint32_t bad[] = {0, 1, 4, 24, 33, 1 << 17, UINT32_MAX};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        gguf_build b = gguf_build_make();
        gguf_build_pair_u32(&b, "general.alignment", bad[i]);
        expect_refused(&b, STATUS_CORRUPT, "general.alignment");
    }
    gguf_build b = gguf_build_make();
    gguf_build_pair_u32(&b, "general.alignment", 256);
    b.alignment = 256;
    float v[4] = {1, 2, 3, 4};
    gguf_build_tensor(&b, "w", 4, 1, GGUF_F32, v, 16);
    gguf *g;
    cr_assert_eq(gguf_build_open(&b, &g, NULL), STATUS_OK);
    gguf_tensor t;
    cr_assert_eq(gguf_tensor_find(g, "w", &t, NULL), STATUS_OK);
    cr_expect_eq((uintptr_t)t.data % 256, 0);
    cr_expect_eq(memcmp(t.data, v, 16), 0);
    gguf_close(g);
    gguf_build_close(&b);
}

Test(gguf_read, one_file_of_a_split_model_is_refused) {
    gguf_build b = gguf_build_make();
    uint16_t count = 3;
    gguf_build_scalar(&b, "split.count", GGUF_KIND_U16, &count, 2);
    expect_refused(&b, STATUS_UNSUPPORTED, "split");
}
