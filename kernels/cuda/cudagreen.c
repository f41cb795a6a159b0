/* cudagreen.c -- green contexts, through the driver's entry points: a driver that is older than
 * they are lacks the symbols, and the module must open there as well.
 *
 * The group that is split off keeps whole clusters of multiprocessors together; what remains need
 * not be, so the group is for prompts, whose products are the large ones. */
#include "kernels/cuda/cudagreen.h"

#include <cuda.h>
#include <stdio.h>

enum { VERSION = 12040, TRIAL_BYTES = 4096 };

#define GREEN_CALLS(CALL)             \
    CALL(cuDeviceGet)                 \
    CALL(cuDeviceGetDevResource)      \
    CALL(cuDevSmResourceSplitByCount) \
    CALL(cuDevResourceGenerateDesc)   \
    CALL(cuGreenCtxCreate)            \
    CALL(cuGreenCtxDestroy)           \
    CALL(cuGreenCtxStreamCreate)

#define GREEN_FIELD(name) __typeof__(&(name)) name;
typedef struct {
    GREEN_CALLS(GREEN_FIELD)
} green_calls;
#undef GREEN_FIELD

static bool find(const char *name, void **out) {
    enum cudaDriverEntryPointQueryResult found = cudaDriverEntryPointSymbolNotFound;
    *out = NULL;
    return cudaGetDriverEntryPointByVersion(name, out, VERSION, cudaEnableDefault, &found) ==
               cudaSuccess &&
           found == cudaDriverEntryPointSuccess && *out != NULL;
}

