/* gguf_read.c -- the parser behind gguf.h.
 *
 * One cursor walks the file from the start. Every read says what it is reading, so an error names
 * the byte offset and the thing that was cut off or out of range. Counts are compared with what the
 * rest of the file could hold at all before memory is taken for them, so a short file that claims
 * to hold millions of entries costs nothing.
 */
#define _GNU_SOURCE
#include "models/file/gguf_read.h"

#include <inttypes.h>
#include <stdlib.h>

#include "engine/base/check.h"
#include "engine/base/mem.h"
#include "models/file/gguf_cursor.h"

enum {
    PAIR_BYTES_MIN = 8 + 4 + 1,           /* key length, kind, one-byte value */
    TENSOR_BYTES_MIN = 8 + 4 + 8 + 4 + 8, /* name length, dims, one dim, type, offset */
    ALIGNMENT_DEFAULT = 32
};

uint32_t gguf_read_kind_bytes(gguf_kind kind) {
    switch (kind) {
        case GGUF_KIND_U8:
        case GGUF_KIND_I8:
        case GGUF_KIND_BOOL:
            return 1;
        case GGUF_KIND_U16:
        case GGUF_KIND_I16:
            return 2;
        case GGUF_KIND_U32:
        case GGUF_KIND_I32:
        case GGUF_KIND_F32:
            return 4;
        case GGUF_KIND_U64:
        case GGUF_KIND_I64:
        case GGUF_KIND_F64:
            return 8;
        case GGUF_KIND_STRING:
        case GGUF_KIND_ARRAY:
            break;
    }
    return 0;
}

/* -- metadata -------------------------------------------------------------------------------- */

static status bad_kind(gguf_cursor *c, uint64_t at, str key, uint32_t kind) {
    return status_fail(c->d, STATUS_CORRUPT,
                       "byte %" PRIu64 ": key '%.*s' has a value of unknown kind %" PRIu32, at,
                       GGUF_CURSOR_SHOWN(key), kind);
}

static status read_array_strings(gguf_cursor *c, gguf_pair *pair) {
    gguf_array *a = &pair->array;
    pair->str_offsets = mem_alloc(a->count, sizeof *pair->str_offsets);
    if (pair->str_offsets == NULL) {
        return status_fail(c->d, STATUS_NOMEM, "no memory to index %" PRIu64 " strings of '%.*s'",
                           a->count, GGUF_CURSOR_SHOWN(pair->key));
    }
    uint64_t start = c->at;
    for (uint64_t i = 0; i < a->count; i++) {
        pair->str_offsets[i] = c->at - start;
        str s;
        TRY(gguf_cursor_take_str(c, "a string of a metadata array", GGUF_LIMIT_STRING_BYTES, &s));
    }
    a->str_offsets = pair->str_offsets;
    return STATUS_OK;
}

static status read_array(gguf_cursor *c, gguf_pair *pair) {
    gguf_array *a = &pair->array;
    uint64_t at = c->at;
    uint32_t kind;
    TRY(gguf_cursor_take_u32(c, "the kind of a metadata array", &kind));
    a->kind = (gguf_kind)kind;
    if (kind == GGUF_KIND_ARRAY) {
        return status_fail(c->d, STATUS_UNSUPPORTED,
                           "byte %" PRIu64 ": key '%.*s' is an array of arrays", at,
                           GGUF_CURSOR_SHOWN(pair->key));
    }
    uint32_t bytes = gguf_read_kind_bytes(a->kind);
    if (bytes == 0 && kind != GGUF_KIND_STRING) {
        return bad_kind(c, at, pair->key, kind);
    }
    at = c->at;
    TRY(gguf_cursor_take_u64(c, "the length of a metadata array", &a->count));
    TRY(gguf_cursor_count(c, at, "array elements", a->count, GGUF_LIMIT_ARRAY_ELEMENTS,
                          bytes == 0 ? sizeof(uint64_t) : bytes));
    a->data = c->data + c->at;
    if (kind == GGUF_KIND_STRING) {
        return read_array_strings(c, pair);
    }
    return gguf_cursor_take(c, a->count * bytes, "a metadata array", &at);
}

