/* jinja_slice.c -- slices. */
#include "models/text/jinja_slice.h"

#include "models/text/jinja_string.h"
#include "models/text/jinja_unicode.h"

/* A bound moved into [low, high], counted from the end when negative. */
static int64_t bound(jinja_heap *h, jinja_value v, int64_t length, int64_t low, int64_t high,
                     int64_t missing) {
    if (v.type == JINJA_NONE) {
        return missing;
    }
    int64_t i = jinja_value_need_int(h, v, "a slice's bound");
    i += i < 0 ? length : 0;
    return i < low ? low : i > high ? high : i;
}

static jinja_value slice_string(jinja_heap *h, const jinja_string *s, int64_t start, int64_t step,
                                size_t count) {
    if (step == 1 || count == 0) {
        size_t from = count ? (size_t)start : 0;
        return jinja_string_cut(h, s, from, from + count);
    }
    /* One pass forward to find where each character starts, then pick. */
    size_t *starts = JINJA_TAKE(h, s->chars + 1, size_t);
    size_t n = 0;
    jinja_heap_charge(h, s->bytes / 8 + count);
    for (size_t at = 0; at < s->bytes && n < s->chars;) {
        starts[n++] = at;
        jinja_unicode_next(s->data, s->bytes, &at);
    }
    starts[n] = s->bytes;
    jinja_builder b = jinja_string_builder(h);
    for (size_t i = 0; i < count; i++) {
        size_t at = (size_t)(start + (int64_t)i * step);
        jinja_string_put(&b, s->data + starts[at], starts[at + 1] - starts[at]);
    }
    return jinja_string_marked(h, jinja_string_built(&b), s->markup);
}

static jinja_value slice_list(jinja_heap *h, jinja_value of, int64_t start, int64_t step,
                              size_t count) {
    jinja_list *out = jinja_value_list_make(h, count);
    jinja_heap_charge(h, count / 4 + 1);
    for (size_t i = 0; i < count; i++) {
        out->items[i] = of.as.list->items[start + (int64_t)i * step];
    }
    out->count = count;
    return (jinja_value){.type = of.type, .as.list = out};
}

static jinja_value slice_range(jinja_heap *h, const jinja_range_value *of, int64_t start,
                               int64_t stop, int64_t step, size_t count) {
    jinja_range_value *range = JINJA_TAKE(h, 1, jinja_range_value);
    *range = (jinja_range_value){.start = of->start + start * of->step,
                                 .stop = of->start + stop * of->step,
                                 .step = of->step * step,
                                 .count = count};
    return (jinja_value){.type = JINJA_RANGE, .as.range = range};
}

jinja_value jinja_slice(jinja_heap *h, jinja_value of, jinja_value start, jinja_value stop,
                        jinja_value step) {
    if (of.type == JINJA_UNDEFINED) {
        jinja_value_fail_undefined(h, of);
    }
    if (of.type != JINJA_STRING && of.type != JINJA_LIST && of.type != JINJA_TUPLE &&
        of.type != JINJA_RANGE) {
        jinja_heap_fail(h, STATUS_INVALID, "'%s' object can't be sliced",
                        jinja_value_type_name(of));
    }
    int64_t length = jinja_value_length(of);
    int64_t by = step.type == JINJA_NONE ? 1 : jinja_value_need_int(h, step, "a slice's step");
    if (by == 0) {
        jinja_heap_fail(h, STATUS_INVALID, "slice step cannot be zero");
    }
    bool up = by > 0;
    int64_t low = up ? 0 : -1, high = up ? length : length - 1;
    int64_t from = bound(h, start, length, low, high, up ? 0 : high);
    int64_t to = bound(h, stop, length, low, high, up ? high : -1);
    by = by > length + 1 ? length + 1 : by < -length - 1 ? -length - 1 : by;
    int64_t count = up ? (to - from + by - 1) / by : (from - to - by - 1) / -by;
    count = count < 0 ? 0 : count;
    switch ((jinja_type)of.type) {
        case JINJA_STRING:
            return slice_string(h, of.as.string, from, by, (size_t)count);
        case JINJA_RANGE:
            return slice_range(h, of.as.range, from, to, by, (size_t)count);
        default:
            return slice_list(h, of, from, by, (size_t)count);
    }
}
