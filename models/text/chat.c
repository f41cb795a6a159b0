/* chat.c -- a request's JSON as the variables of a template. */
#include "models/text/chat.h"

#include <math.h>

#include "engine/base/mem.h"
#include "models/text/jinja.h"
#include "models/text/jinja_dict.h"

struct chat {
    jinja *template;
};

status chat_open(str template_source, chat **out, diag *d) {
    chat *c = mem_calloc(1, sizeof *c);
    if (!c) {
        return status_fail(d, STATUS_NOMEM, "out of memory");
    }
    status s = jinja_open(template_source, &c->template, d);
    if (s != STATUS_OK) {
        mem_free(c);
        return s;
    }
    *out = c;
    return STATUS_OK;
}

void chat_close(chat *c) {
    if (c) {
        jinja_close(c->template);
        mem_free(c);
    }
}

/* The text stays cJSON's: it outlives the render. */
static jinja_value convert_text(jinja_vm *vm, const char *text) {
    size_t bytes = strlen(text);
    if (!str_utf8_valid(str_of(text, bytes))) {
        jinja_heap_fail(vm->h, STATUS_INVALID, "the input has text that is not valid UTF-8");
    }
    return jinja_string_borrow(vm->h, text, bytes);
}

static jinja_value convert(jinja_vm *vm, const cJSON *json);

static jinja_value convert_list(jinja_vm *vm, const cJSON *json) {
    jinja_list *list = jinja_value_list_make(vm->h, 0);
    for (const cJSON *child = json->child; child; child = child->next) {
        jinja_value_list_push(vm->h, list, convert(vm, child));
    }
    return jinja_value_list(list);
}

static jinja_value convert_dict(jinja_vm *vm, const cJSON *json) {
    jinja_dict *dict = jinja_dict_make(vm->h);
    for (const cJSON *child = json->child; child; child = child->next) {
        jinja_dict_set(vm->h, dict, convert_text(vm, child->string), convert(vm, child));
    }
    return jinja_value_dict(dict);
}

static jinja_value convert_number(double number) {
    bool whole = number == floor(number) && fabs(number) < 0x1p63;
    return whole ? jinja_value_int((int64_t)number) : jinja_value_float(number);
}

static jinja_value convert(jinja_vm *vm, const cJSON *json) {
    jinja_value v = jinja_value_none();
    jinja_heap_enter(vm->h);
    jinja_heap_charge(vm->h, 1);
    switch (json->type & 0xFF) {
        case cJSON_False:
        case cJSON_True:
            v = jinja_value_bool((json->type & 0xFF) == cJSON_True);
            break;
        case cJSON_NULL:
            break;
        case cJSON_Number:
            v = convert_number(json->valuedouble);
            break;
        case cJSON_String:
            v = convert_text(vm, json->valuestring);
            break;
        case cJSON_Array:
            v = convert_list(vm, json);
            break;
        case cJSON_Object:
            v = convert_dict(vm, json);
            break;
        default:
            jinja_heap_fail(vm->h, STATUS_INVALID, "the input has a value that is no JSON");
    }
    jinja_heap_leave(vm->h);
    return v;
}

static void fill(jinja_vm *vm, const void *input) {
    for (const cJSON *child = ((const cJSON *)input)->child; child; child = child->next) {
        jinja_value *variable = jinja_define(vm, str_from(child->string));
        if (variable) {
            *variable = convert(vm, child);
        }
    }
}

status chat_render(const chat *c, const cJSON *input, int64_t wall_us, size_t output_bytes_max,
                   strbuf *out, diag *d) {
    if (!cJSON_IsObject(input)) {
        return status_fail(d, STATUS_INVALID, "the input of a chat template must be an object");
    }
    return jinja_render(c->template, fill, input, wall_us, output_bytes_max, out, d);
}

status chat_render_json(const chat *c, str input, int64_t wall_us, size_t output_bytes_max,
                        strbuf *out, diag *d) {
    const char *end = NULL;
    cJSON *json = cJSON_ParseWithLengthOpts(input.data, input.bytes, &end, false);
    if (!json) {
        size_t at = end && end >= input.data ? (size_t)(end - input.data) : 0;
        return status_fail(d, STATUS_INVALID, "the input is not JSON, at byte %zu", at);
    }
    status s = chat_render(c, json, wall_us, output_bytes_max, out, d);
    cJSON_Delete(json);
    return s;
}
