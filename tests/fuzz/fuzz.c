/* fuzz.c -- what the fuzz targets share. */
#define _GNU_SOURCE
#include "tests/fuzz/fuzz.h"

#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "engine/base/mem.h"

/* Of the sanitizers' allocator interface; absent in other builds. */
int __sanitizer_install_malloc_and_free_hooks(void (*taken)(const volatile void *, size_t),
                                              void (*given)(const volatile void *))
    __attribute__((weak));
size_t __sanitizer_get_allocated_size(const volatile void *p) __attribute__((weak));

static int64_t held_bytes;
static int64_t peak_bytes;
static bool counting;

static void on_taken(const volatile void *p, size_t bytes) {
    (void)p;
    if (counting) {
        held_bytes += (int64_t)bytes;
        peak_bytes = held_bytes > peak_bytes ? held_bytes : peak_bytes;
    }
}

static void on_given(const volatile void *p) {
    if (counting && p != NULL) {
        held_bytes -= (int64_t)__sanitizer_get_allocated_size(p);
    }
}

void fuzz_heap_begin(void) {
    static bool installed;
    if (!installed && __sanitizer_install_malloc_and_free_hooks != NULL) {
        CHECK(__sanitizer_install_malloc_and_free_hooks(on_taken, on_given) != 0);
    }
    installed = true;
    held_bytes = peak_bytes = 0;
    counting = true;
}

void fuzz_heap_end(size_t input_bytes, size_t allowance_bytes) {
    counting = false;
    CHECK_LE(peak_bytes, (int64_t)(2 * input_bytes + allowance_bytes));
}

uint64_t fuzz_number(fuzz_input *in, size_t bytes) {
    uint64_t value = 0;
    for (size_t i = 0; i < bytes; i++) {
        value = value << 8 | (in->at < in->bytes ? in->data[in->at++] : 0);
    }
    return value;
}

uint32_t fuzz_below(fuzz_input *in, uint32_t bound) {
    CHECK(bound >= 1 && bound <= 65536);
    return bound == 1 ? 0 : (uint32_t)fuzz_number(in, bound > 256 ? 2 : 1) % bound;
}

bool fuzz_done(const fuzz_input *in) {
    return in->at >= in->bytes;
}

str fuzz_take(fuzz_input *in, size_t bytes_max) {
    size_t left = in->bytes - in->at;
    str s = str_of((const char *)in->data + in->at, left < bytes_max ? left : bytes_max);
    in->at += s.bytes;
    return s;
}

char *fuzz_copy(str s) {
    char *copy = mem_alloc(s.bytes, 1);
    CHECK(copy != NULL);
    if (s.bytes > 0) {
        memcpy(copy, s.data, s.bytes);
    }
    return copy;
}

int fuzz_file(str s, char path[64]) {
    int fd = memfd_create("fuzz", MFD_CLOEXEC);
    CHECK(fd >= 0);
    CHECK_EQ(fchmod(fd, 0600), 0);
    CHECK_EQ(write(fd, s.data, s.bytes), (ssize_t)s.bytes);
    (void)snprintf(path, 64, "/proc/self/fd/%d", fd);
    return fd;
}
