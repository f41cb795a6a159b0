/* controldriver.c -- a driver by its name. */
#include "server/control/controldriver.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/mem.h"
#include "server/drivers/driver_kube.h"
#include "server/drivers/driver_ray.h"
#include "server/drivers/driver_spawn.h"
#include "server/drivers/hostshares.h"

enum { TEXT_BYTES = 4096 };

const char *const controldriver_names[] = {"none", "local", "ray", "kubernetes", NULL};

/* What the inner driver borrows; as long as the process, which has one driver. */
typedef struct {
    char join[1024];
    char agent_token[TEXT_BYTES], jobs_token[TEXT_BYTES], cluster_key[TEXT_BYTES];
    const char *args[DRIVER_SPAWN_ARGS_MAX];
    uint32_t args_count;
    char kube_url[256], kube_space[TEXT_BYTES];
} texts;

/* The first line of a file. */
static status read_line(const char *path, char out[TEXT_BYTES], diag *d) {
    FILE *f = fopen(path, "re");
    if (!f) {
        return status_fail_errno(d, STATUS_IO, path);
    }
    bool read = fgets(out, TEXT_BYTES, f) != NULL;
    (void)fclose(f);
    out[read ? strcspn(out, "\r\n") : 0] = 0;
    return out[0] ? STATUS_OK : status_fail(d, STATUS_INVALID, "%s is empty", path);
}

/* From a file, else from the environment, else "". */
static status read_secret(const char *path, const char *variable, char out[TEXT_BYTES], diag *d) {
    const char *value = variable ? getenv(variable) : NULL;
    out[0] = 0;
    if (path) {
        return read_line(path, out, d);
    }
    if (value) {
        (void)snprintf(out, TEXT_BYTES, "%s", value);
    }
    return STATUS_OK;
}

static status find_join(const controldriver_flags *f, const controldriver_place *place, texts *t,
                        diag *d) {
    if (!f->hubs && hostport_is_any(&place->address)) {
        return status_fail(d, STATUS_INVALID,
                           "--listen names no address that workers could join: say --hubs");
    }
    char text[HOSTPORT_TEXT_BYTES];
    hostport_print(&place->address, text);
    (void)snprintf(t->join, sizeof t->join, "%s", f->hubs ? f->hubs : text);
    return STATUS_OK;
}

static status take_words(const controldriver_place *place, texts *t, diag *d) {
    if (place->words_count > DRIVER_SPAWN_ARGS_MAX - 4) {
        return status_fail(d, STATUS_LIMIT, "at most %d words for workers after --",
                           DRIVER_SPAWN_ARGS_MAX - 4);
    }
    for (uint32_t i = 0; i < place->words_count; i++) {
        t->args[t->args_count++] = place->words[i];
    }
    return STATUS_OK;
}

/* A GPU is chosen for each worker unless their flags say that they use none, or which. */
static bool choose_own_device(const controldriver_place *place) {
    for (uint32_t i = 0; i < place->words_count; i++) {
        const char *word = place->words[i], *equals = strchr(word, '=');
        str name = equals ? str_of(word, (size_t)(equals - word)) : str_from(word);
        const char *value = equals                       ? equals + 1
                            : i + 1 < place->words_count ? place->words[i + 1]
                                                         : "";
        if (str_equal_z(name, "--device") || str_equal_z(name, "--memory-fraction") ||
            str_equal_z(name, "--tensor-parallel-size") ||
            (str_equal_z(name, "--backend") && strcmp(value, "cuda") != 0 &&
             strcmp(value, "auto") != 0)) {
            return true;
        }
    }
    return false;
}

static status read_shares(const controldriver_flags *f, const controldriver_place *place,
                          shares *out, diag *d) {
    *out = (shares){.cpus = hostshares_cpus(), .cpus_each = (uint32_t)f->pin_cpus};
    long part = lround(f->gpus * SHARES_WHOLE);
    if (out->cpus_each > shares_count_cpus(&out->cpus)) {
        return status_fail(d, STATUS_INVALID, "--pin-cpus %u: there are %u cores", out->cpus_each,
                           shares_count_cpus(&out->cpus));
    }
    if (f->gpu_devices) {
        diag why;
        if (shares_read_devices(out, f->gpu_devices, &why) != STATUS_OK) {
            return status_fail(d, STATUS_INVALID, "--gpu-devices %s", why.text);
        }
    } else if (part > 0 && !choose_own_device(place)) {
        hostshares_find_devices(out);
    }
    if (out->devices_count > 0 && (part < 1 || part > SHARES_WHOLE)) {
        return status_fail(d, STATUS_INVALID,
                           "--worker-gpus %g: with --driver local a worker has one GPU, or a part "
                           "of it from 0.001 on",
                           f->gpus);
    }
    out->part_each = (uint32_t)part;
    return STATUS_OK;
}

static status open_local(const controldriver_flags *f, const controldriver_place *place, texts *t,
                         driver **out, diag *d) {
    shares parts;
    TRY(read_shares(f, place, &parts, d));
    if (place->key_file) {
        t->args[t->args_count++] = "--cluster-key-file";
        t->args[t->args_count++] = place->key_file;
    }
    driver_spawn_options o = {.hub = place->hub,
                              .join = t->join,
                              .args = t->args,
                              .args_count = t->args_count,
                              .workers = place->workers,
                              .shares = parts};
    return driver_spawn_open(&o, out, d);
}

