/* tinytext.h -- the tokenizer of the tiny model, for tests that compute nothing.
 *
 * Purpose    Writes the model, opens its tokenizer, and leaves no file.
 * Ownership  The caller closes it.
 * Threads    One at a time.
 * Limits     For Criterion tests: what fails ends the test.
 */
#ifndef TESTS_SUPPORT_TINYTEXT_H
#define TESTS_SUPPORT_TINYTEXT_H

#include <criterion/criterion.h>

#include "models/text/tokenizer.h"
#include "tests/support/tinyfile.h"

static inline tokenizer *tinytext_open(void) {
    gguf *file;
    tokenizer *t;
    diag d;
    tinymodel_options o = tinymodel_default(GGUF_F32);
    cr_assert_eq(gguf_open(tinyfile_write(&o), &file, &d), STATUS_OK, "%s", d.text);
    cr_assert_eq(tokenizer_open(file, &t, &d), STATUS_OK, "%s", d.text);
    gguf_close(file);
    tinyfile_remove();
    return t;
}

#endif
