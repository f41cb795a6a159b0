/* gguf.c -- reads GGUF model files in place. */
#include "models/file/gguf.h"

#include <inttypes.h>
#include <math.h>

#include "engine/base/check.h"
#include "engine/base/mem.h"
#include "engine/base/rng.h"
#include "models/file/gguf_cursor.h"
#include "models/file/gguf_read.h"
#include "models/file/hf.h"
#include "models/file/mapfile.h"

enum { HASH_SAMPLE_BYTES = 256 };

struct gguf {
    mapfile map; /* of a file */
    hf *folder;  /* of a folder, or NULL */
    gguf_file file;
};

static status open_file(const char *path, gguf *g, diag *d) {
    TRY(mapfile_open(path, &g->map, d));
    diag inner = {.code = STATUS_OK};
    status s = gguf_read_file(g->map.data, g->map.bytes, &g->file, &inner);
    if (s == STATUS_OK) {
        uint64_t split_files;
        if (gguf_get_u64(g, "split.count", &split_files, NULL) == STATUS_OK && split_files > 1) {
            s = status_fail(&inner, STATUS_UNSUPPORTED,
                            "key 'split.count': one of %" PRIu64 " files of a split model",
                            split_files);
        }
    }
    return s == STATUS_OK ? s : status_fail(d, s, "%s: %s", path, inner.text);
}

static status open_folder(const char *path, gguf *g, diag *d) {
    diag inner = {.code = STATUS_OK};
    status s = hf_open(path, &g->file, &g->folder, &inner);
    return s == STATUS_OK ? s : status_fail_param(d, s, inner.param, "%s: %s", path, inner.text);
}

status gguf_open(const char *path, gguf **out, diag *d) {
    *out = NULL;
    gguf *g = mem_calloc(1, sizeof *g);
    if (g == NULL) {
        return status_fail(d, STATUS_NOMEM, "no memory to open %s", path);
    }
    status s = hf_is_folder(path) ? open_folder(path, g, d) : open_file(path, g, d);
    if (s != STATUS_OK) {
        gguf_close(g);
        return s;
    }
    *out = g;
    return STATUS_OK;
}

void gguf_close(gguf *g) {
    if (g == NULL) {
        return;
    }
    gguf_read_free(&g->file);
    hf_close(g->folder);
    mapfile_close(&g->map);
    mem_free(g);
}

/* -- scalars --------------------------------------------------------------------------------- */

/* A scalar of any numeric kind. Exactly one of the three members holds it. */
typedef struct {
    enum { NUMBER_UNSIGNED, NUMBER_SIGNED, NUMBER_FLOAT, NUMBER_NONE } form;
    uint64_t u;
    int64_t i; /* negative integers only */
    double f;
} number;

static number number_of_signed(int64_t v) {
    if (v >= 0) {
        return (number){.form = NUMBER_UNSIGNED, .u = (uint64_t)v};
    }
    return (number){.form = NUMBER_SIGNED, .i = v};
}

static number load_number(gguf_kind kind, const uint8_t *p) {
    number n = {.form = NUMBER_UNSIGNED};
    float f32;
    switch (kind) {
        case GGUF_KIND_U8:
            n.u = p[0];
            return n;
        case GGUF_KIND_I8:
            return number_of_signed((int8_t)p[0]);
        case GGUF_KIND_U16:
            n.u = (uint64_t)(p[0] | p[1] << 8);
            return n;
        case GGUF_KIND_I16:
            return number_of_signed((int16_t)(p[0] | p[1] << 8));
        case GGUF_KIND_U32:
            n.u = gguf_cursor_u32(p);
            return n;
        case GGUF_KIND_I32:
            return number_of_signed((int32_t)gguf_cursor_u32(p));
        case GGUF_KIND_U64:
            n.u = gguf_cursor_u64(p);
            return n;
        case GGUF_KIND_I64:
            return number_of_signed((int64_t)gguf_cursor_u64(p));
        case GGUF_KIND_F32:
            memcpy(&f32, p, sizeof f32);
            n.form = NUMBER_FLOAT;
            n.f = (double)f32;
            return n;
        case GGUF_KIND_F64:
            memcpy(&n.f, p, sizeof n.f);
            n.form = NUMBER_FLOAT;
            return n;
        case GGUF_KIND_BOOL:
        case GGUF_KIND_STRING:
        case GGUF_KIND_ARRAY:
            break;
    }
    n.form = NUMBER_NONE;
    return n;
}

