/* ropescale.h -- how rotary embeddings are stretched past the trained context.
 *
 * Purpose    The scalings that model files name: none, linear, llama3 and yarn. Linear divides
 *            positions; the others slow each pair of dimensions by its own factor, and yarn also
 *            scales cosines and sines.
 * Ownership  Plain values; ropescale_factors gives heap memory (mem_free).
 * Threads    Pure functions.
 * Limits     Factors are from 1 to 1e6.
 * Source     Linear: Chen et al., arXiv 2306.15595. YaRN: Peng et al., arXiv 2309.00071, section
 *            3.4. llama3: the reference code of Llama 3.1.
 */
#ifndef MODELS_ARCH_ROPESCALE_H
#define MODELS_ARCH_ROPESCALE_H

#include <stdbool.h>
#include <stdint.h>

#include "engine/base/status.h"
#include "models/file/gguf.h"

typedef enum { ROPESCALE_NONE, ROPESCALE_LINEAR, ROPESCALE_LLAMA3, ROPESCALE_YARN } ropescale_kind;

typedef struct {
    ropescale_kind kind;
    double factor;
    double trained_tokens;       /* llama3, yarn: the context before stretching */
    double low, high;            /* llama3: wavelengths longer than trained / low are slowed by the
                                  * factor, shorter than trained / high not at all */
    double beta_fast, beta_slow; /* yarn: turns within the trained context where it begins, ends */
    bool whole;                  /* yarn: the range begins and ends at whole dimensions */
    double magnitude;            /* of cosines and sines */
    double position_scale;       /* multiplies positions */
} ropescale;

/* The keys ARCH.rope.scaling.*; ROPESCALE_NONE when there are none. */
MUST_USE status ropescale_read(const gguf *file, const char *arch, ropescale *out, diag *d);

/* What divides the frequency of each pair: [dim / 2], or NULL when all are 1 (*out is then NULL).
 * STATUS_NOMEM is the only failure. */
MUST_USE status ropescale_factors(const ropescale *s, double base, int32_t dim, float **out);

#endif
