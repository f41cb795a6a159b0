/* layout.h -- which bytes a page of KV is, and whether two workers mean the same ones.
 *
 * Purpose    What peers compare when they join: the protocol, the model, the layout of a page and
 *            the numerics class. What differs is refused at the join, with its reason, and never
 *            found out by a request.
 * Ownership  Plain values; text is borrowed.
 * Threads    Pure functions.
 * Limits     None.
 */
#ifndef KVTRANSFER_LAYOUT_H
#define KVTRANSFER_LAYOUT_H

#include "engine/base/str.h"

typedef struct {
    uint32_t protocol;
    uint64_t model_hash;
    uint32_t layers;
    uint32_t page_tokens;
    uint64_t layer_page_bytes; /* of one (layer, page) */
    str kv_layout;             /* order and dtype inside a (layer, page) */
    str numerics;              /* equal strings promise bit-equal results */
} layout;

/* STATUS_OK, or STATUS_MISMATCH with the first difference that forbids moving pages from one to
 * the other. */
MUST_USE status layout_check(const layout *mine, const layout *theirs, diag *d);

/* How a transfer is cut: pages and layers of one group, so that a group is at most `bytes_max`
 * (but never less than one (layer, page)). */
typedef struct {
    uint32_t pages;
    uint32_t layers;
} layout_group;

layout_group layout_cut(uint32_t layers, uint64_t layer_page_bytes, uint64_t bytes_max,
                        uint32_t pages_max);

#endif
