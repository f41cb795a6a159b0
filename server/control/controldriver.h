/* controldriver.h -- which driver a controller has, and its flags.
 *
 * Purpose    One place where a driver is chosen, its flags are read, and it is put under the
 *            cluster's own (driver_cluster.h).
 * Ownership  A controldriver_flags borrows from the command line. What controldriver_open makes is
 *            the caller's.
 * Threads    One.
 * Limits     DRIVER_SPAWN_ARGS_MAX flags of workers.
 */
#ifndef SERVER_CONTROL_CONTROLDRIVER_H
#define SERVER_CONTROL_CONTROLDRIVER_H

#include "engine/base/config.h"
#include "engine/base/hostport.h"
#include "server/drivers/driver_cluster.h"

typedef enum {
    CONTROLDRIVER_NONE,
    CONTROLDRIVER_LOCAL,
    CONTROLDRIVER_RAY,
    CONTROLDRIVER_KUBERNETES
} controldriver_kind;

typedef struct {
    int32_t kind;
    const char *hubs;
    const char *ray_agent, *ray_token_file, *ray_jobs, *ray_jobs_token_file, *ray_script,
        *ray_program, *prefill_labels, *decode_labels;
    double cpus, gpus;
    int64_t pin_cpus;
    const char *gpu_devices;
    const char *kube_url, *kube_token_file, *kube_ca_file, *kube_space, *kube_prefill, *kube_decode;
    bool kube_stateful;
} controldriver_flags;

