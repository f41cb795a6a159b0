/* cpunodes.c -- memory on machines with several NUMA nodes. */
#define _GNU_SOURCE
#include "kernels/cpu/cpunodes.h"

#include <fcntl.h>
#include <linux/mempolicy.h>
#include <sys/syscall.h>
#include <unistd.h>

/* A number at `*at`, which moves behind it; -1 when there is none below CPUNODES_MAX. */
static int32_t node_at(str list, size_t *at) {
    int32_t node = -1;
    for (; *at < list.bytes && list.data[*at] >= '0' && list.data[*at] <= '9'; (*at)++) {
        node = (node < 0 ? 0 : node) * 10 + (list.data[*at] - '0');
        if (node >= CPUNODES_MAX) {
            return -1;
        }
    }
    return node;
}

uint64_t cpunodes_parse(str list) {
    uint64_t nodes = 0;
    size_t at = 0;
    while (at < list.bytes && list.data[at] != '\n') {
        const int32_t first = node_at(list, &at);
        int32_t last = first;
        if (at < list.bytes && list.data[at] == '-') {
            at++;
            last = node_at(list, &at);
        }
        if (first < 0 || last < first) {
            return 0;
        }
        for (int32_t node = first; node <= last; node++) {
            nodes |= 1ull << node;
        }
        if (at < list.bytes && list.data[at] == ',') {
            at++;
        } else if (at < list.bytes && list.data[at] != '\n') {
            return 0;
        }
    }
    return nodes;
}

uint64_t cpunodes_with_memory(void) {
    char text[256];
    const int fd = open("/sys/devices/system/node/has_memory", O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        return 0;
    }
    const ssize_t bytes = read(fd, text, sizeof(text));
    (void)close(fd);
    return bytes > 0 ? cpunodes_parse(str_of(text, (size_t)bytes)) : 0;
}

void cpunodes_spread(void *memory, uint64_t bytes, uint64_t nodes) {
    if ((nodes & (nodes - 1)) != 0) {
        (void)syscall(SYS_mbind, memory, bytes, MPOL_INTERLEAVE, &nodes, CPUNODES_MAX + 1, 0);
    }
}
