/* hello_test.c -- each difference between two workers is found and named. */
#include "engine/core/hello.h"

#include <criterion/criterion.h>

static message_hello sample(void) {
    return (message_hello){.version = 3,
                           .model_hash = 0x1234,
                           .vocab = 49152,
                           .context_tokens = 2048,
                           .layers = 30,
                           .page_tokens = 16,
                           .kv_layer_page_bytes = 12288,
                           .kv_layout = str_from("k,v:head-major:f16"),
                           .numerics = str_from("cpu:v1:int8"),
                           .address = str_from("10.0.0.1:7001")};
}

Test(hello, equal_workers_fit) {
    message_hello a = sample(), b = sample();
    char copy[] = "k,v:head-major:f16"; /* equal by content, not by address */
    b.kv_layout = str_from(copy);
    b.worker = 7; /* what tells workers apart does not part them */
    b.epoch = 99;
    b.roles = 2;
    b.pages = 12;
    b.address = str_from("10.0.0.2:7001");
    diag d;
    cr_assert_eq(hello_fits(&a, &b, &d), STATUS_OK);
}

Test(hello, every_single_difference_is_refused_by_name) {
    static const struct {
        const char *param, *mine, *theirs;
    } cases[] = {
        {"protocol version", "3", "4"},
        {"model", "model", "0000010000001234"},
        {"vocabulary", "49152", "49153"},
        {"context", "2048", "1024"},
        {"layers", "30", "31"},
        {"tokens a page", "16", "32"},
        {"bytes a layer page", "12288", "24576"},
        {"KV layout", "k,v:head-major:f16", "other"},
        {"numerics class", "cpu:v1:int8", "cpu:v1:int"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        message_hello a = sample(), b = sample();
        b.version += i == 0;
        b.model_hash ^= i == 1 ? (uint64_t)1 << 40 : 0;
        b.vocab += i == 2;
        b.context_tokens = i == 3 ? 1024 : b.context_tokens;
        b.layers += i == 4;
        b.page_tokens = i == 5 ? 32 : b.page_tokens;
        b.kv_layer_page_bytes = i == 6 ? 24576 : b.kv_layer_page_bytes;
        b.kv_layout = i == 7 ? str_from("other") : b.kv_layout;
        b.numerics.bytes -= i == 8;
        diag d;
        cr_assert_eq(hello_fits(&a, &b, &d), STATUS_MISMATCH, "%s", cases[i].param);
        cr_assert_str_eq(d.param, cases[i].param);
        cr_assert(str_find(str_from(d.text), str_from(cases[i].mine), 0) != SIZE_MAX, "%s", d.text);
        cr_assert(str_find(str_from(d.text), str_from(cases[i].theirs), 0) != SIZE_MAX);
        cr_assert_eq(hello_fits(&b, &a, &d), STATUS_MISMATCH);
        cr_assert_str_eq(d.param, cases[i].param);
    }
}

Test(hello, a_kept_one_needs_nothing_of_the_message) {
    char layout[] = "k,v:head-major:f16", address[] = "10.0.0.1:7001";
    message_hello a = sample(), want = sample();
    a.kv_layout = str_from(layout);
    a.address = str_from(address);
    hello_kept kept;
    hello_keep(&kept, &a);
    memset(layout, 'x', sizeof layout - 1);
    memset(address, 'x', sizeof address - 1);
    diag d;
    cr_assert_eq(hello_fits(&kept.hello, &want, &d), STATUS_OK, "%s", d.text);
    cr_assert_str_eq(kept.address, "10.0.0.1:7001");
    message_hello none = {0};
    hello_keep(&kept, &none);
    cr_assert_str_eq(kept.address, "");
}

/* Another dtype changes the bytes of a page and the numerics class as well; its name is what helps.
 */
Test(hello, caches_of_different_dtypes_are_refused_by_their_names) {
    message_hello a = sample(), b = sample();
    diag d;
    b.kv_layout = str_from("k,v:head-major:int8");
    b.kv_layer_page_bytes /= 2;
    b.numerics = str_from("class of int8");
    cr_assert_eq(hello_fits(&a, &b, &d), STATUS_MISMATCH);
    cr_assert_str_eq(d.param, "KV layout");
    cr_assert_not_null(strstr(d.text, "f16"));
    cr_assert_not_null(strstr(d.text, "int8"));
}
