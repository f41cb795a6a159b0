/* cudastream.c -- the backend's stream: what the host sends in its order, and waits for it.
 *
 * The device reads pinned memory alone by itself, so what is sent goes through a pinned buffer,
 * which is filled anew only after a wait.
 */
#include <string.h>

#include "kernels/cuda/cudastate.h"

/* What cudasample.c asked for is on the host now. */
static void choices_deliver(cudastate *c) {
    if (c->sampled_count > 0) {
        memcpy(c->sampled_to, c->sampled, (size_t)c->sampled_count * sizeof(ops_sampled));
        c->sampled_count = 0;
    }
}

status cudastream_sync(backend *b) {
    cudastate *c = (cudastate *)b;
    TRY(c->group != NULL ? cudagroup_wait(c)
                         : cudastate_check(c, cudaStreamSynchronize(c->stream)));
    c->stage_used = 0;
    c->notes_count = 0;
    choices_deliver(c);
    return STATUS_OK;
}

static void CUDART_CB note_call(void *argument) {
    const cudastate_note *n = argument;
    n->call(n->context, n->number);
}

status cudastream_notify(backend *b, void (*call)(void *context, int32_t number), void *context,
                         int32_t number) {
    cudastate *c = (cudastate *)b;
    if (c->notes_count == CUDASTATE_NOTES_MAX) {
        TRY(cudastream_sync(b));
    }
    cudastate_note *n = &c->notes[c->notes_count++];
    *n = (cudastate_note){call, context, number};
    return cudastate_check(c, cudaLaunchHostFunc(c->stream, note_call, n));
}

status cudastream_send(cudastate *c, void *device, const void *host, uint64_t bytes) {
    const uint8_t *from = host;
    uint8_t *to = device;
    if (c->graph_mode != CUDAGRAPH_NONE) {
        return cudagraph_send(c, device, host, bytes);
    }
    while (bytes > 0) {
        if (c->stage_used == CUDASTATE_STAGE_BYTES) {
            TRY(cudastream_sync(&c->base));
        }
        const uint64_t room = CUDASTATE_STAGE_BYTES - c->stage_used;
        const uint64_t part = bytes < room ? bytes : room;
        memcpy(c->stage + c->stage_used, from, part);
        TRY(cudastate_check(c, cudaMemcpyAsync(to, c->stage + c->stage_used, part,
                                               cudaMemcpyHostToDevice, c->stream)));
        c->stage_used += part;
        from += part;
        to += part;
        bytes -= part;
    }
    return STATUS_OK;
}