/* A float that is a whole number becomes that integer; 2^63 and 2^64 are exact doubles. */
static number number_whole(number n) {
    if (n.form != NUMBER_FLOAT || !isfinite(n.f) || n.f != trunc(n.f)) {
        return n;
    }
    if (n.f >= 0 && n.f < 0x1p64) {
        return (number){.form = NUMBER_UNSIGNED, .u = (uint64_t)n.f};
    }
    if (n.f < 0 && n.f >= -0x1p63) {
        return (number){.form = NUMBER_SIGNED, .i = (int64_t)n.f};
    }
    return n;
}

static const gguf_pair *find(const gguf *g, const char *key) {
    return gguf_read_find_pair(&g->file, str_from(key));
}

static status missing(const char *key, diag *d) {
    return status_fail_param(d, STATUS_NOTFOUND, key, "the model file has no key '%s'", key);
}

static status misfit(const char *key, const char *wanted, diag *d) {
    return status_fail_param(d, STATUS_CORRUPT, key, "key '%s' of the model file is not %s", key,
                             wanted);
}

bool gguf_has(const gguf *g, const char *key) {
    return find(g, key) != NULL;
}

status gguf_get_u64(const gguf *g, const char *key, uint64_t *out, diag *d) {
    const gguf_pair *pair = find(g, key);
    if (pair == NULL) {
        return missing(key, d);
    }
    number n = number_whole(load_number(pair->kind, pair->value));
    if (n.form != NUMBER_UNSIGNED) {
        return misfit(key, "a whole number of at least 0", d);
    }
    *out = n.u;
    return STATUS_OK;
}

status gguf_get_i64(const gguf *g, const char *key, int64_t *out, diag *d) {
    const gguf_pair *pair = find(g, key);
    if (pair == NULL) {
        return missing(key, d);
    }
    number n = number_whole(load_number(pair->kind, pair->value));
    if (n.form == NUMBER_SIGNED) {
        *out = n.i;
        return STATUS_OK;
    }
    if (n.form != NUMBER_UNSIGNED || n.u > INT64_MAX) {
        return misfit(key, "a whole number of 64 bits", d);
    }
    *out = (int64_t)n.u;
    return STATUS_OK;
}

static double number_f64(number n) {
    switch (n.form) {
        case NUMBER_UNSIGNED:
            return (double)n.u;
        case NUMBER_SIGNED:
            return (double)n.i;
        case NUMBER_FLOAT:
        case NUMBER_NONE:
            break;
    }
    return n.f;
}

status gguf_get_f64(const gguf *g, const char *key, double *out, diag *d) {
    const gguf_pair *pair = find(g, key);
    if (pair == NULL) {
        return missing(key, d);
    }
    number n = load_number(pair->kind, pair->value);
    double value = number_f64(n);
    if (n.form == NUMBER_NONE || !isfinite(value)) {
        return misfit(key, "a finite number", d);
    }
    *out = value;
    return STATUS_OK;
}

status gguf_get_bool(const gguf *g, const char *key, bool *out, diag *d) {
    const gguf_pair *pair = find(g, key);
    if (pair == NULL) {
        return missing(key, d);
    }
    if (pair->kind != GGUF_KIND_BOOL) {
        return misfit(key, "a bool", d);
    }
    *out = pair->value[0] != 0;
    return STATUS_OK;
}

static str load_str(const uint8_t *p) {
    return str_of((const char *)p + sizeof(uint64_t), gguf_cursor_u64(p));
}

status gguf_get_str(const gguf *g, const char *key, str *out, diag *d) {
    const gguf_pair *pair = find(g, key);
    if (pair == NULL) {
        return missing(key, d);
    }
    if (pair->kind != GGUF_KIND_STRING) {
        return misfit(key, "a string", d);
    }
    *out = load_str(pair->value);
    return STATUS_OK;
}

