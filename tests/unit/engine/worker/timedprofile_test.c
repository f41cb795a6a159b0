/* timedprofile_test.c -- profiles are read strictly, and their arithmetic is what they say. */
#define _GNU_SOURCE
#include "engine/worker/timedprofile.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static status read_text(const char *text, timedprofile *p, diag *d) {
    char path[64];
    snprintf(path, sizeof path, "/tmp/timedprofile_test.%d", (int)getpid());
    FILE *f = fopen(path, "w");
    cr_assert_not_null(f);
    fputs(text, f);
    fclose(f);
    status s = timedprofile_read(path, p, d);
    unlink(path);
    return s;
}

Test(timedprofile, a_file_overrides_the_defaults) {
    timedprofile all, some;
    diag d;
    cr_assert_eq(timedprofile_read(NULL, &all, &d), STATUS_OK);
    cr_assert_gt(all.prefill_token_us, 0);
    cr_assert_eq(read_text("# a comment\ndecode-us = 12.5\nkv-pages = 99\n", &some, &d), STATUS_OK,
                 "%s", d.text);
    cr_assert_eq(some.decode_us, 12.5);
    cr_assert_eq(some.kv_pages, 99);
    cr_assert_eq(some.prefill_token_us, all.prefill_token_us);
}

Test(timedprofile, errors_name_the_line_and_the_option) {
    static const struct {
        const char *text, *word;
    } wrong[] = {{"decode-us = -1\n", "decode-us"},
                 {"decode-us = nan\n", "decode-us"},
                 {"kv-pages = many\n", "kv-pages"},
                 {"kv-bytes-per-token = 0\n", "kv-bytes-per-token"},
                 {"start-ms = 1\nstart-ms = 2\n", "twice"},
                 {"decode = 5\n", "decode"}};
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        timedprofile p;
        diag d = {0};
        cr_expect_neq(read_text(wrong[i].text, &p, &d), STATUS_OK, "%s", wrong[i].text);
        cr_expect_not_null(strstr(d.text, wrong[i].word), "%s: %s", wrong[i].text, d.text);
    }
    timedprofile p;
    diag d;
    cr_expect_neq(timedprofile_read("/no/such/profile", &p, &d), STATUS_OK);
    cr_expect_not_null(strstr(d.text, "/no/such/profile"));
}

Test(timedprofile, a_step_is_the_larger_fixed_part_and_all_variable_parts) {
    timedprofile p = {.prefill_us = 1000,
                      .prefill_token_us = 10,
                      .prefill_context_us = 2,
                      .decode_us = 3000,
                      .decode_seq_us = 100,
                      .decode_context_us = 0.5};
    timedprofile_work prefill = {.prefill_rows = 32, .prefill_context = 64};
    timedprofile_work decode = {.decode_rows = 4, .decode_context = 200};
    timedprofile_work both = {32, 64, 4, 200}, none = {0};
    cr_expect_eq(timedprofile_step_us(&p, &prefill), 1000 + 320 + 128);
    cr_expect_eq(timedprofile_step_us(&p, &decode), 3000 + 400 + 100);
    cr_expect_eq(timedprofile_step_us(&p, &both), 3000 + 448 + 500);
    cr_expect_eq(timedprofile_step_us(&p, &none), 0);
    p.prefill_token_us = 1e9;
    cr_expect_eq(timedprofile_step_us(&p, &prefill), (int64_t)TIMEDPROFILE_STEP_US_MAX);
}

Test(timedprofile, a_transfer_lasts_bytes_over_bandwidth) {
    timedprofile p = {.kv_gbps = 2, .kv_bytes_per_token = 20000};
    cr_expect_eq(timedprofile_transfer_us(&p, 100), 1000);
    p.kv_gbps = 0;
    cr_expect_eq(timedprofile_transfer_us(&p, 100), 0);
}
