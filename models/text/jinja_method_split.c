/* jinja_method_split.c -- methods of strings that cut them apart. */
#include "models/text/jinja_text.h"
#include "models/text/jinja_vm.h"

static const jinja_string *separator(jinja_vm *vm, jinja_value v) {
    if (v.type == JINJA_ABSENT || v.type == JINJA_NONE) {
        return NULL;
    }
    if (v.type != JINJA_STRING) {
        jinja_heap_fail(vm->h, STATUS_INVALID, "must be str or None, not %s",
                        jinja_value_type_name(v));
    }
    return v.as.string;
}

static int64_t times(jinja_vm *vm, jinja_value v) {
    return v.type == JINJA_ABSENT ? -1 : jinja_value_need_int(vm->h, v, "maxsplit");
}

JINJA_BUILTIN(text_split) {
    return jinja_value_list(
        jinja_text_split(vm->h, self.as.string, separator(vm, argv[0]), times(vm, argv[1])));
}

JINJA_BUILTIN(text_rsplit) {
    return jinja_value_list(
        jinja_text_split_right(vm->h, self.as.string, separator(vm, argv[0]), times(vm, argv[1])));
}

JINJA_BUILTIN(text_splitlines) {
    return jinja_value_list(jinja_text_lines(vm->h, self.as.string, jinja_value_truth(argv[0])));
}

/* (before, separator, after), or the whole and two empty ones. */
static jinja_value partition(jinja_vm *vm, jinja_value self, jinja_value at, bool last) {
    const jinja_string *s = self.as.string, *sep = separator(vm, at);
    if (!sep || sep->bytes == 0) {
        jinja_heap_fail(vm->h, STATUS_INVALID, "empty separator");
    }
    str text = jinja_string_str(self), wanted = str_of(sep->data, sep->bytes);
    jinja_string_charge_search(vm->h, s->bytes, sep->bytes);
    size_t found =
        last ? jinja_text_find_last(vm->h, text, wanted, text.bytes) : str_find(text, wanted, 0);
    size_t cut[4] = {0, found, found + sep->bytes, s->bytes};
    if (found == SIZE_MAX) {
        cut[1] = cut[2] = last ? 0 : s->bytes;
    }
    jinja_list *parts = jinja_value_list_make(vm->h, 3);
    for (int i = 0; i < 3; i++) {
        jinja_value_list_push(vm->h, parts, jinja_string_part(vm->h, s, cut[i], cut[i + 1]));
    }
    return jinja_value_tuple(parts);
}

JINJA_BUILTIN(text_partition) {
    return partition(vm, self, argv[0], false);
}

JINJA_BUILTIN(text_rpartition) {
    return partition(vm, self, argv[0], true);
}

static const jinja_builtin rows[] = {
    {"partition", "/!sep", text_partition},      {"rpartition", "/!sep", text_rpartition},
    {"rsplit", "sep,maxsplit", text_rsplit},     {"split", "sep,maxsplit", text_split},
    {"splitlines", "keepends", text_splitlines},
};

const jinja_builtin_table jinja_method_split_table = JINJA_BUILTIN_TABLE(rows);
