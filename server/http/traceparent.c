/* traceparent.c -- `00-<32 hex>-<16 hex>-<2 hex>`, and the list of members beside it. */
#include "server/http/traceparent.h"

#include <inttypes.h>
#include <stdio.h>

/* Lower case only: the specification wants upper case refused. */
static bool read_hex(str s, size_t from, size_t digits, uint64_t *out) {
    uint64_t v = 0;
    for (size_t i = from; i < from + digits; i++) {
        char c = s.data[i];
        if (c >= '0' && c <= '9') {
            v = v << 4 | (uint64_t)(c - '0');
        } else if (c >= 'a' && c <= 'f') {
            v = v << 4 | (uint64_t)(c - 'a' + 10);
        } else {
            return false;
        }
    }
    *out = v;
    return true;
}

bool traceparent_read(str header, traceparent *out) {
    uint64_t version, flags;
    traceparent t = {0};
    if (header.bytes < TRACEPARENT_BYTES || header.data[2] != '-' || header.data[35] != '-' ||
        header.data[52] != '-') {
        return false;
    }
    if (!read_hex(header, 0, 2, &version) || !read_hex(header, 3, 16, &t.trace_high) ||
        !read_hex(header, 19, 16, &t.trace_low) || !read_hex(header, 36, 16, &t.span) ||
        !read_hex(header, 53, 2, &flags)) {
        return false;
    }
    bool longer = header.bytes > TRACEPARENT_BYTES;
    if (version == 0xff || (version == 0 && longer) ||
        (longer && header.data[TRACEPARENT_BYTES] != '-')) {
        return false;
    }
    if ((t.trace_high | t.trace_low) == 0 || t.span == 0) {
        return false;
    }
    t.flags = (uint8_t)(flags & (TRACEPARENT_SAMPLED | TRACEPARENT_RANDOM));
    *out = t;
    return true;
}

void traceparent_write(const traceparent *t, char out[TRACEPARENT_TEXT_BYTES]) {
    (void)snprintf(out, TRACEPARENT_TEXT_BYTES,
                   "00-%016" PRIx64 "%016" PRIx64 "-%016" PRIx64 "-%02x", t->trace_high,
                   t->trace_low, t->span, t->flags);
}

bool traceparent_state_fits(str header) {
    size_t members = 1;
    if (header.bytes == 0 || header.bytes > TRACEPARENT_STATE_BYTES) {
        return false;
    }
    for (size_t i = 0; i < header.bytes; i++) {
        char c = header.data[i];
        if (c != '\t' && (c < ' ' || c > '~')) {
            return false;
        }
        members += c == ',';
    }
    return members <= TRACEPARENT_STATE_MEMBERS;
}
