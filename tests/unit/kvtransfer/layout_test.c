/* layout_test.c -- each difference between two layouts is found and named; cuts keep their bounds.
 */
#include "kvtransfer/layout.h"

#include <criterion/criterion.h>

#include "engine/base/rng.h"

static layout sample(void) {
    return (layout){.protocol = 3,
                    .model_hash = 0x1234,
                    .layers = 30,
                    .page_tokens = 16,
                    .layer_page_bytes = 12288,
                    .kv_layout = str_from("k,v:head-major:f16"),
                    .numerics = str_from("cpu:v1:int8")};
}

Test(layout, equal_layouts_fit) {
    layout a = sample(), b = sample();
    char copy[] = "k,v:head-major:f16"; /* equal by content, not by address */
    b.kv_layout = str_from(copy);
    diag d;
    cr_assert_eq(layout_check(&a, &b, &d), STATUS_OK);
}

Test(layout, every_single_difference_is_refused_by_name) {
    static const struct {
        const char *param, *mine, *theirs;
    } cases[] = {
        {"protocol version", "3", "4"},
        {"model", "model", "model"},
        {"layers", "30", "31"},
        {"tokens a page", "16", "32"},
        {"bytes a layer page", "12288", "24576"},
        {"KV layout", "k,v:head-major:f16", "other"},
        {"numerics class", "cpu:v1:int8", "cpu:v1:int"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        layout a = sample(), b = sample();
        switch (i) {
            case 0:
                b.protocol = 4;
                break;
            case 1:
                b.model_hash ^= (uint64_t)1 << 40;
                break;
            case 2:
                b.layers = 31;
                break;
            case 3:
                b.page_tokens = 32;
                break;
            case 4:
                b.layer_page_bytes = 24576;
                break;
            case 5:
                b.kv_layout = str_from("other");
                break;
            default:
                b.numerics.bytes--;
                break;
        }
        diag d;
        cr_assert_eq(layout_check(&a, &b, &d), STATUS_MISMATCH, "%s", cases[i].param);
        cr_assert_str_eq(d.param, cases[i].param);
        cr_assert(str_find(str_from(d.text), str_from(cases[i].mine), 0) != SIZE_MAX, "%s", d.text);
        cr_assert(str_find(str_from(d.text), str_from(cases[i].theirs), 0) != SIZE_MAX);
        cr_assert_eq(layout_check(&b, &a, &d), STATUS_MISMATCH);
        cr_assert_str_eq(d.param, cases[i].param);
    }
}

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
