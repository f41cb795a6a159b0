/* pacing.c -- moving averages, and what follows from them. */
#include "engine/worker/pacing.h"

#include "engine/base/check.h"

pacing pacing_make(uint32_t layers, uint32_t layers_max, uint32_t layers_first,
                   uint64_t layer_page_bytes, uint32_t page_tokens) {
    CHECK(layers > 0 && page_tokens > 0);
    CHECK(layers_max > 0 && layers_max <= layers);
    return (pacing){.layers = layers,
                    .layers_max = layers_max,
                    .layers_now = layers_first < layers_max ? layers_first : layers_max,
                    .layer_page_bytes = (double)layer_page_bytes,
                    .page_tokens = page_tokens};
}

static void average(double *into, double value) {
    *into += *into > 0 ? (value - *into) / PACING_SHARE : value;
}

void pacing_step(pacing *p, int32_t rows, int64_t computed_us) {
    if (rows > 0 && computed_us > 0) {
        average(&p->layer_us, (double)computed_us / p->layers);
        average(&p->rows, rows);
        p->steps++;
    }
}

void pacing_moved(pacing *p, const devpair_times *then, const devpair_times *now) {
    p->groups += (now->groups - now->empty) - (then->groups - then->empty);
    p->bytes += now->bytes - then->bytes;
    p->wire_us += now->wire_us - then->wire_us;
    p->beside_us += (now->copy_us - then->copy_us) + (now->ready_us - then->ready_us);
}

bool pacing_weigh(pacing *p) {
    if (p->groups < PACING_GROUPS || p->wire_us <= 0 || p->steps < PACING_STEPS) {
        return false;
    }
    average(&p->bytes_per_us, (double)p->bytes / (double)p->wire_us);
    average(&p->group_us, (double)p->beside_us / (double)p->groups);
    p->groups = p->bytes = 0;
    p->wire_us = p->beside_us = 0;
    layout_speed speed = {.layers = p->layers,
                          .layer_us = p->layer_us,
                          .layer_bytes = p->layer_page_bytes * p->rows / p->page_tokens,
                          .bytes_per_us = p->bytes_per_us,
                          .group_us = p->group_us,
                          .layers_max = p->layers_max};
    uint32_t before = p->layers_now;
    p->layers_now = layout_group_layers(&speed);
    return p->layers_now != before;
}
