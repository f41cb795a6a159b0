/* traceparent_test.c -- the headers of W3C Trace Context: its own examples, and what it forbids. */
#include "server/http/traceparent.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>

/* The example of the specification's section 3.2. */
#define EXAMPLE "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"

static bool reads(const char *text) {
    traceparent t = {.span = 77};
    bool ok = traceparent_read(str_from(text), &t);
    cr_assert(ok || t.span == 77, "a refused header leaves nothing: %s", text);
    return ok;
}

Test(traceparent, reads_the_examples_of_the_specification) {
    traceparent t;
    cr_assert(traceparent_read(str_from(EXAMPLE), &t));
    cr_assert_eq(t.trace_high, 0x4bf92f3577b34da6u);
    cr_assert_eq(t.trace_low, 0xa3ce929d0e0e4736u);
    cr_assert_eq(t.span, 0x00f067aa0ba902b7u);
    cr_assert_eq(t.flags, TRACEPARENT_SAMPLED);
    cr_assert(
        traceparent_read(str_from("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00"), &t));
    cr_assert_eq(t.flags, 0);
    cr_assert(
        traceparent_read(str_from("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-03"), &t));
    cr_assert_eq(t.flags, TRACEPARENT_SAMPLED | TRACEPARENT_RANDOM);
}

Test(traceparent, flags_that_are_not_known_are_not_passed_on) {
    traceparent t;
    char text[TRACEPARENT_TEXT_BYTES];
    cr_assert(
        traceparent_read(str_from("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-fd"), &t));
    traceparent_write(&t, text);
    cr_assert_str_eq(text, EXAMPLE);
}

Test(traceparent, writes_what_it_reads) {
    traceparent t;
    char text[TRACEPARENT_TEXT_BYTES];
    cr_assert(traceparent_read(str_from(EXAMPLE), &t));
    traceparent_write(&t, text);
    cr_assert_str_eq(text, EXAMPLE);
    t = (traceparent){.trace_low = 1, .span = UINT64_MAX};
    traceparent_write(&t, text);
    cr_assert_str_eq(text, "00-00000000000000000000000000000001-ffffffffffffffff-00");
}

Test(traceparent, refuses_what_the_specification_forbids) {
    static const char *const bad[] = {
        "", "00",
        /* all zero ids */
        "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
        /* version ff */
        "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        /* upper case, in every field */
        "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-00F067AA0BA902B7-01",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-0A",
        "0A-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        /* not hexadecimal */
        "00-4bf92f3577b34da6a3ce929d0e0e473g-00f067aa0ba902b7-01",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902bx-01",
        "0.-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-0 ",
        /* too short, too long, wrong dashes */
        "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-1",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
        "00-4bf92f3577b34da6a3ce929d0e0e473-00f067aa0ba902b7a-01",
        "00_4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7_01", EXAMPLE "-",
        EXAMPLE "-what-the-future-will-be-like", " " EXAMPLE, EXAMPLE " ",
        EXAMPLE "," EXAMPLE, /* the header twice */
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        cr_assert(!reads(bad[i]), "%s", bad[i]);
    }
}

Test(traceparent, a_later_version_is_read_as_far_as_it_is_known) {
    cr_assert(reads("01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"));
    cr_assert(reads("cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-what-comes-then"));
    cr_assert(reads("cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-"));
    cr_assert(!reads("cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01.what"));
    cr_assert(!reads("cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-0101"));
}

Test(traceparent, a_tracestate_is_passed_on_within_its_limits) {
    char text[TRACEPARENT_STATE_BYTES + 2];
    cr_assert(traceparent_state_fits(str_from("congo=t61rcWkgMzE")));
    cr_assert(traceparent_state_fits(str_from("rojo=00f067aa0ba902b7,congo=t61rcWkgMzE")));
    cr_assert(traceparent_state_fits(str_from("foo=1 , bar=2")));
    cr_assert(!traceparent_state_fits(str_from("")));
    cr_assert(!traceparent_state_fits(str_from("a=\x01")));
    cr_assert(!traceparent_state_fits(str_from("a=\xc3\xa9")));
    cr_assert(!traceparent_state_fits(str_of("a=\0b", 4)));
    memset(text, 'a', sizeof text);
    cr_assert(traceparent_state_fits(str_of(text, TRACEPARENT_STATE_BYTES)));
    cr_assert(!traceparent_state_fits(str_of(text, TRACEPARENT_STATE_BYTES + 1)));
    size_t bytes = 0;
    for (int i = 0; i < TRACEPARENT_STATE_MEMBERS; i++) {
        bytes += (size_t)snprintf(text + bytes, sizeof text - bytes, "%sm%02d=1", i ? "," : "", i);
    }
    cr_assert(traceparent_state_fits(str_of(text, bytes)));
    (void)snprintf(text + bytes, sizeof text - bytes, ",m=1");
    cr_assert(!traceparent_state_fits(str_from(text)));
}
