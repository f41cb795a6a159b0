/* gguf_build.h -- a small GGUF writer for tests.
 *
 * Purpose    Tests make their own model files, whole or broken, instead of shipping binaries.
 *            Written from the format's description, apart from the reader it tests.
 * Ownership  gguf_build holds growing buffers; gguf_build_close frees them.
 * Threads    One thread at a time.
 * Limits     Files of at most 64 MiB. Every failure aborts the test.
 */
#ifndef TESTS_UNIT_MODELS_FILE_GGUF_BUILD_H
#define TESTS_UNIT_MODELS_FILE_GGUF_BUILD_H

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "engine/base/str.h"
#include "models/file/gguf.h"

enum { GGUF_BUILD_BYTES_MAX = 64 << 20 };

typedef struct {
    strbuf pairs;
    strbuf tensors;
    strbuf data;
    uint64_t pairs_count;
    uint64_t tensors_count;
    uint32_t version;
    uint32_t alignment;
} gguf_build;

static inline gguf_build gguf_build_make(void) {
    gguf_build b = {.version = 3, .alignment = 32};
    b.pairs = strbuf_make(GGUF_BUILD_BYTES_MAX);
    b.tensors = strbuf_make(GGUF_BUILD_BYTES_MAX);
    b.data = strbuf_make(GGUF_BUILD_BYTES_MAX);
    return b;
}

static inline void gguf_build_close(gguf_build *b) {
    strbuf_close(&b->pairs);
    strbuf_close(&b->tensors);
    strbuf_close(&b->data);
}

static inline void gguf_build_bytes(strbuf *out, const void *data, size_t bytes) {
    cr_assert(strbuf_append(out, data, bytes));
}

static inline void gguf_build_u32(strbuf *out, uint32_t v) {
    gguf_build_bytes(out, &v, sizeof v);
}

static inline void gguf_build_u64(strbuf *out, uint64_t v) {
    gguf_build_bytes(out, &v, sizeof v);
}

static inline void gguf_build_text(strbuf *out, str s) {
    gguf_build_u64(out, s.bytes);
    gguf_build_bytes(out, s.data, s.bytes);
}

static inline void gguf_build_key(gguf_build *b, const char *key, uint32_t kind) {
    b->pairs_count++;
    gguf_build_text(&b->pairs, str_from(key));
    gguf_build_u32(&b->pairs, kind);
}

/* Any scalar: the bytes as they lie in the file. */
static inline void gguf_build_scalar(gguf_build *b, const char *key, gguf_kind kind,
                                     const void *value, size_t bytes) {
    gguf_build_key(b, key, kind);
    gguf_build_bytes(&b->pairs, value, bytes);
}

static inline void gguf_build_pair_u32(gguf_build *b, const char *key, uint32_t v) {
    gguf_build_scalar(b, key, GGUF_KIND_U32, &v, sizeof v);
}

static inline void gguf_build_pair_bool(gguf_build *b, const char *key, bool v) {
    uint8_t byte = v;
    gguf_build_scalar(b, key, GGUF_KIND_BOOL, &byte, 1);
}

static inline void gguf_build_pair_str(gguf_build *b, const char *key, const char *v) {
    gguf_build_key(b, key, GGUF_KIND_STRING);
    gguf_build_text(&b->pairs, str_from(v));
}

static inline void gguf_build_array(gguf_build *b, const char *key, gguf_kind kind,
                                    const void *data, size_t count, size_t element_bytes) {
    gguf_build_key(b, key, GGUF_KIND_ARRAY);
    gguf_build_u32(&b->pairs, kind);
    gguf_build_u64(&b->pairs, count);
    gguf_build_bytes(&b->pairs, data, count * element_bytes);
}

static inline void gguf_build_array_str(gguf_build *b, const char *key, const str *strings,
                                        size_t count) {
    gguf_build_key(b, key, GGUF_KIND_ARRAY);
    gguf_build_u32(&b->pairs, GGUF_KIND_STRING);
    gguf_build_u64(&b->pairs, count);
    for (size_t i = 0; i < count; i++) {
        gguf_build_text(&b->pairs, strings[i]);
    }
}

static inline void gguf_build_pad(strbuf *out, uint32_t alignment) {
    while (out->bytes % alignment != 0) {
        cr_assert(strbuf_append_char(out, 0));
    }
}

/* A description with everything given, right or wrong. */
static inline void gguf_build_tensor_raw(gguf_build *b, const char *name, uint32_t dims_count,
                                         const uint64_t *dims, uint32_t type, uint64_t offset) {
    b->tensors_count++;
    gguf_build_text(&b->tensors, str_from(name));
    gguf_build_u32(&b->tensors, dims_count);
    for (uint32_t i = 0; i < dims_count; i++) {
        gguf_build_u64(&b->tensors, dims[i]);
    }
    gguf_build_u32(&b->tensors, type);
    gguf_build_u64(&b->tensors, offset);
}

static inline void gguf_build_tensor(gguf_build *b, const char *name, uint64_t ne0, uint64_t ne1,
                                     gguf_type type, const void *data, size_t bytes) {
    gguf_build_pad(&b->data, b->alignment);
    uint64_t dims[2] = {ne0, ne1};
    gguf_build_tensor_raw(b, name, 2, dims, type, b->data.bytes);
    gguf_build_bytes(&b->data, data, bytes);
}

/* The finished file, in `out` (the caller closes it). */
static inline void gguf_build_file(const gguf_build *b, strbuf *out) {
    *out = strbuf_make(GGUF_BUILD_BYTES_MAX);
    gguf_build_bytes(out, "GGUF", 4);
    gguf_build_u32(out, b->version);
    gguf_build_u64(out, b->tensors_count);
    gguf_build_u64(out, b->pairs_count);
    gguf_build_bytes(out, b->pairs.data, b->pairs.bytes);
    gguf_build_bytes(out, b->tensors.data, b->tensors.bytes);
    if (b->tensors_count > 0) {
        gguf_build_pad(out, b->alignment);
    }
    gguf_build_bytes(out, b->data.data, b->data.bytes);
}

/* Writes bytes to a new temporary file and opens it as a GGUF; the file is gone again afterwards
 * (the mapping keeps the bytes). */
static inline status gguf_build_open_bytes(str bytes, gguf **out, diag *d) {
    char path[] = "/tmp/weir-gguf-XXXXXX";
    int fd = mkstemp(path);
    cr_assert(fd >= 0);
    cr_assert(write(fd, bytes.data, bytes.bytes) == (ssize_t)bytes.bytes);
    close(fd);
    status s = gguf_open(path, out, d);
    unlink(path);
    return s;
}

static inline status gguf_build_open(const gguf_build *b, gguf **out, diag *d) {
    strbuf file;
    gguf_build_file(b, &file);
    status s = gguf_build_open_bytes(strbuf_str(&file), out, d);
    strbuf_close(&file);
    return s;
}

#endif
