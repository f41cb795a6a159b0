/* gguf_test.c -- the GGUF reader on whole files: metadata, arrays, tensors, hash. */
#define _GNU_SOURCE
#include "models/file/gguf.h"

#include "tests/unit/models/file/gguf_build.h"

/* One pair of every kind, and three tensors. */
static gguf_build small_file(void) {
    gguf_build b = gguf_build_make();
    uint8_t u8 = 200;
    int8_t i8 = -100;
    uint16_t u16 = 60000;
    int16_t i16 = -30000;
    int32_t i32 = -2000000000;
    uint64_t u64 = UINT64_MAX;
    int64_t i64 = INT64_MIN;
    float f32 = 1.5f;
    double f64 = -2.25;
    gguf_build_pair_str(&b, "general.architecture", "llama");
    gguf_build_scalar(&b, "k.u8", GGUF_KIND_U8, &u8, 1);
    gguf_build_scalar(&b, "k.i8", GGUF_KIND_I8, &i8, 1);
    gguf_build_scalar(&b, "k.u16", GGUF_KIND_U16, &u16, 2);
    gguf_build_scalar(&b, "k.i16", GGUF_KIND_I16, &i16, 2);
    gguf_build_pair_u32(&b, "k.u32", 4000000000u);
    gguf_build_scalar(&b, "k.i32", GGUF_KIND_I32, &i32, 4);
    gguf_build_scalar(&b, "k.u64", GGUF_KIND_U64, &u64, 8);
    gguf_build_scalar(&b, "k.i64", GGUF_KIND_I64, &i64, 8);
    gguf_build_scalar(&b, "k.f32", GGUF_KIND_F32, &f32, 4);
    gguf_build_scalar(&b, "k.f64", GGUF_KIND_F64, &f64, 8);
    gguf_build_pair_bool(&b, "k.bool", true);
    str words[] = {str_from("one"), str_from(""), str_from("three words here")};
    gguf_build_array_str(&b, "a.str", words, 3);
    int32_t numbers[] = {3, -1, 7};
    gguf_build_array(&b, "a.i32", GGUF_KIND_I32, numbers, 3, 4);
    float floats[] = {0.5f, -8.0f};
    gguf_build_array(&b, "a.f32", GGUF_KIND_F32, floats, 2, 4);
    uint8_t bools[] = {1, 0, 1};
    gguf_build_array(&b, "a.bool", GGUF_KIND_BOOL, bools, 3, 1);
    gguf_build_array(&b, "a.empty", GGUF_KIND_STRING, "", 0, 0);
    float plain[8] = {1, 2, 3, 4, 5, 6, 7, 8};
    uint8_t blocks[40];
    memset(blocks, 0xAB, sizeof blocks);
    gguf_build_tensor(&b, "plain.weight", 4, 2, GGUF_F32, plain, sizeof plain);
    gguf_build_tensor(&b, "packed.weight", 64, 1, GGUF_Q4_1, blocks, 40);
    gguf_build_tensor(&b, "odd.weight", 256, 1, (gguf_type)23, blocks, 40);
    return b;
}

static gguf *open_small(void) {
    gguf_build b = small_file();
    gguf *g;
    diag d = {0};
    cr_assert_eq(gguf_build_open(&b, &g, &d), STATUS_OK, "%s", d.text);
    gguf_build_close(&b);
    return g;
}

Test(gguf, scalars_of_every_kind_read_back) {
    gguf *g = open_small();
    static const struct {
        const char *key;
        double value;
    } rows[] = {{"k.u8", 200},         {"k.i8", -100},         {"k.u16", 60000}, {"k.i16", -30000},
                {"k.u32", 4000000000}, {"k.i32", -2000000000}, {"k.f32", 1.5},   {"k.f64", -2.25},
                {"k.u64", 0x1p64},     {"k.i64", -0x1p63}};
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        double got;
        cr_expect_eq(gguf_get_f64(g, rows[i].key, &got, NULL), STATUS_OK);
        cr_expect_eq(got, rows[i].value, "%s: %f", rows[i].key, got);
    }
    str s;
    cr_expect_eq(gguf_get_str(g, "general.architecture", &s, NULL), STATUS_OK);
    cr_expect(str_equal_z(s, "llama"));
    bool yes = false;
    cr_expect_eq(gguf_get_bool(g, "k.bool", &yes, NULL), STATUS_OK);
    cr_expect(yes);
    gguf_close(g);
}

