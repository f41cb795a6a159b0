/* halffloat.h -- 16-bit floats to float, exactly.
 *
 * Purpose    The few vectors of a model that files keep in 16 bits and the backends want in 32.
 * Ownership  Pure functions.
 * Threads    Any.
 * Limits     Every bit pattern is a value; quiet and signalling NaNs become NaNs.
 */
#ifndef MODELS_FILE_HALFFLOAT_H
#define MODELS_FILE_HALFFLOAT_H

#include <stdint.h>

float halffloat_f16(uint16_t bits);
float halffloat_bf16(uint16_t bits);

#endif
