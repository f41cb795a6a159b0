/* ncclapi.c -- dlopen and dlsym, once a process. */
#ifdef WEIR_HAVE_NCCL
#include "kvtransfer/ncclapi.h"

#include <dlfcn.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

static pthread_once_t once = PTHREAD_ONCE_INIT;
static ncclapi calls;
static status loaded;
static diag why;

static void *open_runtime(void) {
    static const char *const names[] = {"libcudart.so.13", "libcudart.so.12", "libcudart.so"};
    void *runtime = NULL;
    for (size_t i = 0; i < sizeof names / sizeof names[0] && !runtime; i++) {
        runtime = dlopen(names[i], RTLD_NOW | RTLD_LOCAL);
    }
    return runtime;
}

/* A symbol of NCCL's file, or of the runtime. ISO C has no cast from it to a function. */
static void find(void *nccl, void *runtime, const char *name, void *function_out) {
    void *symbol = dlsym(nccl, name);
    if (!symbol && runtime) {
        symbol = dlsym(runtime, name);
    }
    memcpy(function_out, &symbol, sizeof symbol);
    if (!symbol && loaded == STATUS_OK) {
        loaded =
            status_fail(&why, STATUS_NOTFOUND, "nccl: no %s in NCCL or the CUDA runtime", name);
    }
}

static void load(void) {
    const char *told = getenv("WEIR_NCCL");
    void *nccl = dlopen(told && *told ? told : "libnccl.so.2", RTLD_NOW | RTLD_LOCAL);
    loaded = STATUS_OK;
    if (!nccl) {
        loaded = status_fail(&why, STATUS_NOTFOUND, "nccl: %s", dlerror());
        return;
    }
    void *runtime = dlsym(nccl, "cudaMalloc") ? NULL : open_runtime();
#define FIND(name) find(nccl, runtime, #name, &calls.name);
    NCCLAPI_CALLS(FIND)
#undef FIND
}

status ncclapi_load(const ncclapi **out, diag *d) {
    (void)pthread_once(&once, load);
    *out = &calls;
    return loaded == STATUS_OK ? STATUS_OK : status_fail(d, loaded, "%s", why.text);
}
#else
/* Without nccl.h there is nothing to declare: nccl.c says so to whoever asks. */
extern int ncclapi_absent;
#endif