Test(gguf, integers_convert_only_when_they_fit) {
    gguf *g = open_small();
    static const struct {
        const char *key;
        status as_u64;
        status as_i64;
    } rows[] = {{"k.u8", STATUS_OK, STATUS_OK},
                {"k.i8", STATUS_CORRUPT, STATUS_OK},
                {"k.u64", STATUS_OK, STATUS_CORRUPT},
                {"k.i64", STATUS_CORRUPT, STATUS_OK},
                {"k.f32", STATUS_CORRUPT, STATUS_CORRUPT},
                {"k.bool", STATUS_CORRUPT, STATUS_CORRUPT},
                {"general.architecture", STATUS_CORRUPT, STATUS_CORRUPT},
                {"a.i32", STATUS_CORRUPT, STATUS_CORRUPT},
                {"no.such.key", STATUS_NOTFOUND, STATUS_NOTFOUND}};
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        uint64_t u;
        int64_t v;
        diag d = {0};
        cr_expect_eq(gguf_get_u64(g, rows[i].key, &u, &d), rows[i].as_u64, "%s", rows[i].key);
        cr_expect(rows[i].as_u64 == STATUS_OK || strstr(d.text, rows[i].key) != NULL);
        cr_expect_eq(gguf_get_i64(g, rows[i].key, &v, &d), rows[i].as_i64, "%s", rows[i].key);
    }
    uint64_t u;
    cr_expect_eq(gguf_get_u64(g, "k.u64", &u, NULL), STATUS_OK);
    cr_expect_eq(u, UINT64_MAX);
    gguf_close(g);
}

Test(gguf, whole_floats_count_as_integers_and_not_finite_ones_are_refused) {
    gguf_build b = gguf_build_make();
    double whole = 10000.0;
    double huge = 0x1p64;
    float nan = __builtin_nanf("");
    gguf_build_scalar(&b, "whole", GGUF_KIND_F64, &whole, 8);
    gguf_build_scalar(&b, "huge", GGUF_KIND_F64, &huge, 8);
    gguf_build_scalar(&b, "nan", GGUF_KIND_F32, &nan, 4);
    gguf *g;
    cr_assert_eq(gguf_build_open(&b, &g, NULL), STATUS_OK);
    uint64_t u;
    double f;
    cr_expect_eq(gguf_get_u64(g, "whole", &u, NULL), STATUS_OK);
    cr_expect_eq(u, 10000);
    cr_expect_eq(gguf_get_u64(g, "huge", &u, NULL), STATUS_CORRUPT);
    cr_expect_eq(gguf_get_u64(g, "nan", &u, NULL), STATUS_CORRUPT);
    cr_expect_eq(gguf_get_f64(g, "nan", &f, NULL), STATUS_CORRUPT);
    gguf_close(g);
    gguf_build_close(&b);
}

Test(gguf, arrays_give_elements_by_index) {
    gguf *g = open_small();
    gguf_array a;
    cr_assert_eq(gguf_get_array(g, "a.str", &a, NULL), STATUS_OK);
    cr_expect_eq(a.kind, GGUF_KIND_STRING);
    cr_expect_eq(a.count, 3);
    cr_expect(str_equal_z(gguf_array_str(&a, 2), "three words here"));
    cr_expect(str_equal_z(gguf_array_str(&a, 1), ""));
    cr_expect(str_equal_z(gguf_array_str(&a, 0), "one"));
    cr_assert_eq(gguf_get_array(g, "a.i32", &a, NULL), STATUS_OK);
    cr_expect_eq(gguf_array_i64(&a, 0), 3);
    cr_expect_eq(gguf_array_i64(&a, 1), -1);
    cr_expect_eq(gguf_array_f64(&a, 2), 7.0);
    cr_assert_eq(gguf_get_array(g, "a.f32", &a, NULL), STATUS_OK);
    cr_expect_eq(gguf_array_f64(&a, 1), -8.0);
    cr_assert_eq(gguf_get_array(g, "a.bool", &a, NULL), STATUS_OK);
    cr_expect_eq(gguf_array_i64(&a, 1), 0);
    cr_expect_eq(gguf_array_i64(&a, 2), 1);
    cr_assert_eq(gguf_get_array(g, "a.empty", &a, NULL), STATUS_OK);
    cr_expect_eq(a.count, 0);
    cr_expect_eq(gguf_get_array(g, "k.u8", &a, NULL), STATUS_CORRUPT);
    gguf_close(g);
}

