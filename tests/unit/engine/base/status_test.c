/* status_test.c -- names of codes, and the text a failure leaves. */
#include "engine/base/status.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <signal.h>
#include <string.h>

#include "engine/base/check.h"

Test(status, every_code_has_a_name_and_a_sentence) {
#define ROW(name, code, text)                             \
    cr_assert_str_eq(status_name((status)(code)), #name); \
    cr_assert_str_eq(status_text(STATUS_##name), text);
    STATUS_MAP(ROW)
#undef ROW
    cr_assert_str_eq(status_name((status)99), "UNKNOWN");
    cr_assert_str_eq(status_text((status)99), "unknown status");
}

Test(status, a_failure_is_one_statement) {
    diag d;
    cr_assert_eq(status_fail(&d, STATUS_CORRUPT, "tensor %d", 7), STATUS_CORRUPT);
    cr_assert(d.code == STATUS_CORRUPT && d.param[0] == '\0');
    cr_assert_str_eq(d.text, "tensor 7");
    cr_assert_eq(status_fail_param(&d, STATUS_INVALID, "n", "too many"), STATUS_INVALID);
    cr_assert_str_eq(d.param, "n");
    errno = ENOENT;
    cr_assert_eq(status_fail_errno(&d, STATUS_IO, "open %s", "x"), STATUS_IO);
    cr_assert_str_eq(d.text, "open x: No such file or directory");
    cr_assert_eq(status_fail(NULL, STATUS_IO, "nobody listens"), STATUS_IO);
}

Test(status, long_texts_are_cut_and_terminated) {
    char text[2 * DIAG_TEXT_BYTES];
    memset(text, 'x', sizeof text - 1);
    text[sizeof text - 1] = '\0';
    diag d;
    errno = EIO;
    (void)status_fail_errno(&d, STATUS_IO, "%s", text);
    cr_assert_eq(strlen(d.text), DIAG_TEXT_BYTES - 1);
    (void)status_fail_param(&d, STATUS_IO, text, "short");
    cr_assert_eq(strlen(d.param), sizeof d.param - 1);
}

Test(status, a_diag_is_utf8_whatever_it_quotes) {
    diag d;
    (void)status_fail(&d, STATUS_CORRUPT, "key '%.*s'", 2, "a\xC3\xA9");
    cr_assert_str_eq(d.text, "key 'a?'");
    (void)status_fail_param(&d, STATUS_CORRUPT, "\xFF\xC3\xA9", "\xE2\x82 \xC3\xA9");
    cr_assert_str_eq(d.param, "?\xC3\xA9");
    cr_assert_str_eq(d.text, "?? \xC3\xA9");
    char text[DIAG_TEXT_BYTES + 2];
    memset(text, 'x', sizeof text);
    memcpy(text + DIAG_TEXT_BYTES - 2, "\xC3\xA9", 3);
    (void)status_fail(&d, STATUS_IO, "%s", text);
    cr_assert_eq(strlen(d.text), DIAG_TEXT_BYTES - 1);
    cr_assert_eq(d.text[DIAG_TEXT_BYTES - 2], '?');
}

static status forwards(status inner, int *reached) {
    TRY(inner);
    *reached = 1;
    return STATUS_OK;
}

Test(status, try_forwards_only_failures) {
    int reached = 0;
    cr_assert_eq(forwards(STATUS_TIMEOUT, &reached), STATUS_TIMEOUT);
    cr_assert_eq(reached, 0);
    cr_assert_eq(forwards(STATUS_OK, &reached), STATUS_OK);
    cr_assert_eq(reached, 1);
}

Test(check, passes_what_holds) {
    CHECK(1 + 1 == 2);
    CHECK_EQ(2, 2);
    CHECK_LT(1, 2);
    CHECK_LE(2, 2);
}

Test(check, a_broken_invariant_aborts, .signal = SIGABRT) {
    CHECK_LT(3, 2);
}
