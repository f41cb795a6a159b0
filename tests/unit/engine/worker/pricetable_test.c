/* pricetable_test.c -- prices are found by name; what is no price is refused with its line. */
#define _GNU_SOURCE
#include "engine/worker/pricetable.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char *const names[] = {"sm_90", "cuda"};
static pricetable_entry entry;
static diag why;

static status find(const char *text) {
    return pricetable_find(str_from(text), names, 2, &entry, &why);
}

Test(pricetable, a_device_has_a_price_and_perhaps_peaks) {
    cr_assert_eq(find("# an hour\n\nother = 9\n sm_90 = 2.5 989 4800 # list price\r\n"), STATUS_OK);
    cr_expect(entry.priced);
    cr_expect_float_eq(entry.price_per_hour, 2.5, 0);
    cr_expect_float_eq(entry.peak_tflops, 989, 0);
    cr_expect_float_eq(entry.peak_gbps, 4800, 0);
    cr_assert_eq(find("cuda=2"), STATUS_OK);
    cr_expect(entry.priced);
    cr_expect_float_eq(entry.peak_tflops, 0, 0);
}

Test(pricetable, the_more_exact_name_wins_wherever_it_stands) {
    cr_assert_eq(find("sm_90 = 3\ncuda = 1\n"), STATUS_OK);
    cr_expect_float_eq(entry.price_per_hour, 3, 0);
    cr_assert_eq(find("cuda = 1\nsm_90 = 3\n"), STATUS_OK);
    cr_expect_float_eq(entry.price_per_hour, 3, 0);
}

Test(pricetable, a_device_that_is_not_in_it_has_no_price) {
    cr_assert_eq(find("sm_100 = 5\n"), STATUS_OK);
    cr_expect_not(entry.priced);
    cr_assert_eq(find(""), STATUS_OK);
    cr_expect_not(entry.priced);
}

Test(pricetable, nonsense_is_refused_with_its_line) {
    const char *bad[] = {
        "cuda",        "cuda =",         "= 3",        "cuda = x",    "cuda = -1",
        "cuda = 1e10", "cuda = 1 2 3 4", "cuda = nan", "cuda = 1, 2", "cuda = 0x10"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        char text[64];
        snprintf(text, sizeof text, "other = 1\n%s\n", bad[i]);
        cr_assert_eq(find(text), STATUS_INVALID, "%s", bad[i]);
        cr_assert_not_null(strstr(why.text, "line 2"), "%s", why.text);
    }
}

Test(pricetable, a_file_that_is_not_there_or_too_long_is_named) {
    char path[] = "/tmp/pricetable-XXXXXX";
    int fd = mkstemp(path);
    cr_assert_geq(fd, 0);
    cr_assert_eq(write(fd, "cuda = 2\n", 9), 9);
    cr_assert_eq(pricetable_read(path, names, 2, &entry, &why), STATUS_OK);
    cr_expect_float_eq(entry.price_per_hour, 2, 0);
    cr_assert_eq(ftruncate(fd, PRICETABLE_BYTES + 1), 0);
    cr_assert_neq(pricetable_read(path, names, 2, &entry, &why), STATUS_OK);
    cr_expect_not_null(strstr(why.text, path), "%s", why.text);
    close(fd);
    unlink(path);
    cr_assert_eq(pricetable_read(path, names, 2, &entry, &why), STATUS_IO);
    cr_expect_not_null(strstr(why.text, path), "%s", why.text);
}
