/* pricetable.h -- what an hour of a device costs, and what the device could do at best.
 *
 * Purpose    Reads a file of lines `NAME = PRICE [TFLOPS [GBPS]]`: the price of an hour of one GPU
 *            or one core in any currency, its peak in 10^12 operations a second and its memory's
 *            in 10^9 bytes a second. There are no prices and no peaks built in: what a device costs
 *            changes, and what it can do depends on the dtype.
 * Ownership  Plain values.
 * Threads    Pure functions.
 * Limits     PRICETABLE_BYTES of file. `#` begins a comment.
 */
#ifndef ENGINE_WORKER_PRICETABLE_H
#define ENGINE_WORKER_PRICETABLE_H

#include <stdbool.h>

#include "engine/base/status.h"
#include "engine/base/str.h"

enum { PRICETABLE_BYTES = 65536 };

typedef struct {
    bool priced;           /* the device is in the table */
    double price_per_hour; /* of one GPU or core */
    double peak_tflops;    /* of one; 0: not said */
    double peak_gbps;
} pricetable_entry;

/* The entry of the first of `names` [count] that the text has. STATUS_OK and not `priced` where it
 * has none; every line is checked all the same. */
MUST_USE status pricetable_find(str text, const char *const *names, int32_t count,
                                pricetable_entry *out, diag *d);

/* The same of a file. An error names it. */
MUST_USE status pricetable_read(const char *path, const char *const *names, int32_t count,
                                pricetable_entry *out, diag *d);

#endif
