/* fuzz_address.c -- what a cluster is told of by its operators and members: addresses, and the key
 * in a file. */
#include <unistd.h>

#include "engine/net/clusterkey.h"
#include "tests/fuzz/fuzz.h"

static void check_address(str text) {
    hostport a, b;
    char printed[HOSTPORT_TEXT_BYTES];
    diag d = {.code = STATUS_OK};
    status s = hostport_parse(text, true, &a, &d);
    if (s != STATUS_OK) {
        CHECK(d.code == s && d.text[0] != 0);
        return;
    }
    CHECK(hostport_port(&a) > 0 || text.data[text.bytes - 1] == '0');
    CHECK(!(hostport_is_loopback(&a) && hostport_is_any(&a)));
    hostport_print(&a, printed);
    CHECK_EQ(hostport_parse(str_from(printed), true, &b, &d), STATUS_OK);
    CHECK(a.bytes == b.bytes && memcmp(&a.any, &b.any, a.bytes) == 0);
    /* Only this machine's own address may do without a key. */
    clusterkey none = {.given = false};
    CHECK((clusterkey_check(&none, &a, "join", &d) == STATUS_OK) == hostport_is_loopback(&a));
}

static void check_key(str text) {
    char path[64];
    int fd = fuzz_file(text, path);
    clusterkey k;
    diag d = {.code = STATUS_OK};
    status s = clusterkey_read(path, &k, &d);
    CHECK(s == STATUS_OK ? k.given : d.code == s && d.text[0] != 0 && !k.given);
    CHECK(s != STATUS_OK || text.bytes >= CLUSTERKEY_BYTES_MIN);
    (void)close(fd);
}

FUZZ_TARGET(address, FUZZ_ALLOWANCE_BYTES) {
    fuzz_input in = {data, bytes, 0};
    if (fuzz_below(&in, 2) == 0) {
        check_address(fuzz_take(&in, bytes));
    } else {
        check_key(fuzz_take(&in, bytes));
    }
}
