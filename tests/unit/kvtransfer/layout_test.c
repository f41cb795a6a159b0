/* layout_test.c -- cuts keep their bounds. */
#include "kvtransfer/layout.h"

#include <criterion/criterion.h>

#include "engine/base/rng.h"

Test(layout, a_group_is_as_large_as_its_bounds_allow) {
    static const struct {
        uint32_t layers;
        uint64_t unit, bytes_max;
        uint32_t pages_max, pages_want, layers_want;
    } cases[] = {
        {30, 1000, 30000, 256, 1, 30}, {30, 1000, 59999, 256, 1, 30},
        {30, 1000, 60000, 256, 2, 30}, {30, 1000, 29999, 256, 1, 29},
        {30, 1000, 1000, 256, 1, 1},   {30, 1000, 1, 256, 1, 1},
        {30, 1000, 0, 256, 1, 1},      {2, 10, 1 << 20, 256, 256, 2},
        {2, 10, 1 << 20, 1, 1, 2},     {1, 1, UINT64_MAX, 256, 256, 1},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        layout_group g =
            layout_cut(cases[i].layers, cases[i].unit, cases[i].bytes_max, cases[i].pages_max);
        cr_assert_eq(g.pages, cases[i].pages_want, "case %zu: %u pages", i, g.pages);
        cr_assert_eq(g.layers, cases[i].layers_want, "case %zu: %u layers", i, g.layers);
    }
}

Test(layout, no_cut_passes_its_bounds) {
    uint64_t random = 5;
    for (int i = 0; i < 100000; i++) {
        uint32_t layers = 1 + (uint32_t)rng_below(&random, 256);
        uint64_t unit = 1 + rng_below(&random, 1 << 20);
        uint64_t most = rng_below(&random, (uint64_t)1 << (1 + rng_below(&random, 40)));
        uint32_t pages_max = 1 + (uint32_t)rng_below(&random, 256);
        layout_group g = layout_cut(layers, unit, most, pages_max);
        uint64_t bytes = (uint64_t)g.pages * g.layers * unit;
        cr_assert(g.pages >= 1 && g.pages <= pages_max && g.layers >= 1 && g.layers <= layers);
        cr_assert(bytes <= most || (g.pages == 1 && g.layers == 1));
        cr_assert(g.pages == 1 || g.layers == layers, "pages are only added to whole layers");
    }
}
