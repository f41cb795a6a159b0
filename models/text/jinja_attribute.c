/* jinja_attribute.c -- paths of attributes. */
#include "models/text/jinja_attribute.h"

#include "models/text/jinja_eval.h"
#include "models/text/jinja_text.h"

jinja_attribute jinja_attribute_read(jinja_vm *vm, jinja_value path) {
    jinja_attribute attribute = {.missing = jinja_value_absent()};
    if (path.type != JINJA_STRING) {
        attribute.parts = jinja_value_list_make(vm->h, 1);
        if (path.type != JINJA_NONE && path.type != JINJA_ABSENT) {
            jinja_value_list_push(vm->h, attribute.parts, path);
        }
        return attribute;
    }
    jinja_value dot = jinja_string_from(vm->h, ".");
    attribute.parts = jinja_text_split(vm->h, path.as.string, dot.as.string, -1);
    for (size_t i = 0; i < attribute.parts->count; i++) {
        int64_t number;
        str part = jinja_string_str(attribute.parts->items[i]);
        if (part.bytes && part.data[0] != '-' && str_to_i64(part, 0, INT64_MAX, &number)) {
            attribute.parts->items[i] = jinja_value_int(number);
        }
    }
    return attribute;
}

jinja_value jinja_attribute_of(jinja_vm *vm, const jinja_attribute *attribute, jinja_value item) {
    for (size_t i = 0; i < attribute->parts->count; i++) {
        jinja_heap_charge(vm->h, 1);
        item = jinja_eval_item(vm, item, attribute->parts->items[i]);
        if (item.type == JINJA_UNDEFINED && attribute->missing.type != JINJA_ABSENT) {
            item = attribute->missing;
        }
    }
    return item;
}
