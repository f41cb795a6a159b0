/* module.c -- backends that live in a shared object. */
#define _GNU_SOURCE
#include "kernels/module.h"

#include <dlfcn.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef status (*module_open_fn)(const backend_options *options, backend **out, diag *d);
typedef status (*module_probe_fn)(const backend_options *options, diag *d);

/* The module's file: as told, or beside the executable. False when the path does not fit. */
static bool module_path(char path[PATH_MAX]) {
    const char *told = getenv("WEIR_CUDA_MODULE");
    if (told != NULL && *told != '\0') {
        return snprintf(path, PATH_MAX, "%s", told) < PATH_MAX;
    }
    char self[PATH_MAX];
    const ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);
    if (n <= 0) {
        return false;
    }
    self[n] = '\0';
    char *slash = strrchr(self, '/');
    if (slash == NULL) {
        return false;
    }
    *slash = '\0';
    return snprintf(path, PATH_MAX, "%s/libweir_cuda.so", self) < PATH_MAX;
}

/* A symbol of the module, as a function of some type. ISO C has no cast between the two. */
static bool module_symbol(void *module, const char *name, void *function_out) {
    void *symbol = dlsym(module, name);
    memcpy(function_out, &symbol, sizeof(symbol));
    return symbol != NULL;
}

static status module_load(const char *path, module_open_fn *open_fn, module_probe_fn *probe_fn,
                          diag *d) {
    void *module = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (module == NULL) {
        return status_fail_param(d, STATUS_NOTFOUND, "backend",
                                 "backend \"cuda\": %s (built with -DWEIR_CUDA=ON?)", dlerror());
    }
    if (!module_symbol(module, "cuda_open", open_fn) ||
        !module_symbol(module, "cuda_probe", probe_fn)) {
        (void)dlclose(module);
        return status_fail_param(d, STATUS_NOTFOUND, "backend",
                                 "%s has no cuda_open and cuda_probe", path);
    }
    return STATUS_OK;
}

status module_open(const backend_options *options, backend **out, diag *d) {
    char path[PATH_MAX];
    module_open_fn open_fn;
    module_probe_fn probe_fn;
    *out = NULL;
    if (!module_path(path)) {
        return status_fail_param(d, STATUS_NOTFOUND, "backend", "no path to the CUDA module");
    }
    TRY(module_load(path, &open_fn, &probe_fn, d));
    return open_fn(options, out, d);
}

bool module_usable(const backend_options *options, diag *why) {
    char path[PATH_MAX];
    module_open_fn open_fn;
    module_probe_fn probe_fn;
    if (!module_path(path) || access(path, F_OK) != 0) {
        return false;
    }
    return module_load(path, &open_fn, &probe_fn, why) == STATUS_OK &&
           probe_fn(options, why) == STATUS_OK;
}
