/* apikeys_test.c -- keys from flags and files, and who gets in. */
#define _GNU_SOURCE
#include "server/http/apikeys.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "engine/base/limits.h"

/* sha256 of "hashed-key" (sha256sum). */
#define HASHED "a4ae87b73fa5645e6aee415a6f72be4dcbd99d057a7b40cb1b867c181d179260"

static status load(apikeys *k, const char *text, mode_t mode, diag *d) {
    char path[] = "/tmp/weir_keys_XXXXXX";
    int fd = mkstemp(path);
    cr_assert(fd >= 0);
    cr_assert_eq(write(fd, text, strlen(text)), (ssize_t)strlen(text));
    cr_assert_eq(fchmod(fd, mode), 0);
    close(fd);
    status s = apikeys_add_file(k, path, d);
    unlink(path);
    return s;
}

Test(apikeys, finds_only_whole_keys_after_bearer) {
    apikeys *k = NULL;
    diag d;
    cr_assert_eq(apikeys_open(&k), STATUS_OK);
    cr_assert_eq(apikeys_add(k, str_from("first-key"), &d), STATUS_OK);
    cr_assert_eq(apikeys_add(k, str_from("second-key"), &d), STATUS_OK);
    static const struct {
        const char *header;
        int32_t found;
    } rows[] = {
        {"Bearer first-key", 0},
        {"Bearer second-key", 1},
        {"bearer first-key", 0},
        {"BEARER first-key", 0},
        {"", -1},
        {"first-key", -1},
        {"Bearer", -1},
        {"Bearer ", -1},
        {"Bearer  first-key", -1},
        {"Bearer first-ke", -1},
        {"Bearer first-key ", -1},
        {"Bearer first-keys", -1},
        {"Bearer First-key", -1},
        {"Bearer first-key,second-key", -1},
        {"Basic first-key", -1},
        {"Bearer\tfirst-key", -1},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        cr_expect_eq(apikeys_find(k, str_from(rows[i].header)), rows[i].found, "%s",
                     rows[i].header);
    }
    char long_header[2000];
    memset(long_header, 'a', sizeof long_header);
    memcpy(long_header, "Bearer ", 7);
    cr_expect_eq(apikeys_find(k, str_of(long_header, sizeof long_header)), -1);
    apikeys_close(k);
}

Test(apikeys, refuses_keys_that_cannot_be_sent) {
    apikeys *k = NULL;
    diag d;
    cr_assert_eq(apikeys_open(&k), STATUS_OK);
    static const char *const bad[] = {"", "short", "with blank", "with\nline", "caf\xC3\xA9-cafe"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        cr_expect_eq(apikeys_add(k, str_from(bad[i]), &d), STATUS_INVALID, "%s", bad[i]);
    }
    for (int i = 0; i < LIMIT_API_KEYS; i++) {
        char key[32];
        snprintf(key, sizeof key, "key-number-%d", i);
        cr_assert_eq(apikeys_add(k, str_from(key), &d), STATUS_OK);
    }
    cr_expect_eq(apikeys_add(k, str_from("one-too-many"), &d), STATUS_LIMIT);
    cr_expect_eq(apikeys_count(k), LIMIT_API_KEYS);
    apikeys_close(k);
}

Test(apikeys, reads_files) {
    static const struct {
        const char *text;
        mode_t mode;
        status code;
        int32_t count;
        const char *why; /* part of the refusal */
    } rows[] = {
        {"", 0600, STATUS_OK, 0, NULL},
        {"# comment\n\n  key-number-1  \r\nkey-number-2", 0600, STATUS_OK, 2, NULL},
        {"key-number-1\n", 0644, STATUS_INVALID, 0, "line 1"},
        {"key-number-1\n", 0640, STATUS_INVALID, 0, "chmod 600"},
        {"sha256:" HASHED "\n", 0644, STATUS_OK, 1, NULL},
        {"sha256:5CEC\n", 0600, STATUS_INVALID, 0, "64 hex"},
        {"good-key-1\nsha256:xyz\n", 0600, STATUS_INVALID, 1, "line 2"},
        {"good-key-1\nbad key two\n", 0600, STATUS_INVALID, 1, "line 2"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        apikeys *k = NULL;
        diag d = {.code = STATUS_OK};
        cr_assert_eq(apikeys_open(&k), STATUS_OK);
        cr_expect_eq(load(k, rows[i].text, rows[i].mode, &d), rows[i].code, "row %zu: %s", i,
                     d.text);
        cr_expect_eq(apikeys_count(k), rows[i].count, "row %zu", i);
        cr_expect(rows[i].why == NULL || strstr(d.text, rows[i].why) != NULL, "row %zu: %s", i,
                  d.text);
        apikeys_close(k);
    }
    apikeys *k = NULL;
    diag d;
    cr_assert_eq(apikeys_open(&k), STATUS_OK);
    cr_expect_eq(apikeys_add_file(k, "/nonexistent/keys", &d), STATUS_IO);
    apikeys_close(k);
}

Test(apikeys, a_keys_identity_does_not_depend_on_the_others) {
    apikeys *a = NULL, *b = NULL;
    diag d;
    uint64_t names[4][2];
    cr_assert_eq(apikeys_open(&a), STATUS_OK);
    cr_assert_eq(apikeys_open(&b), STATUS_OK);
    cr_assert_eq(load(a, "the-key-of-alice\nthe-key-of-bob\n", 0600, &d), STATUS_OK);
    cr_assert_eq(load(b, "the-key-of-bob\nthe-key-of-alice\n", 0600, &d), STATUS_OK);
    apikeys_identity(a, 0, names[0]);
    apikeys_identity(a, 1, names[1]);
    apikeys_identity(b, 1, names[2]);
    apikeys_identity(b, 0, names[3]);
    cr_assert_arr_eq(names[0], names[2], sizeof names[0]);
    cr_assert_arr_eq(names[1], names[3], sizeof names[0]);
    cr_assert_neq(names[0][0], names[1][0]);
    cr_assert_neq(names[0][1], names[1][1]);
    apikeys_close(a);
    apikeys_close(b);
}

/* The digest is of the key's bytes, as sha256sum prints it. */
Test(apikeys, accepts_a_key_by_its_digest) {
    apikeys *k = NULL;
    diag d;
    cr_assert_eq(apikeys_open(&k), STATUS_OK);
    cr_assert_eq(
        load(k, "sha256:2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b\n", 0644,
             &d),
        STATUS_OK);
    cr_expect_eq(apikeys_find(k, str_from("Bearer secret")), 0);
    cr_expect_eq(apikeys_find(k, str_from("Bearer secret2")), -1);
    apikeys_close(k);
}
