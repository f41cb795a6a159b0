/* blocks.c -- the pool of KV pages.
 *
 * Free blocks form one doubly linked list. Blocks without content go to its front, those that the
 * prefix cache can find to its back, and the front is handed out first: so content is forgotten
 * last, the longest unused first, without a second list. */
#include "engine/core/blocks.h"

#include "engine/base/check.h"

enum { BLOCKS_NONE = UINT32_MAX };

typedef struct {
    uint32_t references; /* of all its pages */
    uint32_t pins;
    uint32_t next, previous; /* in the free list */
    bool cached;
} blocks_block;

struct blocks {
    blocks_block *list; /* [total] */
    uint32_t first, last;
    uint32_t block_pages;
    blocks_counts count; /* of blocks */
};

uint64_t blocks_bytes(uint32_t pages) {
    CHECK(pages > 0);
    return sizeof(blocks) + (uint64_t)pages * sizeof(blocks_block) + 128;
}

static uint32_t blocks_of(const blocks *b, uint32_t page) {
    uint32_t block = page / b->block_pages;
    CHECK_LT(block, b->count.total);
    return block;
}

static bool blocks_is_free(const blocks_block *p) {
    return p->references == 0 && p->pins == 0;
}

static void blocks_link(blocks *b, uint32_t block) {
    blocks_block *p = &b->list[block];
    CHECK(blocks_is_free(p));
    if (p->cached) {
        p->previous = b->last;
        p->next = BLOCKS_NONE;
    } else {
        p->previous = BLOCKS_NONE;
        p->next = b->first;
    }
    *(p->previous == BLOCKS_NONE ? &b->first : &b->list[p->previous].next) = block;
    *(p->next == BLOCKS_NONE ? &b->last : &b->list[p->next].previous) = block;
    b->count.free++;
    b->count.cached += p->cached;
    CHECK_LE(b->count.free, b->count.total);
}

static void blocks_unlink(blocks *b, uint32_t block) {
    blocks_block *p = &b->list[block];
    CHECK(b->count.free > 0);
    CHECK(blocks_is_free(p));
    *(p->previous == BLOCKS_NONE ? &b->first : &b->list[p->previous].next) = p->next;
    *(p->next == BLOCKS_NONE ? &b->last : &b->list[p->next].previous) = p->previous;
    b->count.free--;
    b->count.cached -= p->cached;
}

status blocks_create(arena *a, uint32_t pages, uint32_t block_pages, blocks **out) {
    CHECK(block_pages > 0 && pages > 0 && pages % block_pages == 0);
    uint32_t total = pages / block_pages;
    blocks *b = ARENA_TAKE(a, 1, blocks);
    if (!b) {
        return STATUS_NOMEM;
    }
    b->list = ARENA_TAKE(a, total, blocks_block);
    if (!b->list) {
        return STATUS_NOMEM;
    }
    b->first = b->last = BLOCKS_NONE;
    b->block_pages = block_pages;
    b->count.total = total;
    for (uint32_t i = total; i-- > 0;) {
        blocks_link(b, i);
    }
    CHECK_EQ(b->count.free, total);
    *out = b;
    return STATUS_OK;
}

bool blocks_take(blocks *b, uint32_t count, uint32_t *ids_out) {
    CHECK_LE(b->count.free, b->count.total);
    CHECK_EQ(count % b->block_pages, 0);
    if (b->count.free < count / b->block_pages) {
        return false;
    }
    for (uint32_t i = 0; i < count; i += b->block_pages) {
        uint32_t block = b->first;
        CHECK(block != BLOCKS_NONE);
        blocks_unlink(b, block);
        b->list[block].references = b->block_pages;
        b->count.owned++;
        for (uint32_t k = 0; k < b->block_pages; k++) {
            ids_out[i + k] = block * b->block_pages + k;
        }
    }
    return true;
}

