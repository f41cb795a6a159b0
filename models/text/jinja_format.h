/* jinja_format.h -- "..." % values and "...".format(values).
 *
 * Purpose    Python's two ways of formatting, for the types templates have.
 * Ownership  The heap's.
 * Threads    One thread.
 * Limits     The heap's; a precision of JINJA_FORMAT_PRECISION_MAX digits.
 */
#ifndef MODELS_TEXT_JINJA_FORMAT_H
#define MODELS_TEXT_JINJA_FORMAT_H

#include "models/text/jinja_vm.h"

enum { JINJA_FORMAT_PRECISION_MAX = 300 };

jinja_value jinja_format_percent(jinja_vm *vm, jinja_value format, jinja_value values);
jinja_value jinja_format_braces(jinja_vm *vm, jinja_value format, const jinja_args *args);

#endif
