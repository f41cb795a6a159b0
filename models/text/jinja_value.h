/* jinja_value.h -- the values of a template: Python's, as far as templates can see them.
 *
 * Purpose    One tagged value of 16 bytes, and what lists, dicts and iteration need.
 * Ownership  Everything a value points to lives in the heap it was made in (jinja_heap.h), or in
 *            the parsed template, or in the caller's input; nothing is freed by itself.
 * Threads    Values of a render belong to its thread. Constants of a parsed template are never
 *            written.
 * Limits     Integers are 64 bits and fail rather than wrap. Strings know bytes and characters.
 */
#ifndef MODELS_TEXT_JINJA_VALUE_H
#define MODELS_TEXT_JINJA_VALUE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "models/text/jinja_heap.h"

typedef enum {
    JINJA_ABSENT, /* no value at all: an argument not given, a variable not set */
    JINJA_UNDEFINED,
    JINJA_NONE,
    JINJA_BOOL,
    JINJA_INT,
    JINJA_FLOAT,
    JINJA_STRING,
    JINJA_LIST,
    JINJA_TUPLE,
    JINJA_DICT,
    JINJA_RANGE,
    JINJA_VIEW,     /* dict.keys(), .values(), .items() */
    JINJA_ITERATOR, /* what lazy filters give: read once, no length, always true */
    JINJA_NAMESPACE,
    JINJA_MACRO,
    JINJA_LOOP,
    JINJA_FUNCTION, /* a global function */
    JINJA_METHOD,   /* a method bound to its value */
    JINJA_CYCLER,
    JINJA_JOINER
} jinja_type;

/* A value's flag byte. */
enum {
    JINJA_FLAG_GROUP = 1,     /* TUPLE: made by groupby, has .grouper and .list */
    JINJA_FLAG_ATTRIBUTE = 1, /* UNDEFINED: an attribute, not a variable */
    JINJA_FLAG_KEYS = 0,      /* VIEW: which one */
    JINJA_FLAG_VALUES = 1,
    JINJA_FLAG_ITEMS = 2
};

typedef struct jinja_string jinja_string;
typedef struct jinja_list jinja_list;
typedef struct jinja_dict jinja_dict;
typedef struct jinja_range_value jinja_range_value;
typedef struct jinja_iterator jinja_iterator;
typedef struct jinja_macro jinja_macro;
typedef struct jinja_loop jinja_loop;
typedef struct jinja_builtin jinja_builtin;
typedef struct jinja_method_value jinja_method_value;
typedef struct jinja_cycler jinja_cycler;

typedef struct {
    uint8_t type;  /* jinja_type */
    uint8_t flag;  /* above */
    uint8_t owner; /* UNDEFINED: the jinja_type it was looked for in */
    union {
        bool boolean;
        int64_t integer;
        double real;
        const jinja_string *string; /* STRING; UNDEFINED: its name, or NULL */
        jinja_list *list;           /* LIST, TUPLE */
        jinja_dict *dict;           /* DICT, VIEW, NAMESPACE */
        const jinja_range_value *range;
        jinja_iterator *iterator;
        const jinja_macro *macro;
        jinja_loop *loop;
        const jinja_builtin *function;
        const jinja_method_value *method;
        jinja_cycler *cycler; /* CYCLER, JOINER */
    } as;
} jinja_value;

struct jinja_list {
    jinja_value *items; /* [capacity] */
    size_t count, capacity;
};

struct jinja_range_value {
    int64_t start, stop, step;
    size_t count;
};

struct jinja_iterator {
    jinja_list *items; /* what is left, from `at` */
    size_t at;
};

struct jinja_method_value {
    jinja_value self;
    const jinja_builtin *builtin;
};

struct jinja_cycler {
    jinja_list *items;
    size_t at;
};

static inline jinja_value jinja_value_none(void) {
    return (jinja_value){.type = JINJA_NONE};
}

static inline jinja_value jinja_value_absent(void) {
    return (jinja_value){.type = JINJA_ABSENT};
}

static inline jinja_value jinja_value_bool(bool b) {
    return (jinja_value){.type = JINJA_BOOL, .as.boolean = b};
}

static inline jinja_value jinja_value_int(int64_t i) {
    return (jinja_value){.type = JINJA_INT, .as.integer = i};
}

static inline jinja_value jinja_value_float(double f) {
    return (jinja_value){.type = JINJA_FLOAT, .as.real = f};
}

/* `name` may be NULL. */
static inline jinja_value jinja_value_undefined(const jinja_string *name) {
    return (jinja_value){.type = JINJA_UNDEFINED, .as.string = name};
}

static inline jinja_value jinja_value_list(jinja_list *list) {
    return (jinja_value){.type = JINJA_LIST, .as.list = list};
}

static inline jinja_value jinja_value_tuple(jinja_list *list) {
    return (jinja_value){.type = JINJA_TUPLE, .as.list = list};
}

static inline jinja_value jinja_value_dict(jinja_dict *dict) {
    return (jinja_value){.type = JINJA_DICT, .as.dict = dict};
}

/* Reads `items` once. */
jinja_value jinja_value_iterator(jinja_heap *h, jinja_list *items);
jinja_value jinja_value_pair(jinja_heap *h, jinja_value first, jinja_value second);

/* Python's name of the type, for messages: 'str', 'dict'. */
const char *jinja_value_type_name(jinja_value v);

/* Fails with what undefined was looked for. */
_Noreturn void jinja_value_fail_undefined(jinja_heap *h, jinja_value undefined);

/* bool(v) */
bool jinja_value_truth(jinja_value v);

/* len(v), or -1 for what has none. */
int64_t jinja_value_length(jinja_value v);

/* True for int and bool, with the number. */
bool jinja_value_integer(jinja_value v, int64_t *out);

/* True for int, bool and float, with the number as float. */
bool jinja_value_number(jinja_value v, double *out);

/* The number of an argument that has to be an integer; fails otherwise. */
int64_t jinja_value_need_int(jinja_heap *h, jinja_value v, const char *what);

jinja_list *jinja_value_list_make(jinja_heap *h, size_t capacity);
void jinja_value_list_push(jinja_heap *h, jinja_list *list, jinja_value v);

/* One pass over any iterable. */
typedef struct {
    jinja_value of;
    size_t at;     /* items given; for a string, bytes */
    size_t expect; /* a dict's size at the start: it must not change */
} jinja_walk;

/* False for what can't be iterated. */
bool jinja_value_walk(jinja_value v, jinja_walk *walk);

/* As jinja_value_walk; fails when `v` can't be iterated. */
jinja_walk jinja_value_need_walk(jinja_heap *h, jinja_value v);

/* False at the end. */
bool jinja_value_next(jinja_heap *h, jinja_walk *walk, jinja_value *out);

/* list(v): always a new list. */
jinja_list *jinja_value_to_list(jinja_heap *h, jinja_value v);

#endif
