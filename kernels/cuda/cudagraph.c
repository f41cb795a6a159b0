/* cudagraph.c -- forward passes that are launched as one.
 *
 * A decode step is some hundred launches of microseconds each. Steps with the same number of rows
 * (padded to a bucket) and the same number of items of attention (padded too) are the same launches
 * with the same arguments, for all that differs lies in device memory that the host fills: tokens,
 * positions, tables, the plan. So the first such step is captured into a graph while its operators
 * run, with what they send in pinned memory of the graph's own. In a later one the operators fill
 * that memory and launch nothing, and then the graph is launched.
 *
 * What a graph holds are addresses: it is good as long as the backend's buffers stay where they
 * are, that is until the next backend_reserve.
 */
#include <stdlib.h>
#include <string.h>

#include "engine/base/check.h"
#include "engine/base/mem.h"
#include "kernels/cuda/cudastate.h"

enum { GRAPHS_MAX = 64, ROWS_MAX = 256 };

typedef struct {
    cudagraph_key key;
    cudaGraphExec_t exec;
    uint8_t *stage; /* pinned host [stage_bytes] */
    uint64_t stage_bytes, stage_used;
    uint64_t used_at; /* the oldest makes room */
} graph;

struct cudagraph_set {
    graph graphs[GRAPHS_MAX];
    int32_t count;
    graph *now; /* of the forward pass under way */
    uint64_t filled;
    uint64_t clock;
};

int32_t cudagraph_rows(const backend *b, int32_t rows) {
    const cudastate *c = (const cudastate *)b;
    if (c->graphs == NULL || c->group != NULL || !c->sealed || c->plain || rows > ROWS_MAX) {
        return 0;
    }
    int32_t padded = 1;
    while (padded < rows && padded < 8) {
        padded *= 2;
    }
    return rows <= 8 ? padded : (rows + 7) / 8 * 8;
}

void cudagraph_open(cudastate *c) {
    const char *asked = getenv("WEIR_CUDA_GRAPHS");
    if (asked == NULL || strcmp(asked, "0") != 0) {
        c->graphs = mem_calloc(1, sizeof(*c->graphs)); /* without memory for it, without graphs */
    }
}

static void graph_free(graph *g) {
    if (g->exec != NULL) {
        (void)cudaGraphExecDestroy(g->exec);
    }
    (void)cudaFreeHost(g->stage);
    *g = (graph){.exec = NULL};
}

void cudagraph_drop(cudastate *c) {
    for (int32_t i = 0; c->graphs != NULL && i < c->graphs->count; i++) {
        graph_free(&c->graphs->graphs[i]);
    }
    if (c->graphs != NULL) {
        c->graphs->count = 0;
    }
}

void cudagraph_close(cudastate *c) {
    cudagraph_drop(c);
    mem_free(c->graphs);
}

static bool key_equal(const cudagraph_key *a, const cudagraph_key *b) {
    bool same = a->owner == b->owner && a->kv == b->kv && a->rows == b->rows &&
                a->plans == b->plans && a->table_words == b->table_words;
    for (int32_t i = 0; same && i < a->plans; i++) {
        same = a->wide[i] == b->wide[i] && a->narrow[i] == b->narrow[i] &&
               a->merges[i] == b->merges[i];
    }
    return same;
}

/* An unused place, if need be that of the graph which was not used for longest. */
static graph *graph_place(struct cudagraph_set *set) {
    if (set->count < GRAPHS_MAX) {
        return &set->graphs[set->count++];
    }
    graph *oldest = &set->graphs[0];
    for (int32_t i = 1; i < set->count; i++) {
        oldest = set->graphs[i].used_at < oldest->used_at ? &set->graphs[i] : oldest;
    }
    graph_free(oldest);
    return oldest;
}

status cudagraph_begin(cudastate *c, const cudagraph_key *key, uint64_t stage_bytes) {
    struct cudagraph_set *set = c->graphs;
    set->filled = 0;
    for (int32_t i = 0; i < set->count; i++) {
        if (set->graphs[i].exec != NULL && key_equal(&set->graphs[i].key, key)) {
            set->now = &set->graphs[i];
            set->now->used_at = ++set->clock;
            c->graph_mode = CUDAGRAPH_REPLAYED;
            return STATUS_OK;
        }
    }
    void *stage = NULL;
    TRY(cudastate_check(c, cudaMallocHost(&stage, stage_bytes)));
    graph *g = graph_place(set);
    *g = (graph){.key = *key, .stage = stage, .stage_bytes = stage_bytes, .used_at = ++set->clock};
    set->now = g;
    TRY(cudastate_check(c, cudaStreamBeginCapture(c->stream, cudaStreamCaptureModeThreadLocal)));
    c->graph_mode = CUDAGRAPH_CAPTURED;
    return STATUS_OK;
}

status cudagraph_send(cudastate *c, void *device, const void *host, uint64_t bytes) {
    struct cudagraph_set *set = c->graphs;
    uint8_t *stage = set->now->stage + set->filled;
    CHECK_LE(bytes, set->now->stage_bytes - set->filled);
    if (bytes == 0) {
        return STATUS_OK;
    }
    memcpy(stage, host, bytes);
    set->filled += (bytes + 15) / 16 * 16;
    return c->graph_mode == CUDAGRAPH_REPLAYED
               ? STATUS_OK
               : cudastate_check(
                     c, cudaMemcpyAsync(device, stage, bytes, cudaMemcpyHostToDevice, c->stream));
}

static status capture_end(cudastate *c, graph *g) {
    cudaGraph_t captured = NULL;
    TRY(cudastate_check(c, cudaStreamEndCapture(c->stream, &captured)));
    const status s = cudastate_check(c, cudaGraphInstantiate(&g->exec, captured, 0));
    (void)cudaGraphDestroy(captured);
    g->stage_used = c->graphs->filled;
    return s;
}

status cudagraph_end(backend *b) {
    cudastate *c = (cudastate *)b;
    const cudagraph_mode mode = c->graph_mode;
    c->graph_mode = CUDAGRAPH_NONE;
    if (mode == CUDAGRAPH_NONE) {
        return STATUS_OK;
    }
    graph *g = c->graphs->now;
    if (mode == CUDAGRAPH_CAPTURED) {
        TRY(capture_end(c, g));
    }
    CHECK_EQ(c->graphs->filled, g->stage_used); /* else these are not the operators captured */
    return cudastate_check(c, cudaGraphLaunch(g->exec, c->stream));
}
