/* special.c -- finds control and user-defined tokens written out in text. */
#include "models/text/special.h"

#include "engine/base/mem.h"

/* A text that is not UTF-8 cannot be written out in text, and looking for it would cut characters
 * in two. */
static bool is_listed(const vocab *v, int32_t id) {
    return (v->types[id] == VOCAB_CONTROL || v->types[id] == VOCAB_USER) &&
           v->texts[id].bytes > 0 && str_utf8_valid(v->texts[id]);
}

/* The node for `byte` in the list at *head, made when there is none. */
static uint32_t node_for(special *s, uint32_t *head, uint8_t byte) {
    for (uint32_t i = *head; i != 0; i = s->nodes[i].sibling) {
        if (s->nodes[i].byte == byte) {
            return i;
        }
    }
    uint32_t made = s->nodes_count++;
    s->nodes[made] = (special_node){0, *head, -1, byte, false};
    *head = made;
    return made;
}

static void insert(special *s, str text, int32_t id, bool control) {
    uint32_t *head = &s->roots[(uint8_t)text.data[0]];
    uint32_t node = 0;
    for (size_t i = 0; i < text.bytes; i++) {
        node = node_for(s, head, (uint8_t)text.data[i]);
        head = &s->nodes[node].child;
    }
    s->nodes[node].id = id;
    s->nodes[node].control = control;
}

status special_open(const vocab *v, special *out, diag *d) {
    special s = {.nodes_count = 1};
    size_t bytes = 1;
    for (int32_t id = 0; id < v->count; id++) {
        bytes += is_listed(v, id) ? v->texts[id].bytes : 0;
    }
    if (bytes > UINT32_MAX) {
        return status_fail(d, STATUS_LIMIT, "the special tokens have %zu bytes of text", bytes);
    }
    s.nodes = mem_alloc(bytes, sizeof *s.nodes);
    if (s.nodes == NULL) {
        return status_fail(d, STATUS_NOMEM, "no memory for the special tokens");
    }
    for (int32_t id = 0; id < v->count; id++) {
        if (is_listed(v, id)) {
            insert(&s, v->texts[id], id, v->types[id] == VOCAB_CONTROL);
        }
    }
    *out = s;
    return STATUS_OK;
}

void special_close(special *s) {
    mem_free(s->nodes);
    *s = (special){0};
}

/* The longest listed token that text[0..] begins with, or -1. */
static int32_t match_at(const special *s, const char *text, size_t text_bytes, bool control,
                        size_t *bytes) {
    int32_t best = -1;
    uint32_t node = s->roots[(uint8_t)text[0]];
    for (size_t i = 0; node != 0; node = s->nodes[node].child) {
        while (node != 0 && s->nodes[node].byte != (uint8_t)text[i]) {
            node = s->nodes[node].sibling;
        }
        if (node == 0) {
            break;
        }
        i++;
        if (s->nodes[node].id >= 0 && (control || !s->nodes[node].control)) {
            best = s->nodes[node].id;
            *bytes = i;
        }
        if (i == text_bytes) {
            break;
        }
    }
    return best;
}

int32_t special_find(const special *s, str text, size_t from, bool control, size_t *at,
                     size_t *bytes) {
    for (size_t i = from; i < text.bytes; i++) {
        if (s->roots[(uint8_t)text.data[i]] == 0) {
            continue;
        }
        int32_t id = match_at(s, text.data + i, text.bytes - i, control, bytes);
        if (id >= 0) {
            *at = i;
            return id;
        }
    }
    return -1;
}
