/* mem_test.c -- products that overflow, and copies. */
#include "engine/base/mem.h"

#include <criterion/criterion.h>
#include <string.h>

Test(mem, products_that_overflow_are_refused) {
    cr_assert_null(mem_alloc(SIZE_MAX, 2));
    cr_assert_null(mem_alloc(SIZE_MAX / 4, 8));
    cr_assert_null(mem_calloc(SIZE_MAX / 4, 8));
    char *p = mem_alloc(4, 1);
    cr_assert_null(mem_realloc(p, SIZE_MAX / 2, 3));
    mem_free(p);
    cr_assert_null(mem_dup("", SIZE_MAX));
}

Test(mem, zero_bytes_are_a_valid_pointer) {
    void *all[] = {mem_alloc(0, 8), mem_calloc(0, 0), mem_realloc(NULL, 0, 1), mem_dup(NULL, 0)};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
        cr_assert_not_null(all[i]);
        mem_free(all[i]);
    }
    mem_free(NULL);
}

Test(mem, copies_are_terminated) {
    char *p = mem_dup("abcdef", 3);
    cr_assert_str_eq(p, "abc");
    mem_free(p);
    uint8_t *used = mem_alloc(100, 3); /* its block is likely to be given again */
    memset(used, 0xA5, 300);
    mem_free(used);
    uint8_t *z = mem_calloc(100, 3);
    for (int i = 0; i < 300; i++) {
        cr_assert_eq(z[i], 0);
    }
    mem_free(z);
}

Test(mem, checked_arithmetic_tells_what_fits) {
    uint64_t out;
    cr_assert(mem_mul(UINT64_MAX, 1, &out) && out == UINT64_MAX);
    cr_assert(mem_mul(1ull << 32, 1ull << 31, &out) && out == 1ull << 63);
    cr_assert_not(mem_mul(1ull << 32, 1ull << 32, &out));
    cr_assert(mem_add(UINT64_MAX - 1, 1, &out) && out == UINT64_MAX);
    cr_assert_not(mem_add(UINT64_MAX, 1, &out));
}
