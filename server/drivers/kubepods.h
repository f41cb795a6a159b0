/* kubepods.h -- what the driver reads of Kubernetes' objects.
 *
 * Purpose    Pods, scales and autoscalers as JSON, down to the few facts that matter. Every member
 *            may be missing or of another type: a cluster's API is outside input.
 * Ownership  Results are copies.
 * Threads    Any; pure.
 * Limits     Names of at most 63 bytes (what controllers generate); reasons are cut.
 */
#ifndef SERVER_DRIVERS_KUBEPODS_H
#define SERVER_DRIVERS_KUBEPODS_H

#include <cjson/cJSON.h>
#include <stdbool.h>
#include <stdint.h>

#include "engine/base/status.h"

enum {
    KUBEPODS_NAME_BYTES = 64,
    KUBEPODS_HOST_BYTES = 46,
    KUBEPODS_WHY_BYTES = 128,
    KUBEPODS_VERSION_BYTES = 64,
    KUBEPODS_SELECTOR_BYTES = 512,
    KUBEPODS_LEAVES_FIRST = -1000 /* the deletion cost of who has to go */
};

#define KUBEPODS_COST "controller.kubernetes.io/pod-deletion-cost"
#define KUBEPODS_FENCE "weir/fence"

typedef struct {
    char name[KUBEPODS_NAME_BYTES];
    char host[KUBEPODS_HOST_BYTES]; /* its address; "": none yet */
    bool live;                      /* not ended, and not told to end */
    bool ready;
    int32_t restarts;
    int32_t cost;                 /* of its deletion */
    char why[KUBEPODS_WHY_BYTES]; /* it is not ready: "Unschedulable: 0/3 nodes ..."; "" unknown */
} kubepods_pod;

/* False: it has no name that could be asked for. */
bool kubepods_read(const cJSON *pod, kubepods_pod *out);

typedef struct {
    int32_t replicas; /* wished for */
    char version[KUBEPODS_VERSION_BYTES];
    char selector[KUBEPODS_SELECTOR_BYTES];
} kubepods_scale;

MUST_USE status kubepods_read_scale(const cJSON *scale, kubepods_scale *out, diag *d);

/* The token of the newest controller that wrote to this object; 0: none. */
uint64_t kubepods_fence(const cJSON *object);

/* Whether this HorizontalPodAutoscaler sizes that object. */
bool kubepods_is_target(const cJSON *autoscaler, const char *kind, const char *name);

/* metadata.`name`, or "". */
const char *kubepods_metadata(const cJSON *object, const char *name);

#endif
