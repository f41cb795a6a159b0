/* log.c -- formats a log line and writes it at once.
 *
 * Text:  2026-01-31T12:00:00.123Z INFO decode-0 link: joined peer=prefill-0 epoch=3
 * JSON:  {"time":"...","level":"info","process":"decode-0","component":"link","event":"joined",
 *         "fields":"peer=prefill-0 epoch=3"} */
#define _GNU_SOURCE
#include "engine/base/log.h"

#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <time.h>
#include <unistd.h>

#include "engine/base/clock.h"
#include "engine/base/str.h"

static log_level level_min = LOG_INFO;
static bool as_json;
static char process_name[32] = "weir";

const char *const log_level_names[] = {"debug", "info", "warn", "error", "off", NULL};

void log_setup(log_level level, bool json, const char *process) {
    level_min = level;
    as_json = json;
    (void)snprintf(process_name, sizeof process_name, "%s", process);
}

bool log_enabled(log_level level) {
    return level >= level_min;
}

static void stamp(char out[32]) {
    int64_t us = clock_wall_us();
    time_t seconds = (time_t)(us / 1000000);
    struct tm t;
    (void)gmtime_r(&seconds, &t);
    size_t n = strftime(out, 32, "%Y-%m-%dT%H:%M:%S", &t);
    (void)snprintf(out + n, 32 - n, ".%03dZ", (int)(us / 1000 % 1000));
}

/* Copies `text` as the inside of a JSON string, or as one line of text: no control bytes, and only
 * whole UTF-8 (what is logged may be cut, or come from outside). */
static size_t put_clean(char *out, size_t room, const char *text, bool json) {
    size_t left = strlen(text);
    size_t n = 0;
    while (left && n + 7 < room) {
        unsigned char c = (unsigned char)*text;
        uint32_t code_point;
        int bytes = str_utf8_next(text, left, &code_point);
        if (bytes <= 0) {
            n += (size_t)snprintf(out + n, room - n, json ? "\\ufffd" : "\\x%02x", c);
            bytes = 1;
        } else if (json && (c == '"' || c == '\\')) {
            out[n++] = '\\';
            out[n++] = (char)c;
        } else if (c < 0x20 || c == 0x7F) {
            n += (size_t)snprintf(out + n, room - n, json ? "\\u%04x" : "\\x%02x", c);
        } else {
            memcpy(out + n, text, (size_t)bytes);
            n += (size_t)bytes;
        }
        text += bytes;
        left -= (size_t)bytes;
    }
    out[n] = '\0';
    return n;
}

void log_write(log_level level, const char *component, const char *event, const char *format, ...) {
    char fields[LOG_LINE_BYTES / 2];
    va_list args;
    va_start(args, format);
    (void)vsnprintf(fields, sizeof fields, format, args);
    va_end(args);

    char time_text[32];
    stamp(time_text);
    char clean[LOG_LINE_BYTES - 256];
    (void)put_clean(clean, sizeof clean, fields, as_json);
    char line[LOG_LINE_BYTES];
    int n;
    if (as_json) {
        n = snprintf(line, sizeof line,
                     "{\"time\":\"%s\",\"level\":\"%s\",\"process\":\"%s\",\"component\":\"%s\","
                     "\"event\":\"%s\",\"fields\":\"%s\"}\n",
                     time_text, log_level_names[level], process_name, component, event, clean);
    } else {
        n = snprintf(line, sizeof line, "%s %-5s %s %s: %s%s%s\n", time_text,
                     log_level_names[level], process_name, component, event, clean[0] ? " " : "",
                     clean);
    }
    if (n > (int)sizeof line - 1) {
        n = (int)sizeof line - 1;
        line[n - 1] = '\n';
    }
    ssize_t written = write(STDERR_FILENO, line, (size_t)n);
    (void)written;
}
