/* ggufmake.h -- composes the metadata of a GGUF file in memory.
 *
 * Purpose    A model that comes in another form is read as the GGUF a converter would have written:
 *            this makes its keys and tensor descriptions, and gguf_read.h parses them like a
 *            file's.
 * Ownership  The buffer is the composer's until ggufmake_close.
 * Threads    One thread at a time.
 * Limits     GGUFMAKE_BYTES_MAX; what does not fit is noticed by ggufmake_finish.
 */
#ifndef MODELS_FILE_GGUFMAKE_H
#define MODELS_FILE_GGUFMAKE_H

#include "engine/base/str.h"
#include "models/file/gguf.h"

enum { GGUFMAKE_BYTES_MAX = 512 << 20 };

typedef struct {
    strbuf out;
    uint64_t pairs, tensors;
    bool failed; /* also when memory ends, or a number does not fit */
} ggufmake;

ggufmake ggufmake_start(void);
void ggufmake_close(ggufmake *m);

void ggufmake_str(ggufmake *m, const char *key, str value);
void ggufmake_u32(ggufmake *m, const char *key, int64_t value);
void ggufmake_f64(ggufmake *m, const char *key, double value);
void ggufmake_bool(ggufmake *m, const char *key, bool value);

/* The head of an array; exactly `count` elements must follow: strings with ggufmake_element_str,
 * kind I32 with ggufmake_element_i32. */
void ggufmake_array(ggufmake *m, const char *key, gguf_kind kind, uint64_t count);
void ggufmake_element_str(ggufmake *m, str value);
void ggufmake_element_i32(ggufmake *m, int32_t value);

/* After all keys: one description. Its place is told to gguf_read_placed. */
void ggufmake_tensor(ggufmake *m, const char *name, uint32_t dims_count, const uint64_t *dims,
                     gguf_type type);

/* Sets the counts. STATUS_LIMIT when something did not fit. */
MUST_USE status ggufmake_finish(ggufmake *m, diag *d);

#endif
