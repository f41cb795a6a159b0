/* ropescale.c -- how rotary embeddings are stretched past the trained context. */
#include "models/arch/ropescale.h"

#include <math.h>
#include <stdio.h>

#include "engine/base/mem.h"

enum { KEY_BYTES = 96 };

#define PI 3.14159265358979323846

typedef struct {
    const gguf *file;
    const char *arch;
    diag *d;
} reader;

/* A number in [min, max] under ARCH.rope.NAME; `fallback` when there is none, unless that is 0. */
static status take_real(const reader *r, const char *name, double min, double max, double fallback,
                        double *out) {
    char key[KEY_BYTES];
    (void)snprintf(key, sizeof key, "%s.rope.%s", r->arch, name);
    status s = gguf_get_f64(r->file, key, out, r->d);
    if (s == STATUS_NOTFOUND && fallback > 0) {
        *out = fallback;
        s = STATUS_OK;
    }
    TRY(s);
    if (!(*out >= min && *out <= max)) {
        return status_fail(r->d, STATUS_CORRUPT, "%s is %g: it must be from %g to %g", key, *out,
                           min, max);
    }
    return STATUS_OK;
}

static status read_llama3(const reader *r, ropescale *s) {
    TRY(take_real(r, "scaling.original_context_length", 1, 1e9, 0, &s->trained_tokens));
    TRY(take_real(r, "scaling.low_freq_factor", 1e-3, 1e6, 0, &s->low));
    TRY(take_real(r, "scaling.high_freq_factor", 1e-3, 1e6, 0, &s->high));
    if (s->high <= s->low) {
        return status_fail(r->d, STATUS_CORRUPT,
                           "%s.rope.scaling.high_freq_factor %g must be above low_freq_factor %g",
                           r->arch, s->high, s->low);
    }
    return STATUS_OK;
}

static status read_yarn(const reader *r, ropescale *s) {
    double attention = 1;
    TRY(take_real(r, "scaling.original_context_length", 1, 1e9, 0, &s->trained_tokens));
    TRY(take_real(r, "scaling.yarn_beta_fast", 1e-3, 1e6, 32, &s->beta_fast));
    TRY(take_real(r, "scaling.yarn_beta_slow", 1e-3, 1e6, 1, &s->beta_slow));
    TRY(take_real(r, "scaling.attn_factor", 1e-3, 1e3, 1, &attention));
    char key[KEY_BYTES];
    (void)snprintf(key, sizeof key, "%s.rope.scaling.yarn_truncate", r->arch);
    status found = gguf_get_bool(r->file, key, &s->whole, r->d);
    if (found != STATUS_OK && found != STATUS_NOTFOUND) {
        return found;
    }
    s->magnitude = attention * (1 + 0.1 * log(s->factor));
    return STATUS_OK;
}

status ropescale_read(const gguf *file, const char *arch, ropescale *out, diag *d) {
    ropescale s = {
        .kind = ROPESCALE_NONE, .factor = 1, .magnitude = 1, .position_scale = 1, .whole = true};
    const reader r = {file, arch, d};
    char key[KEY_BYTES];
    str type = {NULL, 0};
    (void)snprintf(key, sizeof key, "%s.rope.scaling.type", arch);
    status found = gguf_get_str(file, key, &type, d);
    if (found == STATUS_NOTFOUND) {
        /* Older files have the factor alone. */
        TRY(take_real(&r, "scale_linear", 1, 1e6, 1, &s.factor));
        s.kind = ROPESCALE_LINEAR;
    } else {
        TRY(found);
        if (!str_equal_z(type, "none")) {
            TRY(take_real(&r, "scaling.factor", 1, 1e6, 0, &s.factor));
        }
        if (str_equal_z(type, "linear")) {
            s.kind = ROPESCALE_LINEAR;
        } else if (str_equal_z(type, "llama3")) {
            s.kind = ROPESCALE_LLAMA3;
            TRY(read_llama3(&r, &s));
        } else if (str_equal_z(type, "yarn")) {
            s.kind = ROPESCALE_YARN;
            TRY(read_yarn(&r, &s));
        } else if (!str_equal_z(type, "none")) {
            return status_fail(d, STATUS_UNSUPPORTED,
                               "%s is \"%.*s\": none, linear, llama3 and yarn are supported", key,
                               (int)(type.bytes < 64 ? type.bytes : 64), type.data);
        }
    }
    if (s.kind == ROPESCALE_LINEAR) {
        s.position_scale = 1 / s.factor;
    }
    *out = s;
    return STATUS_OK;
}

/* ---- factors -------------------------------------------------------------------------------- */

static double factor_llama3(const ropescale *s, double frequency) {
    double wavelength = 2 * PI / frequency;
    if (wavelength > s->trained_tokens / s->low) {
        return s->factor;
    }
    if (wavelength < s->trained_tokens / s->high) {
        return 1;
    }
    double smooth = (s->trained_tokens / wavelength - s->low) / (s->high - s->low);
    return 1 / ((1 - smooth) / s->factor + smooth);
}

/* The pair that makes `turns` turns within the trained context. */
static double yarn_pair(const ropescale *s, double turns, double base, int32_t dim) {
    return dim * log(s->trained_tokens / (turns * 2 * PI)) / (2 * log(base));
}

static double factor_yarn(const ropescale *s, double base, int32_t dim, int32_t pair) {
    double low = yarn_pair(s, s->beta_fast, base, dim);
    double high = yarn_pair(s, s->beta_slow, base, dim);
    if (s->whole) {
        low = floor(low);
        high = ceil(high);
    }
    low = fmax(low, 0);
    high = fmin(high, dim - 1);
    high = low == high ? high + 0.001 : high;
    double slowed = fmin(fmax((pair - low) / (high - low), 0), 1);
    return 1 / (slowed / s->factor + (1 - slowed));
}

status ropescale_factors(const ropescale *s, double base, int32_t dim, float **out) {
    *out = NULL;
    if (s->kind != ROPESCALE_LLAMA3 && s->kind != ROPESCALE_YARN) {
        return STATUS_OK;
    }
    float *factors = mem_alloc((size_t)dim / 2, sizeof *factors);
    if (factors == NULL) {
        return STATUS_NOMEM;
    }
    for (int32_t i = 0; i < dim / 2; i++) {
        double frequency = pow(base, -2.0 * i / dim);
        factors[i] = (float)(s->kind == ROPESCALE_LLAMA3 ? factor_llama3(s, frequency)
                                                         : factor_yarn(s, base, dim, i));
    }
    *out = factors;
    return STATUS_OK;
}
