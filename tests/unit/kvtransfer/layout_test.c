/* layout_test.c -- cuts keep their bounds; groups expose little. */
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

/* ---- groups that adapt ----------------------------------------------------------------------- */

/* An 8B model's chunk of 1,024 tokens: 32 layers of 4 MiB, 2 ms each. */
static layout_speed speed(double bytes_per_us) {
    return (layout_speed){.layers = 32,
                          .layer_us = 2000,
                          .layer_bytes = 4 << 20,
                          .bytes_per_us = bytes_per_us,
                          .group_us = 200,
                          .layers_max = 32};
}

Test(layout, exposed_time_is_the_last_group_on_a_fast_link_and_the_backlog_on_a_slow_one) {
    layout_speed s = speed(42000); /* 42 GB/s: a layer in 100 us */
    cr_assert_float_eq(layout_exposed_us(&s, 1), 200 + 4194304 / 42000.0, 0.5);
    cr_assert_float_eq(layout_exposed_us(&s, 32), 200 + 32 * 4194304 / 42000.0, 0.5);
    s = speed(1250); /* 10 Gbit/s: a layer in 3.4 ms */
    double all = 32 * 4194304 / 1250.0;
    cr_assert_float_eq(layout_exposed_us(&s, 1), 2000 + 32 * 200 + all - 64000, 0.5);
    cr_assert_float_eq(layout_exposed_us(&s, 8), 16000 + 4 * 200 + all - 64000, 0.5);
}

Test(layout, the_group_grows_as_far_as_nothing_is_lost_by_it) {
    layout_speed s = speed(42000);
    /* Thirty layers have left when the last two are computed; thirty-one would not have. */
    cr_assert_eq(layout_group_layers(&s), 30);
    s.layers_max = 8; /* 640 us more than single layers, a hundredth of the compute time */
    cr_assert_eq(layout_group_layers(&s), 7);
    s = speed(1250); /* a layer takes longer than its computing: the first must leave early */
    cr_assert_eq(layout_group_layers(&s), 2);
    s = speed(42000);
    s.layer_us = 0; /* nothing to hide behind: as few groups as may be */
    cr_assert_eq(layout_group_layers(&s), 32);
    s.layers_max = 5;
    cr_assert_eq(layout_group_layers(&s), 5);
    s = speed(0); /* not measured yet */
    cr_assert_eq(layout_group_layers(&s), 32);
    s.layers_max = 0;
    cr_assert_eq(layout_group_layers(&s), 1);
}

Test(layout, no_other_group_exposes_much_less) {
    uint64_t random = 3;
    for (int i = 0; i < 20000; i++) {
        layout_speed s = {.layers = 1 + (uint32_t)rng_below(&random, 80),
                          .layer_us = 1 + (double)rng_below(&random, 20000),
                          .layer_bytes = 1 + (double)rng_below(&random, 1 << 24),
                          .bytes_per_us = 1 + (double)rng_below(&random, 300000),
                          .group_us = (double)rng_below(&random, 3000)};
        s.layers_max = 1 + (uint32_t)rng_below(&random, s.layers);
        uint32_t g = layout_group_layers(&s);
        cr_assert(g >= 1 && g <= s.layers_max);
        double slack = s.layers * s.layer_us / 100;
        for (uint32_t other = 1; other <= s.layers_max; other++) {
            cr_assert_leq(layout_exposed_us(&s, g), layout_exposed_us(&s, other) + slack + 1e-6);
        }
    }
}
