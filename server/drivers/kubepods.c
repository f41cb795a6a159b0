/* kubepods.c -- members of objects, looked at with distrust. */
#include "server/drivers/kubepods.h"

#include <stdio.h>
#include <string.h>

#include "engine/base/str.h"
#include "server/http/jsonin.h"

static const char *text_of(const cJSON *object, const char *name) {
    const cJSON *v = jsonin_get(object, name);
    return cJSON_IsString(v) ? v->valuestring : "";
}

static int32_t int_of(const cJSON *object, const char *name) {
    const cJSON *v = jsonin_get(object, name);
    return cJSON_IsNumber(v) && v->valuedouble >= 0 && v->valuedouble <= INT32_MAX
               ? (int32_t)v->valuedouble
               : 0;
}

const char *kubepods_metadata(const cJSON *object, const char *name) {
    return text_of(jsonin_get(object, "metadata"), name);
}

static const char *annotation(const cJSON *object, const char *name) {
    return text_of(jsonin_get(jsonin_get(object, "metadata"), "annotations"), name);
}

/* A name goes into a path. */
static bool is_name(const char *name) {
    size_t bytes = strlen(name);
    return bytes > 0 && bytes < KUBEPODS_NAME_BYTES &&
           strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789-.") == bytes && name[0] != '.';
}

/* The container that does not run says more than a condition; a pod without a node only has those.
 */
static void find_why(const cJSON *status_of, kubepods_pod *out) {
    const cJSON *each;
    cJSON_ArrayForEach(each, jsonin_get(status_of, "conditions")) {
        if (strcmp(text_of(each, "type"), "PodScheduled") == 0 &&
            strcmp(text_of(each, "status"), "False") == 0) {
            (void)snprintf(out->why, sizeof out->why, "%s: %s", text_of(each, "reason"),
                           text_of(each, "message"));
        }
    }
    cJSON_ArrayForEach(each, jsonin_get(status_of, "containerStatuses")) {
        const cJSON *waiting = jsonin_get(jsonin_get(each, "state"), "waiting");
        if (waiting) {
            (void)snprintf(out->why, sizeof out->why, "%s: %s", text_of(waiting, "reason"),
                           text_of(waiting, "message"));
        }
    }
}

bool kubepods_read(const cJSON *pod, kubepods_pod *out) {
    const cJSON *status_of = jsonin_get(pod, "status"), *each;
    const char *name = kubepods_metadata(pod, "name"), *phase = text_of(status_of, "phase");
    const char *host = text_of(status_of, "podIP");
    *out = (kubepods_pod){.live = true};
    if (!is_name(name)) {
        return false;
    }
    (void)snprintf(out->name, sizeof out->name, "%s", name);
    if (strlen(host) < sizeof out->host) {
        (void)snprintf(out->host, sizeof out->host, "%s", host);
    }
    out->live = !jsonin_get(jsonin_get(pod, "metadata"), "deletionTimestamp") &&
                strcmp(phase, "Failed") != 0 && strcmp(phase, "Succeeded") != 0;
    cJSON_ArrayForEach(each, jsonin_get(status_of, "conditions")) {
        if (strcmp(text_of(each, "type"), "Ready") == 0) {
            out->ready = out->live && strcmp(text_of(each, "status"), "True") == 0;
        }
    }
    cJSON_ArrayForEach(each, jsonin_get(status_of, "containerStatuses")) {
        int32_t n = int_of(each, "restartCount");
        out->restarts = n > out->restarts ? n : out->restarts;
    }
    int64_t cost;
    if (str_to_i64(str_from(annotation(pod, KUBEPODS_COST)), INT32_MIN, INT32_MAX, &cost)) {
        out->cost = (int32_t)cost;
    }
    if (!out->ready) {
        find_why(status_of, out);
    }
    return true;
}

status kubepods_read_scale(const cJSON *scale, kubepods_scale *out, diag *d) {
    const cJSON *spec = jsonin_get(scale, "spec");
    const char *version = kubepods_metadata(scale, "resourceVersion");
    const char *selector = text_of(jsonin_get(scale, "status"), "selector");
    *out = (kubepods_scale){.replicas = 0}; /* an absent spec.replicas is none */
    TRY(jsonin_int(spec, "replicas", 0, INT32_MAX, &out->replicas, d));
    if (!version[0] || strlen(version) >= sizeof out->version) {
        return status_fail(d, STATUS_CORRUPT, "a scale without a metadata.resourceVersion");
    }
    /* Without a selector the list would be of every pod of the namespace. */
    if (!selector[0] || strlen(selector) >= sizeof out->selector) {
        return status_fail(d, STATUS_CORRUPT,
                           "a scale without a status.selector of at most %zu "
                           "bytes",
                           sizeof out->selector - 1);
    }
    (void)snprintf(out->version, sizeof out->version, "%s", version);
    (void)snprintf(out->selector, sizeof out->selector, "%s", selector);
    return STATUS_OK;
}

uint64_t kubepods_fence(const cJSON *object) {
    int64_t token = 0;
    return str_to_i64(str_from(annotation(object, KUBEPODS_FENCE)), 0, INT64_MAX, &token)
               ? (uint64_t)token
               : 0;
}

bool kubepods_is_target(const cJSON *autoscaler, const char *kind, const char *name) {
    const cJSON *target = jsonin_get(jsonin_get(autoscaler, "spec"), "scaleTargetRef");
    return strcmp(text_of(target, "kind"), kind) == 0 && strcmp(text_of(target, "name"), name) == 0;
}
