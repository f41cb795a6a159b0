/* emu_memory.cpp -- the CUDA runtime on the host: devices, their memory, copies, memory of other
 * processes.
 *
 * Device memory is the heap's, so that AddressSanitizer knows its ends. An allocation becomes a
 * memfd's pages, in place, when it is first exported (cudaIpcGetMemHandle).
 */
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "tests/emu/emu_block.hpp"
#include "tests/emu/emu_order.hpp"
#include "tests/emu/emu_runtime.hpp"
#include "tests/emu/emu_state.hpp"

namespace {

constexpr size_t PAGE = 4096;

size_t up_to_page(size_t bytes) {
    return bytes == 0 ? PAGE : (bytes + PAGE - 1) & ~(PAGE - 1);
}

cudaError_t device_ranges(const void *to, const void *from, size_t bytes, cudaMemcpyKind kind) {
    const bool device_to = kind == cudaMemcpyHostToDevice || kind == cudaMemcpyDeviceToDevice;
    const bool device_from = kind == cudaMemcpyDeviceToHost || kind == cudaMemcpyDeviceToDevice;
    if (bytes == 0 || kind == cudaMemcpyDefault) {
        return cudaSuccess;
    }
    if (device_to != emu_is_device(to, bytes) || device_from != emu_is_device(from, bytes)) {
        return cudaErrorInvalidValue;
    }
    return cudaSuccess;
}

int number_of(const char *variable, int otherwise) {
    const char *text = getenv(variable);
    return text != nullptr ? (int)strtol(text, nullptr, 10) : otherwise;
}

/* The allocation that starts at p; end() when none does. */
auto allocation_at(const void *p) {
    return emu_the().allocations.find((const char *)p);
}

cudaError_t allocate(const char *name, void **out, size_t bytes, emu_memory_kind kind) {
    emu_state &r = emu_the();
    emu_guard held(r.lock);
    if (emu_any_capturing()) {
        return emu_result(name, cudaErrorStreamCaptureUnsupported);
    }
    if (r.devices_count == 0) {
        return emu_result(name, cudaErrorNoDevice);
    }
    emu_device &d = r.devices[emu_device_now];
    const cudaError_t e =
        emu_result(name, bytes > d.capacity - d.used ? cudaErrorMemoryAllocation : cudaSuccess);
    if (e != cudaSuccess) {
        return e;
    }
    const size_t mapped = up_to_page(bytes);
    *out = aligned_alloc(PAGE, mapped);
    if (*out == nullptr) {
        emu_die("the host has no %zu bytes for the device", bytes);
    }
    memset(*out, 0xa5, mapped); /* fresh device memory holds anything */
#if defined(__SANITIZE_ADDRESS__)
    __asan_poison_memory_region((char *)*out + bytes, mapped - bytes);
#endif
    r.allocations[(const char *)*out] = {bytes, mapped, emu_device_now, kind, -1};
    d.used += bytes;
    return cudaSuccess;
}

void release(void *p, const emu_allocation &a) {
#if defined(__SANITIZE_ADDRESS__)
    __asan_unpoison_memory_region(p, a.mapped);
#endif
    if (a.shared_fd >= 0) { /* the heap gets private pages back */
        close(a.shared_fd);
        if (mmap(p, a.mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1,
                 0) == MAP_FAILED) {
            emu_die("an exported allocation could not be taken back");
        }
    }
    free(p);
}

/* Makes the allocation's pages those of a memfd, with what is in them. */
bool share(void *p, emu_allocation *a) {
    if (a->shared_fd >= 0) {
        return true;
    }
    const int fd = memfd_create("weir-emu-device", MFD_CLOEXEC);
    if (fd < 0) {
        return false;
    }
    /* Up to `bytes` only: what follows is poisoned, and nobody's. */
    if (ftruncate(fd, (off_t)a->mapped) != 0 || pwrite(fd, p, a->bytes, 0) != (ssize_t)a->bytes ||
        mmap(p, a->mapped, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0) == MAP_FAILED) {
        close(fd);
        return false;
    }
    a->shared_fd = fd;
    return true;
}

struct ipc_handle { /* what cudaIpcMemHandle_t's bytes are here */
    uint64_t magic;
    int64_t pid;
    int32_t fd, device;
    uint64_t bytes, mapped;
};
static_assert(sizeof(ipc_handle) <= sizeof(cudaIpcMemHandle_t));
constexpr uint64_t IPC_MAGIC = 0x6d656d2d75656d65ull;

}  // namespace

