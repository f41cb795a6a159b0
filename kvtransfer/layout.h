/* layout.h -- how a transfer is cut into groups.
 *
 * Purpose    A group is what leaves at once: some layers of some pages, as large as its bounds
 *            allow, and small enough that it leaves while later layers compute.
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

/* What was measured of a pair and of the model that runs on P. */
typedef struct {
    uint32_t layers;
    double layer_us;     /* computing one layer of a chunk */
    double layer_bytes;  /* its pages */
    double bytes_per_us; /* of the link */
    double group_us;     /* what a group costs beside its bytes */
    uint32_t layers_max; /* of a group, from layout_cut */
} layout_speed;

/* How long after the last layer a chunk's last group arrives, with groups of `group_layers`: a
 * group leaves when its layers are computed and the one before it has left. */
double layout_exposed_us(const layout_speed *s, uint32_t group_layers);

/* The layers of a group that expose least; of those that are as good within a hundredth of the
 * compute time, the most layers, for fewer groups cost everybody less. */
uint32_t layout_group_layers(const layout_speed *s);

#endif
