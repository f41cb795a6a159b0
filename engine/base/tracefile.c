/* tracefile.c -- opens early, so that a wrong directory is told at the start and not at the end. */
#define _GNU_SOURCE
#include "engine/base/tracefile.h"

#include <stdio.h>
#include <unistd.h>

#include "engine/base/log.h"

enum { JSON_BYTES_MAX = 64 << 20 };

status tracefile_open(tracefile *t, const char *directory, const char *process, diag *d) {
    *t = (tracefile){0};
    if (!directory || !directory[0]) {
        return STATUS_OK;
    }
    int n = snprintf(t->path, sizeof t->path, "%s/%s.json", directory, process);
    if (n < 0 || n >= (int)sizeof t->path || access(directory, W_OK | X_OK) != 0) {
        return status_fail_errno(d, STATUS_IO, "--trace: cannot write to \"%.300s\"", directory);
    }
    (void)snprintf(t->process, sizeof t->process, "%s", process);
    status s = arena_open(&t->arena, (size_t)TRACEFILE_SPANS * 64 + 4096);
    if (s == STATUS_OK) {
        s = trace_open(&t->trace, &t->arena, TRACEFILE_SPANS);
    }
    if (s != STATUS_OK) {
        arena_close(&t->arena);
        return status_fail(d, s, "no memory for a trace");
    }
    return STATUS_OK;
}

void tracefile_close(tracefile *t) {
    if (!t->trace) {
        return;
    }
    strbuf json = strbuf_make(JSON_BYTES_MAX);
    trace_dump(t->trace, t->process, (int)getpid(), &json);
    FILE *f = json.failed ? NULL : fopen(t->path, "w");
    bool written = f && fwrite(json.data, 1, json.bytes, f) == json.bytes;
    written = f && fclose(f) == 0 && written;
    if (!written) {
        LOG(WARN, "trace", "cannot write", "path=%s", t->path);
    }
    strbuf_close(&json);
    arena_close(&t->arena);
    *t = (tracefile){0};
}
