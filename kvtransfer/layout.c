/* layout.c -- the size of a transfer group. */
#include "kvtransfer/layout.h"

layout_group layout_cut(uint32_t layers, uint64_t layer_page_bytes, uint64_t bytes_max,
                        uint32_t pages_max) {
    uint64_t units = layer_page_bytes ? bytes_max / layer_page_bytes : 1;
    if (units < 1) {
        units = 1;
    }
    layout_group g = {1, layers};
    if (units < layers) {
        g.layers = (uint32_t)units;
    } else {
        uint64_t pages = units / layers;
        g.pages = pages > pages_max ? pages_max : (uint32_t)pages;
    }
    return g;
}
