/* hello_test.c -- each difference between two workers is found and named. */
#include "engine/core/hello.h"

#include <criterion/criterion.h>

static message_hello sample(void) {
    return (message_hello){.version = 3,
                           .model_hash = 0x1234,
                           .vocab = 49152,
                           .context_tokens = 2048,
                           .layers = 30,
                           .block_tokens = 16,
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
        {"tokens a block", "16", "40"},
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
        b.block_tokens = i == 5 ? 40 : b.block_tokens;
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

Test(hello, models_may_be_on_any_numbers_of_devices) {
    message_hello a = sample(), b = sample(), c = sample();
    diag d;
    b.numerics = str_from("cpu:v1:int8 tp=2");
    c.numerics = str_from("cpu:v1:int tp=2");
    cr_assert(hello_rounds_alike(&a, &a) && !hello_rounds_alike(&a, &b));
    cr_assert_eq(hello_fits(&a, &b, &d), STATUS_OK);
    cr_assert_eq(hello_fits(&b, &a, &d), STATUS_OK);
    cr_assert_eq(hello_fits(&a, &c, &d), STATUS_MISMATCH);
    cr_assert_eq(hello_fits(&c, &b, &d), STATUS_MISMATCH);
    cr_assert_not_null(strstr(d.text, "cpu:v1:int tp=2"));
}

static message_hello on_gpu(uint32_t roles, const char *layout, const char *numerics,
                            uint64_t bytes) {
    message_hello h = sample();
    h.roles = roles;
    h.kv_layout = str_from(layout);
    h.numerics = str_from(numerics);
    h.kv_layer_page_bytes = bytes;
    h.transports = HELLO_BIT(HELLO_NCCL) | HELLO_BIT(HELLO_TCP);
    h.device = roles;
    return h;
}

Test(hello, decode_may_keep_smaller_kv_than_prefill_on_gpus_and_between_devices_alone) {
    enum { P = MESSAGE_ROLE_PREFILL, D = MESSAGE_ROLE_DECODE, F = MESSAGE_ROLE_FLIPS };
    static const char f16[] = "k16-v16/f16/64", int8[] = "k16-v16/int8/64";
    static const char wide[] = "cuda-2/sm_90 act=int8 kv=f16 w=q8_0";
    static const char narrow[] = "cuda-2/sm_90 act=int8 kv=int8 w=q8_0";
    message_hello p = on_gpu(P, f16, wide, 200), d = on_gpu(D, int8, narrow, 108);
    diag why;
    hello_transport t;
    cr_assert(hello_converts(&p, &d) && hello_converts(&d, &p));
    cr_assert_eq(hello_fits(&p, &d, &why), STATUS_OK);
    cr_assert_eq(hello_carries(&p, &d, UINT32_MAX, &t, &why), STATUS_OK);
    cr_assert_eq(t, HELLO_NCCL);
    cr_assert_eq(hello_carries(&p, &d, HELLO_BIT(HELLO_TCP), &t, &why), STATUS_MISMATCH);
    cr_assert_not_null(strstr(why.text, "KV is f16 here and int8 there"));
    message_hello near_p = p, near_d = d;
    near_p.device = near_d.device = 0x100000001;
    near_p.transports = near_d.transports = HELLO_BIT(HELLO_IPC) | HELLO_BIT(HELLO_SHM);
    cr_assert_eq(hello_carries(&near_p, &near_d, UINT32_MAX, &t, &why), STATUS_OK);
    cr_assert_eq(t, HELLO_IPC);
    message_hello two = on_gpu(D, int8, "cuda-2/sm_90 act=int8 kv=int8 w=q8_0 tp=2", 108);
    cr_assert(hello_converts(&p, &two) && !hello_rounds_alike(&p, &two));
    cr_assert_eq(hello_fits(&p, &two, &why), STATUS_OK);
    const message_hello wrong[] = {
        on_gpu(P, int8, narrow, 108),
        on_gpu(D | F, int8, narrow, 108),
        on_gpu(P | D, int8, narrow, 108),
        on_gpu(D, int8, narrow, 201),
        on_gpu(D, "k16-v16/int8/128", narrow, 108),
        on_gpu(D, "int8", narrow, 108),
        on_gpu(D, "k16-v16/", narrow, 108),
        on_gpu(D, int8, "cuda-2/sm_80 act=int8 kv=int8 w=q8_0", 108),
        on_gpu(D, int8, "cuda-2/sm_90 act=int8 kv=int8", 108),
        on_gpu(D, int8, "cuda-2/sm_90 act=int8", 108),
        on_gpu(D, int8, "", 108),
    };
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        cr_assert_not(hello_converts(&p, &wrong[i]), "%zu", i);
        cr_assert_eq(hello_fits(&wrong[i], &p, &why), STATUS_MISMATCH, "%zu", i);
    }
    message_hello cpu[] = {on_gpu(P, f16, "cpu-2 kv=f16", 200),
                           on_gpu(D, int8, "cpu-2 kv=int8", 108)};
    cr_assert_not(hello_converts(&cpu[0], &cpu[1]));
    message_hello other = on_gpu(D, f16, wide, 200);
    cr_assert_eq(hello_fits(&p, &other, &why), STATUS_OK);
    cr_assert_eq(hello_fits(&d, &other, &why), STATUS_MISMATCH, "decode workers are alike");
}

Test(hello, blocks_may_be_of_any_two_sizes_of_whole_pages) {
    message_hello a = sample(), b = sample();
    diag d;
    for (uint32_t tokens = 0; tokens <= 512; tokens++) {
        b.block_tokens = tokens;
        status want = tokens > 0 && tokens % 16 == 0 && tokens <= 256 ? STATUS_OK : STATUS_MISMATCH;
        cr_assert_eq(hello_fits(&a, &b, &d), want, "%u", tokens);
        cr_assert_eq(hello_fits(&b, &a, &d), want, "%u", tokens);
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

Test(hello, both_ends_take_the_best_transport_that_both_may_use) {
    enum { L = 1, S = 2, I = 4, N = 8, T = 16, NO = HELLO_TRANSPORTS, FAR = 99 };
    static const struct {
        uint32_t mine, theirs, reach, device;
        int want;
    } cases[] = {
        {S | T, S | T, S, 0, HELLO_SHM},
        {S | T, S | T, N | T, 0, HELLO_TCP},
        {S | N | T, S | N | T, S, 1, HELLO_SHM},
        {S | N | T, S | N | T, N | T, 1, HELLO_NCCL},
        {S | N | T, S | T, N | T, 1, HELLO_TCP},
        {N, S | T, N | T, 1, NO},
        {T, N, N | T, 1, NO},
        {S | N | T, N | T, N | T, 0, HELLO_TCP},
        {N, N, N | T, 0, NO},
        {L, L, S, 0, NO},
        {L | S, L | S, L | S, 0, HELLO_LOCAL},
        {0, ~0u, ~0u, 0, NO},
        {~0u << 5, ~0u << 5, ~0u, 1, NO},
        {S | I | N | T, S | I | N | T, I | N | T, 1, HELLO_IPC}, /* two devices of a host */
        {I | N | T, I | N | T, I | N | T, 0, HELLO_IPC},         /* two processes on one */
        {I | N | T, I | N | T, I | N | T, FAR, HELLO_NCCL},
        {I | N | T, N | T, I | N | T, 1, HELLO_NCCL},
        {I, I | T, I | N | T, FAR, NO},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        message_hello a = sample(), b = sample();
        hello_transport ab = HELLO_TRANSPORTS, ba = HELLO_TRANSPORTS;
        diag d;
        a.transports = cases[i].mine;
        b.transports = cases[i].theirs;
        a.device = 7;
        b.device = 7 + cases[i].device; /* 0: the same one */
        a.device += 1ull << 32;
        b.device += cases[i].device == FAR ? 2ull << 32 : 1ull << 32;
        status s = hello_carries(&a, &b, cases[i].reach, &ab, &d);
        cr_assert_eq(s, cases[i].want == NO ? STATUS_MISMATCH : STATUS_OK, "case %zu", i);
        cr_assert_eq(hello_carries(&b, &a, cases[i].reach, &ba, &d), s);
        cr_assert_eq(ab, (hello_transport)cases[i].want, "case %zu", i);
        cr_assert_eq(ab, ba);
        cr_assert(s == STATUS_OK || strcmp(d.param, "KV transport") == 0);
    }
}

Test(hello, what_nothing_can_carry_is_refused_with_both_lists_or_the_shared_device) {
    message_hello a = sample(), b = sample();
    hello_transport t;
    diag d;
    a.transports = HELLO_BIT(HELLO_NCCL);
    b.transports = HELLO_BIT(HELLO_SHM) | HELLO_BIT(HELLO_TCP);
    cr_assert_eq(hello_carries(&a, &b, HELLO_BIT(HELLO_NCCL) | HELLO_BIT(HELLO_TCP), &t, &d),
                 STATUS_MISMATCH);
    cr_assert(strstr(d.text, "nccl here, shm|tcp there, and the link reaches nccl|tcp"), "%s",
              d.text);
    b.transports = HELLO_BIT(HELLO_NCCL);
    a.device = b.device = 9;
    cr_assert_eq(hello_carries(&a, &b, HELLO_BIT(HELLO_NCCL), &t, &d), STATUS_MISMATCH);
    cr_assert(strstr(d.text, "same GPU"), "%s", d.text);
}

Test(hello, the_reason_for_a_transport_is_what_the_two_are_and_where) {
    enum { L = 1, S = 2, I = 4, N = 8, T = 16 };
    static const struct {
        uint32_t mine, theirs;
        uint64_t here, there;
        hello_transport t;
        hello_reason want;
    } cases[] = {
        {L | S | I | N | T, L | S | I | N | T, 0x100000001, 0x100000002, HELLO_IPC, HELLO_ONE_HOST},
        {S | I | N | T, S | I | N | T, 0x100000001, 0x200000001, HELLO_NCCL, HELLO_TWO_HOSTS},
        {S | N | T, S | I | N | T, 0x100000001, 0x100000002, HELLO_NCCL, HELLO_NO_IPC},
        {S | T, S | T, 0, 0, HELLO_SHM, HELLO_HOST_MEMORY},
        {S | T, S | I | N | T, 0, 0x100000001, HELLO_TCP, HELLO_HOST_MEMORY},
        {S | T, S | T, 0x100000001, 0x100000001, HELLO_SHM, HELLO_NO_DEVICES},
        {T, S | I | N | T, 0x100000001, 0x100000001, HELLO_TCP, HELLO_ASKED},
        {L | S, L | S, 0, 0, HELLO_LOCAL, HELLO_ONE_PROCESS},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        message_hello a = sample(), b = sample();
        a.transports = cases[i].mine;
        b.transports = cases[i].theirs;
        a.device = cases[i].here;
        b.device = cases[i].there;
        cr_assert_eq(hello_why(&a, &b, cases[i].t), cases[i].want, "case %zu", i);
        cr_assert_eq(hello_why(&b, &a, cases[i].t), cases[i].want, "case %zu", i);
    }
}

Test(hello, two_on_one_device_meet_between_devices_over_ipc_and_not_over_nccl) {
    message_hello a = sample(), b = sample();
    a.device = b.device = 0x100000001;
    a.transports = b.transports = HELLO_BIT(HELLO_IPC) | HELLO_BIT(HELLO_SHM);
    cr_assert(hello_between_devices(&a, &b));
    a.transports = b.transports = HELLO_BIT(HELLO_NCCL) | HELLO_BIT(HELLO_SHM);
    cr_assert_not(hello_between_devices(&a, &b));
    b.device++;
    cr_assert(hello_between_devices(&a, &b));
    a.transports = HELLO_BIT(HELLO_SHM) | HELLO_BIT(HELLO_TCP);
    cr_assert_not(hello_between_devices(&a, &b));
}
