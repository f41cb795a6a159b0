/* jsonin.c -- JSON from outside, read strictly. */
#define _GNU_SOURCE
#include "server/http/jsonin.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/limits.h"
#include "engine/base/mem.h"
#include "server/http/jsonin_scan.h"

static int jsonin_compare_names(const void *a, const void *b) {
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* Sorted copies of the names side by side: n log n whatever the names are. `names` has room for
 * every value of the text; each object uses its own part. */
static status jsonin_no_duplicates(const cJSON *value, const char **names, diag *d) {
    size_t n = 0;
    const cJSON *child;
    if (cJSON_IsObject(value)) {
        cJSON_ArrayForEach(child, value) {
            names[n++] = child->string;
        }
        qsort(names, n, sizeof *names, jsonin_compare_names);
        for (size_t i = 1; i < n; i++) {
            if (strcmp(names[i - 1], names[i]) == 0) {
                char param[JSONIN_NAME_BYTES];
                bool fits = strlen(names[i]) < sizeof param;
                snprintf(param, sizeof param, "%s", fits ? names[i] : "");
                return status_fail_param(d, STATUS_INVALID, param,
                                         "the same member name twice in one object");
            }
        }
    }
    cJSON_ArrayForEach(child, value) {
        if (cJSON_IsObject(child) || cJSON_IsArray(child)) {
            TRY(jsonin_no_duplicates(child, names, d));
        }
    }
    return STATUS_OK;
}

/* The text with bulk arrays overwritten by a number, so that cJSON never builds them. */
static status jsonin_without_bulk(const jsonin *j, str body, char **copy, diag *d) {
    *copy = NULL;
    for (int32_t i = 0; i < j->members_count; i++) {
        if (!j->members[i].bulk) {
            continue;
        }
        if (*copy == NULL) {
            *copy = mem_dup(body.data, body.bytes);
            if (*copy == NULL) {
                return status_fail(d, STATUS_NOMEM, "no memory for the request");
            }
        }
        char *at = *copy + (j->members[i].value.data - body.data);
        memset(at, ' ', j->members[i].value.bytes);
        at[0] = '0';
    }
    return STATUS_OK;
}

static status jsonin_build(jsonin *j, str body, int64_t values, diag *d) {
    char *copy = NULL;
    TRY(jsonin_without_bulk(j, body, &copy, d));
    j->root = cJSON_ParseWithLength(copy != NULL ? copy : body.data, body.bytes);
    mem_free(copy);
    if (j->root == NULL) {
        return status_fail(d, STATUS_NOMEM, "no memory for the request");
    }
    const char **names = mem_alloc((size_t)values, sizeof *names);
    if (names == NULL) {
        return status_fail(d, STATUS_NOMEM, "no memory for the request");
    }
    status code = jsonin_no_duplicates(j->root, names, d);
    mem_free(names);
    return code;
}

status jsonin_open(str body, const char *const *bulk, size_t bulk_count, jsonin *out, diag *d) {
    out->root = NULL;
    out->members_count = 0;
    jsonin_scan s = {.members = out->members, .bulk = bulk, .bulk_count = bulk_count};
    TRY(jsonin_scan_text(&s, body, d));
    if (!s.object) {
        return status_fail(d, STATUS_INVALID, "the body must be a JSON object");
    }
    out->members_count = s.members_count;
    status code = jsonin_build(out, body, s.values, d);
    if (code != STATUS_OK) {
        jsonin_close(out);
    }
    return code;
}

void jsonin_close(jsonin *j) {
    cJSON_Delete(j->root);
    j->root = NULL;
}

status jsonin_check(str body, diag *d) {
    jsonin_scan s = {0};
    return jsonin_scan_text(&s, body, d);
}

/* A request is asked for some sixty names and has a handful: most differ in their first letter. */
const cJSON *jsonin_get(const cJSON *object, const char *name) {
    const cJSON *v = object != NULL ? object->child : NULL;
    while (v != NULL && v->string != NULL &&
           (v->string[0] != name[0] || strcmp(v->string, name) != 0)) {
        v = v->next;
    }
    return v == NULL || v->string == NULL || cJSON_IsNull(v) ? NULL : v;
}

const jsonin_member *jsonin_raw(const jsonin *j, const char *name) {
    for (int32_t i = 0; i < j->members_count; i++) {
        if (str_equal_z(j->members[i].name, name)) {
            return &j->members[i];
        }
    }
    return NULL;
}

const char *jsonin_kind(const cJSON *value) {
    if (cJSON_IsBool(value)) {
        return "a boolean";
    }
    if (cJSON_IsNumber(value)) {
        return "a number";
    }
    if (cJSON_IsString(value)) {
        return "a string";
    }
    if (cJSON_IsArray(value)) {
        return "an array";
    }
    return cJSON_IsObject(value) ? "an object" : "null";
}

static status jsonin_wrong_kind(const cJSON *value, const char *param, const char *wanted,
                                diag *d) {
    return status_fail_param(d, STATUS_INVALID, param, "`%s` must be %s, not %s", param, wanted,
                             jsonin_kind(value));
}

status jsonin_bool(const cJSON *object, const char *name, bool *out, diag *d) {
    const cJSON *v = jsonin_get(object, name);
    if (v == NULL) {
        return STATUS_OK;
    }
    if (!cJSON_IsBool(v)) {
        return jsonin_wrong_kind(v, name, "a boolean", d);
    }
    *out = cJSON_IsTrue(v);
    return STATUS_OK;
}

status jsonin_value_int(const cJSON *value, const char *param, int32_t min, int32_t max,
                        int32_t *out, diag *d) {
    if (!cJSON_IsNumber(value)) {
        return jsonin_wrong_kind(value, param, "an integer", d);
    }
    double v = value->valuedouble;
    if (v != floor(v)) {
        return status_fail_param(d, STATUS_INVALID, param, "`%s` must be an integer, not %g", param,
                                 v);
    }
    if (v < (double)min || v > (double)max) {
        return status_fail_param(d, STATUS_INVALID, param, "`%s` must be from %d to %d, not %.17g",
                                 param, min, max, v);
    }
    *out = (int32_t)v;
    return STATUS_OK;
}

status jsonin_int(const cJSON *object, const char *name, int32_t min, int32_t max, int32_t *out,
                  diag *d) {
    const cJSON *v = jsonin_get(object, name);
    return v == NULL ? STATUS_OK : jsonin_value_int(v, name, min, max, out, d);
}

status jsonin_float(const cJSON *object, const char *name, double min, double max, float *out,
                    diag *d) {
    const cJSON *v = jsonin_get(object, name);
    if (v == NULL) {
        return STATUS_OK;
    }
    if (!cJSON_IsNumber(v)) {
        return jsonin_wrong_kind(v, name, "a number", d);
    }
    if (!(v->valuedouble >= min && v->valuedouble <= max)) {
        return status_fail_param(d, STATUS_INVALID, name, "`%s` must be from %g to %g, not %g",
                                 name, min, max, v->valuedouble);
    }
    *out = (float)v->valuedouble;
    return STATUS_OK;
}

status jsonin_string(const cJSON *object, const char *name, size_t bytes_max, str *out, diag *d) {
    const cJSON *v = jsonin_get(object, name);
    if (v == NULL) {
        return STATUS_OK;
    }
    if (!cJSON_IsString(v)) {
        return jsonin_wrong_kind(v, name, "a string", d);
    }
    str s = str_from(v->valuestring);
    if (s.bytes > bytes_max) {
        return status_fail_param(d, STATUS_INVALID, name, "`%s` may have %zu bytes, not %zu", name,
                                 bytes_max, s.bytes);
    }
    *out = s;
    return STATUS_OK;
}

status jsonin_int64(const jsonin *j, const char *name, int64_t *out, bool *given, diag *d) {
    *given = false;
    const cJSON *v = jsonin_get(j->root, name);
    if (v == NULL) {
        return STATUS_OK;
    }
    if (!cJSON_IsNumber(v)) {
        return jsonin_wrong_kind(v, name, "an integer", d);
    }
    const jsonin_member *m = jsonin_raw(j, name);
    if (m == NULL || !str_to_i64(m->value, INT64_MIN, INT64_MAX, out)) {
        return status_fail_param(d, STATUS_INVALID, name,
                                 "`%s` must be an integer of 64 bits, without fraction or exponent",
                                 name);
    }
    *given = true;
    return STATUS_OK;
}
