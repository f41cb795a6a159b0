/* metrics_format.c -- writes and reads metrics snapshots.
 *
 *   "WMS1", then per series:  kind u8 | name_bytes u8 | help_bytes u16 | labels_bytes u16 |
 *   bounds_count u16 | scale f64 | value u64 | name | help | labels | bounds u64[] | counts u64[]
 *
 * Little-endian, unaligned. counts has bounds_count + 1 entries, for histograms only. */
#include "engine/base/metrics_format.h"

#include <math.h>

#include "engine/base/check.h"
#include "engine/base/limits.h"

static const char magic[4] = {'W', 'M', 'S', '1'};

enum { FIXED_BYTES = 24, HELP_BYTES_MAX = 1024 };

static bool letter(char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_';
}

static bool digit(char c) {
    return c >= '0' && c <= '9';
}

bool metrics_format_name_ok(str name) {
    if (name.bytes == 0 || name.bytes >= LIMIT_METRIC_NAME_BYTES) {
        return false;
    }
    for (size_t i = 0; i < name.bytes; i++) {
        char c = name.data[i];
        if (!letter(c) && c != ':' && !(i > 0 && digit(c))) {
            return false;
        }
    }
    return true;
}

/* Past the quoted value that starts at `at`, or SIZE_MAX. */
static size_t skip_value(str s, size_t at) {
    if (at >= s.bytes || s.data[at] != '"') {
        return SIZE_MAX;
    }
    for (at++; at < s.bytes; at++) {
        char c = s.data[at];
        if (c == '"') {
            return at + 1;
        }
        if ((unsigned char)c < 0x20) {
            return SIZE_MAX;
        }
        if (c == '\\') {
            at++;
            if (at >= s.bytes || !memchr("\\\"n", s.data[at], 3)) {
                return SIZE_MAX;
            }
        }
    }
    return SIZE_MAX;
}

bool metrics_format_labels_ok(str s) {
    size_t at = 0;
    while (at < s.bytes) {
        size_t name = at;
        while (at < s.bytes && (letter(s.data[at]) || (at > name && digit(s.data[at])))) {
            at++;
        }
        if (at == name || at >= s.bytes || s.data[at] != '=') {
            return false;
        }
        at = skip_value(s, at + 1);
        if (at == SIZE_MAX) {
            return false;
        }
        if (at == s.bytes) {
            return str_utf8_valid(s);
        }
        if (s.data[at++] != ',') {
            return false;
        }
    }
    return s.bytes == 0;
}

void metrics_format_start(strbuf *out) {
    (void)strbuf_append(out, magic, sizeof magic);
}

/* Fields are copied as they lie in memory; the machines weir runs on are little-endian. */
_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "little-endian snapshot");

void metrics_format_put(const metrics_format_sample *s, strbuf *out) {
    size_t help_bytes = s->help.bytes < HELP_BYTES_MAX ? s->help.bytes : HELP_BYTES_MAX;
    uint8_t fixed[FIXED_BYTES] = {(uint8_t)s->kind, (uint8_t)s->name.bytes};
    uint16_t sizes[3] = {(uint16_t)help_bytes, (uint16_t)s->labels.bytes,
                         (uint16_t)s->bounds_count};
    memcpy(fixed + 2, sizes, sizeof sizes);
    memcpy(fixed + 8, &s->scale, 8);
    memcpy(fixed + 16, &s->value, 8);
    (void)strbuf_append(out, fixed, sizeof fixed);
    (void)strbuf_append_str(out, s->name);
    (void)strbuf_append(out, s->help.data, help_bytes);
    (void)strbuf_append_str(out, s->labels);
    if (s->kind == METRICS_HISTOGRAM) {
        (void)strbuf_append(out, s->bounds, (size_t)s->bounds_count * 8);
        (void)strbuf_append(out, s->counts, ((size_t)s->bounds_count + 1) * 8);
    }
}

static str take(str s, size_t *at, size_t bytes) {
    CHECK(bytes <= s.bytes - *at);
    str part = str_of(s.data + *at, bytes);
    *at += bytes;
    return part;
}

static bool bounds_rise(const uint8_t *bounds, uint32_t count) {
    uint64_t before = 0;
    for (uint32_t i = 0; i < count; i++) {
        uint64_t bound;
        memcpy(&bound, bounds + (size_t)i * 8, 8);
        if (i > 0 && bound <= before) {
            return false;
        }
        before = bound;
    }
    return true;
}

static bool sample_ok(const metrics_format_sample *s) {
    return metrics_format_name_ok(s->name) && s->labels.bytes < LIMIT_METRIC_LABEL_BYTES &&
           metrics_format_labels_ok(s->labels) && str_utf8_valid(s->help) &&
           (s->help.bytes == 0 || !memchr(s->help.data, '\0', s->help.bytes)) &&
           isfinite(s->scale) &&
           (s->kind != METRICS_HISTOGRAM || bounds_rise(s->bounds, s->bounds_count));
}

metrics_format_result metrics_format_next(str snapshot, size_t *at, metrics_format_sample *out) {
    if (*at == 0) {
        if (snapshot.bytes < sizeof magic || memcmp(snapshot.data, magic, sizeof magic) != 0) {
            return METRICS_FORMAT_BAD;
        }
        *at = sizeof magic;
    }
    if (*at == snapshot.bytes) {
        return METRICS_FORMAT_END;
    }
    if (snapshot.bytes - *at < FIXED_BYTES) {
        return METRICS_FORMAT_BAD;
    }
    const uint8_t *fixed = (const uint8_t *)take(snapshot, at, FIXED_BYTES).data;
    uint16_t sizes[3];
    memcpy(sizes, fixed + 2, sizeof sizes);
    if (fixed[0] == METRICS_NONE || fixed[0] >= METRICS_KINDS || sizes[2] > LIMIT_METRIC_BOUNDS ||
        sizes[0] > HELP_BYTES_MAX) {
        return METRICS_FORMAT_BAD;
    }
    bool histogram = fixed[0] == METRICS_HISTOGRAM;
    size_t numbers = histogram ? (size_t)sizes[2] * 2 + 1 : 0;
    size_t need = (size_t)fixed[1] + sizes[0] + sizes[1] + numbers * 8;
    if (snapshot.bytes - *at < need) {
        return METRICS_FORMAT_BAD;
    }
    *out = (metrics_format_sample){.kind = (metrics_kind)fixed[0]};
    memcpy(&out->scale, fixed + 8, 8);
    memcpy(&out->value, fixed + 16, 8);
    out->name = take(snapshot, at, fixed[1]);
    out->help = take(snapshot, at, sizes[0]);
    out->labels = take(snapshot, at, sizes[1]);
    if (histogram) {
        out->bounds_count = sizes[2];
        out->bounds = (const uint8_t *)take(snapshot, at, (size_t)sizes[2] * 8).data;
        out->counts = (const uint8_t *)take(snapshot, at, ((size_t)sizes[2] + 1) * 8).data;
    }
    return sample_ok(out) ? METRICS_FORMAT_SAMPLE : METRICS_FORMAT_BAD;
}
