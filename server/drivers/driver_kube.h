/* driver_kube.h -- workers as the pods of two Deployments, or StatefulSets.
 *
 * Purpose    The count of workers is written to the scale sub-resource, and pods are read to see
 *            what came of it. A worker is one place among the replicas: the pod that has it may be
 *            replaced by another, and is then known by its address at the hub.
 *            Who leaves: before replicas are lowered, the pod that should go gets the lowest
 *            deletion cost. That is a preference. Kubernetes lets pods without a node, pending and
 *            unready ones go first in any case, and a StatefulSet its highest ordinal. Whoever
 *            went, the pods tell, and the places follow. The pod drains for its grace period.
 *            Two writers: a HorizontalPodAutoscaler on the object makes this driver refuse what it
 *            is asked for, and log it as advice. Changes of replicas by others (kubectl) are taken
 *            over as they are; a conflict (409) is read again, never overwritten.
 * Fencing    The newest token is an annotation of the object. It is written against the version
 *            that was read, as replicas are: one of two controllers loses each race, and the one
 *            with the older token does not try again.
 * Ownership  driver_close ends it; pods stay.
 * Threads    As driver_remote.h.
 * Limits     LIMIT_WORKERS workers; lists are read in pages, of DRIVER_KUBE_PODS_MAX pods at most.
 */
#ifndef SERVER_DRIVERS_DRIVER_KUBE_H
#define SERVER_DRIVERS_DRIVER_KUBE_H

#include "server/drivers/driver_remote.h"
#include "server/drivers/kubeapi.h"

enum { DRIVER_KUBE_PODS_MAX = 256, DRIVER_KUBE_NAME_BYTES = 64 };

/* Texts are borrowed for the driver's life, but for those in arrays. */
typedef struct {
    kubeapi_options api;
    char space[DRIVER_KUBE_NAME_BYTES];               /* the namespace */
    bool stateful;                                    /* StatefulSets */
    char names[SCALER_POOLS][DRIVER_KUBE_NAME_BYTES]; /* of the objects */
    uint32_t first;                                   /* the lowest id to use */
    /* The number of the worker at this address, DRIVER_NO_WORKER: none. NULL: nobody knows. */
    uint32_t (*find)(void *self, const char *host);
    void *self;
} driver_kube_options;

MUST_USE status driver_kube_open(const driver_kube_options *options, driver **out, diag *d);

#endif
