/* jinja_parse.h -- tokens into a tree.
 *
 * Purpose    jinja_parse is the entry; the rest is what its two halves share: statements in
 *            jinja_parse.c, expressions in jinja_expr.c. Recursive descent, the grammar of Jinja2
 *            3.1 with the loop controls, `do` and the `generation` block.
 * Ownership  The heap's.
 * Threads    One thread at a time.
 * Limits     The heap's depth bounds nesting.
 */
#ifndef MODELS_TEXT_JINJA_PARSE_H
#define MODELS_TEXT_JINJA_PARSE_H

#include "models/text/jinja_ast.h"
#include "models/text/jinja_lex.h"

/* Parses valid UTF-8. */
jinja_ast *jinja_parse(jinja_heap *h, str source);

typedef struct jinja_macro_frame {
    jinja_macro_def *def;
    struct jinja_macro_frame *outer;
} jinja_macro_frame;

typedef struct {
    jinja_heap *h;
    const jinja_token *tokens; /* the last one is END */
    const jinja_token *token;  /* the current one */
    jinja_dict *symbols;
    jinja_macro_frame *macros; /* the definitions around the current token */
    int32_t loops;             /* the loops around it that `break` can leave */
    int32_t caller, varargs, kwargs, loop;
} jinja_parser;

typedef struct {
    jinja_node **items;
    int32_t count, capacity;
} jinja_nodes;

_Noreturn void jinja_parse_fail(jinja_parser *p, const char *what);
jinja_node *jinja_parse_node(jinja_parser *p, jinja_kind kind);
void jinja_parse_push(jinja_parser *p, jinja_nodes *nodes, jinja_node *node);
int32_t jinja_parse_symbol(jinja_parser *p, jinja_value name);
jinja_value jinja_parse_text(jinja_parser *p, str text);

bool jinja_parse_at_name(const jinja_parser *p, const char *name);
bool jinja_parse_at(const jinja_parser *p, const char *operator_text);
bool jinja_parse_take_name(jinja_parser *p, const char *name);
bool jinja_parse_take(jinja_parser *p, const char *operator_text);
void jinja_parse_expect(jinja_parser *p, const char *operator_text);
void jinja_parse_next(jinja_parser *p);

/* An expression; with `conditions`, `a if b else c` too. */
jinja_node *jinja_expr_parse(jinja_parser *p, bool conditions);

/* Expressions by commas: a tuple, or the one there is. */
jinja_node *jinja_expr_tuple(jinja_parser *p, bool conditions);

/* What can be assigned to: a name, a tuple of targets, with `attributes` also space.name. */
jinja_node *jinja_expr_target(jinja_parser *p, bool attributes);

/* A chain of filters on `node`; `inside`: the first has no | before it. */
jinja_node *jinja_expr_filters(jinja_parser *p, jinja_node *node, bool inside);

#endif
