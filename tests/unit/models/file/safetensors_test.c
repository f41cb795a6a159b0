/* safetensors_test.c -- the safetensors reader: what a good file gives, and every way to lie. */
#define _GNU_SOURCE
#include "models/file/safetensors.h"

#include <criterion/criterion.h>

#include "engine/base/mem.h"

enum { DATA_BYTES = 24 };

static const char good[] =
    "{\"__metadata__\":{\"format\":\"pt\"},"
    "\"b\":{\"dtype\":\"BF16\",\"shape\":[2,3],\"data_offsets\":[8,20]},"
    "\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]},"
    "\"c\":{\"dtype\":\"I32\",\"shape\":[],\"data_offsets\":[20,24]},"
    "\"d\":{\"dtype\":\"F16\",\"shape\":[0,4],\"data_offsets\":[24,24]}}";

/* A file in a block of exactly its size, so that one byte too far is noticed. */
static uint8_t *file_of(str header, uint64_t stated, size_t data_bytes, size_t *bytes) {
    *bytes = 8 + header.bytes + data_bytes;
    uint8_t *file = mem_alloc(*bytes, 1);
    cr_assert(file != NULL);
    for (int i = 0; i < 8; i++) {
        file[i] = (uint8_t)(stated >> 8 * i);
    }
    memcpy(file + 8, header.data, header.bytes);
    for (size_t i = 0; i < data_bytes; i++) {
        file[8 + header.bytes + i] = (uint8_t)i;
    }
    return file;
}

Test(safetensors, tensors_come_in_the_order_of_their_bytes) {
    size_t bytes;
    uint8_t *file = file_of(str_from(good), sizeof good - 1, DATA_BYTES, &bytes);
    safetensors s;
    diag d = {0};
    cr_assert_eq(safetensors_read(file, bytes, "f", &s, &d), STATUS_OK, "%s", d.text);
    cr_assert_eq(s.count, 4);
    static const struct {
        const char *name;
        bool supported;
        gguf_type type;
        uint32_t dims_count;
        uint64_t dims[2];
        size_t at, bytes;
    } want[] = {{"a", true, GGUF_F32, 1, {2, 1}, 0, 8},
                {"b", true, GGUF_BF16, 2, {3, 2}, 8, 12},
                {"c", false, GGUF_F32, 1, {1, 1}, 20, 4},
                {"d", true, GGUF_F16, 2, {4, 0}, 24, 0}};
    for (size_t i = 0; i < 4; i++) {
        const safetensors_tensor *t = &s.tensors[i];
        cr_assert_str_eq(t->name, want[i].name);
        cr_assert_eq(t->supported, want[i].supported);
        cr_assert(t->type == want[i].type && t->dims_count == want[i].dims_count);
        cr_assert(t->dims[0] == want[i].dims[0] && t->dims[1] == want[i].dims[1]);
        cr_assert(t->dims[2] == 1 && t->dims[3] == 1);
        cr_assert(t->data == file + 8 + sizeof good - 1 + want[i].at && t->bytes == want[i].bytes);
        cr_assert_eq(safetensors_find(&s, want[i].name), t);
    }
    cr_assert_null(safetensors_find(&s, "e"));
    cr_assert_null(safetensors_find(&s, ""));
    safetensors_free(&s);
    mem_free(file);
}

#define A(inside) "{\"a\":{" inside "}}"
#define AT(from, to) "\"data_offsets\":[" from "," to "]"

