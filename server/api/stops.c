/* stops.c -- byte by byte: after each byte, does the text end in a stop string? If not, how much
 * of its end could begin one? Stop strings are few and short, so plain comparison is fast enough.
 */
#include "server/api/stops.h"

#include "engine/base/check.h"

stops stops_make(const str *strings, int32_t count) {
    CHECK_LE(count, LIMIT_STOP_STRINGS);
    return (stops){.strings = strings, .count = count};
}

/* Length of the longest end of held[0..bytes) that is a proper start of some stop string. */
static size_t undecided(const stops *s) {
    size_t longest = 0;
    str held = str_of(s->held, s->held_bytes);
    for (int32_t i = 0; i < s->count; i++) {
        str stop = s->strings[i];
        size_t most = stop.bytes - 1 < held.bytes ? stop.bytes - 1 : held.bytes;
        for (size_t n = most; n > longest; n--) {
            if (str_ends_with(held, str_of(stop.data, n))) {
                longest = n;
            }
        }
    }
    return longest;
}

static int32_t found(const stops *s) {
    for (int32_t i = 0; i < s->count; i++) {
        if (str_ends_with(str_of(s->held, s->held_bytes), s->strings[i])) {
            return i;
        }
    }
    return -1;
}

static void pass_on(stops *s, size_t bytes, strbuf *out) {
    strbuf_append(out, s->held, bytes);
    memmove(s->held, s->held + bytes, s->held_bytes - bytes);
    s->held_bytes -= bytes;
}

int32_t stops_feed(stops *s, str text, bool include, strbuf *out) {
    if (s->count == 0) {
        strbuf_append_str(out, text);
        return -1;
    }
    for (size_t i = 0; i < text.bytes; i++) {
        CHECK_LT(s->held_bytes, sizeof s->held);
        s->held[s->held_bytes++] = text.data[i];
        int32_t hit = found(s);
        if (hit >= 0) {
            pass_on(s, include ? s->held_bytes : s->held_bytes - s->strings[hit].bytes, out);
            s->held_bytes = 0;
            return hit;
        }
        pass_on(s, s->held_bytes - undecided(s), out);
    }
    return -1;
}

void stops_flush(stops *s, strbuf *out) {
    pass_on(s, s->held_bytes, out);
}
