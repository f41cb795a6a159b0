/* metrics_format.h -- the bytes of a metrics snapshot, and the text made from them.
 *
 * Purpose    The one description of a series that both a snapshot and the text page are made of.
 *            metrics.h is what callers use; this header is shared by metrics*.c.
 * Ownership  A sample borrows everything it points to.
 * Threads    Pure functions.
 * Limits     A snapshot comes from another process: every length is checked, names and labels must
 *            be well formed (they are printed), a histogram's bounds must rise.
 */
#ifndef ENGINE_BASE_METRICS_FORMAT_H
#define ENGINE_BASE_METRICS_FORMAT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/base/str.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum {
    METRICS_NONE,
    METRICS_COUNTER,
    METRICS_GAUGE,
    METRICS_HISTOGRAM,
    METRICS_KINDS
} metrics_kind;

typedef struct {
    metrics_kind kind;
    str name;
    str help;
    str labels;            /* what stands between the braces */
    double scale;          /* exported = counted * scale; a gauge is exported as it is */
    uint64_t value;        /* counter: the count; gauge: bits of a double; histogram: the sum */
    uint32_t bounds_count; /* histograms */
    const uint8_t *bounds; /* [bounds_count] uint64, little-endian, maybe unaligned */
    const uint8_t *counts; /* [bounds_count + 1] uint64, likewise */
} metrics_format_sample;

/* [a-zA-Z_:][a-zA-Z0-9_:]*, and short enough. */
bool metrics_format_name_ok(str name);

/* name="value" pairs parted by commas, or nothing; values escaped, without control bytes. */
bool metrics_format_labels_ok(str labels);

/* A snapshot is a start and then samples. */
void metrics_format_start(strbuf *out);
void metrics_format_put(const metrics_format_sample *s, strbuf *out);

typedef enum {
    METRICS_FORMAT_SAMPLE,
    METRICS_FORMAT_END,
    METRICS_FORMAT_BAD
} metrics_format_result;

/* Reads the sample at `*at` (0 at first) and moves on. */
metrics_format_result metrics_format_next(str snapshot, size_t *at, metrics_format_sample *out);

#ifdef __cplusplus
}
#endif
#endif