/* Rows of a config table; `at` is the offset of the controldriver_flags. */
#define CONTROLDRIVER_OPTIONS(at)                                                                  \
    {"driver",                                                                                     \
     CONFIG_ENUM,                                                                                  \
     (at) + offsetof(controldriver_flags, kind),                                                   \
     0,                                                                                            \
     0,                                                                                            \
     "none",                                                                                       \
     controldriver_names,                                                                          \
     NULL,                                                                                         \
     "who starts workers: none (roles are flipped), local (processes of this machine), ray, "      \
     "kubernetes"},                                                                                \
        {"hubs",                                                                                   \
         CONFIG_STRING,                                                                            \
         (at) + offsetof(controldriver_flags, hubs),                                               \
         0,                                                                                        \
         1023,                                                                                     \
         NULL,                                                                                     \
         NULL,                                                                                     \
         "HOST:PORT,...",                                                                          \
         "all controllers, as workers reach them; default: this one where it listens"},            \
        {"ray-agent", CONFIG_STRING, (at) + offsetof(controldriver_flags, ray_agent),              \
         0,           255,           "http://127.0.0.1:8790",                                      \
         NULL,        "URL",         "with --driver ray: weir's agent on its head"},               \
        {"ray-token-file",                                                                         \
         CONFIG_STRING,                                                                            \
         (at) + offsetof(controldriver_flags, ray_token_file),                                     \
         0,                                                                                        \
         4095,                                                                                     \
         NULL,                                                                                     \
         NULL,                                                                                     \
         "FILE",                                                                                   \
         "the agent's token (or WEIR_AGENT_TOKEN)"},                                               \
        {"ray-jobs",                                                                               \
         CONFIG_STRING,                                                                            \
         (at) + offsetof(controldriver_flags, ray_jobs),                                           \
         0,                                                                                        \
         255,                                                                                      \
         NULL,                                                                                     \
         NULL,                                                                                     \
         "URL",                                                                                    \
         "Ray's dashboard, to submit the agent there when it is missing"},                         \
        {"ray-jobs-token-file",                                                                    \
         CONFIG_STRING,                                                                            \
         (at) + offsetof(controldriver_flags, ray_jobs_token_file),                                \
         0,                                                                                        \
         4095,                                                                                     \
         NULL,                                                                                     \
         NULL,                                                                                     \
         "FILE",                                                                                   \
         "the dashboard's token, where it wants one"},                                             \
        {"ray-script",                                                                             \
         CONFIG_STRING,                                                                            \
         (at) + offsetof(controldriver_flags, ray_script),                                         \
         0,                                                                                        \
         4095,                                                                                     \
         "/usr/local/share/weir/weir_ray_agent.py",                                                \
         NULL,                                                                                     \
         "FILE",                                                                                   \
         "the agent's program on the head"},                                                       \
        {"ray-program",                                                                            \
         CONFIG_STRING,                                                                            \
         (at) + offsetof(controldriver_flags, ray_program),                                        \
         0,                                                                                        \
         4095,                                                                                     \
         "weir",                                                                                   \
         NULL,                                                                                     \
         "FILE",                                                                                   \
         "weir on the nodes"},                                                                     \
        {"prefill-labels",                                                                         \
         CONFIG_STRING,                                                                            \
         (at) + offsetof(controldriver_flags, prefill_labels),                                     \
         0,                                                                                        \
         255,                                                                                      \
         NULL,                                                                                     \
         NULL,                                                                                     \
         "NAME=VALUE,...",                                                                         \
         "Ray nodes for prefill workers; default: any"},                                           \
        {"decode-labels",                                                                          \
         CONFIG_STRING,                                                                            \
         (at) + offsetof(controldriver_flags, decode_labels),                                      \
         0,                                                                                        \
         255,                                                                                      \
         NULL,                                                                                     \
         NULL,                                                                                     \
         "NAME=VALUE,...",                                                                         \
         "and for decode workers"},                                                                \
        {"kube-namespace",                                                                         \
         CONFIG_STRING,                                                                            \
         (at) + offsetof(controldriver_flags, kube_space),                                         \
         0,                                                                                        \
         63,                                                                                       \
         NULL,                                                                                     \
         NULL,                                                                                     \
         "NAME",                                                                                   \
         "with --driver kubernetes: its namespace; default: the pod's own"},                       \
        {"kube-prefill",                                                                           \
         CONFIG_STRING,                                                                            \
         (at) + offsetof(controldriver_flags, kube_prefill),                                       \
         0,                                                                                        \
         63,                                                                                       \
         "weir-prefill",                                                                           \
         NULL,                                                                                     \
         "NAME",                                                                                   \
         "the Deployment of the prefill pool"},                                                    \
        {"kube-decode",                                                                            \
         CONFIG_STRING,                                                                            \
         (at) + offsetof(controldriver_flags, kube_decode),                                        \
         0,                                                                                        \
         63,                                                                                       \
         "weir-decode",                                                                            \
         NULL,                                                                                     \
         "NAME",                                                                                   \
         "and of the decode pool"},                                                                \
        {"kube-stateful",                                                                          \
         CONFIG_BOOL,                                                                              \
         (at) + offsetof(controldriver_flags, kube_stateful),                                      \
         0,                                                                                        \
         0,                                                                                        \
         "false",                                                                                  \
         NULL,                                                                                     \
         NULL,                                                                                     \
         "they are StatefulSets"},                                                                 \
        {"kube-url", CONFIG_STRING, (at) + offsetof(controldriver_flags, kube_url),  0, 255, NULL, \
         NULL,       "URL",         "the API server; default: the pod's own cluster"},             \
        {"kube-token-file",                                                                        \
         CONFIG_STRING,                                                                            \
         (at) + offsetof(controldriver_flags, kube_token_file),                                    \
         0,                                                                                        \
         4095,                                                                                     \
         NULL,                                                                                     \
         NULL,                                                                                     \
         "FILE",                                                                                   \
         "default: the service account's"},                                                        \
        {"kube-ca-file",                                                                           \
         CONFIG_STRING,                                                                            \
         (at) + offsetof(controldriver_flags, kube_ca_file),                                       \
         0,                                                                                        \
         4095,                                                                                     \
         NULL,                                                                                     \
         NULL,                                                                                     \
         "FILE",                                                                                   \
         "what its certificate is checked with; default: the service account's"},                  \
        {"worker-cpus", CONFIG_DOUBLE, (at) + offsetof(controldriver_flags, cpus), 0, 1024, "1",   \
         NULL,          NULL,          "CPUs that Ray keeps for a worker"},                        \
        {"worker-gpus",                                                                            \
         CONFIG_DOUBLE,                                                                            \
         (at) + offsetof(controldriver_flags, gpus),                                               \
         0,                                                                                        \
         64,                                                                                       \
         "1",                                                                                      \
         NULL,                                                                                     \
         NULL,                                                                                     \
         "GPUs of a worker, or a fraction of one (with --driver local at most 1, and none where "  \
         "the flags of workers name another backend, or a device)"},                               \
        {"gpu-devices",                                                                            \
         CONFIG_STRING,                                                                            \
         (at) + offsetof(controldriver_flags, gpu_devices),                                        \
         0,                                                                                        \
         255,                                                                                      \
         NULL,                                                                                     \
         NULL,                                                                                     \
         "N,...",                                                                                  \
         "with --driver local: the GPUs that workers share; default: all of this machine"},        \
    {                                                                                              \
        "pin-cpus", CONFIG_INT, (at) + offsetof(controldriver_flags, pin_cpus), 0, 1024, "0",      \
            NULL, NULL,                                                                            \
            "with --driver local: cores of its own for each worker, while there are enough; 0: "   \
            "workers run on any"                                                                   \
    }

extern const char *const controldriver_names[];

/* Where the controller is. */
typedef struct {
    driver_cluster_hub hub;
    hostport address;         /* of the hub */
    const char *key_file;     /* of the cluster's key; NULL: the environment has it, or nobody */
    const char *const *words; /* [words_count] flags of the workers that are started */
    uint32_t words_count;
    uint32_t workers; /* numbers 0 to here are the driver's */
} controldriver_place;

/* Texts and words are borrowed for the driver's life. */
MUST_USE status controldriver_open(const controldriver_flags *flags,
                                   const controldriver_place *place, driver **out, diag *d);

#endif