static status read_pair(gguf_cursor *c, gguf_pair *pair) {
    TRY(gguf_cursor_take_name(c, "a metadata key", &pair->key));
    uint64_t at = c->at;
    uint32_t kind;
    TRY(gguf_cursor_take_u32(c, "the kind of a metadata value", &kind));
    pair->kind = (gguf_kind)kind;
    pair->value = c->data + c->at;
    if (kind == GGUF_KIND_ARRAY) {
        return read_array(c, pair);
    }
    if (kind == GGUF_KIND_STRING) {
        str s;
        return gguf_cursor_take_str(c, "a metadata string", GGUF_LIMIT_STRING_BYTES, &s);
    }
    uint32_t bytes = gguf_read_kind_bytes(pair->kind);
    if (bytes == 0) {
        return bad_kind(c, at, pair->key, kind);
    }
    TRY(gguf_cursor_take(c, bytes, "a metadata value", &at));
    if (kind == GGUF_KIND_BOOL && pair->value[0] > 1) {
        return status_fail(c->d, STATUS_CORRUPT,
                           "byte %" PRIu64 ": key '%.*s' is a bool with the value %d", at,
                           GGUF_CURSOR_SHOWN(pair->key), pair->value[0]);
    }
    return STATUS_OK;
}

/* -- tensors --------------------------------------------------------------------------------- */

/* Reads one description; `offset` is into the data section, whose start is not known yet. */
static status read_tensor(gguf_cursor *c, gguf_tensor *t, uint64_t *offset) {
    TRY(gguf_cursor_take_name(c, "a tensor name", &t->name));
    uint64_t at = c->at;
    TRY(gguf_cursor_take_u32(c, "the dimension count of a tensor", &t->dims_count));
    if (t->dims_count == 0 || t->dims_count > GGUF_LIMIT_DIMS) {
        return status_fail(c->d, STATUS_CORRUPT,
                           "byte %" PRIu64 ": tensor '%.*s' has %" PRIu32
                           " dimensions, 1 to %d are allowed",
                           at, GGUF_CURSOR_SHOWN(t->name), t->dims_count, GGUF_LIMIT_DIMS);
    }
    uint64_t elements = 1;
    for (uint32_t i = 0; i < GGUF_LIMIT_DIMS; i++) {
        t->dims[i] = 1;
        if (i < t->dims_count) {
            TRY(gguf_cursor_take_u64(c, "a dimension of a tensor", &t->dims[i]));
        }
        if (t->dims[i] == 0 || !mem_mul(elements, t->dims[i], &elements)) {
            return status_fail(c->d, STATUS_CORRUPT,
                               "byte %" PRIu64 ": dimension %" PRIu32
                               " of tensor '%.*s' is %" PRIu64
                               ": an empty tensor, or one too large to address",
                               at, i, GGUF_CURSOR_SHOWN(t->name), t->dims[i]);
        }
    }
    uint32_t type;
    at = c->at;
    TRY(gguf_cursor_take_u32(c, "the type of a tensor", &type));
    t->type = (gguf_type)type;
    uint32_t block = gguf_type_block_elements(t->type);
    t->bytes = 0;
    if (block != 0) {
        if (t->dims[0] % block != 0 ||
            !mem_mul(elements / block, gguf_type_block_bytes(t->type), &t->bytes)) {
            return status_fail(c->d, STATUS_CORRUPT,
                               "byte %" PRIu64 ": tensor '%.*s' has rows of %" PRIu64
                               " elements, which is not whole %s blocks of %" PRIu32,
                               at, GGUF_CURSOR_SHOWN(t->name), t->dims[0], gguf_type_name(t->type),
                               block);
        }
    }
    return gguf_cursor_take_u64(c, "the offset of a tensor", offset);
}

typedef struct {
    const gguf_place *places; /* [count] */
    uint64_t count;
} apart;

/* Turns an offset into a pointer once the data section is known to start at `base`. */
static status place_tensor(gguf_cursor *c, gguf_tensor *t, uint64_t base, uint64_t alignment,
                           uint64_t offset) {
    if (offset % alignment != 0) {
        return status_fail(c->d, STATUS_CORRUPT,
                           "tensor '%.*s': offset %" PRIu64
                           " is not a multiple of the alignment %" PRIu64,
                           GGUF_CURSOR_SHOWN(t->name), offset, alignment);
    }
    uint64_t start;
    uint64_t end;
    if (!mem_add(base, offset, &start) || !mem_add(start, t->bytes, &end) || end > c->bytes) {
        return status_fail(c->d, STATUS_CORRUPT,
                           "tensor '%.*s': offset %" PRIu64 " and size %" PRIu64
                           " reach past the end of the file (%" PRIu64
                           " bytes, data from byte %" PRIu64 ")",
                           GGUF_CURSOR_SHOWN(t->name), offset, t->bytes, c->bytes, base);
    }
    t->data = c->data + start;
    return STATUS_OK;
}

