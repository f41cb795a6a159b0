/* jinja_filter_text.c -- filters of text. */
#include "models/text/jinja_attribute.h"
#include "models/text/jinja_dict.h"
#include "models/text/jinja_format.h"
#include "models/text/jinja_print.h"
#include "models/text/jinja_text.h"
#include "models/text/jinja_unicode.h"
#include "models/text/jinja_vm.h"

static const jinja_string *soft(jinja_vm *vm, jinja_value v) {
    return jinja_print_soft(vm->h, v).as.string;
}

JINJA_BUILTIN(filter_lower) {
    return jinja_text_case(vm->h, soft(vm, self), JINJA_TEXT_LOWER);
}

JINJA_BUILTIN(filter_upper) {
    return jinja_text_case(vm->h, soft(vm, self), JINJA_TEXT_UPPER);
}

JINJA_BUILTIN(filter_capitalize) {
    return jinja_text_case(vm->h, soft(vm, self), JINJA_TEXT_CAPITALIZE);
}

/* Words begin after white space and - ( { [ <, other than str.title has it. */
JINJA_BUILTIN(filter_title) {
    const jinja_string *s = soft(vm, self);
    jinja_builder b = jinja_string_builder(vm->h);
    size_t from = 0;
    jinja_string_charge(vm->h, s);
    while (from < s->bytes) {
        size_t first_end = from, end;
        uint32_t c = jinja_unicode_next(s->data, s->bytes, &first_end);
        bool breaks = jinja_unicode_space(c) || (c < 128 && strchr("-({[<", (int)c) && c);
        end = first_end;
        for (size_t next = end; next < s->bytes; end = next) {
            c = jinja_unicode_next(s->data, s->bytes, &next);
            if ((jinja_unicode_space(c) || (c < 128 && strchr("-({[<", (int)c) && c)) != breaks) {
                break;
            }
        }
        jinja_value first = jinja_string_part(vm->h, s, from, first_end);
        jinja_value rest = jinja_string_part(vm->h, s, first_end, end);
        first = jinja_text_case(vm->h, first.as.string, JINJA_TEXT_UPPER);
        rest = jinja_text_case(vm->h, rest.as.string, JINJA_TEXT_LOWER);
        jinja_string_put_string(&b, first.as.string);
        jinja_string_put_string(&b, rest.as.string);
        from = end;
    }
    return jinja_string_built(&b);
}

JINJA_BUILTIN(filter_trim) {
    const jinja_string *chars = NULL;
    if (argv[0].type == JINJA_STRING) {
        chars = argv[0].as.string;
    } else if (argv[0].type != JINJA_ABSENT && argv[0].type != JINJA_NONE) {
        jinja_heap_fail(vm->h, STATUS_INVALID, "trim() needs a string of characters");
    }
    return jinja_text_strip(vm->h, soft(vm, self), chars, true, true);
}

JINJA_BUILTIN(filter_replace) {
    int64_t times = -1;
    if (argv[2].type != JINJA_ABSENT && argv[2].type != JINJA_NONE) {
        times = jinja_value_need_int(vm->h, argv[2], "replace()'s count");
    }
    return jinja_text_replace(vm->h, jinja_print_to_string(vm->h, self).as.string,
                              jinja_print_to_string(vm->h, argv[0]).as.string,
                              jinja_print_to_string(vm->h, argv[1]).as.string, times);
}

static const jinja_string *need_text(jinja_vm *vm, jinja_value v, const char *who) {
    if (v.type != JINJA_STRING) {
        if (v.type == JINJA_UNDEFINED) {
            jinja_value_fail_undefined(vm->h, v);
        }
        jinja_heap_fail(vm->h, STATUS_INVALID, "%s() needs a string, not %s", who,
                        jinja_value_type_name(v));
    }
    return v.as.string;
}

JINJA_BUILTIN(filter_indent) {
    const jinja_string *s = need_text(vm, self, "indent"), *by;
    bool first = jinja_value_truth(argv[1]), blank = jinja_value_truth(argv[2]);
    if (argv[0].type == JINJA_STRING) {
        by = argv[0].as.string;
    } else {
        int64_t width = argv[0].type == JINJA_ABSENT
                            ? 4
                            : jinja_value_need_int(vm->h, argv[0], "indent()'s width");
        jinja_value space = jinja_string_from(vm->h, " ");
        by = jinja_string_repeat(vm->h, space.as.string, width).as.string;
    }
    jinja_value newline = jinja_string_from(vm->h, "\n");
    jinja_value all = jinja_string_concat(vm->h, s, newline.as.string, s->markup);
    jinja_list *lines = jinja_text_lines(vm->h, all.as.string, false);
    jinja_builder b = jinja_string_builder(vm->h);
    for (size_t i = 0; i < lines->count; i++) {
        const jinja_string *line = lines->items[i].as.string;
        if (i) {
            jinja_string_put(&b, "\n", 1);
        }
        if (i == 0 ? first : blank || line->bytes) {
            jinja_string_put_string(&b, by);
        }
        jinja_string_put_string(&b, line);
    }
    return jinja_string_marked(vm->h, jinja_string_built(&b), s->markup);
}

