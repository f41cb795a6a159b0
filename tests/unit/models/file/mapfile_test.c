/* mapfile_test.c -- mapping whole files. */
#define _GNU_SOURCE
#include "models/file/mapfile.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

Test(mapfile, a_file_is_seen_byte_for_byte) {
    char path[] = "/tmp/weir-map-XXXXXX";
    int fd = mkstemp(path);
    cr_assert(fd >= 0);
    char text[10000];
    for (size_t i = 0; i < sizeof text; i++) {
        text[i] = (char)(i * 7);
    }
    cr_assert_eq(write(fd, text, sizeof text), (ssize_t)sizeof text);
    close(fd);
    mapfile m;
    cr_assert_eq(mapfile_open(path, &m, NULL), STATUS_OK);
    unlink(path);
    cr_expect_eq(m.bytes, sizeof text);
    cr_expect_eq(memcmp(m.data, text, sizeof text), 0);
    mapfile_close(&m);
    cr_expect_null(m.data);
}

Test(mapfile, an_empty_file_is_refused) {
    char path[] = "/tmp/weir-map-XXXXXX";
    close(mkstemp(path));
    mapfile m;
    diag d = {0};
    cr_expect_eq(mapfile_open(path, &m, &d), STATUS_CORRUPT);
    cr_expect(strstr(d.text, "empty") != NULL && strstr(d.text, path) != NULL, "%s", d.text);
    unlink(path);
}

Test(mapfile, what_is_not_a_regular_file_is_refused_without_waiting) {
    mapfile m;
    diag d = {0};
    cr_expect_eq(mapfile_open("/nonexistent/model.gguf", &m, &d), STATUS_IO);
    cr_expect(strstr(d.text, "/nonexistent/model.gguf") != NULL);
    cr_expect_eq(mapfile_open("/tmp", &m, &d), STATUS_INVALID);
    cr_expect_eq(mapfile_open("/dev/zero", &m, &d), STATUS_INVALID);
    char folder[] = "/tmp/weir-pipe-XXXXXX";
    cr_assert_not_null(mkdtemp(folder));
    char pipe_path[64];
    snprintf(pipe_path, sizeof pipe_path, "%s/p", folder);
    cr_assert_eq(mkfifo(pipe_path, 0600), 0);
    cr_expect_eq(mapfile_open(pipe_path, &m, &d), STATUS_INVALID);
    unlink(pipe_path);
    rmdir(folder);
}