static status read_alignment(gguf_cursor *c, const gguf_file *f, uint64_t *out) {
    *out = ALIGNMENT_DEFAULT;
    const gguf_pair *pair = gguf_read_find_pair(f, str_from("general.alignment"));
    if (pair == NULL) {
        return STATUS_OK;
    }
    uint32_t value = pair->kind == GGUF_KIND_U32 ? gguf_cursor_u32(pair->value) : 0;
    if (value < 8 || value > GGUF_LIMIT_ALIGNMENT || (value & (value - 1)) != 0) {
        return status_fail(c->d, STATUS_CORRUPT,
                           "key 'general.alignment' must be a u32, a power of two from 8 to %d",
                           GGUF_LIMIT_ALIGNMENT);
    }
    *out = value;
    return STATUS_OK;
}

/* Tensors that lie elsewhere. */
static status place_apart(gguf_cursor *c, gguf_file *f, const gguf_place *places, uint64_t count) {
    CHECK_EQ(count, f->tensors_count);
    for (uint64_t i = 0; i < count; i++) {
        gguf_tensor *t = &f->tensors[i];
        if (places[i].bytes != t->bytes) {
            return status_fail(c->d, STATUS_CORRUPT,
                               "tensor '%.*s' has %" PRIu64 " bytes: its shape needs %" PRIu64,
                               GGUF_CURSOR_SHOWN(t->name), places[i].bytes, t->bytes);
        }
        t->data = places[i].data;
    }
    return STATUS_OK;
}

static status read_tensors(gguf_cursor *c, gguf_file *f, const apart *a, uint64_t *offsets) {
    for (uint64_t i = 0; i < f->tensors_count; i++) {
        TRY(read_tensor(c, &f->tensors[i], &offsets[i]));
    }
    f->header_bytes = c->at;
    if (a != NULL) {
        return place_apart(c, f, a->places, a->count);
    }
    uint64_t alignment;
    TRY(read_alignment(c, f, &alignment));
    /* c->at is at most the file's size and the alignment at most 64 KiB: no overflow. */
    uint64_t base = (c->at + alignment - 1) & ~(alignment - 1);
    for (uint64_t i = 0; i < f->tensors_count; i++) {
        TRY(place_tensor(c, &f->tensors[i], base, alignment, offsets[i]));
    }
    return STATUS_OK;
}

/* -- names ----------------------------------------------------------------------------------- */

static int compare_str(str a, str b) {
    int order = memcmp(a.data, b.data, a.bytes < b.bytes ? a.bytes : b.bytes);
    if (order != 0) {
        return order;
    }
    return a.bytes < b.bytes ? -1 : a.bytes > b.bytes;
}

static str pair_name(const gguf_file *f, uint64_t i) {
    return f->pairs[i].key;
}

static str tensor_name(const gguf_file *f, uint64_t i) {
    return f->tensors[i].name;
}

typedef str (*name_of)(const gguf_file *f, uint64_t i);

static int compare_pairs(const void *a, const void *b, void *f) {
    return compare_str(pair_name(f, *(const uint32_t *)a), pair_name(f, *(const uint32_t *)b));
}

static int compare_tensors(const void *a, const void *b, void *f) {
    return compare_str(tensor_name(f, *(const uint32_t *)a), tensor_name(f, *(const uint32_t *)b));
}

/* Sorts the names and refuses a name given twice: which one holds would be a guess. */
static status index_names(gguf_file *f, uint32_t *sorted, uint64_t count, const char *what,
                          name_of name, int (*compare)(const void *, const void *, void *),
                          diag *d) {
    for (uint64_t i = 0; i < count; i++) {
        sorted[i] = (uint32_t)i;
    }
    qsort_r(sorted, count, sizeof *sorted, compare, f);
    for (uint64_t i = 1; i < count; i++) {
        str s = name(f, sorted[i]);
        if (str_equal(s, name(f, sorted[i - 1]))) {
            return status_fail(d, STATUS_CORRUPT, "%s '%.*s' appears twice", what,
                               GGUF_CURSOR_SHOWN(s));
        }
    }
    return STATUS_OK;
}

