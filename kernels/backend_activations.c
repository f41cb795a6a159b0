/* backend_activations.c -- how activations meet weights: names and choice. */
#include "kernels/backend.h"

const char *backend_activations_name(backend_activations activations) {
    switch (activations) {
        case BACKEND_ACTIVATIONS_INT8:
            return "int8";
        case BACKEND_ACTIVATIONS_F32:
            return "f32";
        case BACKEND_ACTIVATIONS_BF16:
            return "bf16";
        case BACKEND_ACTIVATIONS_MIXED:
            return "mixed";
        case BACKEND_ACTIVATIONS_TYPES:
            break;
    }
    return "unknown";
}

backend_activations backend_activations_choose(const backend *b, backend_activations wanted) {
    if (wanted != BACKEND_ACTIVATIONS_TYPES) {
        return wanted;
    }
    return b->bf16 ? BACKEND_ACTIVATIONS_MIXED : BACKEND_ACTIVATIONS_INT8;
}
