/* gguf_type_test.c -- the table of tensor types. */
#include "models/file/gguf_type.h"

#include <criterion/criterion.h>

/* Block sizes from the format's description, written out again. */
Test(gguf_type, block_sizes_are_those_of_the_format) {
    static const struct {
        gguf_type type;
        const char *name;
        uint32_t elements;
        uint32_t bytes;
    } rows[] = {
        {GGUF_F32, "F32", 1, 4},       {GGUF_F16, "F16", 1, 2},      {GGUF_BF16, "BF16", 1, 2},
        {GGUF_Q4_0, "Q4_0", 32, 18},   {GGUF_Q4_1, "Q4_1", 32, 20},  {GGUF_Q5_0, "Q5_0", 32, 22},
        {GGUF_Q5_1, "Q5_1", 32, 24},   {GGUF_Q8_0, "Q8_0", 32, 34},  {GGUF_Q4_K, "Q4_K", 256, 144},
        {GGUF_Q5_K, "Q5_K", 256, 176}, {GGUF_Q6_K, "Q6_K", 256, 210}};
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        cr_expect_str_eq(gguf_type_name(rows[i].type), rows[i].name);
        cr_expect_eq(gguf_type_block_elements(rows[i].type), rows[i].elements);
        cr_expect_eq(gguf_type_block_bytes(rows[i].type), rows[i].bytes);
        cr_expect(gguf_type_supported(rows[i].type));
    }
    static const uint32_t refused[] = {4, 5, 9, 10, 16, 31, 36, 40, 1000, UINT32_MAX};
    for (size_t i = 0; i < sizeof refused / sizeof refused[0]; i++) {
        cr_expect_not(gguf_type_supported((gguf_type)refused[i]));
        cr_expect_eq(gguf_type_block_elements((gguf_type)refused[i]), 0);
    }
    cr_expect_str_eq(gguf_type_name((gguf_type)1000), "unknown");
}
