/* jinja.c -- opening and rendering a template. */
#include "models/text/jinja.h"

#include "engine/base/mem.h"
#include "models/text/jinja_dict.h"
#include "models/text/jinja_exec.h"
#include "models/text/jinja_parse.h"

struct jinja {
    jinja_heap heap;
    str source;
    const jinja_ast *ast;
};

static void parse(void *argument) {
    jinja *j = argument;
    j->ast = jinja_parse(&j->heap, j->source);
}

status jinja_open(str source, jinja **out, diag *d) {
    if (source.bytes > JINJA_TEMPLATE_BYTES_MAX) {
        return status_fail(d, STATUS_LIMIT, "the template is longer than %d bytes",
                           JINJA_TEMPLATE_BYTES_MAX);
    }
    if (!str_utf8_valid(source)) {
        return status_fail(d, STATUS_INVALID, "the template is not valid UTF-8");
    }
    jinja *j = mem_calloc(1, sizeof *j);
    if (!j) {
        return status_fail(d, STATUS_NOMEM, "out of memory");
    }
    j->source = source;
    jinja_heap_open(&j->heap, JINJA_PARSE_MEMORY_BYTES_MAX, INT64_MAX, JINJA_PARSE_DEPTH_MAX, d);
    status s = jinja_heap_run(&j->heap, parse, j);
    j->heap.d = NULL;
    j->source = str_of(NULL, 0);
    if (s != STATUS_OK) {
        jinja_close(j);
        return s;
    }
    *out = j;
    return STATUS_OK;
}

void jinja_close(jinja *j) {
    if (j) {
        jinja_heap_close(&j->heap);
        mem_free(j);
    }
}

jinja_value *jinja_define(jinja_vm *vm, str name) {
    const jinja_value *symbol = jinja_dict_find_bytes(vm->ast->symbols, name.data, name.bytes);
    return symbol ? &vm->globals[symbol->as.integer] : NULL;
}

typedef struct {
    jinja_vm vm;
    jinja_fill fill;
    const void *input;
} render;

static void run(void *argument) {
    render *r = argument;
    jinja_vm *vm = &r->vm;
    size_t count = vm->ast->symbols->count;
    vm->globals = JINJA_TAKE(vm->h, count, jinja_value);
    for (size_t i = 0; i < count; i++) {
        vm->globals[i] = jinja_value_absent();
    }
    for (size_t i = 0; i < jinja_function_table.count; i++) {
        const jinja_builtin *function = &jinja_function_table.rows[i];
        jinja_value *variable = jinja_define(vm, str_from(function->name));
        if (variable) {
            *variable = (jinja_value){.type = JINJA_FUNCTION, .as.function = function};
        }
    }
    r->fill(vm, r->input);
    jinja_exec(vm, vm->ast->body);
}

status jinja_render(const jinja *j, jinja_fill fill, const void *input, int64_t wall_us,
                    size_t output_bytes_max, strbuf *out, diag *d) {
    jinja_heap heap;
    render r = {.vm = {.h = &heap,
                       .ast = j->ast,
                       .out = out,
                       .out_start_bytes = out->bytes,
                       .out_bytes_max = output_bytes_max,
                       .wall_us = wall_us},
                .fill = fill,
                .input = input};
    size_t start_bytes = out->bytes;
    jinja_heap_open(&heap, JINJA_MEMORY_BYTES_MAX, JINJA_STEPS_MAX, JINJA_DEPTH_MAX, d);
    status s = jinja_heap_run(&heap, run, &r);
    jinja_heap_close(&heap);
    if (s != STATUS_OK) {
        out->bytes = start_bytes;
        out->failed = false;
        if (out->data) {
            out->data[start_bytes] = '\0';
        }
    }
    return s;
}
