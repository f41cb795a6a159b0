/* fuzz.h -- what the fuzz targets share: the entry point, input as choices, the heap they may take.
 *
 * Purpose    A target is one file fuzz_NAME.c with FUZZ_TARGET(NAME, ...). Built for libFuzzer it
 *            is a program of its own; built for the corpus test it is one function of many.
 * Ownership  fuzz_copy gives heap memory, freed by the caller with mem_free.
 * Threads    One.
 * Limits     A target may have at most twice its input and its own allowance on the heap at once;
 *            counted under AddressSanitizer, which tells of every allocation.
 */
#ifndef TESTS_FUZZ_FUZZ_H
#define TESTS_FUZZ_FUZZ_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/base/check.h"
#include "engine/base/str.h"

enum { FUZZ_ALLOWANCE_BYTES = 16 << 20 };

void fuzz_heap_begin(void);
void fuzz_heap_end(size_t input_bytes, size_t allowance_bytes);

/* Bytes read as choices; past the end every choice is 0. */
typedef struct {
    const uint8_t *data; /* [bytes] */
    size_t bytes;
    size_t at;
} fuzz_input;

uint64_t fuzz_number(fuzz_input *in, size_t bytes);
/* Below `bound`, 1..65536. */
uint32_t fuzz_below(fuzz_input *in, uint32_t bound);
bool fuzz_done(const fuzz_input *in);
/* The next bytes, at most `bytes_max`, borrowed. */
str fuzz_take(fuzz_input *in, size_t bytes_max);
/* A copy in a block of exactly its size, so that one byte too far is noticed. */
char *fuzz_copy(str s);
/* A file of these bytes that has no name; close it. Its path for this process goes to `path`. */
int fuzz_file(str s, char path[64]);

/* FUZZ_TARGET(NAME, heap allowance) { ... `data` [bytes] ... } */
#ifdef WEIR_FUZZ
#define FUZZ_ENTRY(name) LLVMFuzzerTestOneInput
#else
#define FUZZ_ENTRY(name) fuzz_##name##_one
#endif
#define FUZZ_TARGET(name, allowance_bytes)                     \
    static void run_##name(const uint8_t *data, size_t bytes); \
    int FUZZ_ENTRY(name)(const uint8_t *data, size_t bytes);   \
    int FUZZ_ENTRY(name)(const uint8_t *data, size_t bytes) {  \
        fuzz_heap_begin();                                     \
        run_##name(data, bytes);                               \
        fuzz_heap_end(bytes, (allowance_bytes));               \
        return 0;                                              \
    }                                                          \
    static void run_##name(const uint8_t *data, size_t bytes)

#endif
