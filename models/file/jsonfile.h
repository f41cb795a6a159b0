/* jsonfile.h -- JSON that comes with a model: files of a folder, and headers.
 *
 * Purpose    Parses a document after a scan has bounded its depth and its number of values, and
 *            takes members out of objects; errors name the file and the member.
 * Ownership  jsonfile_parse and jsonfile_open give a tree that jsonfile_close frees. What is taken
 *            from a tree lives as long. The labels given as `file` are borrowed for the call.
 * Threads    One thread at a time.
 * Limits     JSONFILE_DEPTH_MAX levels; JSONFILE_VALUES_MAX values (a value takes about 80 bytes).
 */
#ifndef MODELS_FILE_JSONFILE_H
#define MODELS_FILE_JSONFILE_H

#include <cjson/cJSON.h>
#include <stdbool.h>
#include <stdint.h>

#include "engine/base/status.h"
#include "engine/base/str.h"

enum { JSONFILE_DEPTH_MAX = 64, JSONFILE_VALUES_MAX = 8 << 20 };

/* `text` must be one object. `file` is what errors call it. */
MUST_USE status jsonfile_parse(str text, const char *file, cJSON **out, diag *d);

/* The file NAME of a folder. STATUS_NOTFOUND, and *out NULL, when there is none. */
MUST_USE status jsonfile_open(const char *folder, const char *name, uint64_t bytes_max, cJSON **out,
                              diag *d);
void jsonfile_close(cJSON *tree);

/* The member, NULL when it is absent or null, or `object` is not an object. */
const cJSON *jsonfile_member(const cJSON *object, const char *key);

/* A member of a kind. STATUS_NOTFOUND when it is absent or null, STATUS_CORRUPT when it is of
 * another kind or out of range. */
MUST_USE status jsonfile_integer(const cJSON *object, const char *file, const char *key,
                                 int64_t min, int64_t max, int64_t *out, diag *d);
MUST_USE status jsonfile_real(const cJSON *object, const char *file, const char *key, double min,
                              double max, double *out, diag *d);
MUST_USE status jsonfile_flag(const cJSON *object, const char *file, const char *key, bool *out,
                              diag *d);
MUST_USE status jsonfile_text(const cJSON *object, const char *file, const char *key,
                              const char **out, diag *d);

/* A whole number of that range. */
bool jsonfile_is_integer(const cJSON *value, int64_t min, int64_t max, int64_t *out);

#endif
