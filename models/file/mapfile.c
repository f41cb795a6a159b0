/* mapfile.c -- a whole file as read-only memory. */
#define _GNU_SOURCE
#include "models/file/mapfile.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static status map_descriptor(int fd, const char *path, mapfile *out, diag *d) {
    struct stat st;
    if (fstat(fd, &st) != 0) {
        return status_fail_errno(d, STATUS_IO, "%s: cannot be examined", path);
    }
    if (!S_ISREG(st.st_mode)) {
        return status_fail(d, STATUS_INVALID, "%s: not a regular file", path);
    }
    if (st.st_size <= 0) {
        return status_fail(d, STATUS_CORRUPT, "%s: the file is empty", path);
    }
    size_t bytes = (size_t)st.st_size;
    void *data = mmap(NULL, bytes, PROT_READ, MAP_SHARED, fd, 0);
    if (data == MAP_FAILED) {
        return status_fail_errno(d, STATUS_IO, "%s: cannot be mapped (%zu bytes)", path, bytes);
    }
    out->data = data;
    out->bytes = bytes;
    return STATUS_OK;
}

status mapfile_open(const char *path, mapfile *out, diag *d) {
    out->data = NULL;
    out->bytes = 0;
    /* Non-blocking, so that a named pipe is refused instead of waited for. */
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0) {
        return status_fail_errno(d, STATUS_IO, "%s: cannot be opened", path);
    }
    status s = map_descriptor(fd, path, out, d);
    close(fd);
    return s;
}

void mapfile_close(mapfile *m) {
    if (m->data != NULL) {
        munmap((void *)(uintptr_t)m->data, m->bytes);
    }
    m->data = NULL;
    m->bytes = 0;
}