int emu_device_of(const void *p, size_t bytes) {
    emu_state &r = emu_the();
    emu_guard held(r.lock);
    auto it = r.allocations.upper_bound((const char *)p);
    if (it == r.allocations.begin()) {
        return -1;
    }
    --it;
    const size_t at = (size_t)((const char *)p - it->first);
    return at <= it->second.bytes && bytes <= it->second.bytes - at ? it->second.device : -1;
}

bool emu_is_device(const void *p, size_t bytes) {
    return emu_device_of(p, bytes) >= 0;
}

bool emu_memory_take(int device, size_t bytes) {
    emu_guard held(emu_the().lock);
    emu_device &d = emu_the().devices[device];
    if (bytes > d.capacity - d.used) {
        return false;
    }
    d.used += bytes;
    return true;
}

void emu_memory_give(int device, size_t bytes) {
    emu_guard held(emu_the().lock);
    emu_the().devices[device].used -= bytes;
}

size_t emu_memory_used(void) {
    emu_state &r = emu_the();
    emu_guard held(r.lock);
    size_t used = 0;
    for (int i = 0; i < r.devices_count; i++) {
        used += r.devices[i].used;
    }
    return used;
}

extern "C" {

cudaError_t cudaGetDeviceCount(int *count) {
    *count = emu_the().devices_count;
    return EMU_RESULT(*count > 0 ? cudaSuccess : cudaErrorNoDevice);
}

cudaError_t cudaSetDevice(int device) {
    if (device < 0 || device >= emu_the().devices_count) {
        return EMU_RESULT(cudaErrorInvalidDevice);
    }
    emu_device_now = device;
    return EMU_RESULT(cudaSuccess);
}

cudaError_t cudaGetDevice(int *device) {
    *device = emu_device_now;
    return EMU_RESULT(cudaSuccess);
}

cudaError_t cudaDeviceGetAttribute(int *value, enum cudaDeviceAttr attribute, int device) {
    if (device < 0 || device >= emu_the().devices_count) {
        return EMU_RESULT(cudaErrorInvalidDevice);
    }
    switch (attribute) {
        case cudaDevAttrMultiProcessorCount:
            *value = 4;
            break;
        case cudaDevAttrComputeCapabilityMajor:
            *value = number_of("EMU_CAPABILITY", 90) / 10;
            break;
        case cudaDevAttrComputeCapabilityMinor:
            *value = number_of("EMU_CAPABILITY", 90) % 10;
            break;
        case cudaDevAttrMaxSharedMemoryPerBlockOptin:
            *value = EMU_SHARED_MAX;
            break;
        default:
            return EMU_RESULT(cudaErrorInvalidValue);
    }
    return EMU_RESULT(cudaSuccess);
}

cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *properties, int device) {
    if (device < 0 || device >= emu_the().devices_count) {
        return EMU_RESULT(cudaErrorInvalidDevice);
    }
    memset(properties, 0, sizeof(*properties));
    snprintf(properties->name, sizeof(properties->name), "emulated device");
    properties->totalGlobalMem = emu_the().devices[device].capacity;
    properties->major = 9;
    properties->multiProcessorCount = 4;
    return EMU_RESULT(cudaSuccess);
}

cudaError_t cudaDeviceGetPCIBusId(char *text, int bytes, int device) {
    if (device < 0 || device >= emu_the().devices_count) {
        return EMU_RESULT(cudaErrorInvalidDevice);
    }
    snprintf(text, (size_t)bytes, "0000:%02x:00.0", (unsigned)device + 1);
    return EMU_RESULT(cudaSuccess);
}

cudaError_t cudaDeviceCanAccessPeer(int *can, int device, int peer) {
    const int count = emu_the().devices_count;
    if (device < 0 || device >= count || peer < 0 || peer >= count) {
        return EMU_RESULT(cudaErrorInvalidDevice);
    }
    *can = device != peer;
    return EMU_RESULT(cudaSuccess);
}

cudaError_t cudaDeviceEnablePeerAccess(int peer, unsigned flags) {
    (void)flags;
    return EMU_RESULT(peer >= 0 && peer < emu_the().devices_count ? cudaSuccess
                                                                  : cudaErrorInvalidDevice);
}

cudaError_t cudaRuntimeGetVersion(int *version) {
    *version = CUDART_VERSION;
    return EMU_RESULT(cudaSuccess);
}

cudaError_t cudaDriverGetVersion(int *version) {
    *version = number_of("EMU_DRIVER", CUDART_VERSION);
    return EMU_RESULT(cudaSuccess);
}