void blocks_hold(blocks *b, uint32_t page) {
    uint32_t block = blocks_of(b, page);
    blocks_block *p = &b->list[block];
    if (p->references == 0) {
        CHECK(p->cached); /* anything else has no content worth coming back to */
        if (p->pins == 0) {
            blocks_unlink(b, block);
        } else {
            b->count.quarantined--;
        }
        b->count.owned++;
    }
    p->references++;
}

void blocks_drop(blocks *b, uint32_t page) {
    uint32_t block = blocks_of(b, page);
    blocks_block *p = &b->list[block];
    CHECK(p->references > 0);
    if (--p->references == 0) {
        b->count.owned--;
        if (p->pins == 0) {
            blocks_link(b, block);
        } else {
            b->count.quarantined++;
        }
    }
}

void blocks_pin(blocks *b, uint32_t page) {
    blocks_block *p = &b->list[blocks_of(b, page)];
    CHECK(p->references > 0); /* only a page that somebody holds can start to be touched */
    p->pins++;
}

void blocks_unpin(blocks *b, uint32_t page) {
    uint32_t block = blocks_of(b, page);
    blocks_block *p = &b->list[block];
    CHECK(p->pins > 0);
    if (--p->pins == 0 && p->references == 0) {
        b->count.quarantined--;
        blocks_link(b, block);
    }
}

void blocks_set_cached(blocks *b, uint32_t page, bool cached) {
    uint32_t block = blocks_of(b, page);
    blocks_block *p = &b->list[block];
    if (p->cached == cached) {
        return;
    }
    bool is_free = blocks_is_free(p);
    if (is_free) {
        blocks_unlink(b, block);
    }
    p->cached = cached;
    if (is_free) {
        blocks_link(b, block);
    }
}

bool blocks_is_cached(const blocks *b, uint32_t page) {
    return b->list[blocks_of(b, page)].cached;
}

uint32_t blocks_references(const blocks *b, uint32_t page) {
    return b->list[blocks_of(b, page)].references;
}

uint32_t blocks_pins(const blocks *b, uint32_t page) {
    return b->list[blocks_of(b, page)].pins;
}

uint32_t blocks_free_count(const blocks *b) {
    return b->count.free * b->block_pages;
}

uint32_t blocks_block_pages(const blocks *b) {
    return b->block_pages;
}

blocks_counts blocks_count(const blocks *b) {
    uint32_t pages = b->block_pages;
    return (blocks_counts){.total = b->count.total * pages,
                           .free = b->count.free * pages,
                           .cached = b->count.cached * pages,
                           .owned = b->count.owned * pages,
                           .quarantined = b->count.quarantined * pages};
}

void blocks_validate(const blocks *b) {
    blocks_counts n = {0};
    for (uint32_t i = 0; i < b->count.total; i++) {
        const blocks_block *p = &b->list[i];
        n.total++;
        n.owned += p->references > 0;
        n.quarantined += p->references == 0 && p->pins > 0;
        n.free += blocks_is_free(p);
        n.cached += blocks_is_free(p) && p->cached;
    }
    CHECK_EQ(n.owned, b->count.owned);
    CHECK_EQ(n.quarantined, b->count.quarantined);
    CHECK_EQ(n.free, b->count.free);
    CHECK_EQ(n.cached, b->count.cached);
    CHECK_EQ(n.free + n.owned + n.quarantined, b->count.total);
    uint32_t listed = 0;
    uint32_t previous = BLOCKS_NONE;
    for (uint32_t i = b->first; i != BLOCKS_NONE; i = b->list[i].next) {
        CHECK_LT(i, b->count.total);
        CHECK(blocks_is_free(&b->list[i]));
        CHECK_EQ(b->list[i].previous, previous);
        CHECK_LE(++listed, b->count.total);
        previous = i;
    }
    CHECK_EQ(listed, b->count.free);
    CHECK_EQ(previous, b->last);
}