Test(gguf, tensors_are_found_by_name_and_index) {
    gguf *g = open_small();
    cr_expect_eq(gguf_tensors_count(g), 3);
    gguf_tensor t;
    cr_assert_eq(gguf_tensor_find(g, "plain.weight", &t, NULL), STATUS_OK);
    cr_expect_eq(t.dims_count, 2);
    cr_expect_eq(t.dims[0], 4);
    cr_expect_eq(t.dims[1], 2);
    cr_expect_eq(t.dims[2], 1);
    cr_expect_eq(t.bytes, 32);
    float values[8];
    memcpy(values, t.data, sizeof values);
    cr_expect_eq(values[7], 8.0f);
    cr_assert_eq(gguf_tensor_at(g, 1, &t, NULL), STATUS_OK);
    cr_expect(str_equal_z(t.name, "packed.weight"));
    cr_expect_eq(t.bytes, 40);
    cr_expect_eq((uintptr_t)t.data % 32, 0);
    cr_expect_eq(gguf_tensor_find(g, "none", &t, NULL), STATUS_NOTFOUND);
    gguf_close(g);
}

Test(gguf, a_tensor_of_an_unsupported_type_is_refused_by_name_only_when_asked_for) {
    gguf *g = open_small();
    gguf_tensor t;
    diag d = {0};
    cr_expect_eq(gguf_tensor_find(g, "odd.weight", &t, &d), STATUS_UNSUPPORTED);
    cr_expect(strstr(d.text, "odd.weight") != NULL && strstr(d.text, "IQ4_XS") != NULL, "%s",
              d.text);
    cr_expect_null(t.data);
    gguf_close(g);
}

Test(gguf, version_2_reads_as_version_3) {
    gguf_build b = small_file();
    b.version = 2;
    gguf *g;
    cr_assert_eq(gguf_build_open(&b, &g, NULL), STATUS_OK);
    cr_expect_eq(gguf_tensors_count(g), 3);
    gguf_close(g);
    gguf_build_close(&b);
}

Test(gguf, hash_is_stable_and_changes_with_metadata_and_weights) {
    gguf_build b = small_file();
    strbuf file;
    gguf_build_file(&b, &file);
    gguf *g;
    cr_assert_eq(gguf_build_open_bytes(strbuf_str(&file), &g, NULL), STATUS_OK);
    uint64_t hash = gguf_hash(g);
    cr_expect_eq(gguf_hash(g), hash);
    gguf_close(g);
    /* "llama" -> "mlama" in the metadata; then one byte of a tensor. */
    size_t at = str_find(strbuf_str(&file), str_from("llama"), 0);
    cr_assert(at != SIZE_MAX);
    file.data[at] = 'm';
    cr_assert_eq(gguf_build_open_bytes(strbuf_str(&file), &g, NULL), STATUS_OK);
    cr_expect_neq(gguf_hash(g), hash);
    gguf_close(g);
    file.data[at] = 'l';
    at = str_find(strbuf_str(&file), str_from("\xAB\xAB"), 0);
    cr_assert(at != SIZE_MAX);
    file.data[at] = 0;
    cr_assert_eq(gguf_build_open_bytes(strbuf_str(&file), &g, NULL), STATUS_OK);
    cr_expect_neq(gguf_hash(g), hash);
    gguf_close(g);
    strbuf_close(&file);
    gguf_build_close(&b);
}

Test(gguf, the_default_model_opens) {
    const char *path = getenv("WEIR_TEST_MODEL");
    if (path == NULL) {
        cr_skip_test("WEIR_TEST_MODEL is not set");
    }
    gguf *g;
    diag d = {0};
    cr_assert_eq(gguf_open(path, &g, &d), STATUS_OK, "%s", d.text);
    gguf_tensor t;
    cr_expect_eq(gguf_tensor_find(g, "token_embd.weight", &t, &d), STATUS_OK, "%s", d.text);
    for (uint64_t i = 0; i < gguf_tensors_count(g); i++) {
        cr_assert_eq(gguf_tensor_at(g, i, &t, &d), STATUS_OK, "%s", d.text);
        const char *end = (const char *)t.data + t.bytes;
        volatile char last = end[-1];
        (void)last;
    }
    gguf_close(g);
}
