/* emu_green.cpp -- green contexts of the emulated device, and the driver's entry points by name.
 *
 * A stream of a green context runs like any other; what is emulated is the arithmetic of the split,
 * and the rule that streams end before their context. EMU_GREEN=none: a driver without them;
 * EMU_GREEN=COUNT: a device of so many multiprocessors, in groups of 8 as on 9.0. */
#include <cuda.h>
#include <cuda_runtime_api.h>

#include <cstdlib>
#include <cstring>
#include <vector>

#include "tests/emu/emu_block.hpp"
#include "tests/emu/emu_state.hpp"

struct CUdevResourceDesc_st {
    unsigned multiprocessors;
};
struct CUgreenCtx_st {
    int device;
    unsigned multiprocessors;
    std::vector<CUstream> streams;
};

namespace {

const char *setting() {
    const char *text = getenv("EMU_GREEN");
    return text != nullptr ? text : "";
}

CUresult result(const char *function) {
    return emu_result(function, cudaSuccess) == cudaSuccess ? CUDA_SUCCESS
                                                            : CUDA_ERROR_NOT_SUPPORTED;
}

unsigned least() {
    return *setting() != 0 ? 8 : 2;
}

CUdevResource resource_of(unsigned multiprocessors) {
    CUdevResource r = {};
    r.type = multiprocessors > 0 ? CU_DEV_RESOURCE_TYPE_SM : CU_DEV_RESOURCE_TYPE_INVALID;
    r.sm.smCount = multiprocessors;
    r.sm.minSmPartitionSize = r.sm.smCoscheduledAlignment = least();
    return r;
}

} /* namespace */

extern "C" {

CUresult cuDeviceGet(CUdevice *out, int ordinal) {
    *out = ordinal;
    return ordinal < emu_the().devices_count ? CUDA_SUCCESS : CUDA_ERROR_INVALID_DEVICE;
}

CUresult cuDeviceGetDevResource(CUdevice device, CUdevResource *out, CUdevResourceType type) {
    int count = 0;
    if (type != CU_DEV_RESOURCE_TYPE_SM) {
        return CUDA_ERROR_INVALID_RESOURCE_TYPE;
    }
    (void)cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device);
    *out =
        resource_of(*setting() != 0 ? (unsigned)strtoul(setting(), nullptr, 10) : (unsigned)count);
    return result("cuDeviceGetDevResource");
}

CUresult cuDevSmResourceSplitByCount(CUdevResource *out, unsigned *groups,
                                     const CUdevResource *input, CUdevResource *remaining,
                                     unsigned flags, unsigned count) {
    (void)flags;
    const unsigned unit = least(), all = input->sm.smCount;
    const unsigned group = (count + unit - 1) / unit * unit;
    if (input->type != CU_DEV_RESOURCE_TYPE_SM || group > all || group == 0) {
        return CUDA_ERROR_INVALID_RESOURCE_CONFIGURATION;
    }
    unsigned made = 0;
    for (; made < *groups && (made + 1) * group <= all; made++) {
        out[made] = resource_of(group);
    }
    *groups = made;
    if (remaining != nullptr) {
        *remaining = resource_of(all - made * group);
    }
    return result("cuDevSmResourceSplitByCount");
}

CUresult cuDevResourceGenerateDesc(CUdevResourceDesc *out, CUdevResource *resources,
                                   unsigned count) {
    if (count != 1 || resources->type != CU_DEV_RESOURCE_TYPE_SM) {
        return CUDA_ERROR_INVALID_RESOURCE_CONFIGURATION;
    }
    /* CUDA has no call that gives one back. */
    static std::vector<CUdevResourceDesc_st *> all;
    emu_guard held(emu_the().lock);
    all.push_back(new CUdevResourceDesc_st{resources->sm.smCount});
    *out = all.back();
    return result("cuDevResourceGenerateDesc");
}

CUresult cuGreenCtxCreate(CUgreenCtx *out, CUdevResourceDesc plan, CUdevice device,
                          unsigned flags) {
    *out = nullptr;
    if (flags != CU_GREEN_CTX_DEFAULT_STREAM) {
        return CUDA_ERROR_INVALID_VALUE;
    }
    const CUresult r = result("cuGreenCtxCreate");
    if (r == CUDA_SUCCESS) {
        *out = new CUgreenCtx_st{device, plan->multiprocessors, {}};
    }
    return r;
}

CUresult cuGreenCtxStreamCreate(CUstream *out, CUgreenCtx context, unsigned flags, int priority) {
    int before = 0;
    if (flags != CU_STREAM_NON_BLOCKING) {
        return CUDA_ERROR_INVALID_VALUE;
    }
    (void)cudaGetDevice(&before);
    (void)cudaSetDevice(context->device);
    const cudaError_t e = cudaStreamCreateWithPriority(out, flags, priority);
    (void)cudaSetDevice(before);
    if (e != cudaSuccess || result("cuGreenCtxStreamCreate") != CUDA_SUCCESS) {
        return CUDA_ERROR_NOT_SUPPORTED;
    }
    context->streams.push_back(*out);
    return CUDA_SUCCESS;
}

CUresult cuGreenCtxDestroy(CUgreenCtx context) {
    {
        emu_guard held(emu_the().lock);
        for (CUstream s : context->streams) {
            if (emu_the().streams.count(s) > 0) {
                emu_die("a green context is destroyed before its stream");
            }
        }
    }
    delete context;
    return CUDA_SUCCESS;
}

} /* extern "C" */

/* NULL: the driver has no such function. */
void *emu_green_entry(const char *symbol) {
#define EMU_ENTRY(name) \
    { #name, (void *)(name) }
    static const struct {
        const char *name;
        void *function;
    } entries[] = {EMU_ENTRY(cuDeviceGet),
                   EMU_ENTRY(cuDeviceGetDevResource),
                   EMU_ENTRY(cuDevSmResourceSplitByCount),
                   EMU_ENTRY(cuDevResourceGenerateDesc),
                   EMU_ENTRY(cuGreenCtxCreate),
                   EMU_ENTRY(cuGreenCtxDestroy),
                   EMU_ENTRY(cuGreenCtxStreamCreate)};
#undef EMU_ENTRY
    for (const auto &e : entries) {
        if (strcmp(setting(), "none") != 0 && strcmp(symbol, e.name) == 0) {
            return e.function;
        }
    }
    return nullptr;
}
