/* clusterkey_test.c -- where a key comes from, which are refused, and where none is needed. */
#define _GNU_SOURCE
#include "engine/net/clusterkey.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "engine/base/log.h"

static const char *write_key(const char *text, size_t bytes) {
    static char path[64];
    snprintf(path, sizeof path, "/tmp/clusterkey_test.%d", (int)getpid());
    FILE *f = fopen(path, "wb");
    cr_assert_not_null(f);
    fwrite(text, 1, bytes, f);
    fclose(f);
    return path;
}

Test(clusterkey, a_file_and_the_environment_give_the_same_key) {
    clusterkey a, b, c;
    diag d;
    log_setup(LOG_OFF, false, "test");
    static const char text[] = "  sixteen bytes or more\r\n";
    const char *path = write_key(text, sizeof text - 1);
    cr_assert_eq(clusterkey_read(path, &a, &d), STATUS_OK, "%s", d.text);
    setenv("WEIR_CLUSTER_KEY", "sixteen bytes or more", 1);
    cr_assert_eq(clusterkey_read(NULL, &b, &d), STATUS_OK);
    setenv("WEIR_CLUSTER_KEY", "sixteen bytes or more.", 1);
    cr_assert_eq(clusterkey_read(NULL, &c, &d), STATUS_OK);
    unlink(path);
    cr_assert(a.given && b.given && c.given);
    cr_assert_arr_eq(a.key, b.key, sizeof a.key);
    cr_assert_arr_neq(a.key, c.key, sizeof a.key);
}

Test(clusterkey, each_purpose_has_a_secret_of_its_own) {
    clusterkey a = {.given = true, .key = {1}}, b = {.given = true, .key = {2}};
    uint8_t out[4][HANDSHAKE_KEY_BYTES];
    clusterkey_derive(&a, "one", out[0]);
    clusterkey_derive(&a, "one", out[1]);
    clusterkey_derive(&a, "two", out[2]);
    clusterkey_derive(&b, "one", out[3]);
    cr_assert_arr_eq(out[0], out[1], sizeof out[0]);
    cr_assert_arr_neq(out[0], out[2], sizeof out[0]);
    cr_assert_arr_neq(out[0], out[3], sizeof out[0]);
    cr_assert_arr_neq(out[0], a.key, sizeof out[0], "it tells nothing of the key");
}

Test(clusterkey, too_short_too_long_and_missing_are_refused) {
    clusterkey k;
    diag d;
    static char big[CLUSTERKEY_BYTES_MAX + 1];
    memset(big, 'x', sizeof big);
    log_setup(LOG_OFF, false, "test");
    const struct {
        const char *text;
        size_t bytes;
        status want;
    } cases[] = {{"", 0, STATUS_INVALID},
                 {"123456789012345\n\n", 17, STATUS_INVALID},
                 {"1234567890123456\n", 17, STATUS_OK},
                 {big, sizeof big, STATUS_INVALID},
                 {big, sizeof big - 1, STATUS_OK}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const char *path = write_key(cases[i].text, cases[i].bytes);
        cr_assert_eq(clusterkey_read(path, &k, &d), cases[i].want, "case %zu", i);
        cr_assert_eq(k.given, cases[i].want == STATUS_OK);
        unlink(path);
    }
    cr_assert_eq(clusterkey_read("/nonexistent/key", &k, &d), STATUS_IO);
    cr_assert(str_find(str_from(d.text), str_from("/nonexistent/key"), 0) != SIZE_MAX);
}

Test(clusterkey, only_loopback_goes_without) {
    unsetenv("WEIR_CLUSTER_KEY");
    clusterkey none, some = {.given = true};
    hostport here, there, any;
    diag d;
    cr_assert_eq(clusterkey_read(NULL, &none, &d), STATUS_OK);
    cr_assert_not(none.given);
    cr_assert_eq(hostport_parse(str_from("127.0.0.1:1"), true, &here, &d), STATUS_OK);
    cr_assert_eq(hostport_parse(str_from("10.0.0.1:1"), true, &there, &d), STATUS_OK);
    cr_assert_eq(hostport_parse(str_from("0.0.0.0:1"), true, &any, &d), STATUS_OK);
    cr_assert_eq(clusterkey_check(&none, &here, "join", &d), STATUS_OK);
    cr_assert_eq(clusterkey_check(&some, &there, "join", &d), STATUS_OK);
    cr_assert_eq(clusterkey_check(&none, &there, "join", &d), STATUS_INVALID);
    cr_assert_str_eq(d.param, "join");
    cr_assert(str_find(str_from(d.text), str_from("--cluster-key-file"), 0) != SIZE_MAX);
    cr_assert_eq(clusterkey_check(&none, &any, "listen", &d), STATUS_INVALID);
}
