/* jinja_number.h -- Python's arithmetic on 64-bit integers and floats, and reading numbers.
 *
 * Purpose    + - * / // % ** with Python's rounding and promotion; int("..."), float("...").
 * Ownership  None.
 * Threads    Pure functions.
 * Limits     An integer result beyond 64 bits fails (Python's integers grow instead).
 */
#ifndef MODELS_TEXT_JINJA_NUMBER_H
#define MODELS_TEXT_JINJA_NUMBER_H

#include "engine/base/str.h"
#include "models/text/jinja_ast.h"

/* Both are numbers; `op` is JINJA_OP_ADD .. JINJA_OP_POW. */
jinja_value jinja_number_calculate(jinja_heap *h, jinja_op op, jinja_value a, jinja_value b);

/* int(text, base) and float(text): blanks around, underscores between digits. Base 0 reads the
 * prefixes 0x, 0o, 0b. False when it is no number; an integer beyond 64 bits fails. */
bool jinja_number_read_int(jinja_heap *h, str text, int base, jinja_value *out);
bool jinja_number_read_float(str text, jinja_value *out);

/* int(f); fails for what is no 64-bit integer. */
jinja_value jinja_number_truncate(jinja_heap *h, double f);

/* round(v, digits): halves to even. An int without digits when `digits` is absent. */
double jinja_number_round(double f, int64_t digits);

#endif
