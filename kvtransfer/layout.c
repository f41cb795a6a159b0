/* layout.c -- group sizes. */
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

double layout_exposed_us(const layout_speed *s, uint32_t group_layers) {
    double link_free_us = 0;
    for (uint32_t done = 0; done < s->layers;) {
        uint32_t left = s->layers - done;
        uint32_t layers = group_layers < left ? group_layers : left;
        done += layers;
        double computed_us = done * s->layer_us;
        double start_us = computed_us > link_free_us ? computed_us : link_free_us;
        link_free_us = start_us + s->group_us + layers * s->layer_bytes / s->bytes_per_us;
    }
    return link_free_us - s->layers * s->layer_us;
}

uint32_t layout_group_layers(const layout_speed *s) {
    uint32_t most = s->layers_max < s->layers ? s->layers_max : s->layers;
    if (most <= 1 || !(s->bytes_per_us > 0) || !(s->layer_us >= 0)) {
        return most > 1 ? most : 1;
    }
    double least_us = layout_exposed_us(s, 1);
    for (uint32_t g = 2; g <= most; g++) {
        double exposed_us = layout_exposed_us(s, g);
        least_us = exposed_us < least_us ? exposed_us : least_us;
    }
    uint32_t best = most;
    while (best > 1 && layout_exposed_us(s, best) > least_us + s->layers * s->layer_us / 100) {
        best--;
    }
    return best;
}
