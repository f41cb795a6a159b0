/* log_test.c -- the bytes of a log line, read back from standard error. */
#define _GNU_SOURCE
#include "engine/base/log.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static char line[2 * LOG_LINE_BYTES];

/* What `log_write` puts on standard error. */
static size_t capture(log_level level, const char *event, const char *fields) {
    int pipe_fds[2];
    cr_assert_eq(pipe(pipe_fds), 0);
    int saved = dup(STDERR_FILENO);
    cr_assert_geq(dup2(pipe_fds[1], STDERR_FILENO), 0);
    log_write(level, "link", event, "%s", fields);
    cr_assert_geq(dup2(saved, STDERR_FILENO), 0);
    (void)close(saved);
    (void)close(pipe_fds[1]);
    ssize_t bytes = read(pipe_fds[0], line, sizeof line - 1);
    (void)close(pipe_fds[0]);
    cr_assert_gt(bytes, 0);
    line[bytes] = '\0';
    return (size_t)bytes;
}

static const char *after_time(void) {
    int year, month, day, hour, minute, second, ms;
    cr_assert_eq(
        sscanf(line, "%d-%d-%dT%d:%d:%d.%dZ", &year, &month, &day, &hour, &minute, &second, &ms),
        7);
    return strchr(line, ' ') + 1;
}

Test(log, text_lines_have_level_process_component_event_fields) {
    log_setup(LOG_INFO, false, "decode-0");
    (void)capture(LOG_WARN, "joined", "peer=prefill-0 epoch=3");
    cr_assert_str_eq(after_time(), "warn  decode-0 link: joined peer=prefill-0 epoch=3\n");
    (void)capture(LOG_ERROR, "gone", "");
    cr_assert_str_eq(after_time(), "error decode-0 link: gone\n");
}

Test(log, json_lines_are_objects_with_escaped_fields) {
    log_setup(LOG_INFO, true, "gateway");
    (void)capture(LOG_INFO, "refused", "text=\"a\\b\"\n\x01");
    cr_assert_not_null(strstr(line,
                              "\"level\":\"info\",\"process\":\"gateway\",\"component\":\"link\","
                              "\"event\":\"refused\","
                              "\"fields\":\"text=\\\"a\\\\b\\\"\\u000a\\u0001\"}\n"),
                       "%s", line);
}

Test(log, broken_utf8_never_reaches_the_line) {
    log_setup(LOG_INFO, true, "gateway");
    (void)capture(LOG_INFO, "got", "a=\xc3\xa4 b=\xff c=\xe2\x82");
    cr_assert_not_null(strstr(line, "a=\xc3\xa4 b=\\ufffd c=\\ufffd\\ufffd\"}\n"), "%s", line);
    log_setup(LOG_INFO, false, "gateway");
    (void)capture(LOG_INFO, "got", "a=\xc3\xa4 b=\xff");
    cr_assert_not_null(strstr(line, "a=\xc3\xa4 b=\\xff\n"), "%s", line);
}

Test(log, control_bytes_cannot_forge_a_line) {
    log_setup(LOG_INFO, false, "gateway");
    size_t bytes = capture(LOG_INFO, "got", "text=evil\n2030-01-01 error");
    cr_assert_eq(strchr(line, '\n'), line + bytes - 1);
}

Test(log, long_lines_are_cut_and_still_end) {
    char text[2 * LOG_LINE_BYTES];
    memset(text, 'x', sizeof text - 1);
    text[sizeof text - 1] = '\0';
    for (int json = 0; json < 2; json++) {
        log_setup(LOG_INFO, json, "p");
        size_t bytes = capture(LOG_INFO, "long", text);
        cr_assert_leq(bytes, LOG_LINE_BYTES);
        cr_assert_eq(line[bytes - 1], '\n');
        if (json) {
            cr_assert_str_eq(line + bytes - 3, "\"}\n");
        }
    }
}

Test(log, levels_have_names_and_filter) {
    cr_assert_str_eq(log_level_names[LOG_WARN], "warn");
    cr_assert_str_eq(log_level_names[LOG_OFF], "off");
    cr_assert_null(log_level_names[LOG_OFF + 1]);
    log_setup(LOG_WARN, false, "p");
    cr_assert(log_enabled(LOG_ERROR) && !log_enabled(LOG_INFO));
    log_setup(LOG_OFF, false, "p");
    cr_assert_not(log_enabled(LOG_ERROR));
}
