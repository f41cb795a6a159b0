/* jinja_ast.h -- the parsed template.
 *
 * Purpose    What the parser makes and the evaluator walks.
 * Ownership  The template's heap; never written after the parse.
 * Threads    Any number may read.
 * Limits     See jinja.h.
 */
#ifndef MODELS_TEXT_JINJA_AST_H
#define MODELS_TEXT_JINJA_AST_H

#include "models/text/jinja_value.h"

/* What each kind of node uses of jinja_node. */
typedef enum {
    /* expressions */
    JINJA_CONST,   /* value */
    JINJA_NAME,    /* symbol, value: the name */
    JINJA_LISTING, /* items; op: JINJA_LIST or JINJA_TUPLE */
    JINJA_DICTING, /* items: key, value, key, value */
    JINJA_ATTR,    /* left.value; methods, NULL when no type has a method of that name */
    JINJA_ITEM,    /* left[right] */
    JINJA_SLICE,   /* left[items[0]:items[1]:items[2]], each may be NULL */
    JINJA_CALL,    /* left(args) */
    JINJA_FILTER,  /* left|value(args), left NULL: the text of a block; builtin, NULL if unknown */
    JINJA_TEST,    /* left is value(args); builtin */
    JINJA_UNARY,   /* op left */
    JINJA_BINARY,  /* left op right */
    JINJA_CONCAT,  /* items joined by ~ */
    JINJA_COMPARE, /* left, then items: JINJA_OPERAND */
    JINJA_OPERAND, /* op left */
    JINJA_AND,     /* left, right */
    JINJA_OR,
    JINJA_CONDITION, /* left if right else third (may be NULL) */
    JINJA_NSREF,     /* target: symbol.value */

    /* statements */
    JINJA_BODY,         /* items */
    JINJA_TEXT,         /* value */
    JINJA_OUTPUT,       /* left */
    JINJA_IF,           /* if left: right; else third (a JINJA_IF for elif, or NULL) */
    JINJA_FOR,          /* for left in right: third; items[0] the condition, items[1] the else
                         * part, each may be NULL; flag: recursive */
    JINJA_SET,          /* left = right */
    JINJA_SET_BLOCK,    /* left = third as text, through right (a JINJA_FILTER or NULL) */
    JINJA_MACRO_DEF,    /* macro */
    JINJA_CALL_BLOCK,   /* left: the JINJA_CALL; macro: the body as caller */
    JINJA_FILTER_BLOCK, /* third as text, through left */
    JINJA_WITH,         /* items: target, value, target, value; third */
    JINJA_SCOPE,        /* third, in a scope of its own */
    JINJA_DO,           /* left */
    JINJA_BREAK,
    JINJA_CONTINUE
} jinja_kind;

typedef enum {
    JINJA_OP_ADD,
    JINJA_OP_SUB,
    JINJA_OP_MUL,
    JINJA_OP_DIV,
    JINJA_OP_FLOORDIV,
    JINJA_OP_MOD,
    JINJA_OP_POW,
    JINJA_OP_NEG,
    JINJA_OP_POS,
    JINJA_OP_NOT,
    JINJA_OP_EQ,
    JINJA_OP_NE,
    JINJA_OP_LT,
    JINJA_OP_LE,
    JINJA_OP_GT,
    JINJA_OP_GE,
    JINJA_OP_IN,
    JINJA_OP_NOT_IN
} jinja_op;

typedef struct jinja_node jinja_node;

/* The methods of one name, by the type they belong to. */
typedef struct {
    const jinja_builtin *of[JINJA_JOINER + 1];
} jinja_methods;

/* Arguments as written: positional, *rest, name=value, **rest. */
typedef struct {
    jinja_node **items; /* [count] */
    jinja_node **named; /* [named_count] values of names[] */
    jinja_value *names; /* [named_count] strings */
    jinja_node *star, *star_star;
    int32_t count, named_count;
} jinja_arguments;

typedef struct {
    jinja_value name;
    int32_t symbol;
    int32_t count;
    int32_t *symbols;      /* [count] parameters */
    jinja_value *names;    /* [count] */
    jinja_node **defaults; /* [count], NULL where there is none */
    jinja_node *body;
    bool uses_caller, uses_varargs, uses_kwargs; /* the body names them, parameters do not */
} jinja_macro_def;

struct jinja_node {
    uint8_t kind; /* jinja_kind */
    uint8_t op;   /* jinja_op, or a jinja_type */
    bool flag;
    int32_t line;
    int32_t symbol;
    int32_t count; /* of items */
    jinja_node *left, *right, *third;
    jinja_node **items;
    jinja_arguments *args;
    jinja_value value;
    const jinja_builtin *builtin;
    const jinja_methods *methods;
    jinja_macro_def *macro;
};

typedef struct {
    jinja_node *body;
    const jinja_dict *symbols;             /* name -> number, 0 .. symbols->count - 1 */
    int32_t caller, varargs, kwargs, loop; /* symbols of names with a meaning */
} jinja_ast;

typedef struct jinja_scope jinja_scope;

struct jinja_macro {
    const jinja_macro_def *def;
    jinja_scope *scope; /* where it was defined; NULL: the template's top */
};

#endif