/* -- arrays ---------------------------------------------------------------------------------- */

status gguf_get_array(const gguf *g, const char *key, gguf_array *out, diag *d) {
    const gguf_pair *pair = find(g, key);
    if (pair == NULL) {
        return missing(key, d);
    }
    if (pair->kind != GGUF_KIND_ARRAY) {
        return misfit(key, "an array", d);
    }
    *out = pair->array;
    return STATUS_OK;
}

str gguf_array_str(const gguf_array *a, uint64_t i) {
    CHECK(a->kind == GGUF_KIND_STRING && i < a->count);
    return load_str(a->data + a->str_offsets[i]);
}

static number array_number(const gguf_array *a, uint64_t i) {
    CHECK(i < a->count);
    return load_number(a->kind, a->data + i * gguf_read_kind_bytes(a->kind));
}

int64_t gguf_array_i64(const gguf_array *a, uint64_t i) {
    if (a->kind == GGUF_KIND_BOOL) {
        CHECK(i < a->count);
        return a->data[i] != 0;
    }
    CHECK(a->kind != GGUF_KIND_U64);
    number n = array_number(a, i);
    CHECK(n.form == NUMBER_UNSIGNED || n.form == NUMBER_SIGNED);
    return n.form == NUMBER_SIGNED ? n.i : (int64_t)n.u;
}

double gguf_array_f64(const gguf_array *a, uint64_t i) {
    number n = array_number(a, i);
    CHECK(n.form != NUMBER_NONE);
    return number_f64(n);
}

/* -- tensors --------------------------------------------------------------------------------- */

uint64_t gguf_tensors_count(const gguf *g) {
    return g->file.tensors_count;
}

static status give_tensor(const gguf_tensor *t, gguf_tensor *out, diag *d) {
    *out = *t;
    if (!gguf_type_supported(t->type)) {
        out->data = NULL;
        return status_fail(d, STATUS_UNSUPPORTED, "tensor '%.*s' has the type %s (%u)",
                           (int)t->name.bytes, t->name.data, gguf_type_name(t->type),
                           (unsigned)t->type);
    }
    return STATUS_OK;
}

status gguf_tensor_at(const gguf *g, uint64_t index, gguf_tensor *out, diag *d) {
    CHECK(index < g->file.tensors_count);
    return give_tensor(&g->file.tensors[index], out, d);
}

status gguf_tensor_find(const gguf *g, const char *name, gguf_tensor *out, diag *d) {
    const gguf_tensor *t = gguf_read_find_tensor(&g->file, str_from(name));
    if (t == NULL) {
        return status_fail(d, STATUS_NOTFOUND, "the model file has no tensor '%s'", name);
    }
    return give_tensor(t, out, d);
}

/* -- the file -------------------------------------------------------------------------------- */

/* Chained finaliser over eight bytes at a time; the length closes it, so a tail of zero bytes
 * counts. */
static uint64_t hash_bytes(uint64_t h, const uint8_t *p, uint64_t bytes) {
    uint64_t at = 0;
    for (; bytes - at >= 8; at += 8) {
        h = rng_mix(h ^ gguf_cursor_u64(p + at));
    }
    uint64_t tail = 0;
    memcpy(&tail, p + at, bytes - at);
    return rng_mix(rng_mix(h ^ tail) ^ bytes);
}

uint64_t gguf_hash(const gguf *g) {
    const gguf_file *f = &g->file;
    uint64_t h = hash_bytes(f->bytes, f->data, f->header_bytes);
    for (uint64_t i = 0; i < f->tensors_count; i++) {
        const gguf_tensor *t = &f->tensors[i];
        uint64_t sample = t->bytes < HASH_SAMPLE_BYTES ? t->bytes : HASH_SAMPLE_BYTES;
        const uint8_t *data = t->data;
        h = hash_bytes(h, data, sample);
        h = hash_bytes(h, data + (t->bytes - sample) / 2, sample);
        h = hash_bytes(h, data + t->bytes - sample, sample);
    }
    return h;
}
