/* hostprocs.c -- /proc/PID/exe and /proc/PID/cmdline. */
#define _GNU_SOURCE
#include "server/drivers/hostprocs.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "engine/base/str.h"

static bool read_link(const char *path, char out[HOSTPROCS_PATH_BYTES]) {
    ssize_t n = readlink(path, out, HOSTPROCS_PATH_BYTES - 1);
    out[n > 0 ? n : 0] = 0;
    return n > 0;
}

bool hostprocs_self(char out[HOSTPROCS_PATH_BYTES]) {
    return read_link("/proc/self/exe", out);
}

bool hostprocs_runs(pid_t pid, const char *program) {
    char link[32], runs[HOSTPROCS_PATH_BYTES];
    (void)snprintf(link, sizeof link, "/proc/%d/exe", (int)pid);
    return read_link(link, runs) && strcmp(runs, program) == 0;
}

bool hostprocs_read(pid_t pid, hostprocs_words *out) {
    char path[32];
    (void)snprintf(path, sizeof path, "/proc/%d/cmdline", (int)pid);
    out->bytes = 0;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        return false;
    }
    for (ssize_t n = 1; n > 0 && out->bytes < sizeof out->text; out->bytes += (size_t)n) {
        n = read(fd, out->text + out->bytes, sizeof out->text - out->bytes);
        n = n > 0 ? n : 0;
    }
    (void)close(fd);
    while (out->bytes > 0 && out->text[out->bytes - 1] != 0) {
        out->bytes--; /* a word that was cut off is none */
    }
    return out->bytes > 0;
}

const char *hostprocs_word(const hostprocs_words *w, size_t index) {
    for (size_t at = 0; at < w->bytes; at += strlen(w->text + at) + 1) {
        if (index-- == 0) {
            return w->text + at;
        }
    }
    return NULL;
}

const char *hostprocs_value(const hostprocs_words *w, const char *flag) {
    for (size_t at = 0; at < w->bytes; at += strlen(w->text + at) + 1) {
        if (strcmp(w->text + at, flag) == 0) {
            size_t next = at + strlen(flag) + 1;
            return next < w->bytes ? w->text + next : NULL;
        }
    }
    return NULL;
}

void hostprocs_each(void (*found)(void *self, pid_t pid), void *self) {
    DIR *folder = opendir("/proc");
    if (!folder) {
        return;
    }
    for (const struct dirent *e; (e = readdir(folder)) != NULL;) {
        int64_t pid;
        if (str_to_i64(str_from(e->d_name), 1, INT32_MAX, &pid)) {
            found(self, (pid_t)pid);
        }
    }
    (void)closedir(folder);
}
