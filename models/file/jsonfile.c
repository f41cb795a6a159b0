/* jsonfile.c -- JSON that comes with a model. */
#define _GNU_SOURCE
#include "models/file/jsonfile.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <unistd.h>

#include "models/file/mapfile.h"

enum { PATH_BYTES = 4096 };

/* ---- parsing -------------------------------------------------------------------------------- */

/* Depth and values of a text, whether or not it is JSON: outside strings, each bracket nests, and
 * each comma and opening bracket may begin a value. */
static status scan(str text, const char *file, diag *d) {
    uint32_t depth = 0, values = 0;
    bool quoted = false;
    for (size_t i = 0; i < text.bytes; i++) {
        char c = text.data[i];
        if (quoted) {
            i += c == '\\';
            quoted = c != '"';
            continue;
        }
        quoted = c == '"';
        bool opens = c == '{' || c == '[';
        depth += opens;
        depth -= (c == '}' || c == ']') && depth > 0;
        values += opens || c == ',';
        if (depth > JSONFILE_DEPTH_MAX || values > JSONFILE_VALUES_MAX) {
            return status_fail(
                d, STATUS_LIMIT, "%s: byte %zu: more than %d %s", file, i,
                depth > JSONFILE_DEPTH_MAX ? JSONFILE_DEPTH_MAX : JSONFILE_VALUES_MAX,
                depth > JSONFILE_DEPTH_MAX ? "levels of nesting" : "values");
        }
    }
    return STATUS_OK;
}

static bool is_blank(char c) {
    return c == ' ' || c == '\t' || c == '\r' || c == '\n';
}

status jsonfile_parse(str text, const char *file, cJSON **out, diag *d) {
    *out = NULL;
    TRY(scan(text, file, d));
    const char *end = NULL;
    cJSON *tree = cJSON_ParseWithLengthOpts(text.data, text.bytes, &end, false);
    size_t at = end != NULL && end >= text.data ? (size_t)(end - text.data) : 0;
    while (tree != NULL && at < text.bytes && is_blank(text.data[at])) {
        at++;
    }
    if (tree == NULL || at != text.bytes) {
        cJSON_Delete(tree);
        return status_fail(d, STATUS_CORRUPT, "%s: not JSON at byte %zu", file, at);
    }
    if (!cJSON_IsObject(tree)) {
        cJSON_Delete(tree);
        return status_fail(d, STATUS_CORRUPT, "%s: must be a JSON object", file);
    }
    *out = tree;
    return STATUS_OK;
}

status jsonfile_open(const char *folder, const char *name, uint64_t bytes_max, cJSON **out,
                     diag *d) {
    *out = NULL;
    char path[PATH_BYTES];
    int bytes = snprintf(path, sizeof path, "%s/%s", folder, name);
    if (bytes < 0 || bytes >= (int)sizeof path) {
        return status_fail(d, STATUS_INVALID, "the path of %s is too long", name);
    }
    if (access(path, F_OK) != 0 && errno == ENOENT) {
        return status_fail(d, STATUS_NOTFOUND, "%s: there is no %s", folder, name);
    }
    mapfile map;
    TRY(mapfile_open(path, &map, d));
    status s;
    if (map.bytes > bytes_max) {
        s = status_fail(d, STATUS_LIMIT, "%s: %zu bytes, at most %llu are allowed", path, map.bytes,
                        (unsigned long long)bytes_max);
    } else {
        s = jsonfile_parse(str_of((const char *)map.data, map.bytes), name, out, d);
    }
    mapfile_close(&map);
    return s;
}

void jsonfile_close(cJSON *tree) {
    cJSON_Delete(tree);
}

/* ---- members -------------------------------------------------------------------------------- */

const cJSON *jsonfile_member(const cJSON *object, const char *key) {
    const cJSON *member =
        cJSON_IsObject(object) ? cJSON_GetObjectItemCaseSensitive(object, key) : NULL;
    return cJSON_IsNull(member) ? NULL : member;
}

static status take(const cJSON *object, const char *file, const char *key, const cJSON **out,
                   diag *d) {
    *out = jsonfile_member(object, key);
    if (*out == NULL) {
        return status_fail_param(d, STATUS_NOTFOUND, key, "%s: there is no \"%s\"", file, key);
    }
    return STATUS_OK;
}

bool jsonfile_is_integer(const cJSON *value, int64_t min, int64_t max, int64_t *out) {
    /* Every whole double below 2^53 is exactly what the file says. */
    if (!cJSON_IsNumber(value) || value->valuedouble != trunc(value->valuedouble) ||
        fabs(value->valuedouble) > 0x1p53) {
        return false;
    }
    *out = (int64_t)value->valuedouble;
    return *out >= min && *out <= max;
}

status jsonfile_integer(const cJSON *object, const char *file, const char *key, int64_t min,
                        int64_t max, int64_t *out, diag *d) {
    const cJSON *value;
    TRY(take(object, file, key, &value, d));
    if (!jsonfile_is_integer(value, min, max, out)) {
        return status_fail_param(d, STATUS_CORRUPT, key,
                                 "%s: \"%s\" must be a whole number from %lld to %lld", file, key,
                                 (long long)min, (long long)max);
    }
    return STATUS_OK;
}

status jsonfile_real(const cJSON *object, const char *file, const char *key, double min, double max,
                     double *out, diag *d) {
    const cJSON *value;
    TRY(take(object, file, key, &value, d));
    if (!cJSON_IsNumber(value) || !(value->valuedouble >= min && value->valuedouble <= max)) {
        return status_fail_param(d, STATUS_CORRUPT, key,
                                 "%s: \"%s\" must be a number from %g to %g", file, key, min, max);
    }
    *out = value->valuedouble;
    return STATUS_OK;
}

status jsonfile_flag(const cJSON *object, const char *file, const char *key, bool *out, diag *d) {
    const cJSON *value;
    TRY(take(object, file, key, &value, d));
    if (!cJSON_IsBool(value)) {
        return status_fail_param(d, STATUS_CORRUPT, key, "%s: \"%s\" must be true or false", file,
                                 key);
    }
    *out = cJSON_IsTrue(value);
    return STATUS_OK;
}

status jsonfile_text(const cJSON *object, const char *file, const char *key, const char **out,
                     diag *d) {
    const cJSON *value;
    TRY(take(object, file, key, &value, d));
    if (!cJSON_IsString(value)) {
        return status_fail_param(d, STATUS_CORRUPT, key, "%s: \"%s\" must be a string", file, key);
    }
    *out = value->valuestring;
    return STATUS_OK;
}
