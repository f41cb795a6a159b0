/* cpunodes_test.c -- lists of NUMA nodes as Linux writes them. */
#include "kernels/cpu/cpunodes.h"

#include <criterion/criterion.h>

#include "kernels/cpu/cpumap.h"

static const struct {
    const char *list;
    uint64_t nodes;
} LISTS[] = {
    {"0\n", 1},    {"0-1\n", 3},       {"0-1,4\n", 19},
    {"2", 4},      {"63", 1ull << 63}, {"0,2-3,63\n", 13 | 1ull << 63},
    {"", 0},       {"\n", 0},          {"x", 0},
    {"1-", 0},     {"2-1\n", 0},       {"64", 0},
    {"0-64\n", 0}, {"0 1", 0},         {"0;1", 0},
    {"-1", 0},     {"99999999999", 0}, {"0--1", 0},
};

Test(cpunodes, a_list_is_read_whole_or_not_at_all) {
    for (size_t i = 0; i < sizeof(LISTS) / sizeof(LISTS[0]); i++) {
        cr_expect_eq(cpunodes_parse(str_from(LISTS[i].list)), LISTS[i].nodes, "%s", LISTS[i].list);
    }
}

Test(cpunodes, spread_memory_is_usable) {
    enum { BYTES = 4 << 20 };
    uint8_t *p = cpumap_take(BYTES, true);
    cr_assert_not_null(p);
    cpunodes_spread(p, BYTES, cpunodes_with_memory());
    p[0] = 1;
    p[BYTES - 1] = 2;
    cr_expect_eq(p[0] + p[BYTES - 1], 3);
    cpumap_give(p, BYTES);
}
