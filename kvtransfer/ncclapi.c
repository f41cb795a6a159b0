/* ncclapi.c -- dlopen and dlsym, once a process. */
#ifdef WEIR_HAVE_NCCL
#include "kvtransfer/ncclapi.h"

#include <dlfcn.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    status s;
    diag why;
} outcome;

static pthread_once_t once = PTHREAD_ONCE_INIT;
static ncclapi calls;
static outcome nccl_calls, runtime_calls;

static void *open_runtime(void) {
    static const char *const names[] = {"libcudart.so.13", "libcudart.so.12", "libcudart.so"};
    void *runtime = NULL;
    for (size_t i = 0; i < sizeof names / sizeof names[0] && !runtime; i++) {
        runtime = dlopen(names[i], RTLD_NOW | RTLD_LOCAL);
    }
    return runtime;
}

/* A symbol of one of the two files. ISO C has no cast from it to a function. */
static void find(void *nccl, void *runtime, const char *name, void *function_out, outcome *o) {
    void *symbol = nccl ? dlsym(nccl, name) : NULL;
    if (!symbol && runtime) {
        symbol = dlsym(runtime, name);
    }
    memcpy(function_out, &symbol, sizeof symbol);
    if (!symbol && o->s == STATUS_OK) {
        o->s = status_fail(&o->why, STATUS_NOTFOUND, "no %s in NCCL or the CUDA runtime", name);
    }
}

static void load(void) {
    const char *told = getenv("WEIR_NCCL");
    void *nccl = dlopen(told && *told ? told : "libnccl.so.2", RTLD_NOW | RTLD_LOCAL);
    if (!nccl) {
        nccl_calls.s = status_fail(&nccl_calls.why, STATUS_NOTFOUND, "%s", dlerror());
    }
    void *runtime = nccl && dlsym(nccl, "cudaMalloc") ? NULL : open_runtime();
#define FIND(name) find(nccl, runtime, #name, &calls.name, &nccl_calls);
    NCCLAPI_NCCL(FIND)
#undef FIND
#define FIND(name) find(nccl, runtime, #name, &calls.name, &runtime_calls);
    NCCLAPI_RUNTIME(FIND)
#undef FIND
}

static status told(const outcome *o, diag *d) {
    return o->s == STATUS_OK ? STATUS_OK : status_fail(d, o->s, "nccl: %s", o->why.text);
}

status ncclapi_runtime(const ncclapi **out, diag *d) {
    (void)pthread_once(&once, load);
    *out = &calls;
    return told(&runtime_calls, d);
}

status ncclapi_load(const ncclapi **out, diag *d) {
    TRY(ncclapi_runtime(out, d));
    return told(&nccl_calls, d);
}
#else
/* Without nccl.h there is nothing to declare: nccl.c says so to whoever asks. */
extern int ncclapi_absent;
#endif
