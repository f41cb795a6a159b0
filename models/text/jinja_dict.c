/* jinja_dict.c -- ordered entries with an open-addressed index. */
#include "models/text/jinja_dict.h"

#include <string.h>

#include "models/text/jinja_compare.h"
#include "models/text/jinja_string.h"

enum { INDEX_FROM_COUNT = 9 };

jinja_dict *jinja_dict_make(jinja_heap *h) {
    jinja_dict *d = JINJA_TAKE(h, 1, jinja_dict);
    *d = (jinja_dict){.entries = NULL};
    return d;
}

static uint64_t hash_of(jinja_heap *h, jinja_value key) {
    uint64_t hash;
    if (!jinja_compare_hash(h, key, &hash)) {
        jinja_heap_fail(h, STATUS_INVALID, "unhashable type: '%s'", jinja_value_type_name(key));
    }
    return hash;
}

static bool same_key(jinja_heap *h, const jinja_entry *entry, jinja_value key, uint64_t hash) {
    return entry->hash == hash && jinja_compare_equal(h, entry->key, key);
}

/* The entry's number, or SIZE_MAX. */
static size_t dict_find(jinja_heap *h, const jinja_dict *d, jinja_value key, uint64_t hash) {
    if (!d->index) {
        for (size_t i = 0; i < d->count; i++) {
            if (same_key(h, &d->entries[i], key, hash)) {
                return i;
            }
        }
        return SIZE_MAX;
    }
    size_t mask = d->index_slots - 1;
    for (size_t slot = hash & mask; d->index[slot]; slot = (slot + 1) & mask) {
        jinja_heap_charge(h, 1);
        size_t i = d->index[slot] - 1;
        if (same_key(h, &d->entries[i], key, hash)) {
            return i;
        }
    }
    return SIZE_MAX;
}

static void index_put(jinja_dict *d, size_t entry) {
    size_t mask = d->index_slots - 1, slot = d->entries[entry].hash & mask;
    while (d->index[slot]) {
        slot = (slot + 1) & mask;
    }
    d->index[slot] = (uint32_t)(entry + 1);
}

static void index_rebuild(jinja_heap *h, jinja_dict *d) {
    jinja_heap_charge(h, d->count);
    memset(d->index, 0, d->index_slots * sizeof *d->index);
    for (size_t i = 0; i < d->count; i++) {
        index_put(d, i);
    }
}

static void index_room(jinja_heap *h, jinja_dict *d) {
    if (d->count < INDEX_FROM_COUNT) {
        return;
    }
    if (!d->index || d->count * 2 > d->index_slots) {
        d->index_slots = d->index ? d->index_slots * 2 : 32;
        d->index = JINJA_TAKE(h, d->index_slots, uint32_t);
        index_rebuild(h, d);
    } else {
        index_put(d, d->count - 1);
    }
}

const jinja_value *jinja_dict_find(jinja_heap *h, const jinja_dict *d, jinja_value key) {
    size_t at = dict_find(h, d, key, hash_of(h, key));
    return at == SIZE_MAX ? NULL : &d->entries[at].value;
}

static bool entry_is(const jinja_entry *entry, const char *key, size_t bytes, uint64_t hash) {
    return entry->hash == hash && entry->key.type == JINJA_STRING &&
           str_equal(jinja_string_str(entry->key), str_of(key, bytes));
}

const jinja_value *jinja_dict_find_bytes(const jinja_dict *d, const char *key, size_t bytes) {
    uint64_t hash = jinja_compare_hash_bytes(key, bytes);
    if (!d->index) {
        for (size_t i = 0; i < d->count; i++) {
            if (entry_is(&d->entries[i], key, bytes, hash)) {
                return &d->entries[i].value;
            }
        }
        return NULL;
    }
    size_t mask = d->index_slots - 1;
    for (size_t slot = hash & mask; d->index[slot]; slot = (slot + 1) & mask) {
        if (entry_is(&d->entries[d->index[slot] - 1], key, bytes, hash)) {
            return &d->entries[d->index[slot] - 1].value;
        }
    }
    return NULL;
}

void jinja_dict_set(jinja_heap *h, jinja_dict *d, jinja_value key, jinja_value value) {
    uint64_t hash = hash_of(h, key);
    size_t at = dict_find(h, d, key, hash);
    if (at != SIZE_MAX) {
        d->entries[at].value = value;
        return;
    }
    if (d->count == d->capacity) {
        size_t capacity = d->capacity ? d->capacity * 2 : 4;
        if (capacity > UINT32_MAX / 4) {
            jinja_heap_fail(h, STATUS_LIMIT, "a dict is too large");
        }
        d->entries = jinja_heap_grow(h, d->entries, d->count, capacity, sizeof(jinja_entry));
        d->capacity = capacity;
    }
    d->entries[d->count++] = (jinja_entry){.key = key, .value = value, .hash = hash};
    index_room(h, d);
}

bool jinja_dict_remove(jinja_heap *h, jinja_dict *d, jinja_value key) {
    size_t at = dict_find(h, d, key, hash_of(h, key));
    if (at == SIZE_MAX) {
        return false;
    }
    jinja_heap_charge_bytes(h, d->count * sizeof(jinja_entry));
    memmove(&d->entries[at], &d->entries[at + 1], (d->count - at - 1) * sizeof(jinja_entry));
    d->count--;
    if (d->index) {
        index_rebuild(h, d);
    }
    return true;
}

jinja_dict *jinja_dict_copy(jinja_heap *h, const jinja_dict *d) {
    jinja_dict *copy = jinja_dict_make(h);
    for (size_t i = 0; i < d->count; i++) {
        jinja_dict_set(h, copy, d->entries[i].key, d->entries[i].value);
    }
    return copy;
}
