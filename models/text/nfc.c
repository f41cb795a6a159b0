/* nfc.c -- text in Unicode's normalization form C: everything taken apart, marks sorted by their
 * class, and put together again.
 *
 * A character is kept as one number, class * 2^56 + place * 2^21 + code point, so that sorting a
 * run of marks by these numbers is stable.
 */
#include "models/text/nfc.h"

#include <stdlib.h>

#include "engine/base/mem.h"
#include "models/text/nfc_table.h"

enum {
    CODE_BITS = 21,
    CLASS_SHIFT = 56,
    PARTS_MAX = 8, /* no character comes apart into more than four */
    HANGUL = 0xAC00,
    HANGUL_L = 0x1100,
    HANGUL_V = 0x1161,
    HANGUL_T = 0x11A7,
    HANGUL_VS = 21,
    HANGUL_TS = 28,
    HANGUL_COUNT = 19 * HANGUL_VS * HANGUL_TS
};

#define COUNT(table) (sizeof(table) / sizeof((table)[0]))

bool nfc_is_plain(str text) {
    for (size_t i = 0; i < text.bytes; i++) {
        /* Below U+0300 nothing combines; 0xCC begins U+0300. */
        if ((uint8_t)text.data[i] >= 0xCC) {
            return false;
        }
    }
    return true;
}

/* ---- tables --------------------------------------------------------------------------------- */

static uint32_t class_of(uint32_t c) {
    size_t low = 0, high = COUNT(nfc_classes);
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (c < nfc_classes[middle].from) {
            high = middle;
        } else if (c > nfc_classes[middle].to) {
            low = middle + 1;
        } else {
            return nfc_classes[middle].class;
        }
    }
    return 0;
}

static const nfc_pair *pair_of(uint32_t whole) {
    size_t low = 0, high = COUNT(nfc_pairs);
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (nfc_pairs[middle].whole == whole) {
            return &nfc_pairs[middle];
        }
        if (nfc_pairs[middle].whole < whole) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return NULL;
}

/* What the character stands for alone, or itself. */
static uint32_t single_of(uint32_t whole) {
    size_t low = 0, high = COUNT(nfc_singles);
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (nfc_singles[middle].whole == whole) {
            return nfc_singles[middle].left;
        }
        if (nfc_singles[middle].whole < whole) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return whole;
}

/* The character that two become, or 0. */
static uint32_t join_of(uint32_t left, uint32_t right) {
    if (left >= HANGUL_L && left < HANGUL_L + 19 && right >= HANGUL_V &&
        right < HANGUL_V + HANGUL_VS) {
        return HANGUL + ((left - HANGUL_L) * HANGUL_VS + (right - HANGUL_V)) * HANGUL_TS;
    }
    if (left >= HANGUL && left < HANGUL + HANGUL_COUNT && (left - HANGUL) % HANGUL_TS == 0 &&
        right > HANGUL_T && right < HANGUL_T + HANGUL_TS) {
        return left + (right - HANGUL_T);
    }
    size_t low = 0, high = COUNT(nfc_joins);
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        const nfc_pair *p = &nfc_pairs[nfc_joins[middle]];
        if (p->left == left && p->right == right) {
            return p->whole;
        }
        if (p->left < left || (p->left == left && p->right < right)) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return 0;
}

/* ---- the three steps ------------------------------------------------------------------------ */

/* Appends the parts of `c` to parts[*count]; what would not fit stays whole. */
static void take_apart(uint32_t c, uint32_t parts[PARTS_MAX], size_t *count) {
    if (c >= HANGUL && c < HANGUL + HANGUL_COUNT) {
        uint32_t at = c - HANGUL;
        parts[(*count)++] = HANGUL_L + at / (HANGUL_VS * HANGUL_TS);
        parts[(*count)++] = HANGUL_V + at / HANGUL_TS % HANGUL_VS;
        if (at % HANGUL_TS != 0) {
            parts[(*count)++] = HANGUL_T + at % HANGUL_TS;
        }
        return;
    }
    const nfc_pair *p = pair_of(single_of(c));
    if (p != NULL && *count + 2 < PARTS_MAX) {
        take_apart(p->left, parts, count);
        take_apart(p->right, parts, count);
    } else {
        parts[(*count)++] = single_of(c);
    }
}

/* All of the text's parts with their classes; [the number of characters * 4], or NULL. */
static uint64_t *take_all_apart(str text, size_t *count) {
    size_t characters = 0;
    for (size_t i = 0; i < text.bytes; i++) {
        characters += ((uint8_t)text.data[i] & 0xC0) != 0x80;
    }
    uint64_t *all = mem_alloc(characters, 4 * sizeof *all);
    *count = 0;
    for (size_t at = 0; all != NULL && at < text.bytes;) {
        uint32_t c, parts[PARTS_MAX];
        size_t made = 0;
        at += (size_t)str_utf8_next(text.data + at, text.bytes - at, &c);
        take_apart(c, parts, &made);
        for (size_t i = 0; i < made; i++, (*count)++) {
            all[*count] = (uint64_t)class_of(parts[i]) << CLASS_SHIFT |
                          (uint64_t)*count << CODE_BITS | parts[i];
        }
    }
    return all;
}

static int compare(const void *a, const void *b) {
    const uint64_t *left = a, *right = b;
    return *left < *right ? -1 : *left > *right;
}

static void sort_marks(uint64_t *all, size_t count) {
    for (size_t from = 0; from < count;) {
        size_t to = from;
        while (to < count && all[to] >> CLASS_SHIFT != 0) {
            to++;
        }
        if (to - from > 1) {
            qsort(all + from, to - from, sizeof *all, compare);
        }
        from = to + 1;
    }
}

/* Puts together in place; returns how many characters are left. */
static size_t put_together(uint64_t *all, size_t count) {
    const uint64_t code = (1u << CODE_BITS) - 1;
    size_t kept = 0, starter = SIZE_MAX;
    uint64_t before = 0; /* the class of what was kept last */
    for (size_t i = 0; i < count; i++) {
        uint64_t class = all[i] >> CLASS_SHIFT;
        uint32_t joined = 0;
        if (starter != SIZE_MAX && (before < class || before == 0)) {
            joined = join_of((uint32_t)(all[starter] & code), (uint32_t)(all[i] & code));
        }
        if (joined != 0) {
            all[starter] = joined;
            continue;
        }
        starter = class == 0 ? kept : starter;
        before = class;
        all[kept++] = all[i];
    }
    return kept;
}

bool nfc_write(str text, strbuf *out) {
    size_t count;
    uint64_t *all = take_all_apart(text, &count);
    if (all == NULL) {
        return false;
    }
    sort_marks(all, count);
    count = put_together(all, count);
    bool fits = true;
    for (size_t i = 0; i < count && fits; i++) {
        char bytes[4];
        uint32_t c = (uint32_t)(all[i] & ((1u << CODE_BITS) - 1));
        fits = strbuf_append(out, bytes, str_utf8_put(c, bytes));
    }
    mem_free(all);
    return fits;
}
