/* jinja.h -- a Jinja2 interpreter for chat templates.
 *
 * Purpose    Renders a template as Python's jinja2 3.1 does in the environment that Hugging Face
 *            transformers makes: ImmutableSandboxedEnvironment(trim_blocks=True,
 *            lstrip_blocks=True) with loop controls, the `generation` block, raise_exception,
 *            strftime_now, and a tojson that escapes nothing for HTML. Also, as other engines have
 *            them and templates rely on: `do`, from_json, and the methods that change lists and
 *            dicts (append, pop, update), which the sandbox refuses; what they change dies with the
 *            render. extends, include, import and block are refused: a template is one text.
 *
 *            How it works: jinja_lex.c cuts the text into tokens, jinja_parse.c and jinja_expr.c
 *            make a tree (jinja_ast.h), jinja_exec.c runs statements and jinja_eval.c evaluates
 *            expressions over the values of jinja_value.h. Filters, tests, functions and methods
 *            are rows of tables (jinja_builtin.h): to add one, write a function and its row, and a
 *            line in tests/golden/jinja_cases.py. Python's str and repr are in jinja_print.c,
 *            its numbers in jinja_number.c, its order and equality in jinja_compare.c.
 *
 *            Known differences: an integer beyond 64 bits is an error, not a big integer; lazy
 *            filters (map, select, ...) work at once, though their results still can be read only
 *            once; an unknown filter or test fails when it is reached, not before; strings with
 *            half a surrogate pair are refused.
 *
 * Ownership  jinja_open holds one heap (jinja_heap.h), jinja_close gives it back. A render has a
 *            heap of its own, gone when it returns.
 * Threads    A parsed template is never written: any number of threads may render it.
 * Limits     The constants below; passing one is STATUS_LIMIT, from any template with any input.
 */
#ifndef MODELS_TEXT_JINJA_H
#define MODELS_TEXT_JINJA_H

#include "models/text/jinja_vm.h"

enum {
    JINJA_TEMPLATE_BYTES_MAX = 256 << 10,
    JINJA_PARSE_MEMORY_BYTES_MAX = 64 << 20,
    JINJA_PARSE_DEPTH_MAX = 450, /* about 150 nested brackets */
    JINJA_MEMORY_BYTES_MAX = 64 << 20,
    JINJA_STEPS_MAX = 8 << 20, /* a step is one node, one item, or about 64 bytes moved */
    JINJA_DEPTH_MAX = 1000,    /* nested evaluations: about 100 calls of a macro by itself */
    JINJA_STACK_BYTES = 1 << 20
};

typedef struct jinja jinja;

MUST_USE status jinja_open(str source, jinja **out, diag *d);
void jinja_close(jinja *j);

/* Gives the template its variables, through jinja_define. */
typedef void (*jinja_fill)(jinja_vm *vm, const void *input);

/* Where the value of a variable goes; NULL when the template names none such. */
jinja_value *jinja_define(jinja_vm *vm, str name);

/* Appends the text to `out`; on failure `out` is as it was. */
MUST_USE status jinja_render(const jinja *j, jinja_fill fill, const void *input, int64_t wall_us,
                             size_t output_bytes_max, strbuf *out, diag *d);

#endif
