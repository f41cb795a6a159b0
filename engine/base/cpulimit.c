/* cpulimit.c -- affinity mask and cgroup quota, both versions (Linux, cgroups(7)). */
#define _GNU_SOURCE
#include "engine/base/cpulimit.h"

#include <fcntl.h>
#include <sched.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { TEXT_BYTES = 8192, PATH_BYTES = 4352 };

/* A small file's text; false when there is none. */
static bool read_text(const char *path, char *text, size_t text_bytes) {
    const int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        return false;
    }
    const ssize_t n = read(fd, text, text_bytes - 1);
    (void)close(fd);
    text[n > 0 ? n : 0] = 0;
    return n > 0;
}

/* CPUs that a quota of so much time a period is, rounded up, so that none of it is lost. */
static int32_t cpus_of(long long quota_us, long long period_us) {
    if (quota_us <= 0 || period_us <= 0) {
        return 0;
    }
    const long long cpus = quota_us / period_us + (quota_us % period_us != 0);
    return cpus > INT32_MAX ? INT32_MAX : (int32_t)cpus;
}

/* The number in a file of version 1; 0 when there is none. */
static long long read_number(const char *directory, const char *name) {
    char path[PATH_BYTES], text[64];
    const int n = snprintf(path, sizeof path, "%s/%s", directory, name);
    const bool found = n > 0 && (size_t)n < sizeof path && read_text(path, text, sizeof text);
    return found ? strtoll(text, NULL, 10) : 0;
}

/* "QUOTA PERIOD" or "max PERIOD", for which strtoll finds no number. */
static int32_t quota_at(const char *directory, bool unified) {
    if (!unified) {
        return cpus_of(read_number(directory, "cpu.cfs_quota_us"),
                       read_number(directory, "cpu.cfs_period_us"));
    }
    char path[PATH_BYTES], text[64];
    const int n = snprintf(path, sizeof path, "%s/cpu.max", directory);
    if (n <= 0 || (size_t)n >= sizeof path || !read_text(path, text, sizeof text)) {
        return 0;
    }
    char *end = NULL;
    const long long quota_us = strtoll(text, &end, 10);
    return cpus_of(quota_us, strtoll(end, NULL, 10));
}

static int32_t smaller(int32_t a, int32_t b) {
    return a == 0 || (b > 0 && b < a) ? b : a;
}

/* The group and all above it. In a container without a namespace of its own the path is the
 * host's, of which only the end of the way up, the mount itself, can be seen. */
static int32_t quota_up(const char *mount, const char *group, size_t group_bytes, bool unified) {
    char path[PATH_BYTES];
    const int n = snprintf(path, sizeof path, "%s%.*s", mount, (int)group_bytes, group);
    if (n <= 0 || (size_t)n >= sizeof path) {
        return 0;
    }
    int32_t least = 0;
    const size_t mount_bytes = strlen(mount);
    for (;;) {
        least = smaller(least, quota_at(path, unified));
        char *slash = strrchr(path + mount_bytes, '/');
        if (slash == NULL) {
            return least;
        }
        *slash = 0;
    }
}

/* Whether a list "cpu,cpuacct" has the controller "cpu". */
static bool lists_cpu(const char *list, size_t bytes) {
    for (size_t i = 0; i + 3 <= bytes; i++) {
        if (memcmp(list + i, "cpu", 3) == 0 && (i == 0 || list[i - 1] == ',') &&
            (i + 3 == bytes || list[i + 3] == ',')) {
            return true;
        }
    }
    return false;
}

/* Lines are NUMBER:CONTROLLERS:PATH, with no controllers for version 2. */
int32_t cpulimit_quota(const char *groups, const char *mount) {
    char directory[PATH_BYTES];
    int32_t least = 0;
    for (const char *line = groups; *line != 0;) {
        const size_t bytes = strcspn(line, "\n");
        const char *list = memchr(line, ':', bytes);
        const char *path = list ? memchr(list + 1, ':', bytes - (size_t)(list + 1 - line)) : NULL;
        if (path != NULL) {
            const size_t list_bytes = (size_t)(path - list - 1);
            const bool unified = list_bytes == 0;
            const int n =
                snprintf(directory, sizeof directory, "%s%s", mount, unified ? "" : "/cpu");
            if (n > 0 && (size_t)n < sizeof directory &&
                (unified || lists_cpu(list + 1, list_bytes))) {
                least = smaller(least, quota_up(directory, path + 1,
                                                bytes - (size_t)(path + 1 - line), unified));
            }
        }
        line += bytes + (line[bytes] == '\n');
    }
    return least;
}

int32_t cpulimit_cpus(void) {
    cpu_set_t set;
    CPU_ZERO(&set);
    const int32_t mask = sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : 1;
    char groups[TEXT_BYTES];
    const int32_t quota = read_text("/proc/self/cgroup", groups, sizeof groups)
                              ? cpulimit_quota(groups, "/sys/fs/cgroup")
                              : 0;
    const int32_t cpus = quota > 0 && quota < mask ? quota : mask;
    return cpus < 1 ? 1 : cpus;
}
