/* log.h -- structured log lines on standard error.
 *
 * Purpose    One line an event: time, level, component, a constant message, then key=value pairs.
 *            `--log-json` writes the same as JSON objects.
 * Ownership  None; format strings are static.
 * Threads    Any; a line is written by one write(2), so lines never mix.
 * Limits     A line is cut at LOG_LINE_BYTES. Never in a per-token path: count a metric there.
 */
#ifndef ENGINE_BASE_LOG_H
#define ENGINE_BASE_LOG_H

#include <stdbool.h>

#include "engine/base/status.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { LOG_LINE_BYTES = 2048 };

typedef enum { LOG_DEBUG, LOG_INFO, LOG_WARN, LOG_ERROR, LOG_OFF } log_level;

extern const char *const log_level_names[]; /* of each log_level, then NULL */

/* Call before threads start. `process` names this process in every line ("gateway",
 * "decode-0"); it is copied. */
void log_setup(log_level level, bool json, const char *process);

bool log_enabled(log_level level);

/* `event` is a short constant phrase; `format` makes the "key=value key=value" tail, "" for none.
 * Values with blanks are the caller's to quote. */
void log_write(log_level level, const char *component, const char *event, const char *format, ...)
    PRINTF_LIKE(4, 5);

#define LOG(level, component, event, ...)                          \
    do {                                                           \
        if (log_enabled(LOG_##level)) {                            \
            log_write(LOG_##level, component, event, __VA_ARGS__); \
        }                                                          \
    } while (0)

#ifdef __cplusplus
}
#endif
#endif