/* The index of the entry called `wanted`, or `count`. */
static uint64_t find_name(const gguf_file *f, const uint32_t *sorted, uint64_t count, name_of name,
                          str wanted) {
    uint64_t low = 0;
    uint64_t high = count;
    while (low < high) {
        uint64_t middle = low + (high - low) / 2;
        int order = compare_str(name(f, sorted[middle]), wanted);
        if (order == 0) {
            return sorted[middle];
        }
        if (order < 0) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return count;
}

const gguf_pair *gguf_read_find_pair(const gguf_file *f, str key) {
    uint64_t i = find_name(f, f->pairs_sorted, f->pairs_count, pair_name, key);
    return i < f->pairs_count ? &f->pairs[i] : NULL;
}

const gguf_tensor *gguf_read_find_tensor(const gguf_file *f, str name) {
    uint64_t i = find_name(f, f->tensors_sorted, f->tensors_count, tensor_name, name);
    return i < f->tensors_count ? &f->tensors[i] : NULL;
}

/* -- the file -------------------------------------------------------------------------------- */

static status read_header(gguf_cursor *c, gguf_file *f) {
    uint64_t at;
    TRY(gguf_cursor_take(c, 4, "the magic", &at));
    if (memcmp(c->data, "GGUF", 4) != 0) {
        return status_fail(c->d, STATUS_CORRUPT,
                           "byte 0: not a GGUF file (it starts %02x%02x%02x%02x)", c->data[0],
                           c->data[1], c->data[2], c->data[3]);
    }
    uint32_t version;
    TRY(gguf_cursor_take_u32(c, "the version", &version));
    if (version != 2 && version != 3) {
        bool swapped = version == 2u << 24 || version == 3u << 24;
        return status_fail(c->d, STATUS_UNSUPPORTED,
                           swapped ? "byte 4: a big-endian GGUF file (version %" PRIu32 ")"
                                   : "byte 4: GGUF version %" PRIu32 ", supported are 2 and 3",
                           swapped ? version >> 24 : version);
    }
    TRY(gguf_cursor_take_u64(c, "the tensor count", &f->tensors_count));
    TRY(gguf_cursor_take_u64(c, "the metadata count", &f->pairs_count));
    TRY(gguf_cursor_count(c, 8, "tensors", f->tensors_count, GGUF_LIMIT_TENSORS, TENSOR_BYTES_MIN));
    return gguf_cursor_count(c, 16, "metadata keys", f->pairs_count, GGUF_LIMIT_KEYS,
                             PAIR_BYTES_MIN);
}

static status read_tables(gguf_cursor *c, gguf_file *f, const apart *a, uint64_t *offsets) {
    for (uint64_t i = 0; i < f->pairs_count; i++) {
        TRY(read_pair(c, &f->pairs[i]));
    }
    TRY(index_names(f, f->pairs_sorted, f->pairs_count, "metadata key", pair_name, compare_pairs,
                    c->d));
    TRY(read_tensors(c, f, a, offsets));
    return index_names(f, f->tensors_sorted, f->tensors_count, "tensor", tensor_name,
                       compare_tensors, c->d);
}

static status read_all(const uint8_t *data, uint64_t bytes, const apart *a, gguf_file *out,
                       diag *d) {
    gguf_file f = {.data = data, .bytes = bytes};
    gguf_cursor c = {data, bytes, 0, d};
    TRY(read_header(&c, &f));
    f.pairs = mem_calloc(f.pairs_count, sizeof *f.pairs);
    f.tensors = mem_calloc(f.tensors_count, sizeof *f.tensors);
    f.pairs_sorted = mem_alloc(f.pairs_count, sizeof *f.pairs_sorted);
    f.tensors_sorted = mem_alloc(f.tensors_count, sizeof *f.tensors_sorted);
    uint64_t *offsets = mem_alloc(f.tensors_count, sizeof *offsets);
    status s;
    if (f.pairs == NULL || f.tensors == NULL || f.pairs_sorted == NULL ||
        f.tensors_sorted == NULL || offsets == NULL) {
        s = status_fail(d, STATUS_NOMEM, "no memory for the tables of a GGUF file");
    } else {
        s = read_tables(&c, &f, a, offsets);
    }
    mem_free(offsets);
    if (s != STATUS_OK) {
        gguf_read_free(&f);
        return s;
    }
    *out = f;
    return STATUS_OK;
}

status gguf_read_file(const uint8_t *data, uint64_t bytes, gguf_file *out, diag *d) {
    return read_all(data, bytes, NULL, out, d);
}

status gguf_read_placed(const uint8_t *data, uint64_t bytes, const gguf_place *places,
                        uint64_t places_count, gguf_file *out, diag *d) {
    const apart a = {places, places_count};
    return read_all(data, bytes, &a, out, d);
}

void gguf_read_free(gguf_file *f) {
    for (uint64_t i = 0; f->pairs != NULL && i < f->pairs_count; i++) {
        mem_free(f->pairs[i].str_offsets);
    }
    mem_free(f->pairs);
    mem_free(f->tensors);
    mem_free(f->pairs_sorted);
    mem_free(f->tensors_sorted);
    *f = (gguf_file){0};
}
