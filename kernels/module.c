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

status module_open(const backend_options *options, backend **out, diag *d) {
    char path[PATH_MAX];
    *out = NULL;
    if (!module_path(path)) {
        return status_fail_param(d, STATUS_NOTFOUND, "backend", "no path to the CUDA module");
    }
    void *module = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (module == NULL) {
        return status_fail_param(d, STATUS_NOTFOUND, "backend",
                                 "backend \"cuda\": %s (built with -DWEIR_CUDA=ON?)", dlerror());
    }
    module_open_fn open_fn;
    void *symbol = dlsym(module, "cuda_open");
    memcpy(&open_fn, &symbol, sizeof(open_fn)); /* ISO C has no cast from an object to a function */
    if (symbol == NULL) {
        (void)dlclose(module);
        return status_fail_param(d, STATUS_NOTFOUND, "backend", "%s has no cuda_open", path);
    }
    return open_fn(options, out, d);
}