cudaError_t cudaMemGetInfo(size_t *free_bytes, size_t *total) {
    emu_guard held(emu_the().lock);
    const emu_device &d = emu_the().devices[emu_device_now];
    *total = d.capacity;
    *free_bytes = d.capacity - d.used;
    return EMU_RESULT(cudaSuccess);
}

cudaError_t cudaMalloc(void **out, size_t bytes) {
    return allocate("cudaMalloc", out, bytes, EMU_MALLOC);
}

cudaError_t cudaMallocManaged(void **out, size_t bytes, unsigned flags) {
    (void)flags;
    return allocate("cudaMallocManaged", out, bytes, EMU_MANAGED);
}

cudaError_t cudaFree(void *p) {
    if (p == nullptr) {
        return EMU_RESULT(cudaSuccess);
    }
    (void)cudaDeviceSynchronize();
    emu_state &r = emu_the();
    emu_guard held(r.lock);
    auto it = allocation_at(p);
    if (it == r.allocations.end() || it->second.kind == EMU_IMPORTED) {
        return EMU_RESULT(cudaErrorInvalidValue);
    }
    r.devices[it->second.device].used -= it->second.bytes;
    release(p, it->second);
    r.allocations.erase(it);
    return EMU_RESULT(cudaSuccess);
}

cudaError_t cudaMallocHost(void **out, size_t bytes) {
    const cudaError_t e = EMU_RESULT(cudaSuccess);
    if (e != cudaSuccess) {
        return e;
    }
    *out = aligned_alloc(PAGE, up_to_page(bytes));
    emu_guard held(emu_the().lock);
    emu_the().pinned[(const char *)*out] = bytes;
    return cudaSuccess;
}

cudaError_t cudaHostAlloc(void **out, size_t bytes, unsigned flags) {
    (void)flags;
    return cudaMallocHost(out, bytes);
}

cudaError_t cudaFreeHost(void *p) {
    emu_guard held(emu_the().lock);
    if (p != nullptr && emu_the().pinned.erase((const char *)p) == 0) {
        return EMU_RESULT(cudaErrorInvalidValue);
    }
    free(p);
    return EMU_RESULT(cudaSuccess);
}

cudaError_t cudaHostRegister(void *p, size_t bytes, unsigned flags) {
    (void)flags;
    emu_guard held(emu_the().lock);
    if (!emu_the().pinned.insert({(const char *)p, bytes}).second) {
        return EMU_RESULT(cudaErrorHostMemoryAlreadyRegistered);
    }
    return EMU_RESULT(cudaSuccess);
}

cudaError_t cudaHostUnregister(void *p) {
    emu_guard held(emu_the().lock);
    return EMU_RESULT(emu_the().pinned.erase((const char *)p) != 0
                          ? cudaSuccess
                          : cudaErrorHostMemoryNotRegistered);
}

cudaError_t cudaPointerGetAttributes(struct cudaPointerAttributes *attributes, const void *p) {
    emu_state &r = emu_the();
    emu_guard held(r.lock);
    *attributes = {};
    attributes->device = emu_device_of(p, 1);
    if (attributes->device >= 0) {
        attributes->type = cudaMemoryTypeDevice;
        attributes->devicePointer = (void *)p;
        return EMU_RESULT(cudaSuccess);
    }
    auto it = r.pinned.upper_bound((const char *)p);
    const bool pinned =
        it != r.pinned.begin() && (const char *)p < std::prev(it)->first + std::prev(it)->second;
    attributes->type = pinned ? cudaMemoryTypeHost : cudaMemoryTypeUnregistered;
    attributes->hostPointer = (void *)p;
    return EMU_RESULT(cudaSuccess);
}

cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, enum cudaMemcpyKind kind,
                            cudaStream_t stream) {
    const cudaError_t e = EMU_RESULT(device_ranges(to, from, bytes, kind));
    if (e != cudaSuccess) {
        return e;
    }
    return bytes == 0 ? cudaSuccess : emu_push(stream, [=] {
        memcpy(to, from, bytes);
        return true;
    });
}

cudaError_t cudaMemcpy(void *to, const void *from, size_t bytes, enum cudaMemcpyKind kind) {
    const cudaError_t e = cudaMemcpyAsync(to, from, bytes, kind, nullptr);
    return e != cudaSuccess ? e : cudaStreamSynchronize(nullptr);
}