Test(safetensors, headers_that_lie_are_refused) {
    static const struct {
        const char *header;
        status code;
        const char *says;
    } rows[] = {
        {"[]", STATUS_CORRUPT, "must be a JSON object"},
        {"{\"a\":7}", STATUS_CORRUPT, "tensor 'a' is not described"},
        {"{\"\":{}}", STATUS_CORRUPT, "name that is empty"},
        {"{\"\xff\":{}}", STATUS_CORRUPT, "not UTF-8"},
        {"{\"a\":{}}", STATUS_UNSUPPORTED, "unknown dtype ''"},
        {A("\"dtype\":\"F4\""), STATUS_UNSUPPORTED, "unknown dtype 'F4'"},
        {A("\"dtype\":7"), STATUS_UNSUPPORTED, "unknown dtype ''"},
        {A("\"dtype\":\"F32\""), STATUS_CORRUPT, "must have a shape"},
        {A("\"dtype\":\"F32\",\"shape\":[1,1,1,1,1]"), STATUS_CORRUPT, "at most 4 dimensions"},
        {A("\"dtype\":\"F32\",\"shape\":[-1]"), STATUS_CORRUPT, "no product of whole numbers"},
        {A("\"dtype\":\"F32\",\"shape\":[1.5]"), STATUS_CORRUPT, "no product of whole numbers"},
        {A("\"dtype\":\"F32\",\"shape\":[4503599627370496,4503599627370496]"), STATUS_CORRUPT,
         "no product of whole numbers"},
        {A("\"dtype\":\"F32\",\"shape\":[6]"), STATUS_CORRUPT, "must have data_offsets"},
        {A("\"dtype\":\"F32\",\"shape\":[6]," AT("-1", "24")), STATUS_CORRUPT, "data_offsets"},
        {A("\"dtype\":\"F32\",\"shape\":[6]," AT("24", "0")), STATUS_CORRUPT, "data_offsets"},
        {A("\"dtype\":\"F32\",\"shape\":[6]," AT("0", "1e300")), STATUS_CORRUPT, "data_offsets"},
        {A("\"dtype\":\"F32\",\"shape\":[6],\"data_offsets\":[0,24,24]"), STATUS_CORRUPT,
         "data_offsets"},
        {A("\"dtype\":\"F32\",\"shape\":[7]," AT("0", "28")), STATUS_CORRUPT, "cut short"},
        {A("\"dtype\":\"F32\",\"shape\":[5]," AT("0", "24")), STATUS_CORRUPT,
         "not its shape in F32"},
        {A("\"dtype\":\"F64\",\"shape\":[4611686018427387904]," AT("0", "0")), STATUS_CORRUPT,
         "no product of whole numbers"},
        {A("\"dtype\":\"F32\",\"shape\":[5]," AT("0", "20")), STATUS_CORRUPT, "4 bytes follow"},
        {A("\"dtype\":\"F32\",\"shape\":[5]," AT("4", "24")), STATUS_CORRUPT, "leaves a gap"},
        {"{}", STATUS_CORRUPT, "24 bytes follow"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[6]," AT(
             "0", "24") "},"
                        "\"b\":{\"dtype\":\"F32\",\"shape\":[1]," AT("0", "4") "}}",
         STATUS_CORRUPT, "overlaps the one before it"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[3]," AT(
             "0", "12") "},"
                        "\"a\":{\"dtype\":\"F32\",\"shape\":[3]," AT("12", "24") "}}",
         STATUS_CORRUPT, "'a' appears twice"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        size_t bytes;
        str header = str_from(rows[i].header);
        uint8_t *file = file_of(header, header.bytes, DATA_BYTES, &bytes);
        safetensors s;
        diag d = {0};
        status result = safetensors_read(file, bytes, "f", &s, &d);
        cr_assert_eq(result, rows[i].code, "%s: %s: %s", rows[i].header, status_name(result),
                     d.text);
        cr_assert(strstr(d.text, rows[i].says) != NULL, "\"%s\" lacks \"%s\"", d.text,
                  rows[i].says);
        mem_free(file);
    }
}

Test(safetensors, lengths_of_headers_that_lie_are_refused) {
    static const uint64_t stated[] = {0,        1,          sizeof good + DATA_BYTES,
                                      1u << 30, UINT64_MAX, 1ull << 63};
    for (size_t i = 0; i < sizeof stated / sizeof stated[0]; i++) {
        size_t bytes;
        uint8_t *file = file_of(str_from(good), stated[i], DATA_BYTES, &bytes);
        safetensors s;
        diag d = {0};
        cr_assert_eq(safetensors_read(file, bytes, "f", &s, &d), STATUS_CORRUPT);
        cr_assert(strstr(d.text, "no safetensors file") != NULL, "%s", d.text);
        mem_free(file);
    }
}

/* Cut anywhere, or with any byte changed, a file is read within its bytes or refused with a text.
 */
Test(safetensors, survives_any_damage) {
    size_t whole;
    uint8_t *file = file_of(str_from(good), sizeof good - 1, DATA_BYTES, &whole);
    int accepted = 0;
    for (size_t i = 0; i < 2 * whole; i++) {
        size_t bytes = i < whole ? i : whole;
        uint8_t *copy = (uint8_t *)mem_dup(file, bytes);
        cr_assert(copy != NULL);
        for (int change = 1; change < (i < whole ? 2 : 256); change += 37) {
            if (i >= whole) {
                copy[i - whole] = (uint8_t)(file[i - whole] ^ change);
            }
            safetensors s;
            diag d = {0};
            if (safetensors_read(copy, bytes, "f", &s, &d) != STATUS_OK) {
                cr_assert(d.text[0] != 0);
                continue;
            }
            accepted++;
            for (uint64_t k = 0; k < s.count; k++) {
                cr_assert(s.tensors[k].data >= copy && s.tensors[k].bytes <= bytes &&
                          s.tensors[k].data - copy <= (ptrdiff_t)(bytes - s.tensors[k].bytes));
            }
            safetensors_free(&s);
        }
        mem_free(copy);
    }
    cr_assert(accepted > DATA_BYTES, "%d accepted", accepted);
    mem_free(file);
}
