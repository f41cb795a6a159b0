/* fuzz_gguf.c -- model files: in an accepted one every tensor, array and string lies inside. */
#define _GNU_SOURCE
#include <unistd.h>

#include "engine/base/mem.h"
#include "models/file/gguf.h"
#include "models/file/gguf_read.h"
#include "models/text/tokenizer.h"
#include "tests/fuzz/fuzz.h"

static void check_inside(const gguf_file *f, const void *part, uint64_t bytes) {
    const uint8_t *at = part;
    CHECK(at >= f->data && bytes <= f->bytes);
    CHECK((uint64_t)(at - f->data) <= f->bytes - bytes);
}

static uint64_t element_bytes(gguf_kind kind) {
    return gguf_read_kind_bytes(kind);
}

static void check_pair(const gguf_file *f, const gguf_pair *p) {
    check_inside(f, p->key.data, p->key.bytes);
    CHECK(gguf_read_find_pair(f, p->key) == p);
    if (p->kind == GGUF_KIND_STRING) {
        check_inside(f, p->value, 8);
    } else if (p->kind != GGUF_KIND_ARRAY) {
        check_inside(f, p->value, element_bytes(p->kind));
    } else if (p->array.kind != GGUF_KIND_STRING) {
        check_inside(f, p->array.data, p->array.count * element_bytes(p->array.kind));
    } else {
        for (uint64_t i = 0; i < p->array.count; i++) {
            str s = gguf_array_str(&p->array, i);
            check_inside(f, s.data, s.bytes);
        }
    }
}

static void check_tensor(const gguf_file *f, const gguf_tensor *t) {
    CHECK(gguf_read_find_tensor(f, t->name) == t);
    CHECK(t->dims_count >= 1 && t->dims_count <= GGUF_LIMIT_DIMS);
    if (!gguf_type_supported(t->type)) {
        return;
    }
    check_inside(f, t->data, t->bytes);
    uint64_t elements = 1;
    for (uint32_t i = 0; i < GGUF_LIMIT_DIMS; i++) {
        CHECK(i < t->dims_count || t->dims[i] == 1);
        CHECK(mem_mul(elements, t->dims[i], &elements));
    }
    uint64_t block = gguf_type_block_elements(t->type);
    CHECK_EQ(elements % block, 0);
    CHECK_EQ(elements / block * gguf_type_block_bytes(t->type), t->bytes);
}

/* The getters, on every key, whatever it holds. */
static void ask(const gguf *g, const char *key) {
    uint64_t u;
    int64_t i;
    double f;
    bool b;
    str s;
    gguf_array a;
    diag d;
    bool there = gguf_has(g, key);
    int answers =
        (gguf_get_u64(g, key, &u, &d) == STATUS_OK) + (gguf_get_i64(g, key, &i, &d) == STATUS_OK) +
        (gguf_get_f64(g, key, &f, &d) == STATUS_OK) + (gguf_get_bool(g, key, &b, &d) == STATUS_OK) +
        (gguf_get_str(g, key, &s, &d) == STATUS_OK) + (gguf_get_array(g, key, &a, &d) == STATUS_OK);
    CHECK(there || answers == 0);
}

/* Through the file system, as a server opens it; a tokenizer of it too. */
static void check_opened(str all, const gguf_file *f) {
    char path[64];
    int fd = fuzz_file(all, path);
    gguf *g;
    diag d;
    if (gguf_open(path, &g, &d) == STATUS_OK) {
        CHECK_EQ(gguf_tensors_count(g), f->tensors_count);
        gguf_tensor t;
        for (uint64_t i = 0; i < f->tensors_count; i++) {
            bool ok = gguf_tensor_at(g, i, &t, &d) == STATUS_OK;
            CHECK_EQ(ok, gguf_type_supported(f->tensors[i].type));
        }
        for (uint64_t i = 0; i < f->pairs_count; i++) {
            char *key = mem_dup(f->pairs[i].key.data, f->pairs[i].key.bytes);
            CHECK(key != NULL && gguf_has(g, key));
            ask(g, key);
            mem_free(key);
        }
        ask(g, "no.such.key");
        CHECK_EQ(gguf_hash(g), gguf_hash(g));
        tokenizer *tok;
        if (tokenizer_open(g, &tok, &d) == STATUS_OK) {
            tokenizer_close(tok);
        }
        gguf_close(g);
    }
    (void)close(fd);
}

FUZZ_TARGET(gguf, FUZZ_ALLOWANCE_BYTES) {
    gguf_file f;
    diag d = {.code = STATUS_OK};
    status s = gguf_read_file(data, bytes, &f, &d);
    if (s != STATUS_OK) {
        CHECK(d.code == s && d.text[0] != 0 && str_utf8_valid(str_from(d.text)));
        return;
    }
    for (uint64_t i = 0; i < f.pairs_count; i++) {
        check_pair(&f, &f.pairs[i]);
    }
    for (uint64_t i = 0; i < f.tensors_count; i++) {
        check_tensor(&f, &f.tensors[i]);
    }
    check_opened(str_of((const char *)data, bytes), &f);
    gguf_read_free(&f);
}
