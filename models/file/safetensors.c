/* safetensors.c -- reads a safetensors file in place: eight bytes with the header's length, the
 * header (a JSON object with one member a tensor), the tensors' bytes. */
#define _GNU_SOURCE
#include "models/file/safetensors.h"

#include <inttypes.h>
#include <stdlib.h>

#include "engine/base/mem.h"
#include "models/file/gguf_cursor.h"
#include "models/file/jsonfile.h"

enum { LENGTH_BYTES = 8 };

typedef struct {
    const char *name;
    uint32_t bytes;
    bool supported;
    gguf_type type;
} dtype_row;

static const dtype_row dtypes[] = {
    {"F32", 4, true, GGUF_F32},   {"F16", 2, true, GGUF_F16},      {"BF16", 2, true, GGUF_BF16},
    {"F64", 8, false, GGUF_F32},  {"I64", 8, false, GGUF_F32},     {"I32", 4, false, GGUF_F32},
    {"I16", 2, false, GGUF_F32},  {"I8", 1, false, GGUF_F32},      {"U64", 8, false, GGUF_F32},
    {"U32", 4, false, GGUF_F32},  {"U16", 2, false, GGUF_F32},     {"U8", 1, false, GGUF_F32},
    {"BOOL", 1, false, GGUF_F32}, {"F8_E4M3", 1, false, GGUF_F32}, {"F8_E5M2", 1, false, GGUF_F32}};

typedef struct {
    const uint8_t *data; /* [bytes] after the header */
    uint64_t bytes;
    const char *file;
    diag *d;
} reader;

/* A name from the file, cut to a length that leaves room for the rest. */
#define SHOWN "%s: tensor '%.80s'"

static status bad(const reader *r, const char *name, const char *why) {
    return status_fail(r->d, STATUS_CORRUPT, SHOWN " %s", r->file, name, why);
}

static status take_dtype(const reader *r, const cJSON *json, safetensors_tensor *t,
                         uint32_t *bytes) {
    const cJSON *dtype = jsonfile_member(json, "dtype");
    for (size_t i = 0; cJSON_IsString(dtype) && i < sizeof dtypes / sizeof dtypes[0]; i++) {
        if (strcmp(dtype->valuestring, dtypes[i].name) == 0) {
            t->dtype = dtypes[i].name;
            t->supported = dtypes[i].supported;
            t->type = dtypes[i].type;
            *bytes = dtypes[i].bytes;
            return STATUS_OK;
        }
    }
    return status_fail(r->d, STATUS_UNSUPPORTED, SHOWN " has the unknown dtype '%.40s'", r->file,
                       t->name, cJSON_IsString(dtype) ? dtype->valuestring : "");
}

/* The shape, outermost first in the file, and the number of elements. */
static status take_shape(const reader *r, const cJSON *json, safetensors_tensor *t,
                         uint64_t *elements) {
    const cJSON *shape = jsonfile_member(json, "shape");
    if (!cJSON_IsArray(shape) || cJSON_GetArraySize(shape) > GGUF_LIMIT_DIMS) {
        return bad(r, t->name, "must have a shape of at most 4 dimensions");
    }
    t->dims_count = (uint32_t)cJSON_GetArraySize(shape);
    for (uint32_t i = 0; i < GGUF_LIMIT_DIMS; i++) {
        t->dims[i] = 1;
    }
    *elements = 1;
    uint32_t at = t->dims_count;
    for (const cJSON *dim = shape->child; dim != NULL; dim = dim->next) {
        int64_t size;
        if (!jsonfile_is_integer(dim, 0, INT64_MAX, &size) ||
            !mem_mul(*elements, (uint64_t)size, elements)) {
            return bad(r, t->name, "has a shape that is no product of whole numbers");
        }
        t->dims[--at] = (uint64_t)size;
    }
    t->dims_count = t->dims_count > 0 ? t->dims_count : 1;
    return STATUS_OK;
}

static status take_tensor(const reader *r, const cJSON *json, safetensors_tensor *t) {
    uint32_t element_bytes = 0;
    uint64_t elements, bytes;
    *t = (safetensors_tensor){.name = json->string};
    str name = str_from(json->string);
    if (name.bytes == 0 || name.bytes > GGUF_LIMIT_NAME_BYTES || !str_utf8_valid(name)) {
        return bad(r, t->name, "has a name that is empty, too long or not UTF-8");
    }
    if (!cJSON_IsObject(json)) {
        return bad(r, t->name, "is not described by an object");
    }
    TRY(take_dtype(r, json, t, &element_bytes));
    TRY(take_shape(r, json, t, &elements));
    const cJSON *offsets = jsonfile_member(json, "data_offsets");
    int64_t from, to;
    if (!cJSON_IsArray(offsets) || cJSON_GetArraySize(offsets) != 2 ||
        !jsonfile_is_integer(offsets->child, 0, INT64_MAX, &from) ||
        !jsonfile_is_integer(offsets->child->next, from, INT64_MAX, &to)) {
        return bad(r, t->name, "must have data_offsets [from, to]");
    }
    if ((uint64_t)to > r->bytes) {
        return status_fail(r->d, STATUS_CORRUPT,
                           SHOWN " ends at byte %" PRId64
                                 " of the data, but the file has only "
                                 "%" PRIu64 " (was the download cut short?)",
                           r->file, t->name, to, r->bytes);
    }
    if (!mem_mul(elements, element_bytes, &bytes) || bytes != (uint64_t)(to - from)) {
        return status_fail(r->d, STATUS_CORRUPT,
                           SHOWN " has %" PRId64 " bytes, which is not its shape in %s", r->file,
                           t->name, to - from, t->dtype);
    }
    t->data = r->data + from;
    t->bytes = bytes;
    return STATUS_OK;
}

