/* tinyfile.h -- the tiny model as a temporary file, for Criterion tests.
 *
 * Purpose    What each test that opens a model does: where the file is, writing it, removing it.
 * Ownership  The file is the test's, until tinyfile_remove.
 * Threads    One at a time.
 * Limits     One file a process, which is one a test. What fails ends the test.
 */
#ifndef TESTS_SUPPORT_TINYFILE_H
#define TESTS_SUPPORT_TINYFILE_H

#include <criterion/criterion.h>
#include <stdio.h>
#include <unistd.h>

#include "tests/support/tinymodel.h"

static inline const char *tinyfile_path(void) {
    static char path[64];
    (void)snprintf(path, sizeof path, "/tmp/tinyfile.%d.gguf", (int)getpid());
    return path;
}

/* The same path. */
static inline const char *tinyfile_write(const tinymodel_options *o) {
    diag d = {0};
    cr_assert_eq(tinymodel_write(tinyfile_path(), o, &d), STATUS_OK, "%s", d.text);
    return tinyfile_path();
}

static inline void tinyfile_remove(void) {
    (void)unlink(tinyfile_path()); /* a test that was skipped has written none */
}

#endif
