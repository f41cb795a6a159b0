/* ggufmake.c -- composes the metadata of a GGUF file in memory. */
#include "models/file/ggufmake.h"

enum { VERSION = 3, COUNTS_AT = 8 };

static void put(ggufmake *m, uint64_t value, size_t bytes) {
    char little[8];
    for (size_t i = 0; i < bytes; i++) {
        little[i] = (char)(value >> 8 * i);
    }
    m->failed = !strbuf_append(&m->out, little, bytes) || m->failed;
}

static void put_str(ggufmake *m, str s) {
    put(m, s.bytes, 8);
    m->failed = !strbuf_append_str(&m->out, s) || m->failed;
}

static void put_key(ggufmake *m, const char *key, gguf_kind kind) {
    put_str(m, str_from(key));
    put(m, kind, 4);
    m->pairs++;
}

ggufmake ggufmake_start(void) {
    ggufmake m = {strbuf_make(GGUFMAKE_BYTES_MAX), 0, 0, false};
    m.failed = !strbuf_append_z(&m.out, "GGUF");
    put(&m, VERSION, 4);
    put(&m, 0, 8); /* the counts, set at the end */
    put(&m, 0, 8);
    return m;
}

void ggufmake_close(ggufmake *m) {
    strbuf_close(&m->out);
}

void ggufmake_str(ggufmake *m, const char *key, str value) {
    put_key(m, key, GGUF_KIND_STRING);
    put_str(m, value);
}

void ggufmake_u32(ggufmake *m, const char *key, int64_t value) {
    m->failed = m->failed || value < 0 || value > UINT32_MAX;
    put_key(m, key, GGUF_KIND_U32);
    put(m, (uint64_t)value, 4);
}

void ggufmake_f64(ggufmake *m, const char *key, double value) {
    uint64_t bits;
    memcpy(&bits, &value, sizeof bits);
    put_key(m, key, GGUF_KIND_F64);
    put(m, bits, 8);
}

void ggufmake_bool(ggufmake *m, const char *key, bool value) {
    put_key(m, key, GGUF_KIND_BOOL);
    put(m, value, 1);
}

void ggufmake_array(ggufmake *m, const char *key, gguf_kind kind, uint64_t count) {
    put_key(m, key, GGUF_KIND_ARRAY);
    put(m, kind, 4);
    put(m, count, 8);
}

void ggufmake_element_str(ggufmake *m, str value) {
    put_str(m, value);
}

void ggufmake_element_i32(ggufmake *m, int32_t value) {
    put(m, (uint32_t)value, 4);
}

void ggufmake_tensor(ggufmake *m, const char *name, uint32_t dims_count, const uint64_t *dims,
                     gguf_type type) {
    put_str(m, str_from(name));
    put(m, dims_count, 4);
    for (uint32_t i = 0; i < dims_count; i++) {
        put(m, dims[i], 8);
    }
    put(m, type, 4);
    put(m, 0, 8);
    m->tensors++;
}

status ggufmake_finish(ggufmake *m, diag *d) {
    if (m->failed) {
        return status_fail(d, STATUS_LIMIT, "the model's metadata does not fit %d bytes",
                           GGUFMAKE_BYTES_MAX);
    }
    for (int i = 0; i < 8; i++) {
        m->out.data[COUNTS_AT + i] = (char)(m->tensors >> 8 * i);
        m->out.data[COUNTS_AT + 8 + i] = (char)(m->pairs >> 8 * i);
    }
    return STATUS_OK;
}