/* ---- tables --------------------------------------------------------------------------------- */

static int compare_places(const void *a, const void *b) {
    const safetensors_tensor *left = a, *right = b;
    if (left->data != right->data) {
        return left->data < right->data ? -1 : 1;
    }
    return left->bytes < right->bytes ? -1 : left->bytes > right->bytes;
}

static int compare_names(const void *a, const void *b, void *tensors) {
    const safetensors_tensor *t = tensors;
    return strcmp(t[*(const uint32_t *)a].name, t[*(const uint32_t *)b].name);
}

static status index_tensors(const reader *r, safetensors *s) {
    qsort(s->tensors, s->count, sizeof s->tensors[0], compare_places);
    const uint8_t *at = r->data;
    for (uint64_t i = 0; i < s->count; i++) {
        if (s->tensors[i].data != at) {
            return bad(
                r, s->tensors[i].name,
                s->tensors[i].data < at ? "overlaps the one before it" : "leaves a gap before it");
        }
        at += s->tensors[i].bytes;
        s->by_name[i] = (uint32_t)i;
    }
    if (at != r->data + r->bytes) {
        return status_fail(r->d, STATUS_CORRUPT, "%s: %" PRIu64 " bytes follow the last tensor",
                           r->file, (uint64_t)(r->data + r->bytes - at));
    }
    qsort_r(s->by_name, s->count, sizeof s->by_name[0], compare_names, s->tensors);
    for (uint64_t i = 1; i < s->count; i++) {
        const char *name = s->tensors[s->by_name[i]].name;
        if (strcmp(name, s->tensors[s->by_name[i - 1]].name) == 0) {
            return bad(r, name, "appears twice");
        }
    }
    return STATUS_OK;
}

static status take_tensors(const reader *r, safetensors *s) {
    int members = cJSON_GetArraySize(s->header);
    if (members > SAFETENSORS_TENSORS_MAX) {
        return status_fail(r->d, STATUS_LIMIT, "%s: %d tensors, at most %d are allowed", r->file,
                           members, SAFETENSORS_TENSORS_MAX);
    }
    s->tensors = mem_calloc((size_t)members, sizeof s->tensors[0]);
    s->by_name = mem_calloc((size_t)members, sizeof s->by_name[0]);
    if (s->tensors == NULL || s->by_name == NULL) {
        return status_fail(r->d, STATUS_NOMEM, "no memory for %d tensors", members);
    }
    for (const cJSON *json = s->header->child; json != NULL; json = json->next) {
        if (strcmp(json->string, "__metadata__") != 0) {
            TRY(take_tensor(r, json, &s->tensors[s->count]));
            s->count++;
        }
    }
    return index_tensors(r, s);
}

status safetensors_read(const uint8_t *data, uint64_t bytes, const char *file, safetensors *out,
                        diag *d) {
    uint64_t header = bytes < LENGTH_BYTES ? 0 : gguf_cursor_u64(data);
    if (header < 2 || header > SAFETENSORS_HEADER_MAX || header > bytes - LENGTH_BYTES) {
        return status_fail(d, STATUS_CORRUPT,
                           "%s: a header of %" PRIu64 " bytes in a file of %" PRIu64
                           " is no safetensors file",
                           file, header, bytes);
    }
    safetensors s = {0};
    const uint64_t before = LENGTH_BYTES + header;
    const reader r = {data + before, bytes - before, file, d};
    TRY(jsonfile_parse(str_of((const char *)data + LENGTH_BYTES, header), file, &s.header, d));
    status result = take_tensors(&r, &s);
    if (result != STATUS_OK) {
        safetensors_free(&s);
        return result;
    }
    *out = s;
    return STATUS_OK;
}

void safetensors_free(safetensors *s) {
    jsonfile_close(s->header);
    mem_free(s->tensors);
    mem_free(s->by_name);
    *s = (safetensors){0};
}

const safetensors_tensor *safetensors_find(const safetensors *s, const char *name) {
    uint64_t low = 0, high = s->count;
    while (low < high) {
        uint64_t middle = low + (high - low) / 2;
        const safetensors_tensor *t = &s->tensors[s->by_name[middle]];
        int order = strcmp(t->name, name);
        if (order == 0) {
            return t;
        }
        if (order < 0) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return NULL;
}
