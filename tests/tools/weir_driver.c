/* weir_driver.c -- a driver under a test's control: `weir_driver ray AGENT_URL AGENT_TOKEN JOBS_URL
 * AGENT_PROGRAM PROGRAM GPUS DECODE_LABELS [WORKER_ARGUMENT...]`, or `weir_driver kubernetes URL
 * TOKEN_FILE CA_FILE NAMESPACE PREFILL DECODE deployments|statefulsets CALL_MS`.
 *
 * Commands come a line each and are answered a line each:
 *     start prefill|decode      ok ID, or no WHY
 *     stop ID DRAIN_SECONDS     ok, or no WHY
 *     list                      ID POOL PHASE; ... of each worker, then "capacity N"
 *     token N                   ok: that of the actions from now on */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/log.h"
#include "server/drivers/driver_kube.h"
#include "server/drivers/driver_ray.h"

static const char *const pools[] = {"prefill", "decode"};
static const char *const phases[] = {"starting", "serving", "flipping", "stopping"};

static void answer(driver_result r, const diag *why, const char *fine) {
    if (r == DRIVER_ASKED) {
        printf("ok%s\n", fine);
    } else {
        printf("no %s\n", why->text);
    }
}

static void list(driver *d) {
    driver_worker workers[LIMIT_WORKERS];
    uint32_t count = driver_list(d, workers);
    for (uint32_t i = 0; i < count; i++) {
        printf("%u %s %s; ", workers[i].id, pools[workers[i].pool], phases[workers[i].phase]);
    }
    printf("capacity %u\n", driver_capacity(d));
}

static void obey(driver *d, char *line, uint64_t *token) {
    diag why = {.text = ""};
    unsigned id = 0;
    double seconds = 0;
    char pool[16];
    char fine[16] = "";
    unsigned long long number;
    if (sscanf(line, "start %15s", pool) == 1) {
        scaler_pool p = strcmp(pool, pools[SCALER_DECODE]) == 0 ? SCALER_DECODE : SCALER_PREFILL;
        driver_result r = driver_start(d, *token, p, &id, &why);
        (void)snprintf(fine, sizeof fine, " %u", id);
        answer(r, &why, fine);
    } else if (sscanf(line, "stop %u %lf", &id, &seconds) == 2) {
        answer(driver_stop(d, *token, id, (int64_t)(seconds * 1e6), &why), &why, "");
    } else if (sscanf(line, "token %llu", &number) == 1) {
        *token = number;
        answer(DRIVER_ASKED, &why, "");
    } else {
        list(d);
    }
    (void)fflush(stdout);
}

static status open_ray(int argc, char **argv, driver **out, diag *why) {
    driver_ray_pool pool = {.args = (const char *const *)argv + 9,
                            .args_count = (uint32_t)argc - 9,
                            .gpus = strtod(argv[7], NULL)};
    driver_ray_options o = {.agent_url = argv[2],
                            .agent_token = argv[3],
                            .jobs_url = argv[4],
                            .agent_program = argv[5],
                            .program = argv[6],
                            .cluster_key = getenv("WEIR_CLUSTER_KEY"),
                            .pools = {pool, pool}};
    o.pools[SCALER_DECODE].labels = argv[8];
    return driver_ray_open(&o, out, why);
}

static status open_kubernetes(char **argv, driver **out, diag *why) {
    driver_kube_options o = {.api = {.url = argv[2],
                                     .token_file = argv[3],
                                     .ca_file = argv[4],
                                     .call_ms = strtol(argv[9], NULL, 10)},
                             .stateful = strcmp(argv[8], "statefulsets") == 0};
    (void)snprintf(o.space, sizeof o.space, "%s", argv[5]);
    for (int i = 0; i < SCALER_POOLS; i++) {
        (void)snprintf(o.names[i], sizeof o.names[i], "%s", argv[6 + i]);
    }
    return driver_kube_open(&o, out, why);
}

int main(int argc, char **argv) {
    bool ray = argc >= 9 && strcmp(argv[1], "ray") == 0;
    if (!ray && (argc != 10 || strcmp(argv[1], "kubernetes") != 0)) {
        fprintf(stderr, "usage: see tests/tools/weir_driver.c\n");
        return 2;
    }
    log_setup(LOG_INFO, false, "driver");
    driver *d;
    diag why;
    status s = ray ? open_ray(argc, argv, &d, &why) : open_kubernetes(argv, &d, &why);
    if (s != STATUS_OK) {
        fprintf(stderr, "weir_driver: %s\n", why.text);
        return 1;
    }
    char line[256];
    uint64_t token = 1;
    while (fgets(line, sizeof line, stdin)) {
        obey(d, line, &token);
    }
    driver_close(d);
    return 0;
}