cudaError_t cudaMemcpyPeerAsync(void *to, int to_device, const void *from, int from_device,
                                size_t bytes, cudaStream_t stream) {
    if (emu_device_of(to, bytes) != to_device || emu_device_of(from, bytes) != from_device) {
        return EMU_RESULT(cudaErrorInvalidValue);
    }
    return cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, stream);
}

cudaError_t cudaMemcpy2DAsync(void *to, size_t to_pitch, const void *from, size_t from_pitch,
                              size_t width, size_t height, enum cudaMemcpyKind kind,
                              cudaStream_t stream) {
    cudaError_t e =
        width > to_pitch || width > from_pitch ? cudaErrorInvalidPitchValue : cudaSuccess;
    if (e == cudaSuccess && width > 0 && height > 0) {
        for (size_t row = 0; row < height && e == cudaSuccess; row++) {
            e = device_ranges((char *)to + row * to_pitch, (const char *)from + row * from_pitch,
                              width, kind);
        }
    }
    e = EMU_RESULT(e);
    return e != cudaSuccess ? e : emu_push(stream, [=] {
        for (size_t row = 0; row < height; row++) {
            memcpy((char *)to + row * to_pitch, (const char *)from + row * from_pitch, width);
        }
        return true;
    });
}

cudaError_t cudaMemsetAsync(void *to, int value, size_t bytes, cudaStream_t stream) {
    const cudaError_t e =
        EMU_RESULT(bytes == 0 || emu_is_device(to, bytes) ? cudaSuccess : cudaErrorInvalidValue);
    if (e != cudaSuccess) {
        return e;
    }
    return emu_push(stream, [=] {
        memset(to, value, bytes);
        return true;
    });
}

cudaError_t cudaMemset(void *to, int value, size_t bytes) {
    const cudaError_t e = cudaMemsetAsync(to, value, bytes, nullptr);
    return e != cudaSuccess ? e : cudaStreamSynchronize(nullptr);
}

cudaError_t cudaIpcGetMemHandle(cudaIpcMemHandle_t *handle, void *p) {
    emu_state &r = emu_the();
    emu_guard held(r.lock);
    auto it = allocation_at(p);
    if (it == r.allocations.end() || it->second.kind != EMU_MALLOC) {
        return EMU_RESULT(cudaErrorInvalidValue);
    }
    const emu_allocation &a = it->second;
    if (!share(p, &it->second)) {
        return EMU_RESULT(cudaErrorMemoryAllocation);
    }
    const ipc_handle h = {IPC_MAGIC, getpid(), a.shared_fd, a.device, a.bytes, a.mapped};
    memset(handle, 0, sizeof(*handle));
    memcpy(handle, &h, sizeof(h));
    return EMU_RESULT(cudaSuccess);
}

/* As on hardware, not in the process that exported it. The pages stay when that process dies. */
cudaError_t cudaIpcOpenMemHandle(void **out, cudaIpcMemHandle_t handle, unsigned flags) {
    ipc_handle h;
    memcpy(&h, &handle, sizeof(h));
    emu_state &r = emu_the();
    emu_guard held(r.lock);
    if (h.magic != IPC_MAGIC || flags != cudaIpcMemLazyEnablePeerAccess || h.pid == getpid() ||
        h.device < 0 || h.device >= r.devices_count) {
        return EMU_RESULT(cudaErrorInvalidValue);
    }
    const cudaError_t e = EMU_RESULT(cudaSuccess);
    if (e != cudaSuccess) {
        return e;
    }
    char path[64];
    snprintf(path, sizeof(path), "/proc/%lld/fd/%d", (long long)h.pid, h.fd);
    const int fd = open(path, O_RDWR | O_CLOEXEC);
    if (fd < 0) {
        return EMU_RESULT(cudaErrorMapBufferObjectFailed);
    }
    void *p = mmap(nullptr, h.mapped, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    if (p == MAP_FAILED) {
        return EMU_RESULT(cudaErrorMapBufferObjectFailed);
    }
    r.allocations[(const char *)p] = {h.bytes, h.mapped, h.device, EMU_IMPORTED, -1};
    *out = p;
    return cudaSuccess;
}

cudaError_t cudaIpcCloseMemHandle(void *p) {
    (void)cudaDeviceSynchronize();
    emu_state &r = emu_the();
    emu_guard held(r.lock);
    auto it = allocation_at(p);
    if (it == r.allocations.end() || it->second.kind != EMU_IMPORTED) {
        return EMU_RESULT(cudaErrorInvalidValue);
    }
    munmap(p, it->second.mapped);
    r.allocations.erase(it);
    return EMU_RESULT(cudaSuccess);
}

} /* extern "C" */
