/* jinja_builtin.h -- filters, tests, functions and methods: one row each.
 *
 * Purpose    A row says a name, its parameters and the C function. The binder checks and spreads
 *            arguments, so every function gets its parameters in order.
 * Ownership  Constant tables.
 * Threads    Pure look-ups.
 * Limits     BUILTIN_PARAMETERS_MAX parameters.
 */
#ifndef MODELS_TEXT_JINJA_BUILTIN_H
#define MODELS_TEXT_JINJA_BUILTIN_H

#include "engine/base/str.h"
#include "models/text/jinja_value.h"

enum { JINJA_BUILTIN_PARAMETERS_MAX = 6 };

typedef struct jinja_vm jinja_vm;

/* Arguments after evaluation. */
typedef struct {
    jinja_value *items; /* [count] */
    jinja_value *names; /* [named_count] strings */
    jinja_value *named; /* [named_count] */
    size_t count, named_count;
} jinja_args;

/* `self` is what a filter, test or method is applied to. argv[] has one value a parameter, ABSENT
 * where none was given. `args` is everything, for those that take any number. */
typedef jinja_value (*jinja_builtin_call)(jinja_vm *vm, jinja_value self, const jinja_value *argv,
                                          const jinja_args *args);

struct jinja_builtin {
    const char *name;
    /* Names by commas: "!a" must be given; a leading "/" makes all positional only; "*" alone takes
     * any arguments. */
    const char *parameters;
    jinja_builtin_call call;
};

/* NULL when there is no such one. */
const jinja_builtin *jinja_builtin_filter(str name);
const jinja_builtin *jinja_builtin_test(str name);
const jinja_builtin *jinja_builtin_function(str name);

const jinja_builtin *jinja_builtin_method(jinja_type of, str name);

/* Binds `args` to the row's parameters and calls it. */
jinja_value jinja_builtin_apply(jinja_vm *vm, const jinja_builtin *builtin, jinja_value self,
                                const jinja_args *args);

typedef struct {
    const jinja_builtin *rows; /* [count] */
    size_t count;
} jinja_builtin_table;

/* One row, or NULL. */
const jinja_builtin *jinja_builtin_find(const jinja_builtin_table *table, str name);

/* The head of a built-in's function. */
#define JINJA_BUILTIN(function)                                                  \
    static jinja_value function(jinja_vm *vm __attribute__((unused)),            \
                                jinja_value self __attribute__((unused)),        \
                                const jinja_value *argv __attribute__((unused)), \
                                const jinja_args *args __attribute__((unused)))

#define JINJA_BUILTIN_TABLE(array) \
    { (array), sizeof(array) / sizeof((array)[0]) }

/* Each in the file of its name. */
extern const jinja_builtin_table jinja_filter_text_table;
extern const jinja_builtin_table jinja_filter_value_table;
extern const jinja_builtin_table jinja_filter_list_table;
extern const jinja_builtin_table jinja_filter_pick_table;
extern const jinja_builtin_table jinja_is_table;
extern const jinja_builtin_table jinja_function_table;
extern const jinja_builtin_table jinja_loop_table;
extern const jinja_builtin_table jinja_method_text_table;
extern const jinja_builtin_table jinja_method_split_table;
extern const jinja_builtin_table jinja_method_list_table;
extern const jinja_builtin_table jinja_method_list_tuple_table;
extern const jinja_builtin_table jinja_method_dict_table;
extern const jinja_builtin_table jinja_method_list_cycler_table;

#endif
