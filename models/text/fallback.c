/* fallback.c -- the vocabularies of Llama 1 and 2, Mistral and their kin. */
#define _GNU_SOURCE
#include "models/text/fallback.h"

#include <stdlib.h>

#include "engine/base/check.h"
#include "engine/base/mem.h"

/* Longer tokens are refused: each of a token's characters is looked up with what is before and
 * after it, which takes time with the square of its length. */
enum { TOKEN_BYTES_MAX = 512 };

bool fallback_prefix_from(str name, fallback_prefix *out) {
    static const char *const names[FALLBACK_PREFIXES] = {"never", "first", "always", "segment"};
    for (int i = 0; i < FALLBACK_PREFIXES; i++) {
        if (str_equal_z(name, names[i])) {
            *out = (fallback_prefix)i;
            return true;
        }
    }
    return false;
}

bool fallback_write(str text, fallback_prefix prefix, bool first, strbuf *out) {
    const str blank = str_of(FALLBACK_BLANK, FALLBACK_BLANK_BYTES);
    bool has_one = str_starts_with(text, str_from(" ")) || str_starts_with(text, blank);
    bool wanted = prefix == FALLBACK_SEGMENT || (prefix == FALLBACK_ALWAYS && !has_one) ||
                  (prefix == FALLBACK_FIRST && first && !has_one);
    if (wanted && text.bytes > 0 && !strbuf_append_str(out, blank)) {
        return false;
    }
    size_t from = 0;
    for (size_t i = 0; i < text.bytes; i++) {
        if (text.data[i] == ' ') {
            if (!strbuf_append(out, text.data + from, i - from) || !strbuf_append_str(out, blank)) {
                return false;
            }
            from = i + 1;
        }
    }
    return strbuf_append(out, text.data + from, text.bytes - from);
}

size_t fallback_word(str text) {
    size_t at = text.bytes > 1 ? str_find(text, str_from(FALLBACK_BLANK), 1) : SIZE_MAX;
    return at < text.bytes ? at : text.bytes;
}

size_t fallback_symbols(const vocab *v, int32_t unknown, str text, int32_t *symbols) {
    size_t count = 0;
    bool after_unknown = false;
    for (size_t at = 0; at < text.bytes;) {
        uint32_t c;
        int bytes = str_utf8_next(text.data + at, text.bytes - at, &c);
        CHECK(bytes > 0);
        int32_t id = vocab_find(v, str_of(text.data + at, (size_t)bytes));
        bool whole = true; /* every byte has a token */
        for (int i = 0; i < bytes; i++) {
            whole = whole && v->byte_ids[(uint8_t)text.data[at + (size_t)i]] >= 0;
        }
        if (id >= 0) {
            symbols[count++] = id;
        } else if (whole) {
            for (int i = 0; i < bytes; i++) {
                symbols[count++] = v->byte_ids[(uint8_t)text.data[at + (size_t)i]];
            }
        } else if (unknown >= 0 && !after_unknown) {
            symbols[count++] = unknown;
        }
        after_unknown = id < 0 && !whole;
        at += (size_t)bytes;
    }
    return count;
}

/* ---- merges from scores --------------------------------------------------------------------- */

typedef struct {
    float score;
    int32_t id;
} ranked;

static int compare(const void *a, const void *b) {
    const ranked *left = a, *right = b;
    if (left->score != right->score) {
        return left->score > right->score ? -1 : 1;
    }
    return left->id < right->id ? -1 : left->id > right->id;
}

static bool is_merged(const vocab *v, int32_t id) {
    return (v->types[id] == VOCAB_NORMAL || v->types[id] == VOCAB_USER) &&
           str_utf8_valid(v->texts[id]);
}

/* The ways of making token `id` of two others; added to `into` unless that is NULL. */
static size_t ways(const vocab *v, int32_t id, uint32_t rank, bpe *into) {
    str text = v->texts[id];
    size_t count = 0;
    uint32_t c;
    for (size_t at = 0; at < text.bytes;) {
        at += (size_t)str_utf8_next(text.data + at, text.bytes - at, &c);
        int32_t left = at < text.bytes ? vocab_find(v, str_of(text.data, at)) : -1;
        int32_t right = left >= 0 ? vocab_find(v, str_of(text.data + at, text.bytes - at)) : -1;
        if (right >= 0) {
            count++;
            if (into != NULL) {
                bpe_add(into, left, right, rank, id);
            }
        }
    }
    return count;
}

status fallback_merges(const vocab *v, const float *scores, bpe **out, diag *d) {
    ranked *order = mem_alloc((size_t)v->count, sizeof *order);
    if (order == NULL) {
        return status_fail(d, STATUS_NOMEM, "no memory for the merges");
    }
    size_t count = 0, merges = 0;
    status s = STATUS_OK;
    for (int32_t id = 0; id < v->count && s == STATUS_OK; id++) {
        if (is_merged(v, id)) {
            order[count++] = (ranked){scores[id], id};
            if (v->texts[id].bytes > TOKEN_BYTES_MAX) {
                s = status_fail(d, STATUS_LIMIT, "token %d has %zu bytes, at most %d are allowed",
                                (int)id, v->texts[id].bytes, TOKEN_BYTES_MAX);
            } else {
                merges += ways(v, id, 0, NULL);
            }
        }
    }
    if (s == STATUS_OK) {
        s = bpe_create(merges, out, d);
    }
    if (s == STATUS_OK) {
        qsort(order, count, sizeof *order, compare);
        uint32_t rank = 0;
        for (size_t i = 0; i < count; i++) {
            /* Equal scores are equal ranks: of such pairs the leftmost is merged first. */
            rank = i > 0 && order[i].score != order[i - 1].score ? (uint32_t)i : rank;
            (void)ways(v, order[i].id, rank, *out);
        }
    }
    mem_free(order);
    return s;
}
