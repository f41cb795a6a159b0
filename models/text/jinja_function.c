/* jinja_function.c -- the functions every template has. */
#define _GNU_SOURCE
#include <stdio.h>
#include <time.h>

#include "models/text/jinja_method_dict.h"
#include "models/text/jinja_print.h"

enum {
    RANGE_ITEMS_MAX = 100000, /* the sandbox's own limit */
    TIME_FORMAT_BYTES_MAX = 256,
    TIME_TEXT_BYTES = 1024
};

static int64_t bound(jinja_vm *vm, jinja_value v) {
    return jinja_value_need_int(vm->h, v, "range()'s argument");
}

JINJA_BUILTIN(function_range) {
    jinja_range_value *range = JINJA_TAKE(vm->h, 1, jinja_range_value);
    bool one = argv[1].type == JINJA_ABSENT;
    *range = (jinja_range_value){.start = one ? 0 : bound(vm, argv[0]),
                                 .stop = bound(vm, argv[one ? 0 : 1]),
                                 .step = argv[2].type == JINJA_ABSENT ? 1 : bound(vm, argv[2])};
    if (range->step == 0) {
        jinja_heap_fail(vm->h, STATUS_INVALID, "range() arg 3 must not be zero");
    }
    bool up = range->step > 0;
    if (up ? range->stop > range->start : range->stop < range->start) {
        uint64_t span = up ? (uint64_t)range->stop - (uint64_t)range->start
                           : (uint64_t)range->start - (uint64_t)range->stop;
        uint64_t step = up ? (uint64_t)range->step : 0 - (uint64_t)range->step;
        uint64_t count = (span - 1) / step + 1;
        if (count > RANGE_ITEMS_MAX) {
            jinja_heap_fail(vm->h, STATUS_LIMIT, "range too big: the maximum size is %d",
                            RANGE_ITEMS_MAX);
        }
        range->count = (size_t)count;
    }
    return (jinja_value){.type = JINJA_RANGE, .as.range = range};
}

JINJA_BUILTIN(function_dict) {
    jinja_dict *dict = jinja_dict_make(vm->h);
    jinja_method_dict_fill(vm, dict, args);
    return jinja_value_dict(dict);
}

JINJA_BUILTIN(function_namespace) {
    jinja_value space = function_dict(vm, self, argv, args);
    space.type = JINJA_NAMESPACE;
    return space;
}

static jinja_cycler *make_cycler(jinja_vm *vm, jinja_list *items) {
    jinja_cycler *cycler = JINJA_TAKE(vm->h, 1, jinja_cycler);
    *cycler = (jinja_cycler){.items = items, .at = 0};
    return cycler;
}

JINJA_BUILTIN(function_cycler) {
    if (args->count == 0 || args->named_count) {
        jinja_heap_fail(vm->h, STATUS_INVALID, "cycler(): at least one item has to be provided");
    }
    jinja_list *items = jinja_value_list_make(vm->h, args->count);
    for (size_t i = 0; i < args->count; i++) {
        jinja_value_list_push(vm->h, items, args->items[i]);
    }
    return (jinja_value){.type = JINJA_CYCLER, .as.cycler = make_cycler(vm, items)};
}

JINJA_BUILTIN(function_joiner) {
    jinja_list *items = jinja_value_list_make(vm->h, 1);
    jinja_value_list_push(vm->h, items,
                          argv[0].type == JINJA_ABSENT ? jinja_string_from(vm->h, ", ") : argv[0]);
    return (jinja_value){.type = JINJA_JOINER, .as.cycler = make_cycler(vm, items)};
}

JINJA_BUILTIN(function_raise) {
    const jinja_string *text = jinja_print_soft(vm->h, argv[0]).as.string;
    jinja_heap_raise(vm->h, text->data, text->bytes);
}

/* The format as strftime(3) takes it: %f filled in, %z and %Z, of which local time without a zone
 * has none, left out. The first character is one more, so that an empty result is no failure. */
static const char *prepare_format(jinja_vm *vm, str format, int microseconds) {
    jinja_builder b = jinja_string_builder(vm->h);
    char digits[16];
    jinja_string_put(&b, "@", 1);
    for (size_t i = 0; i < format.bytes && format.data[i]; i++) {
        char next = i + 1 < format.bytes ? format.data[i + 1] : 0;
        if (format.data[i] != '%' || !next) {
            jinja_string_put(&b, format.data + i, 1);
            continue;
        }
        i++;
        if (next == 'f') {
            jinja_string_put(&b, digits,
                             (size_t)snprintf(digits, sizeof digits, "%06d", microseconds));
        } else if (next != 'z' && next != 'Z') {
            jinja_string_put(&b, format.data + i - 1, 2);
        }
    }
    jinja_string_put(&b, "", 1);
    return b.data;
}

JINJA_BUILTIN(function_strftime_now) {
    char text[TIME_TEXT_BYTES];
    struct tm local;
    if (argv[0].type != JINJA_STRING || argv[0].as.string->bytes > TIME_FORMAT_BYTES_MAX) {
        jinja_heap_fail(vm->h, STATUS_INVALID, "strftime_now() needs a format of at most %d bytes",
                        TIME_FORMAT_BYTES_MAX);
    }
    int64_t part_us = vm->wall_us % 1000000;
    part_us += part_us < 0 ? 1000000 : 0;
    time_t seconds = (time_t)((vm->wall_us - part_us) / 1000000);
    const char *format = prepare_format(vm, jinja_string_str(argv[0]), (int)part_us);
    size_t bytes = localtime_r(&seconds, &local) ? strftime(text, sizeof text, format, &local) : 0;
    if (bytes == 0) {
        jinja_heap_fail(vm->h, STATUS_LIMIT, "strftime_now(): the text is too long");
    }
    return jinja_string_copy(vm->h, text + 1, bytes - 1);
}

static const jinja_builtin rows[] = {
    {"cycler", "*", function_cycler},
    {"dict", "*", function_dict},
    {"joiner", "sep", function_joiner},
    {"namespace", "*", function_namespace},
    {"raise_exception", "!message", function_raise},
    {"range", "/!start,stop,step", function_range},
    {"strftime_now", "!format", function_strftime_now},
};

const jinja_builtin_table jinja_function_table = JINJA_BUILTIN_TABLE(rows);
