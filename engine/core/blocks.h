/* blocks.h -- the pool of KV pages: who holds which, and which may be handed out.
 *
 * Purpose    Hands out pages by index, counts their holders, counts what still touches them from
 *            outside (transfers, the step in flight), and keeps freed pages in the order in which
 *            they are worth forgetting.
 * Ownership  The pool owns every page. A caller owns the references it took or held.
 * Blocks     Pages are handed out in aligned blocks of block_pages, whose numbers follow each
 *            other. References and pins are counted a block: it is free when none of its pages has
 *            any. Callers take, hold and drop all pages of a block, and pin single ones.
 * Threads    The owner thread of the core.
 * Limits     The pages given at creation; nothing is allocated later.
 * States     OWNED        references > 0
 *            QUARANTINED  no reference, pins > 0: somebody may still read or write it
 *            FREE         neither; perhaps with content that the prefix cache can find
 * Invariant  free + owned + quarantined == total, after every call.
 */
#ifndef ENGINE_CORE_BLOCKS_H
#define ENGINE_CORE_BLOCKS_H

#include <stdbool.h>
#include <stdint.h>

#include "engine/base/arena.h"
#include "engine/base/status.h"

typedef struct blocks blocks;

typedef struct {
    uint32_t total, free, cached, owned, quarantined; /* cached: those of free with content */
} blocks_counts;

uint64_t blocks_bytes(uint32_t pages);
/* `pages`: a multiple of `block_pages`. */
MUST_USE status blocks_create(arena *a, uint32_t pages, uint32_t block_pages, blocks **out);

/* Takes `count` free pages, whole blocks, one reference each: first those without content, then the
 * longest unused. False, and none taken, when fewer are free. Callers that share a prefix cache use
 * prefix_take, which also forgets the content. */
MUST_USE bool blocks_take(blocks *b, uint32_t count, uint32_t *ids_out);

/* One reference more; a page that is free or quarantined comes back with its content. */
void blocks_hold(blocks *b, uint32_t page);

/* One reference less. Without any, the page is free, or quarantined while pins are left. */
void blocks_drop(blocks *b, uint32_t page);

/* Something outside touches the page until the matching unpin. */
void blocks_pin(blocks *b, uint32_t page);
void blocks_unpin(blocks *b, uint32_t page);

/* Whether the content of the page's block is worth finding again. */
void blocks_set_cached(blocks *b, uint32_t page, bool cached);
bool blocks_is_cached(const blocks *b, uint32_t page);

/* Of the page's block. */
uint32_t blocks_references(const blocks *b, uint32_t page);
uint32_t blocks_pins(const blocks *b, uint32_t page);

uint32_t blocks_block_pages(const blocks *b);

/* In pages, of whole blocks. */
uint32_t blocks_free_count(const blocks *b);
blocks_counts blocks_count(const blocks *b);

/* Aborts when an invariant is broken. Slow. */
void blocks_validate(const blocks *b);

#endif
