/* ncclprobe.c -- NCCL refuses two ranks whose host and bus address are equal; both are read as it
 * reads them (NCCL_HOSTID, else the machine's boot; the PCI bus id). */
#define _GNU_SOURCE
#include "kvtransfer/ncclprobe.h"

#include <stdlib.h>

void ncclprobe_apart(const char *name) {
    (void)setenv("NCCL_HOSTID", name, 0);
}

#ifdef WEIR_HAVE_NCCL
#include <stdio.h>
#include <string.h>

#include "engine/base/hash.h"
#include "kvtransfer/ncclapi.h"

enum { HOST_BYTES = 256 };

/* Which host this is, to NCCL. */
static void host_name(char out[HOST_BYTES]) {
    const char *told = getenv("NCCL_HOSTID");
    out[0] = 0;
    if (told && *told) {
        (void)snprintf(out, HOST_BYTES, "%s", told);
        return;
    }
    FILE *f = fopen("/proc/sys/kernel/random/boot_id", "re");
    if (f) {
        if (!fgets(out, HOST_BYTES, f)) {
            out[0] = 0;
        }
        (void)fclose(f);
    }
}

status ncclprobe_device(int device, uint64_t *id, diag *d) {
    const ncclapi *api;
    char text[HOST_BYTES + 32] = "";
    *id = 0;
    TRY(ncclapi_runtime(&api, d));
    host_name(text);
    uint64_t host = hash_checksum64(1, text, strlen(text));
    size_t used = strlen(text);
    if (api->cudaDeviceGetPCIBusId(text + used, 32, device) != cudaSuccess) {
        return status_fail(d, STATUS_NOTFOUND, "nccl: no device %d", device);
    }
    /* 0 means host memory. */
    *id = (host | 1) << 32 | (hash_checksum64(1, text, strlen(text)) & UINT32_MAX);
    return STATUS_OK;
}

status ncclprobe_opens(diag *d) {
    const ncclapi *api;
    return ncclapi_load(&api, d);
}
#else
status ncclprobe_device(int device, uint64_t *id, diag *d) {
    *id = 0;
    return status_fail(d, STATUS_UNSUPPORTED, "nccl: built without NCCL (device %d)", device);
}

status ncclprobe_opens(diag *d) {
    return status_fail(d, STATUS_UNSUPPORTED, "nccl: built without NCCL");
}
#endif
