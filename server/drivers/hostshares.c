/* hostshares.c -- affinity masks, device files, and words of command lines. */
#define _GNU_SOURCE
#include "server/drivers/hostshares.h"

#include <dirent.h>
#include <math.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine/base/str.h"

_Static_assert(SHARES_CPUS_MAX == CPU_SETSIZE, "a mask is a cpu_set_t");

static shares_cpus cpus_of(pid_t pid) {
    cpu_set_t set;
    shares_cpus out = {{0}};
    if (sched_getaffinity(pid, sizeof set, &set) == 0) {
        for (uint32_t i = 0; i < SHARES_CPUS_MAX; i++) {
            if (CPU_ISSET(i, &set)) {
                shares_add_cpu(&out, i);
            }
        }
    }
    return out;
}

shares_cpus hostshares_cpus(void) {
    return cpus_of(0);
}

void hostshares_pin(const shares_cpus *cpus) {
    cpu_set_t set;
    CPU_ZERO(&set);
    for (uint32_t i = 0; i < SHARES_CPUS_MAX; i++) {
        if (shares_has_cpu(cpus, i)) {
            CPU_SET(i, &set);
        }
    }
    if (CPU_COUNT(&set) > 0) {
        (void)sched_setaffinity(0, sizeof set,
                                &set); /* refused: the worker is slower, that's all */
    }
}

/* ---- GPUs ----------------------------------------------------------------------------------- */

/* Device files "nvidiaN". */
static uint32_t count_files(void) {
    DIR *folder = opendir("/dev");
    uint32_t count = 0;
    for (const struct dirent *e; folder && (e = readdir(folder)) != NULL;) {
        int64_t number;
        str name = str_from(e->d_name), prefix = str_from("nvidia");
        count += str_starts_with(name, prefix) &&
                 str_to_i64(str_of(name.data + prefix.bytes, name.bytes - prefix.bytes), 0,
                            SHARES_DEVICE_NUMBERS - 1, &number);
    }
    if (folder) {
        (void)closedir(folder);
    }
    return count;
}

/* Numbers or names with commas between them; CUDA believes them up to the first that it does not
 * know, of which -1 is one. */
static uint32_t count_visible(const char *list) {
    uint32_t count = 0;
    for (const char *at = list; *at && *at != '-'; count++) {
        at += strcspn(at, ",");
        at += *at == ',';
    }
    return count;
}

void hostshares_find_devices(shares *s) {
    const char *visible = getenv("CUDA_VISIBLE_DEVICES");
    uint32_t count = visible ? count_visible(visible) : count_files();
    count = count < SHARES_DEVICES_MAX ? count : SHARES_DEVICES_MAX;
    s->devices_count = count;
    for (uint32_t i = 0; i < count; i++) {
        s->devices[i] = (uint16_t)i;
    }
}

bool hostshares_has_mps(void) {
    const char *folder = getenv("CUDA_MPS_PIPE_DIRECTORY");
    char path[HOSTPROCS_PATH_BYTES];
    int n = snprintf(path, sizeof path, "%s/control", folder ? folder : "/tmp/nvidia-mps");
    return n > 0 && (size_t)n < sizeof path && access(path, F_OK) == 0;
}

/* ---- what is held --------------------------------------------------------------------------- */

static bool is_part(const shares_cpus *of, const shares_cpus *all) {
    bool missing = false;
    for (uint32_t i = 0; i < SHARES_CPUS_MAX / 64; i++) {
        missing = missing || (all->words[i] & ~of->words[i]) != 0;
    }
    return missing;
}

shares_part hostshares_held(pid_t pid, const hostprocs_words *words, const shares *s) {
    shares_part out = {.device = SHARES_NO_DEVICE};
    shares_cpus cpus = cpus_of(pid);
    if (is_part(&cpus, &s->cpus)) {
        out.cpus = cpus;
    }
    const char *device = hostprocs_value(words, "--device");
    const char *share = hostprocs_value(words, "--device-share");
    int64_t number;
    double part;
    if (device && share && str_to_i64(str_from(device), 0, SHARES_DEVICE_NUMBERS - 1, &number) &&
        str_to_f64(str_from(share), &part) && part > 0 && part <= 1) {
        out.device = (int32_t)number;
        out.part = (uint32_t)lround(part * SHARES_WHOLE);
    }
    return out;
}