static status open_ray(const controldriver_flags *f, const controldriver_place *place, texts *t,
                       driver **out, diag *d) {
    TRY(read_secret(f->ray_token_file, "WEIR_AGENT_TOKEN", t->agent_token, d));
    TRY(read_secret(f->ray_jobs_token_file, NULL, t->jobs_token, d));
    TRY(read_secret(place->key_file, "WEIR_CLUSTER_KEY", t->cluster_key, d));
    if (!t->agent_token[0]) {
        return status_fail(d, STATUS_INVALID, "--driver ray needs --ray-token-file");
    }
    t->args[t->args_count++] = "--flips";
    t->args[t->args_count++] = "--join";
    t->args[t->args_count++] = t->join;
    driver_ray_pool pool = {
        .args = t->args, .args_count = t->args_count, .cpus = f->cpus, .gpus = f->gpus};
    driver_ray_options o = {.agent_url = f->ray_agent,
                            .agent_token = t->agent_token,
                            .jobs_url = f->ray_jobs,
                            .jobs_token = t->jobs_token[0] ? t->jobs_token : NULL,
                            .agent_program = f->ray_script,
                            .program = f->ray_program,
                            .cluster_key = t->cluster_key[0] ? t->cluster_key : NULL,
                            .pools = {pool, pool}};
    o.pools[SCALER_PREFILL].labels = f->prefill_labels;
    o.pools[SCALER_DECODE].labels = f->decode_labels;
    return driver_ray_open(&o, out, d);
}

/* A name goes into a path: DNS labels, as Kubernetes has them. */
static status take_name(const char *flag, const char *name, char out[DRIVER_KUBE_NAME_BYTES],
                        diag *d) {
    size_t bytes = strlen(name);
    if (bytes == 0 || bytes >= DRIVER_KUBE_NAME_BYTES || name[0] == '.' ||
        strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789-.") != bytes) {
        return status_fail(d, STATUS_INVALID, "%s: \"%s\" is no name in Kubernetes", flag, name);
    }
    (void)snprintf(out, DRIVER_KUBE_NAME_BYTES, "%s", name);
    return STATUS_OK;
}

/* What is not said is what a pod finds about its own cluster. */
static status open_kubernetes(const controldriver_flags *f, const controldriver_place *place,
                              texts *t, driver **out, diag *d) {
    const char *host = getenv("KUBERNETES_SERVICE_HOST");
    const char *port = getenv("KUBERNETES_SERVICE_PORT");
    driver_kube_options o = {
        .api = {.url = f->kube_url ? f->kube_url : t->kube_url,
                .token_file = f->kube_token_file ? f->kube_token_file : KUBEAPI_ACCOUNT "/token",
                .ca_file = f->kube_ca_file ? f->kube_ca_file : KUBEAPI_ACCOUNT "/ca.crt"},
        .stateful = f->kube_stateful,
        .find = place->hub.find,
        .self = place->hub.self};
    if (place->words_count > 0) {
        return status_fail(d, STATUS_INVALID,
                           "--driver kubernetes: the flags of workers are in their manifests");
    }
    if (!f->kube_url) {
        if (!host || !port) {
            return status_fail(d, STATUS_INVALID,
                               "--driver kubernetes outside a pod needs "
                               "--kube-url");
        }
        bool v6 = strchr(host, ':') != NULL;
        (void)snprintf(t->kube_url, sizeof t->kube_url, "https://%s%s%s:%s", v6 ? "[" : "", host,
                       v6 ? "]" : "", port);
    }
    if (f->kube_space) {
        (void)snprintf(t->kube_space, sizeof t->kube_space, "%s", f->kube_space);
    } else {
        TRY(read_line(KUBEAPI_ACCOUNT "/namespace", t->kube_space, d));
    }
    TRY(take_name("--kube-namespace", t->kube_space, o.space, d));
    TRY(take_name("--kube-prefill", f->kube_prefill, o.names[SCALER_PREFILL], d));
    TRY(take_name("--kube-decode", f->kube_decode, o.names[SCALER_DECODE], d));
    return driver_kube_open(&o, out, d);
}

status controldriver_open(const controldriver_flags *f, const controldriver_place *place,
                          driver **out, diag *d) {
    static texts t;
    driver *inner = NULL;
    t = (texts){.args_count = 0};
    if (f->kind == CONTROLDRIVER_NONE) {
        return driver_cluster_open(&place->hub, NULL, out, d);
    }
    if (f->kind == CONTROLDRIVER_KUBERNETES) {
        TRY(open_kubernetes(f, place, &t, &inner, d));
        return driver_cluster_open(&place->hub, inner, out, d);
    }
    TRY(find_join(f, place, &t, d));
    TRY(take_words(place, &t, d));
    TRY(f->kind == CONTROLDRIVER_LOCAL ? open_local(f, place, &t, &inner, d)
                                       : open_ray(f, place, &t, &inner, d));
    return driver_cluster_open(&place->hub, inner, out, d);
}
