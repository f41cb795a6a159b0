/* weir_tinymodel.c -- `weir_tinymodel OUT.gguf [TYPE [SEED [CONTEXT]]]`: a small random model for
 * tests. */
#include <stdio.h>

#include "engine/base/str.h"
#include "tests/support/tinymodel.h"

int main(int argc, char **argv) {
    gguf_type type = GGUF_Q4_1;
    int64_t seed = 1;
    int64_t context = 512;
    if (argc < 2 || argc > 5 || (argc > 2 && !tinymodel_type_from(argv[2], &type)) ||
        (argc > 3 && !str_to_i64(str_from(argv[3]), 0, INT64_MAX, &seed)) ||
        (argc > 4 && !str_to_i64(str_from(argv[4]), 1, 1 << 20, &context))) {
        fprintf(stderr,
                "usage: weir_tinymodel OUT.gguf "
                "[f32|f16|bf16|q4_0|...|q6_k [SEED [CONTEXT]]]\n");
        return 2;
    }
    tinymodel_options options = tinymodel_default(type);
    options.seed = (uint64_t)seed;
    options.context = (uint32_t)context;
    diag d;
    if (tinymodel_write(argv[1], &options, &d) != STATUS_OK) {
        fprintf(stderr, "weir_tinymodel: %s\n", d.text);
        return 1;
    }
    return 0;
}