JINJA_BUILTIN(filter_center) {
    int64_t width = argv[0].type == JINJA_ABSENT
                        ? 80
                        : jinja_value_need_int(vm->h, argv[0], "center()'s width");
    return jinja_text_pad(vm->h, soft(vm, self), width, ' ', '^');
}

JINJA_BUILTIN(filter_truncate) {
    if (self.type == JINJA_UNDEFINED) {
        return self;
    }
    const jinja_string *s = need_text(vm, self, "truncate");
    jinja_value dots = argv[2].type == JINJA_ABSENT ? jinja_string_from(vm->h, "...") : argv[2];
    const jinja_string *end = need_text(vm, dots, "truncate");
    int64_t length = argv[0].type == JINJA_ABSENT
                         ? 255
                         : jinja_value_need_int(vm->h, argv[0], "truncate()'s length");
    int64_t leeway = argv[3].type == JINJA_ABSENT || argv[3].type == JINJA_NONE
                         ? 5
                         : jinja_value_need_int(vm->h, argv[3], "truncate()'s leeway");
    if (length < (int64_t)end->chars || leeway < 0) {
        jinja_heap_fail(vm->h, STATUS_INVALID, "truncate(): too short a length");
    }
    if ((int64_t)s->chars <= length || (int64_t)s->chars - length <= leeway) {
        return self;
    }
    jinja_value cut = jinja_string_cut(vm->h, s, 0, (size_t)(length - (int64_t)end->chars));
    if (!jinja_value_truth(argv[1])) {
        str text = jinja_string_str(cut);
        size_t space = jinja_text_find_last(vm->h, text, str_of(" ", 1), text.bytes);
        if (space != SIZE_MAX) {
            cut = jinja_string_part(vm->h, cut.as.string, 0, space);
        }
    }
    return jinja_string_concat(vm->h, cut.as.string, end, s->markup);
}

JINJA_BUILTIN(filter_wordcount) {
    const jinja_string *s = soft(vm, self);
    int64_t words = 0;
    bool inside = false;
    jinja_string_charge(vm->h, s);
    for (size_t at = 0; at < s->bytes;) {
        uint32_t c = jinja_unicode_next(s->data, s->bytes, &at);
        bool word = c == '_' || jinja_unicode_alnum(c);
        words += word && !inside;
        inside = word;
    }
    return jinja_value_int(words);
}

JINJA_BUILTIN(filter_escape) {
    const jinja_string *s = soft(vm, self);
    return s->markup ? self : jinja_string_escape(vm->h, s);
}

JINJA_BUILTIN(filter_force_escape) {
    return jinja_string_escape(vm->h, soft(vm, self));
}

JINJA_BUILTIN(filter_safe) {
    return jinja_string_marked(vm->h, jinja_print_soft(vm->h, self), true);
}

JINJA_BUILTIN(filter_string) {
    return jinja_print_soft(vm->h, self);
}

JINJA_BUILTIN(filter_format) {
    if (args->count && args->named_count) {
        jinja_heap_fail(vm->h, STATUS_INVALID,
                        "format() takes either positional or keyword arguments");
    }
    jinja_value values;
    if (args->named_count) {
        values = jinja_value_dict(jinja_dict_make(vm->h));
        for (size_t i = 0; i < args->named_count; i++) {
            jinja_dict_set(vm->h, values.as.dict, args->names[i], args->named[i]);
        }
    } else {
        values = jinja_value_tuple(jinja_value_list_make(vm->h, args->count));
        for (size_t i = 0; i < args->count; i++) {
            jinja_value_list_push(vm->h, values.as.list, args->items[i]);
        }
    }
    return jinja_format_percent(vm, jinja_print_soft(vm->h, self), values);
}

JINJA_BUILTIN(filter_join) {
    jinja_value glue = argv[0].type == JINJA_ABSENT ? jinja_string_from(vm->h, "") : argv[0];
    jinja_value items = self;
    if (argv[1].type != JINJA_ABSENT && argv[1].type != JINJA_NONE) {
        jinja_attribute attribute = jinja_attribute_read(vm, argv[1]);
        jinja_list *list = jinja_value_to_list(vm->h, self);
        for (size_t i = 0; i < list->count; i++) {
            list->items[i] = jinja_attribute_of(vm, &attribute, list->items[i]);
        }
        items = jinja_value_list(list);
    }
    return jinja_text_join(vm->h, jinja_print_to_string(vm->h, glue).as.string, items, false);
}

static const jinja_builtin rows[] = {
    {"capitalize", "", filter_capitalize},
    {"center", "width", filter_center},
    {"e", "", filter_escape},
    {"escape", "", filter_escape},
    {"forceescape", "", filter_force_escape},
    {"format", "*", filter_format},
    {"indent", "width,first,blank", filter_indent},
    {"join", "d,attribute", filter_join},
    {"lower", "", filter_lower},
    {"replace", "!old,!new,count", filter_replace},
    {"safe", "", filter_safe},
    {"string", "", filter_string},
    {"title", "", filter_title},
    {"trim", "chars", filter_trim},
    {"truncate", "length,killwords,end,leeway", filter_truncate},
    {"upper", "", filter_upper},
    {"wordcount", "", filter_wordcount},
};

const jinja_builtin_table jinja_filter_text_table = JINJA_BUILTIN_TABLE(rows);
