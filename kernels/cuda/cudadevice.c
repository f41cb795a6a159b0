/* cudadevice.c -- is there a device that these kernels run on, and which; if not, why not. */
#include "kernels/cuda/cudadevice.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

enum {
    CUDADEVICE_CAPABILITY_MIN = 80, /* bf16 tensor cores, cp.async */
    ARCHITECTURES_MAX = 16
};

/* What nvcc made: "90a,80": code for exactly 9.0, and code that the driver makes fit 8.0 and later.
 */
#ifndef WEIR_CUDA_COMPILED_FOR
#define WEIR_CUDA_COMPILED_FOR "80"
#endif

/* Whether code for the architecture that `text` begins with ("80", "90a") runs on `capability`. */
static bool fits(const char *text, int capability) {
    char *end = NULL;
    const long number = strtol(text, &end, 10);
    return *end == 'a' ? number == capability : number <= capability;
}

static bool compiled_for(int capability) {
    const char *at = WEIR_CUDA_COMPILED_FOR;
    for (int i = 0; i < ARCHITECTURES_MAX && at != NULL; i++) {
        if (fits(at, capability)) {
            return true;
        }
        at = strchr(at, ',');
        at = at != NULL ? at + 1 : NULL;
    }
    return false;
}

static status driver_check(diag *d) {
    int driver = 0, runtime = 0;
    (void)cudaDriverGetVersion(&driver);
    (void)cudaRuntimeGetVersion(&runtime);
    if (driver == 0) {
        return status_fail(d, STATUS_NOTFOUND, "no CUDA driver is installed");
    }
    if (driver / 1000 < runtime / 1000) {
        return status_fail(d, STATUS_UNSUPPORTED,
                           "the driver is too old: it knows CUDA %d.%d, this needs %d.0 or later",
                           driver / 1000, driver % 1000 / 10, runtime / 1000);
    }
    return STATUS_OK;
}

status cudadevice_choose(int device, int *capability, diag *d) {
    int count = 0, major = 0, minor = 0;
    TRY(driver_check(d));
    if (cudaGetDeviceCount(&count) != cudaSuccess || count == 0) {
        (void)cudaGetLastError();
        return status_fail(d, STATUS_NOTFOUND, "no CUDA device was found");
    }
    if (device < 0 || device >= count) {
        return status_fail_param(d, STATUS_NOTFOUND, "device",
                                 "device %d was asked for: this machine has %d, from 0 on", device,
                                 count);
    }
    if (cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device) != cudaSuccess ||
        cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device) != cudaSuccess) {
        return status_fail(d, STATUS_DEVICE, "device %d does not answer", device);
    }
    *capability = major * 10 + minor;
    if (*capability < CUDADEVICE_CAPABILITY_MIN || !compiled_for(*capability)) {
        return status_fail_param(
            d, STATUS_UNSUPPORTED, "device",
            "device %d is of architecture %d.%d; the kernels need 8.0 or later "
            "and were compiled for \"%s\"",
            device, major, minor, WEIR_CUDA_COMPILED_FOR);
    }
    return STATUS_OK;
}
