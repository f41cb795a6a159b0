/* jinja_builtin.c -- finding rows and binding arguments. */
#include "models/text/jinja_builtin.h"

#include "engine/base/check.h"
#include "models/text/jinja_string.h"
#include "models/text/jinja_vm.h"

const jinja_builtin *jinja_builtin_find(const jinja_builtin_table *table, str name) {
    for (size_t i = 0; i < table->count; i++) {
        if (str_equal_z(name, table->rows[i].name)) {
            return &table->rows[i];
        }
    }
    return NULL;
}

static const jinja_builtin *find_in(const jinja_builtin_table *const *tables, size_t count,
                                    str name) {
    const jinja_builtin *found = NULL;
    for (size_t i = 0; i < count && !found; i++) {
        found = jinja_builtin_find(tables[i], name);
    }
    return found;
}

const jinja_builtin *jinja_builtin_filter(str name) {
    static const jinja_builtin_table *const tables[] = {
        &jinja_filter_text_table, &jinja_filter_value_table, &jinja_filter_list_table,
        &jinja_filter_pick_table};
    return find_in(tables, sizeof tables / sizeof tables[0], name);
}

const jinja_builtin *jinja_builtin_test(str name) {
    return jinja_builtin_find(&jinja_is_table, name);
}

const jinja_builtin *jinja_builtin_function(str name) {
    return jinja_builtin_find(&jinja_function_table, name);
}

const jinja_builtin *jinja_builtin_method(jinja_type of, str name) {
    static const jinja_builtin_table *const text[] = {&jinja_method_text_table,
                                                      &jinja_method_split_table};
    switch (of) {
        case JINJA_STRING:
            return find_in(text, 2, name);
        case JINJA_LIST:
            return jinja_builtin_find(&jinja_method_list_table, name);
        case JINJA_TUPLE:
        case JINJA_RANGE:
            return jinja_builtin_find(&jinja_method_list_tuple_table, name);
        case JINJA_DICT:
            return jinja_builtin_find(&jinja_method_dict_table, name);
        case JINJA_LOOP:
            return jinja_builtin_find(&jinja_loop_table, name);
        case JINJA_CYCLER:
            return jinja_builtin_find(&jinja_method_list_cycler_table, name);
        default:
            return NULL;
    }
}

/* The parameters' names without their marks; how many; whether they are positional only. */
typedef struct {
    str names[JINJA_BUILTIN_PARAMETERS_MAX];
    bool required[JINJA_BUILTIN_PARAMETERS_MAX];
    size_t count;
    bool positional;
} parameter_list;

static parameter_list read_parameters(const char *text) {
    parameter_list list = {.count = 0};
    if (*text == '/') {
        list.positional = true;
        text++;
    }
    while (*text) {
        CHECK_LT(list.count, JINJA_BUILTIN_PARAMETERS_MAX);
        bool required = *text == '!';
        text += required;
        size_t bytes = strcspn(text, ",");
        list.required[list.count] = required;
        list.names[list.count++] = str_of(text, bytes);
        text += bytes + (text[bytes] == ',');
    }
    return list;
}

static void bind_named(jinja_vm *vm, const jinja_builtin *builtin, const parameter_list *list,
                       const jinja_args *args, jinja_value *argv) {
    for (size_t i = 0; i < args->named_count; i++) {
        str name = jinja_string_str(args->names[i]);
        size_t at = 0;
        while (at < list->count && (list->positional || !str_equal(list->names[at], name))) {
            at++;
        }
        if (at == list->count || argv[at].type != JINJA_ABSENT) {
            jinja_heap_fail(vm->h, STATUS_INVALID, "%s() got %s argument '%.*s'", builtin->name,
                            at == list->count ? "an unexpected keyword" : "twice the",
                            name.bytes > 60 ? 60 : (int)name.bytes, name.data);
        }
        argv[at] = args->named[i];
    }
}

jinja_value jinja_builtin_apply(jinja_vm *vm, const jinja_builtin *builtin, jinja_value self,
                                const jinja_args *args) {
    jinja_value argv[JINJA_BUILTIN_PARAMETERS_MAX] = {{.type = JINJA_ABSENT}};
    if (builtin->parameters[0] == '*') {
        return builtin->call(vm, self, argv, args);
    }
    parameter_list list = read_parameters(builtin->parameters);
    if (args->count > list.count) {
        jinja_heap_fail(vm->h, STATUS_INVALID, "%s() takes at most %zu arguments, not %zu",
                        builtin->name, list.count, args->count);
    }
    for (size_t i = 0; i < args->count; i++) {
        argv[i] = args->items[i];
    }
    bind_named(vm, builtin, &list, args, argv);
    for (size_t i = 0; i < list.count; i++) {
        if (list.required[i] && argv[i].type == JINJA_ABSENT) {
            jinja_heap_fail(vm->h, STATUS_INVALID, "%s() misses the argument '%.*s'", builtin->name,
                            (int)list.names[i].bytes, list.names[i].data);
        }
    }
    return builtin->call(vm, self, argv, args);
}