static bool load(green_calls *calls) {
#define GREEN_FIND(name)                             \
    if (!find(#name, (void **)(void *)&calls->name)) \
        return false;
    GREEN_CALLS(GREEN_FIND)
#undef GREEN_FIND
    return true;
}

unsigned cudagreen_group(unsigned count, unsigned least, unsigned alignment, unsigned percent) {
    least = least > 0 ? least : 1;
    alignment = alignment > 0 ? alignment : 1;
    if (percent >= 100 || count < 2 * least) {
        return 0;
    }
    unsigned left = (count * percent + 99) / 100;
    left = left > least ? left : least;
    unsigned group = left < count ? (count - left) / alignment * alignment : 0;
    group = group > least ? group : (least + alignment - 1) / alignment * alignment;
    return group + least <= count ? group : 0;
}

static bool refused(const char *what, CUresult r, char why[CUDAGREEN_WHY_BYTES]) {
    if (r != CUDA_SUCCESS) {
        (void)snprintf(why, CUDAGREEN_WHY_BYTES, "%s: CUDA error %d", what, (int)r);
    }
    return r != CUDA_SUCCESS;
}

static bool make(const green_calls *calls, CUdevice device, CUdevResource *part, int priority,
                 cudagreen_side *side, char why[CUDAGREEN_WHY_BYTES]) {
    CUdevResourceDesc plan;
    CUstream stream;
    if (refused("cuDevResourceGenerateDesc", calls->cuDevResourceGenerateDesc(&plan, part, 1),
                why) ||
        refused("cuGreenCtxCreate",
                calls->cuGreenCtxCreate(&side->context, plan, device, CU_GREEN_CTX_DEFAULT_STREAM),
                why)) {
        return false;
    }
    if (refused(
            "cuGreenCtxStreamCreate",
            calls->cuGreenCtxStreamCreate(&stream, side->context, CU_STREAM_NON_BLOCKING, priority),
            why)) {
        return false;
    }
    side->stream = stream;
    side->multiprocessors = part->sm.smCount;
    return true;
}

static bool divide(const green_calls *calls, CUdevice device, unsigned percent,
                   CUdevResource parts[2], char why[CUDAGREEN_WHY_BYTES]) {
    CUdevResource whole;
    unsigned groups = 1;
    if (refused("cuDeviceGetDevResource",
                calls->cuDeviceGetDevResource(device, &whole, CU_DEV_RESOURCE_TYPE_SM), why)) {
        return false;
    }
    const unsigned group = cudagreen_group(whole.sm.smCount, whole.sm.minSmPartitionSize,
                                           whole.sm.smCoscheduledAlignment, percent);
    if (group == 0) {
        (void)snprintf(why, CUDAGREEN_WHY_BYTES,
                       "%u multiprocessors are too few for two groups of %u", whole.sm.smCount,
                       whole.sm.minSmPartitionSize);
        return false;
    }
    if (refused("cuDevSmResourceSplitByCount",
                calls->cuDevSmResourceSplitByCount(&parts[0], &groups, &whole, &parts[1], 0, group),
                why)) {
        return false;
    }
    if (groups != 1 || parts[1].type != CU_DEV_RESOURCE_TYPE_SM || parts[1].sm.smCount == 0) {
        (void)snprintf(why, CUDAGREEN_WHY_BYTES, "a split leaves nothing of %u multiprocessors",
                       whole.sm.smCount);
        return false;
    }
    return true;
}

/* What a backend asks of its stream, so that a driver which has green contexts and refuses some of
 * it is found out here and not by a request. */
static cudaError_t try_stream(cudaStream_t stream, void *memory, cudaEvent_t event) {
    cudaGraph_t graph = NULL;
    cudaError_t e = cudaMemsetAsync(memory, 0, TRIAL_BYTES, stream);
    e = e ? e : cudaEventRecord(event, stream);
    e = e ? e : cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal);
    if (e == cudaSuccess) {
        e = cudaMemsetAsync(memory, 1, TRIAL_BYTES, stream);
        const cudaError_t ended = cudaStreamEndCapture(stream, &graph);
        e = e ? e : ended;
    }
    cudaGraphExec_t run = NULL;
    e = e ? e : cudaGraphInstantiate(&run, graph, 0);
    e = e ? e : cudaGraphLaunch(run, stream);
    const cudaError_t waited = cudaStreamSynchronize(stream);
    if (run != NULL) {
        (void)cudaGraphExecDestroy(run);
    }
    if (graph != NULL) {
        (void)cudaGraphDestroy(graph);
    }
    return e ? e : waited;
}

static bool try_both(const cudagreen_side *large, const cudagreen_side *small,
                     char why[CUDAGREEN_WHY_BYTES]) {
    void *memory = NULL;
    cudaEvent_t event = NULL;
    cudaError_t e = cudaMalloc(&memory, TRIAL_BYTES);
    e = e ? e : cudaEventCreateWithFlags(&event, cudaEventDisableTiming);
    e = e ? e : try_stream(large->stream, memory, event);
    e = e ? e : cudaStreamWaitEvent(small->stream, event, 0);
    e = e ? e : try_stream(small->stream, memory, event);
    if (event != NULL) {
        (void)cudaEventDestroy(event);
    }
    (void)cudaFree(memory);
    if (e != cudaSuccess) {
        (void)snprintf(why, CUDAGREEN_WHY_BYTES, "a trial of the streams: %s", cudaGetErrorName(e));
    }
    return e == cudaSuccess;
}

static void drop(cudagreen_side *side) {
    if (side->stream != NULL) {
        (void)cudaStreamDestroy(side->stream);
        side->stream = NULL;
    }
    cudagreen_close(side);
}

bool cudagreen_open(int device, unsigned percent, int large_priority, int small_priority,
                    cudagreen_side *large, cudagreen_side *small, char why[CUDAGREEN_WHY_BYTES]) {
    green_calls calls;
    CUdevice which;
    CUdevResource parts[2];
    *large = *small = (cudagreen_side){0};
    if (!load(&calls)) {
        (void)cudaGetLastError();
        (void)snprintf(why, CUDAGREEN_WHY_BYTES, "the driver has no green contexts (CUDA 12.4)");
        return false;
    }
    if (refused("cuDeviceGet", calls.cuDeviceGet(&which, device), why) ||
        !divide(&calls, which, percent, parts, why)) {
        return false;
    }
    if (!make(&calls, which, &parts[0], large_priority, large, why) ||
        !make(&calls, which, &parts[1], small_priority, small, why) ||
        !try_both(large, small, why)) {
        drop(large);
        drop(small);
        (void)cudaGetLastError();
        return false;
    }
    return true;
}

void cudagreen_close(cudagreen_side *side) {
    green_calls calls;
    if (side->context != NULL && load(&calls)) {
        (void)calls.cuGreenCtxDestroy(side->context);
    }
    *side = (cudagreen_side){0};
}
