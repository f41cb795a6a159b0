/* layout.h -- how a transfer of KV pages is cut into groups.
 *
 * Purpose    The size of one group, from the layout of a page and the bounds of a channel.
 * Ownership  Plain values.
 * Threads    Pure functions.
 * Limits     None.
 */
#ifndef KVTRANSFER_LAYOUT_H
#define KVTRANSFER_LAYOUT_H

#include <stdint.h>

/* How a transfer is cut: pages and layers of one group, so that a group is at most `bytes_max`
 * (but never less than one (layer, page)). */
typedef struct {
    uint32_t pages;
    uint32_t layers;
} layout_group;

layout_group layout_cut(uint32_t layers, uint64_t layer_page_bytes, uint64_t bytes_max,
                        uint32_t pages_max);

#endif
