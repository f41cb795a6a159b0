/* lanes.c -- the second lane of a worker that computes both phases side by side. */
#include "engine/worker/lanes.h"

#include "engine/base/check.h"
#include "engine/base/log.h"

status lanes_open(lanes *l, model *of, backend *device, int32_t threads, int32_t seqs_max,
                  diag *d) {
    CHECK(!l->on);
    l->on = true;
    if (!of) {
        return STATUS_OK;
    }
    if (!backend_kv_on_host(device)) {
        TRY(backend_share(device, 0, &l->device, d));
        LOG(INFO, "worker", "prompts and decoding side by side", "device=%s %s", device->isa,
            l->device->shared);
        return model_share(of, l->device, seqs_max, seqs_max, &l->model, d);
    }
    CHECK(threads > 0);
    TRY(backend_share(device, 0, &l->device, d));
    TRY(model_share(of, l->device, seqs_max, seqs_max, &l->model, d));
    TRY(cores_create(&l->cores[CORE_LANE_PROMPTS], d));
    l->cores[CORE_LANE_DECODE] = l->cores[CORE_LANE_PROMPTS];
    int32_t decode = threads > 1 ? threads / 2 : 1;
    const int32_t own[CORE_LANES] = {threads > 1 ? threads - decode : 1, decode};
    for (uint32_t i = 0; i < CORE_LANES; i++) {
        l->cores[i].worker = i;
        l->cores[i].own = own[i];
        l->cores[i].total = threads;
    }
    LOG(INFO, "worker", "prompts and decoding side by side", "cores=%d+%d", own[0], own[1]);
    return STATUS_OK;
}

void lanes_close(lanes *l) {
    stepper_close(l->stepper);
    model_close(l->model);
    backend_close(l->device);
    cores_close(&l->cores[CORE_LANE_PROMPTS]); /* the other is a view of the same board */
    *l = (lanes){0};
}
