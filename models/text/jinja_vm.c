/* jinja_vm.c -- variables and output. */
#include "models/text/jinja_vm.h"

jinja_scope *jinja_vm_scope(jinja_vm *vm, jinja_scope *parent) {
    jinja_scope *scope = JINJA_TAKE(vm->h, 1, jinja_scope);
    *scope = (jinja_scope){.parent = parent};
    return scope;
}

void jinja_vm_set_in(jinja_vm *vm, jinja_scope *scope, int32_t symbol, jinja_value value) {
    for (int32_t i = 0; i < scope->count; i++) {
        if (scope->slots[i].symbol == symbol) {
            scope->slots[i].value = value;
            return;
        }
    }
    jinja_heap_charge(vm->h, (size_t)scope->count / 8);
    if (scope->count == scope->capacity) {
        int32_t capacity = scope->capacity ? scope->capacity * 2 : 4;
        scope->slots = jinja_heap_grow(vm->h, scope->slots, (size_t)scope->count, (size_t)capacity,
                                       sizeof(jinja_slot));
        scope->capacity = capacity;
    }
    scope->slots[scope->count++] = (jinja_slot){.symbol = symbol, .value = value};
}

void jinja_vm_set(jinja_vm *vm, int32_t symbol, jinja_value value) {
    if (vm->scope) {
        jinja_vm_set_in(vm, vm->scope, symbol, value);
    } else {
        vm->globals[symbol] = value;
    }
}

jinja_value jinja_vm_get(const jinja_vm *vm, int32_t symbol) {
    for (const jinja_scope *scope = vm->scope; scope; scope = scope->parent) {
        jinja_heap_charge(vm->h, 1 + (size_t)scope->count / 8);
        for (int32_t i = 0; i < scope->count; i++) {
            if (scope->slots[i].symbol == symbol) {
                return scope->slots[i].value;
            }
        }
    }
    return vm->globals[symbol];
}

void jinja_vm_emit(jinja_vm *vm, const char *data, size_t bytes) {
    if (vm->capture) {
        jinja_string_put(vm->capture, data, bytes);
        return;
    }
    jinja_heap_charge_bytes(vm->h, bytes);
    size_t used = vm->out->bytes - vm->out_start_bytes;
    if (used > vm->out_bytes_max || bytes > vm->out_bytes_max - used) {
        jinja_heap_fail(vm->h, STATUS_LIMIT, "the text is longer than %zu bytes",
                        vm->out_bytes_max);
    }
    if (bytes && !strbuf_append(vm->out, data, bytes)) {
        bool full = vm->out->bytes + bytes > vm->out->bytes_max;
        jinja_heap_fail(vm->h, full ? STATUS_LIMIT : STATUS_NOMEM, "no room for the text");
    }
}
