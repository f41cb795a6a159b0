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

static status parse_object(str text, cJSON **out, diag *d) {
    const char *end = NULL;
    *out = cJSON_ParseWithLengthOpts(text.data, text.bytes, &end, false);
    if (!*out) {
        size_t at = end && end >= text.data ? (size_t)(end - text.data) : 0;
        return status_fail(d, STATUS_INVALID, "the input is not JSON, at byte %zu", at);
    }
    return STATUS_OK;
}

status chat_render_json(const chat *c, str input, int64_t wall_us, size_t output_bytes_max,
                        strbuf *out, diag *d) {
    cJSON *json = NULL;
    TRY(parse_object(input, &json, d));
    status s = chat_render(c, json, wall_us, output_bytes_max, out, d);
    cJSON_Delete(json);
    return s;
}

/* Opens the case's template and renders it into `text`. */
static status render_case(const cJSON *item, strbuf *text, diag *d) {
    const cJSON *source = cJSON_GetObjectItemCaseSensitive(item, "template");
    const cJSON *now_us = cJSON_GetObjectItemCaseSensitive(item, "now_us");
    chat *c = NULL;
    if (!cJSON_IsString(source)) {
        return status_fail_param(d, STATUS_INVALID, "template", "a case needs a template");
    }
    TRY(chat_open(str_from(source->valuestring), &c, d));
    int64_t wall_us = cJSON_IsNumber(now_us) ? (int64_t)now_us->valuedouble : 0;
    status s = chat_render(c, cJSON_GetObjectItemCaseSensitive(item, "input"), wall_us,
                           text->bytes_max, text, d);
    chat_close(c);
    return s;
}

status chat_render_case(str line, strbuf *out, diag *d) {
    cJSON *item = NULL, *answer = cJSON_CreateObject();
    diag failure = {.code = STATUS_OK};
    strbuf text = strbuf_make(out->bytes_max);
    status s = parse_object(line, &item, d);
    if (s == STATUS_OK) {
        if (render_case(item, &text, &failure) == STATUS_OK) {
            cJSON_AddStringToObject(answer, "text", text.data ? text.data : "");
        } else {
            cJSON_AddStringToObject(answer, "status", status_name(failure.code));
            cJSON_AddStringToObject(answer, "error", failure.text);
        }
        char *printed = cJSON_PrintUnformatted(answer);
        bool fits = printed && strbuf_append_z(out, printed) && strbuf_append_char(out, '\n');
        s = fits ? STATUS_OK : status_fail(d, STATUS_LIMIT, "the answer is too long");
        cJSON_free(printed);
        cJSON_Delete(item);
    }
    strbuf_close(&text);
    cJSON_Delete(answer);
    return s;
}
