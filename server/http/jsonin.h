/* jsonin.h -- JSON from outside, read strictly.
 *
 * Purpose    cJSON accepts much that is not JSON, multiplies memory and loses precision. jsonin
 *            scans the text first (grammar, UTF-8, depth, count of values) and only then lets cJSON
 *            build its tree; it keeps the raw text of top-level members for what a double cannot
 *            hold; and it reads typed fields with refusals that name them.
 * Ownership  jsonin_open holds the tree; jsonin_close frees it. Raw texts point into the body.
 * Threads    One thread at a time.
 * Limits     LIMIT_BODY_BYTES, LIMIT_JSON_DEPTH, LIMIT_JSON_NODES, JSONIN_MEMBERS top-level
 *            members. Elements of a top-level array of integers named in `bulk` do not count as
 *            nodes and never enter the tree: a prompt may be a whole context of token ids.
 * Source     RFC 8259 for the grammar; I-JSON (RFC 7493) for what is refused beyond it: duplicate
 *            names, lone surrogates, numbers out of a double's range, and U+0000, which C strings
 *            cannot carry.
 */
#ifndef SERVER_HTTP_JSONIN_H
#define SERVER_HTTP_JSONIN_H

#include <cjson/cJSON.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/base/status.h"
#include "engine/base/str.h"

enum { JSONIN_MEMBERS = 256, JSONIN_NUMBER_BYTES = 60, JSONIN_NAME_BYTES = 64 };

/* A member of the top-level object. */
typedef struct {
    str name;  /* between its quotes, escapes as they are */
    str value; /* raw text */
    bool bulk; /* an array (of arrays) of integers that was left out of the tree */
} jsonin_member;

typedef struct {
    cJSON *root; /* an object */
    jsonin_member members[JSONIN_MEMBERS];
    int32_t members_count;
} jsonin;

/* `bulk` [bulk_count] are names of members that may be long arrays of integers. */
MUST_USE status jsonin_open(str body, const char *const *bulk, size_t bulk_count, jsonin *out,
                            diag *d);
void jsonin_close(jsonin *j);

/* The scan alone: is `body` one JSON value within the limits? */
MUST_USE status jsonin_check(str body, diag *d);

/* The member of an object, or NULL when it is absent or null. Case matters. */
const cJSON *jsonin_get(const cJSON *object, const char *name);

/* The raw text of a top-level member, or NULL. */
const jsonin_member *jsonin_raw(const jsonin *j, const char *name);

/* Typed fields. An absent or null member leaves *out as it is. `param` is the name to blame. */
MUST_USE status jsonin_bool(const cJSON *object, const char *name, bool *out, diag *d);
MUST_USE status jsonin_int(const cJSON *object, const char *name, int32_t min, int32_t max,
                           int32_t *out, diag *d);
MUST_USE status jsonin_float(const cJSON *object, const char *name, double min, double max,
                             float *out, diag *d);
/* The str points into the tree. */
MUST_USE status jsonin_string(const cJSON *object, const char *name, size_t bytes_max, str *out,
                              diag *d);

/* A value that is an integer within [min, max]; `param` names it. */
MUST_USE status jsonin_value_int(const cJSON *value, const char *param, int32_t min, int32_t max,
                                 int32_t *out, diag *d);

/* A top-level integer of 64 bits, exact. *given tells whether it was there. */
MUST_USE status jsonin_int64(const jsonin *j, const char *name, int64_t *out, bool *given, diag *d);

/* "a number", "a string", ...: how a refusal calls what it found. */
const char *jsonin_kind(const cJSON *value);

#endif
